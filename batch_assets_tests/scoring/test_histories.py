"""Nights of a model with every kind of input and output, against it row by row."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch

from batch_assets.errors import GoldenBatchError, ReleaseError
from batch_assets.incremental.reuse import Incremental
from batch_assets.lake.page_layout import COMPACT, FAST, PageLayout
from batch_assets.lake.tables import Lake
from batch_assets.models.input_rows import InputRows, Lists
from batch_assets.models.release import Release
from batch_assets.scoring.device import find_device
from batch_assets.scoring.engines.local import LocalEngine
from batch_assets.scoring.scorer import Scorer
from batch_assets.spec import GateLimits
from batch_assets_tests.histories import (
    ITEMS,
    LONGEST,
    NAME,
    Histories,
    expected,
    make_contract,
    make_rows,
    write_histories,
)
from batch_assets_tests.nights import score
from batch_assets_tests.replays import replay
from batch_assets_tests.toys import copy_rows, pin_rows, read_day, validate

NEXT_DAY = "2026-01-06"
GATES = GateLimits(max_quarantine_share=1, max_dead_letter_share=1)


@pytest.fixture(scope="module")
def release(tmp_path_factory: pytest.TempPathFactory) -> Release:
    return write_histories(tmp_path_factory.mktemp("release") / NAME)


@pytest.fixture
def lake(root: Path) -> Lake:
    return Lake(root, NAME)


def must_be_as_expected(predictions: pa.Table, rows: pa.Table) -> None:
    module = Histories()
    raw = {row["user_id"]: row for row in rows.to_pylist()}
    assert len(predictions) == len(raw)
    for row in predictions.to_pylist():
        for name, want in expected(raw[row["user_id"]], module).items():
            if name.endswith("_scores") or not isinstance(want, str | list):
                np.testing.assert_allclose(row[name], want, rtol=1e-5, atol=1e-5)
            else:
                assert row[name] == want, (row["user_id"], name)


@pytest.mark.parametrize("layout", [FAST, COMPACT], ids=["fast", "compact"])
@pytest.mark.parametrize("take", [copy_rows, pin_rows])
def test_a_night_says_of_each_row_what_the_model_says_of_it_alone(
    lake: Lake, release: Release, take: Callable[..., Any], layout: PageLayout
) -> None:
    rows = make_rows(700)
    take(lake, rows, contract=release.contract)
    validate(lake, contract=release.contract, layout=layout)
    night = score(lake, release)
    assert night.total.rows == 700
    must_be_as_expected(read_day(lake, "predictions"), rows)


def test_rows_are_the_same_in_batches_of_any_size_and_in_any_order(
    release: Release,
) -> None:
    rows, recorded = golden_of(release, 300)
    for batch_rows in ("1", "7", "4096"):
        scorer = Scorer(release, find_device("cpu", batch_rows=batch_rows))
        order = np.random.default_rng(1).permutation(len(rows))
        outputs, _ = scorer.score(rows.take(order))
        for name, values in recorded.items():
            np.testing.assert_allclose(
                outputs[name], values[order], rtol=1e-5, atol=1e-5
            )


def golden_of(release: Release, n: int) -> tuple[InputRows, dict[str, np.ndarray]]:
    from batch_assets.models.formats import golden_batch

    rows, outputs = golden_batch(release)
    at = np.arange(n) % len(rows)
    return rows.take(at), {name: one.numpy()[at] for name, one in outputs.items()}


def test_a_batch_is_bounded_in_tokens_and_not_in_rows(
    release: Release, monkeypatch: pytest.MonkeyPatch
) -> None:
    shapes: list[tuple[int, int]] = []
    scorer = Scorer(release, find_device("cpu", batch_rows="8"))
    module = scorer._module

    def seen(*tensors: torch.Tensor) -> Any:
        shapes.append(tuple(tensors[4].shape))
        return module(*tensors)

    monkeypatch.setattr(scorer, "_module", seen)
    rows, _ = golden_of(release, 240)
    scorer.score(rows)
    assert sum(count for count, _ in shapes) == 240
    assert all(count * longest <= 8 * LONGEST for count, longest in shapes)
    # Short rows are asked together, and no row is padded far beyond its own length.
    assert max(count for count, longest in shapes if longest <= 3) > 8
    lists = rows.columns["items"]
    assert isinstance(lists, Lists)
    tokens = sum(count * longest for count, longest in shapes)
    assert tokens < 1.2 * len(lists.values) + 8 * LONGEST


def test_ids_above_two_to_the_24_reach_the_model_exactly(
    lake: Lake, release: Release
) -> None:
    rows = make_rows(200)
    device = pa.array(2**24 + np.arange(200), pa.int64())
    rows = rows.set_column(rows.schema.get_field_index("device"), "device", device)
    copy_rows(lake, rows, contract=release.contract)
    validate(lake, contract=release.contract)
    score(lake, release)
    # Whether the id is odd decides the risk: as a float, half of them would be even.
    must_be_as_expected(read_day(lake, "predictions"), rows)


BAD: list[tuple[str, Any, str]] = [
    ("device", None, "device is null"),
    ("device", -1, "device is no id from 0 to 2147483647"),
    ("device", 2**31, "device is no id from 0 to 2147483647"),
    ("taste", None, "taste is null"),
    ("taste", [1.0] * 3, "taste has not 4 numbers"),
    ("taste", [1.0, None, 1.0, 1.0], "taste holds a null"),
    ("taste", [1.0, float("nan"), 1.0, 1.0], "taste holds NaN or infinity"),
    ("taste", [1.0, float("inf"), 1.0, 1.0], "taste holds NaN or infinity"),
    ("taste", [11.0] * 4, "taste holds a value above max"),
    ("items", [ITEMS[0]] * 5, "days_ago is not as long as items"),
    ("items", [None], "items holds a null"),
    ("days_ago", [-1.0], "days_ago holds a value below min"),
    ("days_ago", [None], "days_ago holds a null"),
    ("seen_items", [None], "seen_items holds a null"),
]


@pytest.mark.parametrize(("column", "value", "rule"), BAD)
def test_a_bad_row_is_quarantined_with_its_rule_and_the_others_are_scored(
    lake: Lake, release: Release, column: str, value: Any, rule: str
) -> None:
    rows = make_rows(60).sort_by("user_id")
    records = rows.to_pylist()
    one = records[30] | {"items": [ITEMS[1]], "days_ago": [1.0]}
    records[30] = one | {column: value}
    bad = pa.Table.from_pylist(records, rows.schema)
    copy_rows(lake, bad, contract=release.contract)
    validate(lake, contract=release.contract)
    quarantined = read_day(lake, "quarantined_rows").to_pylist()
    assert [row["user_id"] for row in quarantined] == [31]
    assert quarantined[0]["rules"] == [rule]
    # NaN equals nothing, so as it is written.
    assert str(quarantined[0][column]) == str(value)
    score(lake, release, gates=GATES)
    others = bad.slice(0, 30), bad.slice(31)
    must_be_as_expected(read_day(lake, "predictions"), pa.concat_tables(others))


def test_a_history_of_ten_million_items_is_quarantined(
    lake: Lake, release: Release
) -> None:
    rows = make_rows(20).sort_by("user_id")
    records = rows.to_pylist()
    long = np.full(10_000_000, ITEMS[0])
    columns = {name: rows[name].to_pylist() for name in rows.column_names}
    table = pa.table(
        {
            name: pa.array(
                [
                    *values[:5],
                    long if name == "items" else np.zeros(len(long)),
                    *values[6:],
                ],
                rows.schema.field(name).type,
            )
            if name in ("items", "days_ago")
            else pa.array(values, rows.schema.field(name).type)
            for name, values in columns.items()
        }
    )
    copy_rows(lake, table, contract=release.contract)
    validate(lake, contract=release.contract)
    (part,) = lake.quarantined_rows.parts("2026-01-05")
    assert part.rows == 1
    score(lake, release, gates=GATES)
    others = pa.Table.from_pylist(records[:5] + records[6:], rows.schema)
    must_be_as_expected(read_day(lake, "predictions"), others)


def test_an_incremental_night_is_that_of_a_whole_one(
    lake: Lake, release: Release
) -> None:
    contract, first = release.contract, make_rows(400)
    records = first.to_pylist()
    for at in range(0, 400, 7):
        # Only what is in a list has changed, or only its order.
        change = ("seen_items", "items", "taste")[at % 3]
        records[at][change] = records[at][change][::-1]
    for at in range(3, 400, 50):
        records[at]["device"] += 1
    second = pa.Table.from_pylist(records, first.schema)
    for day, rows in (("2026-01-05", first), (NEXT_DAY, second)):
        copy_rows(lake, rows, day=day, contract=contract)
        validate(lake, day=day, contract=contract, fingerprints=True)
        night = score(lake, release, day=day, incremental=Incremental())
    assert 250 < night.carried.rows < 400
    must_be_as_expected(read_day(lake, "predictions", NEXT_DAY), second)


class Wrong(Histories):
    """It says something else of users whose taste begins with a certain number."""

    def forward(self, **tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
        risk, classes, profile, scores = super().forward(**tensors)
        code = tensors["taste"][:, :1]
        scores = torch.where(code == 9, torch.nan, scores)
        profile = torch.where(code == 8, torch.inf, profile)
        return torch.where(code[:, 0] == 7, torch.nan, risk), classes, profile, scores


def test_a_row_whose_outputs_are_not_as_declared_is_a_dead_letter(
    lake: Lake, tmp_path: Path
) -> None:
    release = write_histories(
        tmp_path / "release",
        module=Wrong(),
        model_format="safetensors",
        import_path="batch_assets_tests.scoring.test_histories:Wrong",
    )
    rows = make_rows(60).sort_by("user_id")
    records = rows.to_pylist()
    for at, code in ((10, 9.0), (20, 8.0), (30, 7.0)):
        records[at]["taste"][0] = code
    # All items but four are seen: no ranking of five is left. Of the next, five are.
    records[40]["seen_items"] = list(ITEMS[4:])
    records[41]["seen_items"] = list(ITEMS[5:])
    rows = pa.Table.from_pylist(records, rows.schema)
    copy_rows(lake, rows, contract=release.contract)
    validate(lake, contract=release.contract)
    score(lake, release)
    dead = read_day(lake, "dead_letters").to_pylist()
    assert {row["user_id"]: row["reason"].split(":")[0] for row in dead} == {
        11: "ranking 'next_items' has a score that is not finite or out of range",
        21: "output 'profile' is inf at position 0",
        31: "output 'risk' is nan",
        41: "ranking 'next_items' has fewer than 5 items",
    }
    # The whole row is kept, lists and all.
    kept = {row["user_id"]: row for row in dead}[21]
    assert kept["taste"] == records[20]["taste"]
    alive = [row for row in records if row["user_id"] not in (11, 21, 31, 41)]
    must_be_as_expected(
        read_day(lake, "predictions"), pa.Table.from_pylist(alive, rows.schema)
    )


def test_a_golden_ranking_that_is_another_is_refused(
    release: Release, monkeypatch: pytest.MonkeyPatch
) -> None:
    from batch_assets.scoring import scorer

    def swapped(given: Release) -> Any:
        rows, outputs = golden_of(given, 24)
        items = outputs["next_items"]
        items[3, [0, 1]] = items[3, [1, 0]]
        return rows, {name: torch.from_numpy(one) for name, one in outputs.items()}

    monkeypatch.setattr(scorer, "golden_batch", swapped)
    with pytest.raises(GoldenBatchError, match="'next_items' is off"):
        Scorer(release, find_device("cpu"))


def test_a_model_that_looks_at_the_padding_is_refused(tmp_path: Path) -> None:
    class Padded(Histories):
        def forward(self, **tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
            risk, classes, profile, scores = super().forward(**tensors)
            return risk + tensors["items"].shape[1], classes, profile, scores

    with pytest.raises(ReleaseError, match="depends on more than the row"):
        write_histories(tmp_path / "release", module=Padded())


def test_a_model_that_asks_the_length_of_a_tensor_is_told_how(tmp_path: Path) -> None:
    class Fixed(Histories):
        def forward(self, **tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
            risk, *others = super().forward(**tensors)
            return (risk + torch.zeros(len(tensors["region"])), *others)

    with pytest.raises(ReleaseError, match=r"tensor\.shape\[0\], not len\(tensor\)"):
        write_histories(tmp_path / "release", module=Fixed())


def test_compiled_code_is_of_features_alone(release: Release, tmp_path: Path) -> None:
    device = find_device("cpu", compiled=tmp_path)
    with pytest.raises(ReleaseError, match="'region', 'device'.* compile to false"):
        Scorer(release, device)


def test_the_contract_digest_covers_inputs_and_vocabularies() -> None:
    contract = make_contract()
    words = {**contract.vocabularies, "items": (*ITEMS[1:], ITEMS[0])}
    assert make_contract(vocabularies=words).digest != contract.digest
    assert make_contract(inputs=contract.inputs[:-1]).digest != contract.digest


def test_dead_letters_with_lists_are_replayed(
    lake: Lake, release: Release, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = make_rows(80).sort_by("user_id")
    copy_rows(lake, rows, contract=release.contract)
    validate(lake, contract=release.contract)
    whole = Scorer.score

    def failing(self: Scorer, given: Any) -> Any:
        asked = InputRows.of(given)
        taste = asked.columns["taste"]
        assert isinstance(taste, np.ndarray)
        if (taste[:, 0] == first).any():
            msg = "no answer today"
            raise ValueError(msg)
        return whole(self, given)

    first = np.float32(rows["taste"][41].as_py()[0])
    monkeypatch.setattr(Scorer, "score", failing)
    # The golden rows are others.
    score(lake, release, LocalEngine(find_device("cpu"), workers=1), gates=GATES)
    (dead,) = read_day(lake, "dead_letters").to_pylist()
    assert (dead["user_id"], dead["reason"]) == (42, "ValueError: no answer today")
    assert dead["taste"] == rows["taste"][41].as_py()
    monkeypatch.setattr(Scorer, "score", whole)
    replay(lake, release)
    assert not lake.dead_letters.parts("2026-01-05")
    must_be_as_expected(read_day(lake, "predictions"), rows)
