"""Nights of texts, against the model and the tokenizer row by row."""

import os
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch

from batch_assets import Contract, KeySpec, Output, Text
from batch_assets.errors import TamperedReleaseError
from batch_assets.incremental.reuse import Incremental
from batch_assets.lake.page_layout import COMPACT, FAST, PageLayout
from batch_assets.lake.tables import Lake
from batch_assets.models.formats import golden_batch
from batch_assets.models.input_rows import InputRows, Lists
from batch_assets.models.release import TOKENIZER, Release, open_release
from batch_assets.models.writing import save_release
from batch_assets.scoring.device import find_device
from batch_assets.scoring.engines.local import LocalEngine
from batch_assets.scoring.scorer import Scorer
from batch_assets.scoring.sweep import Effort, sweep
from batch_assets.scoring.worker_sweep import sweep_workers
from batch_assets.spec import GateLimits
from batch_assets_tests.nights import score
from batch_assets_tests.replays import replay
from batch_assets_tests.texts import (
    HARD,
    LONGEST,
    NAME,
    SPECIAL,
    WORDS,
    Moods,
    expected,
    ids_of,
    make_contract,
    make_rows,
    make_tokenizer,
    write_texts,
)
from batch_assets_tests.toys import copy_rows, not_utf8, pin_rows, read_day, validate

NEXT_DAY = "2026-01-06"
GATES = GateLimits(max_quarantine_share=1, max_dead_letter_share=1)


@pytest.fixture(scope="module")
def release(tmp_path_factory: pytest.TempPathFactory) -> Release:
    return write_texts(tmp_path_factory.mktemp("release") / NAME)


@pytest.fixture
def lake(root: Path) -> Lake:
    return Lake(root, NAME)


def must_be_as_expected(predictions: pa.Table, rows: pa.Table) -> None:
    module = Moods()
    raw = {row["user_id"]: row for row in rows.to_pylist()}
    assert len(predictions) == len(raw)
    for row in predictions.to_pylist():
        want = expected(raw[row["user_id"]], module)
        assert row["mood"] == want["mood"], raw[row["user_id"]]
        for name in ("meaning", "confidence"):
            np.testing.assert_allclose(row[name], want[name], rtol=1e-5, atol=1e-5)


def with_review(rows: pa.Table, at: int, review: Any) -> pa.Table:
    records = rows.sort_by("user_id").to_pylist()
    records[at]["review"] = review
    return pa.Table.from_pylist(records, rows.schema)


@pytest.mark.parametrize("layout", [FAST, COMPACT], ids=["fast", "compact"])
@pytest.mark.parametrize("take", [copy_rows, pin_rows])
def test_a_night_says_of_each_text_what_the_model_says_of_it_alone(
    lake: Lake, release: Release, take: Callable[..., Any], layout: PageLayout
) -> None:
    rows = make_rows(700)
    assert set(HARD) < set(rows["review"].to_pylist())
    take(lake, rows, contract=release.contract)
    validate(lake, contract=release.contract, layout=layout)
    night = score(lake, release)
    assert night.total.rows == 700
    must_be_as_expected(read_day(lake, "predictions"), rows)
    # A validated day can be read: it holds the texts, not their tokens.
    kept = read_day(lake, "validated_features")["review"].to_pylist()
    assert kept == rows.sort_by("user_id")["review"].to_pylist()


def test_letters_of_every_script_reach_the_tokenizer_as_they_are(
    lake: Lake, tmp_path: Path
) -> None:
    letters = [chr(code) for code in range(0x110000) if chr(code).isalpha()]
    of_script = {unicodedata.name(one, "?").split()[0]: one for one in letters}
    assert len(of_script) > 100
    words = tuple(dict.fromkeys(one.lower() for one in of_script.values()))
    release = write_texts(
        tmp_path / NAME,
        module=Moods(len(SPECIAL) + len(words)),
        tokenizer=make_tokenizer(words),
    )
    rows = make_rows(len(words)).set_column(2, "review", pa.array(words))
    rows = rows.set_column(3, "title", pa.nulls(len(words), pa.string()))
    copy_rows(lake, rows, contract=release.contract)
    validate(lake, contract=release.contract)
    score(lake, release)
    meanings = np.array(read_day(lake, "predictions")["meaning"].to_pylist())
    # None of them is the unknown word, so no two mean the same.
    assert len(np.unique(meanings, axis=0)) == len(words)


BAD: list[tuple[Any, str]] = [
    (None, "review is null"),
    ("", "review is shorter than 1"),
    ("x" * 1_001, "review is longer than 1000"),
    ("é" * 1_000_000, "review is longer than 1000"),
]


@pytest.mark.parametrize(
    ("review", "rule"), BAD, ids=["null", "empty", "long", "million"]
)
def test_a_bad_text_is_quarantined_with_its_rule_and_the_others_are_scored(
    lake: Lake, release: Release, review: Any, rule: str
) -> None:
    rows = with_review(make_rows(60), 30, review)
    copy_rows(lake, rows, contract=release.contract)
    validate(lake, contract=release.contract)
    (bad,) = read_day(lake, "quarantined_rows").to_pylist()
    assert (bad["user_id"], bad["rules"], bad["review"]) == (31, [rule], review)
    score(lake, release, gates=GATES)
    others = pa.concat_tables([rows.slice(0, 30), rows.slice(31)])
    must_be_as_expected(read_day(lake, "predictions"), others)


def test_lengths_are_counted_in_characters_and_not_in_bytes(
    lake: Lake, release: Release
) -> None:
    rows = with_review(make_rows(20), 5, "😀" * 1_000)
    copy_rows(lake, rows, contract=release.contract)
    validate(lake, contract=release.contract)
    assert not lake.quarantined_rows.parts("2026-01-05")


def test_of_a_column_of_strings_too_what_is_not_utf8_is_quarantined_row_by_row(
    lake: Lake, release: Release
) -> None:
    rows = make_rows(20).sort_by("user_id")
    texts = [one.encode() for one in rows["review"].to_pylist()]
    texts[1] = b"\xff\xfe"
    broken = rows.set_column(2, "review", not_utf8(texts))
    copy_rows(lake, broken, contract=release.contract)
    validate(lake, contract=release.contract)
    (bad,) = read_day(lake, "quarantined_rows").to_pylist()
    assert (bad["user_id"], bad["review"]) == (2, "\ufffd\ufffd")
    assert bad["rules"] == ["review is not UTF-8 at byte 0 (ff)"]
    score(lake, release, gates=GATES)
    others = pa.concat_tables([rows.slice(0, 1), rows.slice(2)])
    must_be_as_expected(read_day(lake, "predictions"), others)


def test_bytes_under_the_name_of_text_stay_bytes_where_those_are_declared(
    lake: Lake,
) -> None:
    text, title = make_contract().inputs
    binary = text.model_copy(update={"dtype": "binary"})
    contract = make_contract(inputs=(binary, title))
    rows = make_rows(20).sort_by("user_id")
    texts = [one.encode() for one in rows["review"].to_pylist()]
    texts[1] = b"good \xff"
    copy_rows(lake, rows.set_column(2, "review", not_utf8(texts)), contract=contract)
    validate(lake, contract=contract)
    (bad,) = read_day(lake, "quarantined_rows").to_pylist()
    assert (bad["review"], bad["rules"]) == (b"good \xff", ["review is not UTF-8"])


def test_of_a_binary_column_what_is_not_utf8_is_quarantined_row_by_row(
    lake: Lake, tmp_path: Path
) -> None:
    text, title = make_contract().inputs
    binary = text.model_copy(update={"dtype": "binary"})
    contract = make_contract(inputs=(binary, title))
    release = write_texts(tmp_path / NAME, contract=contract)
    rows = make_rows(40).sort_by("user_id")
    reviews: list[Any] = [one.encode() for one in rows["review"].to_pylist()]
    reviews[3], reviews[9], reviews[11] = b"\xff\xfe", b"cut \xe2\x82", b"\xed\xa0\x80"
    reviews[20] = None
    bad = rows.set_column(2, "review", pa.array(reviews, pa.binary()))
    copy_rows(lake, bad, contract=release.contract)
    validate(lake, contract=release.contract)
    quarantined = read_day(lake, "quarantined_rows").to_pylist()
    assert [(row["user_id"], row["rules"]) for row in quarantined] == [
        (4, ["review is not UTF-8"]),
        (10, ["review is not UTF-8"]),
        (12, ["review is not UTF-8"]),
        (21, ["review is null"]),
    ]
    assert quarantined[0]["review"] == b"\xff\xfe"
    score(lake, release, gates=GATES)
    kept = [at for at in range(40) if at not in (3, 9, 11, 20)]
    must_be_as_expected(read_day(lake, "predictions"), rows.take(kept))


@pytest.mark.parametrize("keep", ["head", "tail"])
def test_a_long_text_is_cut_where_its_contract_says(
    release: Release, keep: str
) -> None:
    (review, title) = release.contract.inputs
    contract = make_contract(inputs=(review.model_copy(update={"keep": keep}), title))
    tokens = tokens_of(release, contract, "good bad " * 30 + "film")
    assert tokens == ids_of("good bad " * 30 + "film", LONGEST, keep)
    assert len(tokens) == LONGEST


def tokens_of(release: Release, contract: Contract, text: str) -> list[int]:
    from batch_assets.models.tokenizing import Tokenizing

    tokenizing = Tokenizing((release.folder / TOKENIZER).read_bytes(), contract)
    rows = InputRows(
        np.zeros((1, 1), np.float32),
        {"review": Lists.of_texts([text]), "title": Lists.of_texts([""])},
    )
    tokens = tokenizing.tokenised(rows).columns["review"]
    assert isinstance(tokens, Lists)
    return tokens.values.tolist()


def test_a_batch_is_bounded_in_tokens_and_asked_by_length(
    release: Release, monkeypatch: pytest.MonkeyPatch
) -> None:
    shapes: list[tuple[int, int]] = []
    scorer = Scorer(release, find_device("cpu", batch_rows="8"))
    module = scorer._module

    def seen(*tensors: torch.Tensor) -> Any:
        shapes.append(tuple(tensors[1].shape))
        return module(*tensors)

    monkeypatch.setattr(scorer, "_module", seen)
    golden, recorded = golden_batch(release)
    at = np.random.default_rng(0).permutation(240) % len(golden)
    outputs, _ = scorer.score(golden.take(at))
    for name, values in recorded.items():
        np.testing.assert_allclose(outputs[name], values.numpy()[at], 1e-5, 1e-5)
    assert sum(count for count, _ in shapes) == 240
    assert all(count * longest <= 8 * LONGEST for count, longest in shapes)
    # The title is the longest of the two in some rows, and a row is as long as that.
    assert max(count for count, longest in shapes if longest <= 6) > 8


@pytest.mark.parametrize("batch_rows", ["1", "7", "4096"])
def test_no_text_and_one_text_are_scored_in_batches_of_any_size(
    release: Release, batch_rows: str
) -> None:
    scorer = Scorer(release, find_device("cpu", batch_rows=batch_rows))
    golden, recorded = golden_batch(release)
    for count in (0, 1, 5):
        outputs, _ = scorer.score(golden.slice(0, count))
        assert {len(values) for values in outputs.values()} == {count}
        meaning = recorded["meaning"].numpy()[:count]
        np.testing.assert_allclose(outputs["meaning"], meaning, 1e-5, 1e-5)


def test_an_incremental_night_of_texts_is_that_of_a_whole_one(
    lake: Lake, release: Release
) -> None:
    contract, first = release.contract, make_rows(400)
    records = first.to_pylist()
    for at in range(0, 400, 5):
        # A change of one character at the end, or of the other text.
        name = ("review", "title")[at % 2]
        records[at][name] = ((records[at][name] or "") + " good")[-40:]
    second = pa.Table.from_pylist(records, first.schema)
    for day, rows in (("2026-01-05", first), (NEXT_DAY, second)):
        copy_rows(lake, rows, day=day, contract=contract)
        validate(lake, day=day, contract=contract, fingerprints=True)
        night = score(lake, release, day=day, incremental=Incremental())
    assert 300 < night.carried.rows <= 320
    must_be_as_expected(read_day(lake, "predictions", NEXT_DAY), second)


def test_a_null_and_an_empty_text_are_the_same_to_the_model_and_a_space_is_not(
    lake: Lake, release: Release
) -> None:
    rows = make_rows(3).sort_by("user_id")
    for name, values in (
        ("age", [7, 7, 7]),
        ("review", ["good"] * 3),
        ("title", [None, "", " film"]),
    ):
        at = rows.schema.get_field_index(name)
        rows = rows.set_column(at, name, pa.array(values, rows.schema.field(name).type))
    copy_rows(lake, rows, contract=release.contract)
    validate(lake, contract=release.contract)
    score(lake, release)
    null, empty, film = read_day(lake, "predictions")["meaning"].to_pylist()
    assert null == empty != film


def test_dead_letters_with_texts_are_replayed(
    lake: Lake, release: Release, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = with_review(make_rows(80), 41, "a very odd text \0 with a nul")
    copy_rows(lake, rows, contract=release.contract)
    validate(lake, contract=release.contract)
    whole = Scorer.score

    def failing(self: Scorer, given: Any) -> Any:
        texts = InputRows.of(given).columns["review"]
        assert isinstance(texts, Lists)
        if any("odd" in one for one in texts.to_texts().to_pylist()):
            msg = "no answer today"
            raise ValueError(msg)
        return whole(self, given)

    monkeypatch.setattr(Scorer, "score", failing)
    score(lake, release, LocalEngine(find_device("cpu"), workers=1), gates=GATES)
    (dead,) = read_day(lake, "dead_letters").to_pylist()
    assert (dead["user_id"], dead["reason"]) == (42, "ValueError: no answer today")
    assert dead["review"] == rows["review"][41].as_py()
    monkeypatch.setattr(Scorer, "score", whole)
    replay(lake, release)
    assert not lake.dead_letters.parts("2026-01-05")
    must_be_as_expected(read_day(lake, "predictions"), rows)


class LastWord(torch.nn.Module):
    """Divides by what it says of the last token: of a text that ends with [UNK], by 0."""

    def forward(self, text: torch.Tensor, text_mask: torch.Tensor) -> torch.Tensor:
        unknown = ((text == 1) & text_mask).any(dim=1)
        return torch.where(unknown, torch.nan, text_mask.sum(dim=1).float())


def test_a_text_that_the_model_has_no_answer_to_is_a_dead_letter(
    lake: Lake, tmp_path: Path
) -> None:
    release = save_release(
        tmp_path / NAME,
        name=NAME,
        module=LastWord(),
        contract=Contract(
            key=KeySpec(name="user_id", dtype="int64"),
            inputs=(Text(name="text", max_length=8),),
            outputs=(Output(name="tokens"),),
        ),
        golden_inputs={"text": ["good", "bad film"]},
        tokenizer=make_tokenizer(),
    )
    texts = ["good", "a strange one", "the very bad film"]
    rows = pa.table({"user_id": [1, 2, 3], "text": texts})
    copy_rows(lake, rows, contract=release.contract)
    validate(lake, contract=release.contract)
    score(lake, release, gates=GATES)
    (dead,) = read_day(lake, "dead_letters").to_pylist()
    assert (dead["user_id"], dead["text"]) == (2, "a strange one")
    assert read_day(lake, "predictions")["tokens"].to_pylist() == [3, 6]


def test_an_altered_tokenizer_is_refused(release: Release, tmp_path: Path) -> None:
    copy = write_texts(tmp_path / NAME)
    assert copy.digest == release.digest
    path = copy.folder / TOKENIZER
    text = path.read_text()
    path.write_text(text.replace('"good":4', '"good":5'))
    assert path.read_text() != text
    with pytest.raises(TamperedReleaseError, match=f"{TOKENIZER} hashes to"):
        open_release(copy.folder, copy.digest)
    # Altered since it was opened.
    with pytest.raises(
        TamperedReleaseError, match=f"{TOKENIZER} is not the file any more"
    ):
        Scorer(copy, find_device("cpu"))


def test_a_tokenizer_that_is_gone_is_refused(tmp_path: Path) -> None:
    release = write_texts(tmp_path / NAME)
    (release.folder / TOKENIZER).unlink()
    with pytest.raises(TamperedReleaseError, match="no file that can be read"):
        Scorer(release, find_device("cpu"))


@pytest.mark.parametrize(("said", "is_set"), [(None, "false"), ("true", "true")])
def test_a_scorer_has_no_threads_of_the_tokenizer_unless_told(
    release: Release, monkeypatch: pytest.MonkeyPatch, said: str | None, is_set: str
) -> None:
    name = "TOKENIZERS_PARALLELISM"
    # Set first, so that it is put back whatever it was.
    monkeypatch.setenv(name, "as it was")
    if said is None:
        monkeypatch.delenv(name)
    else:
        monkeypatch.setenv(name, said)
    Scorer(release, find_device("cpu"))
    assert os.environ[name] == is_set


def test_batches_and_workers_of_texts_are_swept(release: Release) -> None:
    found = sweep(release, find_device("cpu"), 1, Effort(None, 1, 0, 0.001, max_rows=4))
    assert [point.batch_rows for point in found.points] == [1, 2, 4]
    points = sweep_workers(release, find_device("cpu"), [1], chunk_rows=8)
    assert points[0].rows_per_second > 0


def test_another_tokenizer_is_another_contract_and_another_validated_day(
    lake: Lake, release: Release, tmp_path: Path
) -> None:
    turned = (*WORDS[1:], WORDS[0])
    other = write_texts(tmp_path / NAME, tokenizer=make_tokenizer(turned))
    assert other.contract.digest != release.contract.digest
    rows = make_rows(30)
    copy_rows(lake, rows, contract=release.contract)
    jobs = [
        validate(lake, contract=one.contract).job for one in (release, other, release)
    ]
    assert jobs[0] == jobs[2] != jobs[1]
