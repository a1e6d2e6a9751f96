"""A release of texts: what of tokenizer, contract and model must fit, or is not written."""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import tokenizers
import torch
from pydantic import ValidationError
from tokenizers import models

from batch_assets import Contract, Feature, KeySpec, Output, Text
from batch_assets.errors import ConfigError, ReleaseError
from batch_assets.models.input_rows import InputRows, Lists
from batch_assets.models.release import TOKENIZER
from batch_assets.models.tensors import tensors_of
from batch_assets.models.tokenizing import Tokenizing, with_tokenizer
from batch_assets.models.writing import save_release
from batch_assets_tests.texts import (
    LONGEST,
    SPECIAL,
    WORDS,
    Moods,
    golden,
    make_contract,
    make_tokenizer,
    write_texts,
)


def test_the_tokenizer_is_a_file_of_the_release_and_the_contract_names_it(
    tmp_path: Path,
) -> None:
    make_tokenizer().save(str(tmp_path / "mine.json"), pretty=False)
    of_path = write_texts(tmp_path / "a", tokenizer=tmp_path / "mine.json")
    of_object = write_texts(tmp_path / "b", tokenizer=make_tokenizer())
    assert of_path.digest == of_object.digest
    entry = of_path.manifest.files[TOKENIZER]
    for text in of_path.contract.inputs:
        assert isinstance(text, Text)
        assert (text.tokenizer, text.pad) == (entry.sha256, 0)
    # What a release says may be said again.
    again = write_texts(tmp_path / "c", contract=of_path.contract)
    assert again.digest == of_path.digest


def random_bpe() -> tokenizers.Tokenizer:
    return tokenizers.Tokenizer(
        models.BPE({"a": 0, "b": 1, "ab": 2}, [("a", "b")], dropout=0.5)
    )


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"tokenizer": None}, "'review', and no tokenizer was given"),
    ({"tokenizer": "/nowhere.json"}, "no tokenizer can be read: .*nowhere.json"),
    ({"tokenizer": b"{}"}, "is a bytes, expected the path of a tokenizer.json"),
    ({"tokenizer": random_bpe()}, "draws at random"),
    (
        {"module": Moods(len(SPECIAL) + len(WORDS) - 1)},
        "highest id is 14, and the model does not take it as 'review': has its embedding "
        "fewer rows",
    ),
    (
        {"golden_inputs": golden() | {"review": "one string for all of the rows"}},
        "of the text 'review', expected a string for each row",
    ),
    (
        {"golden_inputs": golden() | {"review": [b"good"] * 24}},
        "of the text 'review', expected a string for each row",
    ),
    (
        {"golden_inputs": golden() | {"review": ["\ud800"] * 24}},
        "surrogates not allowed",
    ),
    ({"golden_inputs": golden() | {"review": ["good"] * 23}}, "as many of each"),
]


@pytest.mark.parametrize(("changes", "why"), REFUSED)
def test_what_does_not_fit_is_one_error_and_nothing_is_written(
    tmp_path: Path, changes: dict[str, Any], why: str
) -> None:
    with pytest.raises(ReleaseError, match=why):
        write_texts(tmp_path / "release", **changes)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"model": 1}', '{"model": {}}'])
def test_a_file_that_is_no_tokenizer_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "mine.json"
    path.write_text(text)
    with pytest.raises(ReleaseError, match="the tokenizer can't be read by tokenizers"):
        write_texts(tmp_path / "release", tokenizer=path)


def test_a_tokenizer_without_a_text_is_refused() -> None:
    contract = Contract(
        key=KeySpec(name="user_id", dtype="int64"),
        features=(Feature(name="age", dtype="int16"),),
        outputs=(Output(name="risk"),),
    )
    with pytest.raises(ReleaseError, match="the contract has no text"):
        with_tokenizer(contract, make_tokenizer())


def test_a_contract_that_names_another_tokenizer_is_refused(tmp_path: Path) -> None:
    written = write_texts(tmp_path / "release")
    other = make_tokenizer((*WORDS, "more"))
    with pytest.raises(ReleaseError, match="leave `tokenizer` and `pad` of the text"):
        write_texts(tmp_path / "other", contract=written.contract, tokenizer=other)


def texts_of(**changes: Any) -> Contract:
    review, title = make_contract().inputs
    return make_contract(inputs=(review.model_copy(update=changes), title))


def test_there_must_be_room_for_a_token_beside_the_special_ones() -> None:
    with pytest.raises(ReleaseError, match="max_length of 2, .* adds 2 special tokens"):
        with_tokenizer(texts_of(max_length=2), make_tokenizer())
    with_tokenizer(texts_of(max_length=3), make_tokenizer())


def test_padding_is_the_tokenizers_own_or_must_be_said() -> None:
    plain = tokenizers.Tokenizer(models.WordLevel({"a": 0, "?": 1}, unk_token="?"))
    with pytest.raises(ReleaseError, match="as `pad` of the text 'review'"):
        with_tokenizer(make_contract(), plain)
    plain.enable_padding(pad_id=1, pad_token="?", length=64)
    contract, tokenizing = with_tokenizer(texts_of(pad=0), plain)
    assert [text.pad for text in contract.inputs if isinstance(text, Text)] == [0, 1]
    # It pads to 64 by itself: here it does not.
    assert tokenizing is not None
    assert lengths(tokenizing, ["a", ""]) == [1, 0]


def lengths(tokenizing: Tokenizing, texts: list[str]) -> list[int]:
    columns = {name: Lists.of_texts(texts) for name in ("review", "title")}
    rows = InputRows(np.zeros((1, len(texts)), np.float32), columns)
    tokens = tokenizing.tokenised(rows).columns["review"]
    assert isinstance(tokens, Lists)
    return tokens.lengths.tolist()


def test_a_batch_is_filled_up_to_its_longest_text_beside_a_mask() -> None:
    contract, tokenizing = with_tokenizer(texts_of(pad=1), make_tokenizer())
    assert tokenizing is not None
    columns = {
        "review": Lists.of_texts(["good bad", "", "GOOD"]),
        "title": Lists.of_texts(["", "", ""]),
    }
    rows = tokenizing.tokenised(InputRows(np.zeros((1, 3), np.float32), columns))
    tensors = tensors_of(rows, contract)
    assert tensors["review"].tolist() == [[2, 4, 5, 3], [2, 3, 1, 1], [2, 4, 3, 1]]
    mask = tensors["review_mask"]
    assert (mask.sum(dim=1).tolist(), mask[1].tolist()) == (
        [4, 2, 3],
        [True, True, False, False],
    )
    assert tensors["title_ids"].shape == tensors["title_there"].shape == (3, 2)
    assert (tensors["review"].dtype, mask.dtype) == (torch.int64, torch.bool)
    with pytest.raises(TypeError, match="'review' was not tokenised"):
        tensors_of(InputRows(rows.features, columns), contract)


def test_texts_are_tokenised_in_pieces_as_they_are_at_once() -> None:
    _, tokenizing = with_tokenizer(texts_of(max_length=2**20), make_tokenizer())
    assert tokenizing is not None
    words = [0, 1, 400_000, 3, *[1] * 3_000, 0, 300_000, 2]
    assert lengths(tokenizing, ["good " * n for n in words]) == [n + 2 for n in words]
    assert lengths(tokenizing, []) == []


class Positions(torch.nn.Module):
    """A place for each of eight tokens, and no more."""

    def __init__(self) -> None:
        super().__init__()
        self.places = torch.nn.Embedding(8, 1)

    def forward(self, text: torch.Tensor, text_mask: torch.Tensor) -> torch.Tensor:
        at = torch.arange(text.shape[1]).expand(text.shape)
        return (self.places(at)[:, :, 0] * text_mask).sum(dim=1)


@pytest.mark.parametrize(("most", "fits"), [(8, True), (9, False)])
def test_a_model_with_fewer_positions_than_a_text_may_have_is_refused(
    tmp_path: Path, most: int, fits: bool
) -> None:
    def write() -> None:
        save_release(
            tmp_path / "release",
            name="places",
            module=Positions(),
            contract=Contract(
                key=KeySpec(name="user_id", dtype="int64"),
                inputs=(Text(name="text", max_length=most),),
                outputs=(Output(name="sum"),),
            ),
            # None of them is as long.
            golden_inputs={"text": ["good", "bad film"]},
            tokenizer=make_tokenizer(),
        )

    if fits:
        write()
    else:
        with pytest.raises(ReleaseError, match="does not take 9 tokens as 'text'"):
            write()


@pytest.mark.parametrize(
    "given",
    [list, tuple, np.array, pl.Series, lambda texts: pl.Series(texts).to_arrow()],
)
def test_golden_texts_come_as_any_column_of_strings(tmp_path: Path, given: Any) -> None:
    texts = golden()
    release = write_texts(
        tmp_path / "release", golden_inputs=texts | {"review": given(texts["review"])}
    )
    assert release.digest == write_texts(tmp_path / "other").digest


def test_without_tokenizers_the_error_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = make_tokenizer().to_str().encode()
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(ConfigError, match=r"pip install 'batch-assets\[text\]'"):
        Tokenizing(data, make_contract())


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"max_length": 0}, "greater than or equal to 1"),
        ({"min_length": 7, "longest": 6}, "expected min_length ≤ longest, got 7, 6"),
        ({"dtype": "int64"}, "'string' or 'binary'"),
        ({"keep": "middle"}, "'head' or 'tail'"),
        ({"tokenizer": "abc"}, "match pattern"),
    ],
)
def test_a_text_that_makes_no_sense_is_refused(
    changes: dict[str, Any], why: str
) -> None:
    with pytest.raises(ValidationError, match=why):
        Text(**({"name": "text", "max_length": LONGEST} | changes))


def test_two_tensors_of_one_name_are_refused() -> None:
    with pytest.raises(ValidationError, match="named twice: 'ids'"):
        make_contract(
            inputs=(
                Text(name="a", max_length=8, ids="ids"),
                Text(name="b", max_length=8, ids="IDS"),
            )
        )


def test_a_contract_is_read_back_as_it_was_written(tmp_path: Path) -> None:
    release = write_texts(tmp_path / "release")
    shown = json.loads(release.contract.model_dump_json())
    assert Contract(**shown) == release.contract
