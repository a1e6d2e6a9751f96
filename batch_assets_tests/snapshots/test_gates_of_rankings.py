"""A committed ranking, label or vector that is not as declared is not served."""

from collections.abc import Callable
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from batch_assets.errors import GateError
from batch_assets.lake.parts import open_part
from batch_assets.lake.tables import Lake
from batch_assets.models.release import Release
from batch_assets.snapshots.store import SnapshotStore
from batch_assets.snapshots.version import Version
from batch_assets_tests.histories import ITEMS, NAME, write_histories
from batch_assets_tests.parts_by_hand import rewritten
from batch_assets_tests.publishing import served
from batch_assets_tests.rankings import ROWS, approve, publish, score_night
from batch_assets_tests.toys import DAY

NEXT_DAY = "2026-01-06"
Row = dict[str, Any]


@pytest.fixture(scope="module")
def release(tmp_path_factory: pytest.TempPathFactory) -> Release:
    return write_histories(
        tmp_path_factory.mktemp("release") / NAME,
        model_format="safetensors",
        import_path="batch_assets_tests.histories:Histories",
    )


@pytest.fixture(scope="module")
def lake(tmp_path_factory: pytest.TempPathFactory, release: Release) -> Lake:
    """One day is served; of the next all is ready, but for what a test does to it."""
    root = tmp_path_factory.mktemp("root")
    approve(root, release)
    lake = Lake(root, NAME)
    for day in (DAY, NEXT_DAY):
        score_night(lake, release, day)
    publish(lake)
    return lake


def commit_again(lake: Lake, release: Release, harm: Callable[[Row], Any]) -> None:
    """The day, committed once more with one row as a broken writer would leave it."""
    commit = lake.predictions.last_commit(NEXT_DAY)
    assert commit is not None
    path, *others = lake.predictions.paths(NEXT_DAY)
    table = pq.read_table(path, partitioning=None)
    rows = table.to_pylist()
    harm(rows[len(rows) // 2])
    rewritten(path, pa.Table.from_pylist(rows, table.schema))
    schema = release.contract.prediction_schema()
    # Without it first: bytes of the size that they had are no change to the log.
    for paths in (others, [path, *others]):
        parts = [open_part(each)[0] for each in paths]
        lake.predictions.commit_day(NEXT_DAY, parts, schema, commit.facts)


def twice(row: Row) -> None:
    row["next_items"][3] = row["next_items"][1]


def ascending(row: Row) -> None:
    row["next_items_scores"].reverse()


def shorter(row: Row) -> None:
    row["next_items"].pop()
    row["next_items_scores"].pop()


def without_a_score(row: Row) -> None:
    row["next_items_scores"].pop()


HARMS: list[tuple[str, Callable[[Row], Any]]] = [
    ("next_items", twice),
    ("next_items", ascending),
    ("next_items", shorter),
    ("next_items", without_a_score),
    ("next_items", lambda row: row["next_items"].__setitem__(0, ITEMS[-1] + 1)),
    ("next_items", lambda row: row["next_items"].__setitem__(0, None)),
    ("next_items", lambda row: row.update(next_items=None, next_items_scores=None)),
    ("verdict", lambda row: row.update(verdict="no class")),
    ("verdict", lambda row: row.update(verdict=None)),
    ("profile", lambda row: row["profile"].pop()),
    ("profile", lambda row: row["profile"].__setitem__(2, float("nan"))),
]
IDS = ["twice", "ascending", "short", "scores", "unknown", "null", "none"]
IDS += ["class", "null-class", "size", "nan"]


@pytest.mark.parametrize(("output", "harm"), HARMS, ids=IDS)
def test_one_wrong_row_keeps_yesterday_byte_for_byte(
    lake: Lake, release: Release, output: str, harm: Callable[[Row], Any]
) -> None:
    before, paths = served(lake), lake.predictions.paths(NEXT_DAY)
    whole = {path: path.read_bytes() for path in paths}
    commit_again(lake, release, harm)

    with pytest.raises(GateError, match="1 values are not finite or out of") as shut:
        publish(lake, NEXT_DAY)

    assert f"1 of 14 gates of {NEXT_DAY}" in str(shut.value)
    assert served(lake) == before
    for path, data in whole.items():
        path.write_bytes(data)


def test_the_same_day_committed_again_as_it_was_is_served(
    lake: Lake, release: Release
) -> None:
    commit_again(lake, release, lambda row: None)
    assert publish(lake, NEXT_DAY)
    root = lake.folder.parent.parent
    version = Version.current(SnapshotStore(root, NAME))
    assert (version.manifest.day, version.manifest.rows) == (NEXT_DAY, ROWS)
