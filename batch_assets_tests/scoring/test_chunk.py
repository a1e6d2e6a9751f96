"""One chunk: every row is scored or a dead letter, and the receipt says so."""

import dataclasses
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from batch_assets.errors import CorruptPartError, ScoringError
from batch_assets.lake.page_layout import COMPACT, FAST
from batch_assets.lake.parts import open_part
from batch_assets.lake.receipts import OutputSummary
from batch_assets.lake.reconciliation import ControlTotal
from batch_assets.lake.shards import content, hash_keys
from batch_assets.lake.tables import Lake
from batch_assets.models.reference import histogram
from batch_assets.models.release import Release
from batch_assets.models.writing import save_release
from batch_assets.scoring import chunk_rows
from batch_assets.scoring.chunk import score_chunk
from batch_assets.scoring.chunk_parts import dead_letter_schema
from batch_assets.scoring.chunk_rows import _own
from batch_assets.scoring.chunk_task import ChunkTask
from batch_assets.scoring.device import find_device
from batch_assets.scoring.scorer import Scorer
from batch_assets.spec import GateLimits
from batch_assets_tests.models_that_fail import POISON, Hungry
from batch_assets_tests.nights import plan
from batch_assets_tests.stuck import LOOPS, SLOW_AT_HOME, Risk, Stuck, children
from batch_assets_tests.toys import (
    DAY,
    ROW_GROUP_ROWS,
    ToyRisk,
    copy_rows,
    expected_risk,
    features_of,
    make_contract,
    make_rows,
    validate,
    write_toy_release,
)

RAISES, NAN, INFINITE, TOO_HIGH, TOO_LOW = 113, 114, 115, 116, 117


class Fickle(torch.nn.Module):
    """The toy model, except at the ages at which it misbehaves on purpose."""

    def __init__(self) -> None:
        super().__init__()
        self.toy = ToyRisk()

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        age = features[:, 0]
        if (age == RAISES).any():
            msg = f"no risk at the age of {RAISES}"
            raise ValueError(msg)
        risk = self.toy(features)
        for wrong, value in (
            (NAN, torch.nan),
            (INFINITE, torch.inf),
            (TOO_HIGH, 1.5),
            (TOO_LOW, -0.5),
        ):
            risk = torch.where(age == wrong, torch.tensor(value), risk)
        return risk


@pytest.fixture(scope="module")
def fickle(tmp_path_factory: pytest.TempPathFactory) -> Scorer:
    contract = make_contract()
    release = save_release(
        tmp_path_factory.mktemp("fickle") / "release",
        name="fickle",
        module=Fickle(),
        contract=contract,
        golden_inputs=features_of(aged(make_rows(16)), contract),
        reference={"risk": expected_risk(aged(make_rows(500)))},
        model_format="safetensors",
        import_path="batch_assets_tests.scoring.test_chunk:Fickle",
    )
    return Scorer(release, find_device("cpu", batch_rows="16"))


def aged(rows: pa.Table, ages: dict[int, int] | None = None) -> pa.Table:
    """Rows at ages at which the model behaves, but for the keys that are named."""
    keys = rows["user_id"].to_pylist()
    values = [(ages or {}).get(key, 20 + key % 50) for key in keys]
    column = pa.array(values, pa.int16())
    return rows.set_column(1, "age", column)


def planned(
    lake: Lake, release: Release, rows: pa.Table, **changes: Any
) -> list[ChunkTask]:
    """The chunks of a day with one shard."""
    copy_rows(lake, rows, shards=1)
    validate(lake)
    arguments: dict[str, Any] = {"chunk_rows": 10_000}
    arguments["gates"] = GateLimits(max_dead_letter_share=1)
    return plan(lake, release, DAY, **(arguments | changes)).tasks


def planned_empty(lake: Lake, release: Release) -> list[ChunkTask]:
    copy_rows(lake, make_rows(0), shards=1, allow_empty=True)
    validate(lake)
    return plan(lake, release, DAY, chunk_rows=100, gates=GateLimits()).tasks


def task_job(tasks: list[ChunkTask]) -> str:
    (job,) = {task.job for task in tasks}
    return job


def test_rows_are_scored_in_their_order_and_stamped(
    lake: Lake, toy_release: Release
) -> None:
    rows = make_rows(250)
    (task,) = planned(lake, toy_release, rows)

    scored = score_chunk(task, Scorer(toy_release, find_device("cpu")))

    table = pq.read_table(scored.part.path, partitioning=None)
    assert table.schema.remove_metadata() == pa.schema(
        [
            pa.field("user_id", pa.int64(), nullable=False),
            ("risk", pa.float32()),
            ("model_name", pa.string()),
            ("model_version", pa.string()),
        ]
    )
    assert table["user_id"].equals(rows["user_id"])
    np.testing.assert_allclose(table["risk"], expected_risk(rows), rtol=1e-6)
    assert set(table["model_name"].to_pylist()) == {"toy"}
    assert set(table["model_version"].to_pylist()) == {toy_release.digest}
    assert scored.dead is None
    assert set(scored.seconds) == {"read", "compute", "write", "copy"}


def test_a_receipt_says_what_was_read_and_how_the_outputs_are_distributed(
    lake: Lake, toy_release: Release
) -> None:
    rows = make_rows(450)
    tasks = planned(lake, toy_release, rows, chunk_rows=2 * ROW_GROUP_ROWS)

    scored = score_chunk(tasks[1], Scorer(toy_release, find_device("cpu")))

    receipt = open_part(scored.part.path)[0].receipt
    table = pq.read_table(scored.part.path, partitioning=None)
    risk = table["risk"].to_numpy().astype(np.float64)
    edges = toy_release.manifest.reference["risk"].edges
    assert receipt == scored.part.receipt
    assert (receipt.table, receipt.day, receipt.job) == (
        "predictions",
        DAY,
        task_job(tasks),
    )
    assert (receipt.shard, receipt.chunk) == (0, 1)
    assert receipt.total == ControlTotal.of(rows["user_id"][200:400])
    assert receipt.facts() == {
        "model": "toy",
        "release": toy_release.digest,
        "contract": toy_release.contract.digest,
        "validated": tasks[1].validated.name,
        "row_groups": [2, 4],
        "dead": None,
        "replayed": None,
        "arithmetic": "cpu float32",
        "content": content(hash_keys(table["user_id"]), [table["risk"].to_numpy()]),
        "outputs": {
            "risk": {
                "rows": 200,
                "sum": risk.sum(),
                "min": risk.min(),
                "max": risk.max(),
                "counts": histogram(risk, edges),
            }
        },
    }
    assert sum(receipt.outputs["risk"].counts) == 200


@pytest.mark.parametrize(
    "bad",
    [[1], [300], [150, 151], [1, 2, 3, 150, 298, 300]],
    ids=["first", "last", "neighbours", "scattered"],
)
def test_rows_on_which_the_model_raises_are_found_and_all_others_scored(
    lake: Lake, fickle: Scorer, bad: list[int]
) -> None:
    rows = aged(make_rows(300), dict.fromkeys(bad, RAISES)).sort_by("user_id")
    (task,) = planned(lake, fickle.release, rows)

    scored = score_chunk(task, fickle)

    table = pq.read_table(scored.part.path, partitioning=None)
    good = rows.filter(pa.array([key not in bad for key in range(1, 301)]))
    assert table["user_id"].equals(good["user_id"])
    np.testing.assert_allclose(table["risk"], expected_risk(good), rtol=1e-6)
    assert scored.dead is not None
    letters = pq.read_table(scored.dead.path, partitioning=None)
    assert letters["user_id"].to_pylist() == bad
    assert scored.part.receipt.dead == scored.dead.sha256


def test_a_dead_letter_is_the_whole_row_with_its_reason_stage_and_release(
    lake: Lake, fickle: Scorer
) -> None:
    rows = aged(make_rows(60), {7: RAISES})
    (task,) = planned(lake, fickle.release, rows)

    scored = score_chunk(task, fickle)

    assert scored.dead is not None
    letters = pq.read_table(scored.dead.path, partitioning=None)
    assert letters.schema.remove_metadata() == dead_letter_schema(
        fickle.release.contract
    )
    at = rows["user_id"].to_pylist().index(7)
    features = features_of(rows, fickle.release.contract)[at].tolist()
    names = fickle.release.contract.feature_names
    (letter,) = letters.to_pylist()
    np.testing.assert_equal(
        letter,
        {
            "user_id": 7,
            **dict(zip(names, features, strict=True)),
            "stage": "score",
            "reason": f"ValueError: no risk at the age of {RAISES}",
            "model_name": "fickle",
            "model_version": fickle.release.digest,
        },
    )
    receipt = open_part(scored.dead.path)[0].receipt
    assert (receipt.table, receipt.total) == (
        "dead_letters",
        ControlTotal.of(letters["user_id"]),
    )
    assert receipt.release == fickle.release.digest


@pytest.mark.parametrize(
    ("age", "reason"),
    [
        (NAN, "output 'risk' is nan"),
        (INFINITE, "output 'risk' is inf"),
        (TOO_HIGH, "output 'risk' is 1.5"),
        (TOO_LOW, "output 'risk' is -0.5"),
    ],
)
def test_an_output_that_is_not_finite_or_out_of_range_is_a_dead_letter(
    lake: Lake, fickle: Scorer, age: int, reason: str
) -> None:
    rows = aged(make_rows(100), {3: age, 100: age}).sort_by("user_id")
    (task,) = planned(lake, fickle.release, rows)

    scored = score_chunk(task, fickle)

    assert scored.dead is not None
    letters = pq.read_table(scored.dead.path, partitioning=None)
    assert letters["user_id"].to_pylist() == [3, 100]
    assert letters["reason"].to_pylist() == [reason, reason]
    table = pq.read_table(scored.part.path, partitioning=None)
    assert table["user_id"].to_pylist() == [k for k in range(1, 100) if k != 3]
    summary = scored.part.receipt.outputs["risk"]
    assert summary.rows == sum(summary.counts) == 98
    assert 0 <= summary.min <= summary.max <= 1


@pytest.mark.parametrize("age", [NAN, INFINITE])
def test_an_output_without_a_range_must_be_finite_all_the_same(
    lake: Lake, tmp_path: Path, age: int
) -> None:
    contract = make_contract(outputs=[{"name": "risk"}])
    release = save_release(
        tmp_path / "release",
        name="fickle",
        module=Fickle(),
        contract=contract,
        golden_inputs=features_of(aged(make_rows(16)), contract),
        reference={},
        model_format="safetensors",
        import_path="batch_assets_tests.scoring.test_chunk:Fickle",
    )
    (task,) = planned(lake, release, aged(make_rows(50), {9: age, 10: TOO_HIGH}))

    scored = score_chunk(task, Scorer(release, find_device("cpu")))

    assert scored.dead is not None
    letters = pq.read_table(scored.dead.path, partitioning=None)
    assert letters["user_id"].to_pylist() == [9]


def test_every_kind_of_fault_in_one_chunk_keeps_the_books_closed(
    lake: Lake, fickle: Scorer
) -> None:
    ages = {10: RAISES, 11: NAN, 12: INFINITE, 13: TOO_HIGH, 14: TOO_LOW}
    rows = aged(make_rows(200), ages)
    (task,) = planned(lake, fickle.release, rows)

    scored = score_chunk(task, fickle)

    assert scored.dead is not None
    assert scored.dead.receipt.total.rows == len(ages)
    assert scored.part.receipt.total + scored.dead.receipt.total == ControlTotal.of(
        rows["user_id"]
    )


def written(folder: Path, module: torch.nn.Module, **arguments: Any) -> Release:
    contract = make_contract()
    kind = type(module)
    return save_release(
        folder / "release",
        name="troubled",
        module=module,
        contract=contract,
        golden_inputs=features_of(aged(make_rows(4)), contract),
        reference={},
        model_format="safetensors",
        import_path=f"{kind.__module__}:{kind.__name__}",
        arguments=arguments,
    )


@pytest.mark.slow
@pytest.mark.parametrize("bad", [[4], [1, 6]], ids=["one", "two"])
def test_rows_on_which_the_model_hangs_are_found_and_all_others_scored(
    lake: Lake, tmp_path: Path, bad: list[int]
) -> None:
    home = os.getpid()
    scorer = Scorer(written(tmp_path, Stuck(home), home=home), find_device("cpu"))
    rows = aged(make_rows(8), dict.fromkeys(bad, LOOPS)).sort_by("user_id")
    (task,) = planned(lake, scorer.release, rows)
    task = dataclasses.replace(task, max_seconds=0.5)

    scored = score_chunk(task, scorer)

    assert scored.dead is not None
    letters = pq.read_table(scored.dead.path, partitioning=None)
    assert letters["user_id"].to_pylist() == bad
    assert set(letters["reason"].to_pylist()) == {
        "TimeoutError: no answer within 0.5 s"
    }
    good = rows.filter(pa.array([key not in bad for key in range(1, 9)]))
    table = pq.read_table(scored.part.path, partitioning=None)
    assert table["user_id"].equals(good["user_id"])
    with torch.inference_mode():
        expected = Risk()(features_of(good, make_contract()))
    np.testing.assert_allclose(table["risk"], expected, rtol=1e-6)
    assert children() == set()


@pytest.mark.slow
def test_a_chunk_on_a_slow_machine_is_the_same_bytes(
    lake: Lake, tmp_path: Path
) -> None:
    home = os.getpid()
    scorer = Scorer(written(tmp_path, Stuck(home), home=home), find_device("cpu"))
    rows = aged(make_rows(250), {100: SLOW_AT_HOME})
    (task,) = planned(lake, scorer.release, rows)
    undisturbed = score_chunk(task, scorer).part.path.read_bytes()

    slow = score_chunk(dataclasses.replace(task, max_seconds=0.5), scorer)

    assert slow.part.path.read_bytes() == undisturbed
    assert slow.dead is None


def test_more_hangs_than_allowed_stop_the_chunk_and_leave_no_process(
    lake: Lake, tmp_path: Path
) -> None:
    home = os.getpid()
    scorer = Scorer(written(tmp_path, Stuck(home), home=home), find_device("cpu"))
    rows = aged(make_rows(2), dict.fromkeys([1, 2], LOOPS))
    (task,) = planned(lake, scorer.release, rows)
    task = dataclasses.replace(task, max_seconds=0.3, max_faults=0)

    with pytest.raises(ScoringError, match="more than 0 rows .*TimeoutError"):
        score_chunk(task, scorer)

    assert not task.predictions.exists()
    assert children() == set()


@pytest.mark.parametrize("bad", [[7], [1, 150, 151, 300]], ids=["one", "more"])
def test_a_row_that_fits_no_memory_is_a_dead_letter_and_the_batches_stay_big(
    lake: Lake, tmp_path: Path, bad: list[int]
) -> None:
    release = written(tmp_path, Hungry(300, "device"), rows=300, how="device")
    scorer = Scorer(release, find_device("cpu", batch_rows="64"))
    rows = aged(make_rows(300), dict.fromkeys(bad, POISON)).sort_by("user_id")
    (task,) = planned(lake, release, rows)

    scored = score_chunk(task, scorer)

    assert scored.dead is not None
    letters = pq.read_table(scored.dead.path, partitioning=None)
    assert letters["user_id"].to_pylist() == bad
    assert all(
        reason.startswith("OutOfMemoryError: CUDA out of memory")
        for reason in letters["reason"].to_pylist()
    )
    table = pq.read_table(scored.part.path, partitioning=None)
    good = rows.filter(pa.array([key not in bad for key in range(1, 301)]))
    assert table["user_id"].equals(good["user_id"])
    np.testing.assert_allclose(table["risk"], expected_risk(good), rtol=1e-6)
    assert scorer.batch_rows == 64


@pytest.mark.parametrize("age", [RAISES, NAN])
def test_a_chunk_whose_rows_are_all_at_fault_still_leaves_a_receipt(
    lake: Lake, fickle: Scorer, age: int
) -> None:
    rows = aged(make_rows(9), dict.fromkeys(range(1, 10), age))
    (task,) = planned(lake, fickle.release, rows)

    scored = score_chunk(task, fickle)

    assert scored.part.receipt.total == ControlTotal()
    summary = scored.part.receipt.outputs["risk"]
    assert replace(summary, counts=[]) == OutputSummary(0, 0.0, None, None, [])
    assert scored.dead is not None
    assert scored.dead.receipt.total == ControlTotal.of(rows["user_id"])


@pytest.mark.parametrize(("faults", "stops"), [(4, False), (5, True)])
def test_more_faults_than_allowed_stop_the_chunk_and_leave_no_part(
    lake: Lake, fickle: Scorer, faults: int, stops: bool
) -> None:
    rows = aged(make_rows(100), dict.fromkeys(range(1, faults + 1), RAISES))
    (task,) = planned(lake, fickle.release, rows)
    task = dataclasses.replace(task, max_faults=4)

    if not stops:
        assert score_chunk(task, fickle).part.receipt.total.rows == 96
        return
    with pytest.raises(ScoringError, match=f"more than 4 rows .*{RAISES}. Nothing"):
        score_chunk(task, fickle)

    assert not task.predictions.exists()
    assert not task.dead_letters.exists()


def test_an_empty_chunk_leaves_an_empty_part_with_a_receipt(
    lake: Lake, toy_release: Release
) -> None:
    (task,) = planned_empty(lake, toy_release)

    scored = score_chunk(task, Scorer(toy_release, find_device("cpu")))

    assert open_part(scored.part.path)[0].receipt.total == ControlTotal()
    assert scored.part.receipt.row_groups == (0, 0)
    assert scored.dead is None


def test_a_null_reaches_the_model_as_nan(lake: Lake, tmp_path: Path) -> None:
    class Counts(torch.nn.Module):
        def forward(self, features: torch.Tensor) -> torch.Tensor:
            return torch.isnan(features[:, 1]).to(torch.float32)

    contract = make_contract(outputs=[{"name": "unknown"}])
    rows = make_rows(300)
    release = save_release(
        tmp_path / "release",
        name="toy",
        module=Counts(),
        contract=contract,
        golden_inputs=features_of(make_rows(8), contract),
        reference={},
    )
    (task,) = planned(lake, release, rows)

    scored = score_chunk(task, Scorer(release, find_device("cpu")))

    found = pq.read_table(scored.part.path, partitioning=None)["unknown"]
    nulls = rows["visits"].is_null().to_pylist()
    assert found.to_pylist() == [float(null) for null in nulls]
    assert any(nulls)


def test_a_chunk_is_the_same_bytes_each_time(lake: Lake, toy_release: Release) -> None:
    (task,) = planned(lake, toy_release, make_rows(250))
    scorer = Scorer(toy_release, find_device("cpu"))

    first = score_chunk(task, scorer).part.path.read_bytes()
    again = score_chunk(task, scorer).part.path.read_bytes()

    assert first == again


def test_a_validated_part_with_a_flipped_bit_is_never_scored(
    lake: Lake, toy_release: Release
) -> None:
    (task,) = planned(lake, toy_release, make_rows(250))
    data = bytearray(task.validated.read_bytes())
    with pq.ParquetFile(task.validated) as file:
        column = file.metadata.row_group(1).column(2)
    data[column.data_page_offset + column.total_compressed_size - 1] ^= 1
    task.validated.write_bytes(data)

    with pytest.raises(CorruptPartError, match="can't be read"):
        score_chunk(task, Scorer(toy_release, find_device("cpu")))

    assert not task.predictions.exists()


@pytest.mark.parametrize("rows", [0, 1, 16, 17, 4_095, 4_096, 65_536])
def test_outputs_are_packed_an_odd_number_of_cache_lines_apart(rows: int) -> None:
    packed = _own.room_for(3, rows, pinned=False)

    lines, beside = divmod(packed.strides[0], 64)
    assert packed.shape == (3, rows)
    assert (lines % 2, beside) == (1, 0)
    assert lines * 16 >= rows


class Scribbling(torch.nn.Module):
    """Writes into what it is given, and then raises on a row, or has too large a rank."""

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        age = torch.nan_to_num(features)[:, 0].long()
        features.fill_(-1)
        if (age == FAULTY).any():
            msg = "no rank at that age"
            raise ValueError(msg)
        return torch.where(age == HUGE, 5_000_000_000, age)


FAULTY, HUGE = 111, 112


def test_a_rank_that_does_not_fit_is_a_dead_letter_and_rows_asked_again_are_as_before(
    lake: Lake, tmp_path: Path
) -> None:
    contract = make_contract(outputs=[{"name": "rank", "dtype": "int32"}])
    release = save_release(
        tmp_path / "release",
        name="scribbling",
        module=Scribbling(),
        contract=contract,
        golden_inputs=features_of(aged(make_rows(16)), contract),
        model_format="safetensors",
        import_path="batch_assets_tests.scoring.test_chunk:Scribbling",
    )
    rows = aged(make_rows(100), {7: FAULTY, 70: HUGE})
    (task,) = planned(lake, release, rows)

    scored = score_chunk(task, Scorer(release, find_device("cpu")))

    assert scored.dead is not None
    dead = pq.read_table(scored.dead.path, partitioning=None)
    reasons = dict(
        zip(dead["user_id"].to_pylist(), dead["reason"].to_pylist(), strict=True)
    )
    assert set(reasons) == {7, 70}
    assert "no rank at that age" in reasons[7]
    assert "'rank' is 5000000000, which is no int32" in reasons[70]
    assert dead["age"].to_pylist() == [{7: FAULTY, 70: HUGE}[key] for key in reasons]
    table = pq.read_table(scored.part.path, partitioning=None)
    ages = dict(zip(rows["user_id"].to_pylist(), rows["age"].to_pylist(), strict=True))
    assert table["rank"].to_pylist() == [
        ages[key] for key in table["user_id"].to_pylist()
    ]


@pytest.mark.parametrize("key_dtype", ["int64", "string"])
def test_a_chunk_is_the_same_to_the_bit_in_either_layout(
    tmp_path: Path, key_dtype: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Predictions, dead letters and receipts; of the fast one, no feature is decoded."""
    contract = make_contract(key_dtype)
    outputs = [{"name": "risk", "dtype": "float32", "min": 0, "max": 0.8}]
    contract = make_contract(key_dtype, outputs=outputs)
    release = write_toy_release(
        tmp_path / "release", key_dtype=key_dtype, contract=contract
    )
    rows = make_rows(1_000, key_dtype=key_dtype)
    scorer = Scorer(release, find_device("cpu", batch_rows="300"))
    left = {}
    for name, layout in (("compact", COMPACT), ("fast", FAST)):
        lake = Lake(tmp_path / name, "toy")
        copy_rows(lake, rows, contract=contract, project=tmp_path)
        validate(lake, contract=contract, layout=layout)
        tasks = plan(
            lake, release, chunk_rows=2_000, gates=GateLimits(max_dead_letter_share=1)
        ).tasks
        decoded: list[list[str]] = []
        read_open = chunk_rows.read_open

        def read(
            *asked: Any,
            read_open: Any = read_open,
            decoded: list[list[str]] = decoded,
        ) -> pa.Table:
            decoded.append(asked[2])
            return read_open(*asked)

        monkeypatch.setattr(chunk_rows, "read_open", read)
        done = [score_chunk(task, scorer) for task in tasks]
        monkeypatch.setattr(chunk_rows, "read_open", read_open)
        left[name] = [
            (
                pq.read_table(part.path, partitioning=None),
                replace(part.receipt, job="", **changes),
            )
            for scored in done
            for part, changes in ((scored.part, {"dead": None}), (scored.dead, {}))
            if part
        ]
        keys = [] if key_dtype == "int64" else [["user_id"]] * len(tasks)
        if name == "fast":
            assert decoded == keys
        else:
            assert len(decoded) == len(tasks)

    assert any(receipt.table == "dead_letters" for _, receipt in left["fast"])
    for (table, receipt), (other, its) in zip(
        left["compact"], left["fast"], strict=True
    ):
        assert receipt == its
        names = table.schema.names
        assert other.schema.names == names
        for column in names:
            assert bits_of(table[column]) == bits_of(other[column])


def bits_of(column: pa.ChunkedArray) -> list[Any]:
    """Values of a column; NaN is not equal to itself, but its bits are."""
    if pa.types.is_floating(column.type):
        return column.to_numpy().view(np.uint32).tolist()
    return column.to_pylist()


class InPlace(torch.nn.Module):
    """A model that writes into what it gets, and raises on a row after that."""

    def __init__(self) -> None:
        super().__init__()
        self.toy = ToyRisk()

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        features[:, 0] += 10
        if (features[:, 0] == RAISES).any():
            msg = "no risk at that age"
            raise ValueError(msg)
        return self.toy(features)


def test_rows_that_a_model_changed_in_place_are_asked_again_as_they_were_read(
    lake: Lake, tmp_path: Path
) -> None:
    rows = aged(make_rows(64), {7: RAISES - 10})
    contract = make_contract()
    golden = features_of(aged(make_rows(16)), contract)
    release = save_release(
        tmp_path / "release",
        name="in_place",
        module=InPlace(),
        contract=contract,
        golden_inputs=golden,
        reference={"risk": expected_risk(aged(make_rows(500)))},
        model_format="safetensors",
        import_path="batch_assets_tests.scoring.test_chunk:InPlace",
    )
    (task,) = planned(lake, release, rows)

    scored = score_chunk(task, Scorer(release, find_device("cpu", batch_rows="16")))

    table = pq.read_table(scored.part.path, partitioning=None)
    older = aged(rows, {k: 30 + k % 50 for k in range(1, 65)})
    expected = dict(
        zip(older["user_id"].to_pylist(), expected_risk(older), strict=True)
    )
    assert len(table) == 63
    for key, risk in zip(
        table["user_id"].to_pylist(), table["risk"].to_pylist(), strict=True
    ):
        assert risk == pytest.approx(expected[key], rel=1e-6)
    assert scored.dead is not None
    dead = pq.read_table(scored.dead.path, partitioning=None)
    assert dead["user_id"].to_pylist() == [7]
    assert dead["age"].to_pylist() == [RAISES - 10]
