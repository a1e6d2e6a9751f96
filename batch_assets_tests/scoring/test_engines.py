"""Promise 7: the same chunks give the same output on every engine, to the byte."""

import shutil
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch

from batch_assets.incremental.reuse import Incremental
from batch_assets.lake.day_run import DayRun
from batch_assets.lake.receipts import (
    DEAD_LETTERS,
    PREDICTIONS,
    QUARANTINED,
    RAW,
    VALIDATED,
)
from batch_assets.lake.tables import Lake
from batch_assets.models.release import Release
from batch_assets.scoring.compiled import COMPILED
from batch_assets.scoring.device import find_device
from batch_assets.scoring.engines.local import LocalEngine
from batch_assets.scoring.night import score_day
from batch_assets.scoring.plan import ScoringSettings
from batch_assets.spec import EngineSpec, GateLimits
from batch_assets_tests.compiling import compiles
from batch_assets_tests.crash import crash_rows, write_fussy_release
from batch_assets_tests.engines import (
    ENGINES,
    litter,
    mapping_on,
    parts_on_disk,
    running_ray,
    score,
    scoring_on,
)
from batch_assets_tests.histories import make_rows as make_histories
from batch_assets_tests.histories import write_histories
from batch_assets_tests.parts_by_hand import spoil_shard
from batch_assets_tests.stuck import LOOPS, Stuck
from batch_assets_tests.toys import (
    DAY,
    NAME,
    copy_rows,
    make_contract,
    make_rows,
    pin_rows,
    read_day,
    validate,
    write_toy_release,
)

# A net and no promise: a busy machine starts engines and compiles for minutes.
pytestmark = [pytest.mark.engines, pytest.mark.timeout(600)]

NEXT_DAY = "2026-01-06"
BUILDING = {"incremental": Incremental()}


@pytest.fixture(scope="module", autouse=True)
def _ray() -> Iterator[None]:
    with running_ray():
        yield


@pytest.fixture(scope="module")
def fussy(tmp_path_factory: pytest.TempPathFactory) -> Release:
    return write_fussy_release(tmp_path_factory.mktemp("fussy") / "release")


@pytest.fixture(params=["local", "ray", "spark"])
def engine(request: pytest.FixtureRequest) -> EngineSpec:
    return ENGINES[request.param]


@pytest.fixture(params=["ray", "spark"])
def remote(request: pytest.FixtureRequest) -> EngineSpec:
    return ENGINES[request.param]


class Half(LocalEngine):
    """The local engine, which is preempted after half of the chunks."""

    def __init__(self) -> None:
        super().__init__(find_device("cpu"), workers=2)

    def run(self, tasks):
        yield from islice(super().run(tasks), len(tasks) // 2)
        msg = "the machine was preempted"
        raise ConnectionError(msg)


def second_night() -> pa.Table:
    """The rows of the first, of which every ninth has changed."""
    rows = crash_rows()
    ages = rows["age"].to_numpy().copy()
    ages[3::9] = np.minimum(ages[3::9], 100) // 2 + 1
    return rows.set_column(1, rows.schema.field("age"), pa.array(ages, pa.int16()))


@pytest.fixture(scope="module")
def copied(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A root with the raw rows of both nights; copy it."""
    root = tmp_path_factory.mktemp("copied") / "root"
    lake = Lake(root, NAME)
    copy_rows(lake, crash_rows())
    copy_rows(lake, second_night(), day=NEXT_DAY)
    return root


def two_nights(
    copied: Path,
    root: Path,
    release: Release,
    engine: EngineSpec,
    *,
    preempted: bool = True,
) -> Lake:
    """A night of quarantined and poisonous rows; another that carries most of its rows
    over, and of which half was done on one machine before it was preempted.
    """
    shutil.copytree(copied, root, dirs_exist_ok=True)
    lake = Lake(root, NAME)
    with mapping_on(engine, root) as parallel_map:
        validate(lake, fingerprints=True, parallel_map=parallel_map)
        validate(lake, day=NEXT_DAY, fingerprints=True, parallel_map=parallel_map)
    with scoring_on(engine, root) as scorer:
        score(lake, release, scorer, **BUILDING)
        if preempted:
            with pytest.raises(ConnectionError):
                score(lake, release, Half(), NEXT_DAY, **BUILDING)
        night = score(lake, release, scorer, NEXT_DAY, **BUILDING)
    assert (night.resumed_chunks > 0) == preempted
    assert night.carried.rows > 300
    assert night.rescored_rows > 0
    assert night.dead_letters.rows > 0
    return lake


@pytest.fixture(scope="module")
def expected(
    copied: Path, fussy: Release, tmp_path_factory: pytest.TempPathFactory
) -> Lake:
    """Two nights on one machine, undisturbed."""
    root = tmp_path_factory.mktemp("local")
    return two_nights(copied, root, fussy, ENGINES["local"], preempted=False)


def test_every_engine_leaves_what_one_undisturbed_machine_leaves_to_the_byte(
    copied: Path, expected: Lake, fussy: Release, engine: EngineSpec, root: Path
) -> None:
    lake = two_nights(copied, root, fussy, engine)

    assert parts_on_disk(lake) == parts_on_disk(expected)
    for day in (DAY, NEXT_DAY):
        assert not lake.books(day).open_after_validation()
        assert not lake.books(day).open_after_scoring()
        assert lake.books(day).total.quarantined.rows > 0
    for name in (RAW, VALIDATED, QUARANTINED, PREDICTIONS, DEAD_LETTERS):
        table, other = getattr(lake, name), getattr(expected, name)
        assert [p.sha256 for p in table.parts(NEXT_DAY)] == [
            p.sha256 for p in other.parts(NEXT_DAY)
        ]
    assert litter(lake) == []


def test_chunks_of_another_size_give_the_same_scores_within_a_tolerance(
    remote: EngineSpec, lake: Lake, toy_release: Release, tmp_path: Path
) -> None:
    """Rows stand elsewhere in their batches, which may change the last bits."""
    copy_rows(lake, make_rows(1_000))
    validate(lake)
    other = Lake(tmp_path / "other", NAME)
    shutil.copytree(lake.folder, other.folder)
    with scoring_on(ENGINES["local"], tmp_path) as scorer:
        score(lake, toy_release, scorer, chunk_rows=100)

    with scoring_on(remote, tmp_path / "other") as scorer:
        score(other, toy_release, scorer, chunk_rows=300)

    one, found = read_day(lake, "predictions"), read_day(other, "predictions")
    assert found["user_id"].equals(one["user_id"])
    assert len(other.predictions.parts(DAY)) < len(lake.predictions.parts(DAY))
    np.testing.assert_allclose(found["risk"], one["risk"], rtol=1e-6)


@compiles
def test_workers_compile_a_release_once_and_score_as_one_machine_does(
    remote: EngineSpec, lake: Lake, toy_release: Release, tmp_path: Path
) -> None:
    copy_rows(lake, make_rows(1_000))
    validate(lake)
    other = Lake(tmp_path / "other", NAME)
    shutil.copytree(lake.folder, other.folder)

    with scoring_on(remote, tmp_path / "other", compile=True) as scorer:
        score(other, toy_release, scorer)

    code = tmp_path / "other" / COMPILED
    assert len(list(code.rglob("*.pt2"))) == 1
    assert scorer.device.compiled == code
    with scoring_on(ENGINES["local"], tmp_path / "other", compile=True) as scorer:
        score(lake, toy_release, scorer)
    assert parts_on_disk(other) == parts_on_disk(lake)
    receipts = [part.receipt for part in other.predictions.parts(DAY)]
    assert {receipt.arithmetic for receipt in receipts} == {"cpu float32 compiled"}


def test_a_row_that_the_model_hangs_on_is_a_dead_letter_on_an_engine(
    remote: EngineSpec, lake: Lake, root: Path, tmp_path: Path
) -> None:
    contract = make_contract()
    release = write_toy_release(
        tmp_path / "release",
        module=Stuck(0),
        golden_inputs=torch.ones(4, len(contract.features)),
        model_format="safetensors",
        import_path="batch_assets_tests.stuck:Stuck",
        arguments={"home": 0},
    )
    rows = make_rows(200)
    ages = np.minimum(rows["age"].to_numpy(), LOOPS - 1)
    ages[7] = LOOPS
    copy_rows(lake, rows.set_column(1, rows.schema.field("age"), pa.array(ages)))
    validate(lake)

    with scoring_on(remote, root) as scorer:
        night = score(lake, release, scorer, chunk_seconds=0.5)

    letters = read_day(lake, "dead_letters")
    assert letters["user_id"].to_pylist() == [rows["user_id"][7].as_py()]
    assert "no answer within" in letters["reason"][0].as_py()
    assert night.total.rows == 199


def test_a_pinned_day_is_validated_on_an_engine_as_on_one_machine(
    remote: EngineSpec, root: Path
) -> None:
    here, there = Lake(root / "here", NAME), Lake(root / "there", NAME)
    for lake in (here, there):
        pin_rows(lake, crash_rows(), files=6, project=root)
    validate(here, row_group_rows=30)
    rows: list[int] = []

    with mapping_on(remote, root / "there") as parallel_map:
        validate(
            there, row_group_rows=30, parallel_map=parallel_map, progress=rows.append
        )

    found, expected = parts_on_disk(there), parts_on_disk(here)
    assert found.keys() == expected.keys()
    assert len(found) > 8
    assert found == expected
    assert sum(rows) == len(crash_rows())


def history_nights(root: Path, release: Release, engine: EngineSpec) -> Lake:
    """Two nights of histories with rows for quarantine; the second builds on the first."""
    lake, contract = Lake(root, NAME), release.contract
    rows = make_histories(400).to_pylist()
    rows[7]["taste"] = [1.0]
    for day in (DAY, NEXT_DAY):
        table = pa.Table.from_pylist(rows, contract.raw_schema())
        copy_rows(lake, table, contract=contract, day=day, project=root / "project")
        with mapping_on(engine, root) as parallel_map:
            validate(
                lake,
                day=day,
                contract=contract,
                fingerprints=True,
                parallel_map=parallel_map,
            )
        with scoring_on(engine, root) as scorer:
            night = score(lake, release, scorer, day, **BUILDING)
        for row in rows[::9]:
            row["items"], row["days_ago"] = row["items"][1:], row["days_ago"][1:]
    assert night.carried.rows > 300
    return lake


def test_histories_and_rankings_are_the_same_on_every_engine(
    tmp_path: Path, remote: EngineSpec
) -> None:
    release = write_histories(tmp_path / "release", name=NAME)
    expected = history_nights(tmp_path / "here", release, ENGINES["local"])
    lake = history_nights(tmp_path / "there", release, remote)

    assert parts_on_disk(lake) == parts_on_disk(expected)
    assert lake.books(NEXT_DAY).total.quarantined.rows == 1
    found = read_day(lake, "predictions", NEXT_DAY)
    assert found.equals(read_day(expected, "predictions", NEXT_DAY))
    assert set(map(len, found["next_items"].to_pylist())) == {5}


def test_a_shard_that_can_not_be_read_is_left_out_on_every_engine(
    engine: EngineSpec, lake: Lake, root: Path, toy_release: Release
) -> None:
    copy_rows(lake, make_rows(800))
    validate(lake)
    spoil_shard(lake, DAY, 1)
    settings = ScoringSettings(GateLimits(), 50, keep_failed=True)
    with scoring_on(engine, root) as scorer:
        night = score_day(DayRun(lake, DAY), toy_release, scorer, settings)
    assert list(night.failed) == [1]
    assert "CorruptPartError" in night.failed[1]
    books = lake.books(DAY)
    assert (books.closed, books.kept) == (True, [1])
    assert {part.shard for part in night.parts} == {0, 2, 3}
    assert litter(lake) == []
