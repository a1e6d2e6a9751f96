"""Promise 7: the same chunks give the same output on every engine, to the byte."""

import shutil
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from batch_assets.lake.tables import Lake
from batch_assets.models.release import Release
from batch_assets.scoring.carry import Incremental
from batch_assets.scoring.device import find_device
from batch_assets.scoring.engines.local import LocalEngine
from batch_assets.spec import EngineSpec
from batch_assets_tests.crash import crash_rows, write_fussy_release
from batch_assets_tests.engines import (
    ENGINES,
    litter,
    parts_on_disk,
    running_ray,
    score,
    scoring_on,
    spreading_on,
)
from batch_assets_tests.toys import DAY, NAME, copy_rows, pin_rows, validate

pytestmark = [pytest.mark.engines, pytest.mark.timeout(180)]

NEXT_DAY = "2026-01-06"
BUILDING = {"incremental": Incremental(), "arithmetic": "cpu float32"}


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


class Half:
    """The local engine, which is preempted after half of the chunks."""

    def __init__(self) -> None:
        self.engine = LocalEngine(find_device("cpu"), workers=2)

    def load(self, release: Release) -> None:
        self.engine.load(release)

    def run(self, tasks):
        yield from islice(self.engine.run(tasks), len(tasks) // 2)
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


def two_nights(copied: Path, root: Path, release: Release, engine: EngineSpec) -> Lake:
    """A night of quarantined and poisonous rows; another that carries most of its rows
    over, and of which half was done on one machine before it was preempted.
    """
    shutil.copytree(copied, root, dirs_exist_ok=True)
    lake = Lake(root, NAME)
    half = engine.kind != "local"
    with spreading_on(engine, root) as spread:
        validate(lake, fingerprints=True, spread=spread)
        validate(lake, day=NEXT_DAY, fingerprints=True, spread=spread)
    with scoring_on(engine, root) as scorer:
        score(lake, release, scorer, **BUILDING)
        if half:
            with pytest.raises(ConnectionError):
                score(lake, release, Half(), NEXT_DAY, **BUILDING)
        night = score(lake, release, scorer, NEXT_DAY, **BUILDING)
    assert (night.resumed_chunks > 0) == half
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
    return two_nights(copied, root, fussy, ENGINES["local"])


def test_an_engine_leaves_what_one_machine_leaves_to_the_byte(
    copied: Path, expected: Lake, fussy: Release, remote: EngineSpec, root: Path
) -> None:
    lake = two_nights(copied, root, fussy, remote)

    assert parts_on_disk(lake) == parts_on_disk(expected)
    for day in (DAY, NEXT_DAY):
        assert not lake.books(day).open_after_validation()
        assert not lake.books(day).open_after_scoring()
        assert lake.books(day).total.quarantined.rows > 0
    for table, other in zip(lake.tables, expected.tables, strict=True):
        assert [p.sha256 for p in table.parts(NEXT_DAY)] == [
            p.sha256 for p in other.parts(NEXT_DAY)
        ]
    assert litter(lake) == []


def test_a_pinned_day_is_validated_on_an_engine_as_on_one_machine(
    remote: EngineSpec, root: Path
) -> None:
    here, there = Lake(root / "here", NAME), Lake(root / "there", NAME)
    for lake in (here, there):
        pin_rows(lake, crash_rows(), files=6, project=root)
    validate(here, row_group_rows=30)
    rows: list[int] = []

    with spreading_on(remote, root / "there") as spread:
        validate(there, row_group_rows=30, spread=spread, progress=rows.append)

    found, expected = parts_on_disk(there), parts_on_disk(here)
    assert found.keys() == expected.keys()
    assert len(found) > 8
    assert found == expected
    assert sum(rows) == len(crash_rows())
