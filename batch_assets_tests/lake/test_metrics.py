"""Tables of metrics: read and written whole, by day, and by any process."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from deltalake import DeltaTable

from batch_assets.errors import CommitError, StorageError
from batch_assets.lake import metrics
from batch_assets.lake.metrics import OUTCOME, MetricTable
from batch_assets.lake.stages import stage_metrics, stages_of
from batch_assets.lake.tables import Lake
from batch_assets_tests.delta_by_hand import delete_in_place
from batch_assets_tests.measured import USUAL, keep_nights

DAYS = [f"2026-01-{day:02d}" for day in range(1, 9)]
READING = """
import sys
from pathlib import Path
from batch_assets.lake.metrics import OUTCOME, MetricTable
print(len(MetricTable(Path(sys.argv[1]), OUTCOME).read("", "9999-12-31")))
"""


def rows(day: str, kind: str, value: float) -> pa.Table:
    found = {name: [None] for name in OUTCOME.names}
    found |= {"day": [day], "kind": [kind], "value": [value], "metric": ["auc"]}
    return pa.table(found, schema=OUTCOME)


@pytest.fixture
def table(tmp_path: Path) -> MetricTable:
    made = MetricTable(tmp_path / "outcome_metrics", OUTCOME)
    for day in reversed(DAYS):
        made.write(day, rows(day, "estimated", 0.5), kind="estimated")
        made.write(day, rows(day, "realised", 0.6), kind="realised")
    return made


def test_days_come_in_their_order_and_some_alone(table: MetricTable) -> None:
    found = table.read(DAYS[2], DAYS[4], kind="realised")

    assert found["day"].to_pylist() == DAYS[2:5]
    assert found["value"].to_pylist() == [0.6] * 3


def test_a_read_is_told_of_no_file_of_another_day(
    table: MetricTable, monkeypatch: pytest.MonkeyPatch
) -> None:
    told, real = [], pq.read_table

    def watched(*args: Any, **options: Any) -> pa.Table:
        told.append(1)
        return real(*args, **options)

    def files_of_reading(first: str, last: str, **only: str) -> tuple[int, int]:
        told.clear()
        return len(table.read(first, last, **only)), len(told)

    monkeypatch.setattr(metrics.pq, "read_table", watched)
    assert files_of_reading(DAYS[2], DAYS[4]) == (6, 6)
    assert files_of_reading("", DAYS[0]) == (2, 2)
    assert files_of_reading("", "9") == (2 * len(DAYS), 2 * len(DAYS))
    assert files_of_reading("", "9", kind="realised") == (len(DAYS), len(DAYS))
    assert files_of_reading("2027-01-01", "9") == (0, 0)
    assert files_of_reading(DAYS[4], DAYS[2]) == (0, 0)


def test_some_rows_of_a_day_are_replaced_and_the_others_left(
    table: MetricTable,
) -> None:
    day = DAYS[3]
    table.write(day, rows(day, "realised", 0.9), kind="realised")
    before = len(list((table.path / "_delta_log").glob("*.json")))
    table.write(day, rows(day, "realised", 0.9), kind="realised")

    found = {row["kind"]: row["value"] for row in table.read(day, day).to_pylist()}
    assert found == {"estimated": 0.5, "realised": 0.9}
    assert len(list((table.path / "_delta_log").glob("*.json"))) == before
    assert len(table.read(DAYS[0], DAYS[-1])) == 2 * len(DAYS)


def test_a_table_that_is_not_there_has_no_rows(tmp_path: Path) -> None:
    assert len(MetricTable(tmp_path / "none", OUTCOME).read("", "9")) == 0


@pytest.mark.slow
def test_a_process_that_ends_after_reading_ends_well(table: MetricTable) -> None:
    """With Arrow's own threads one in three was aborted, after it had printed all."""
    for _ in range(15):
        command = [sys.executable, "-c", READING, str(table.path)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert (done.returncode, done.stdout) == (0, "16\n"), done.stderr


def file_of(table: MetricTable, day: str, kind: str) -> Path:
    """The file that a day's rows of one kind lie in."""
    (found,) = (
        path
        for path in (table.path / f"day={day}").glob("*.parquet")
        if pq.read_table(path, partitioning=None)["kind"].to_pylist() == [kind]
    )
    return found


def emptied(path: Path) -> None:
    path.write_bytes(b"")


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def flipped(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-20] ^= 255  # In what tells where the columns are.
    path.write_bytes(data)


@pytest.mark.parametrize("damage", [Path.unlink, cut, flipped, emptied])
def test_what_is_lost_of_a_day_is_named_and_made_by_its_own_next_run(
    table: MetricTable, damage: Callable[[Path], None]
) -> None:
    day, next_day = DAYS[3], DAYS[4]
    path = file_of(table, day, "realised")
    damage(path)

    with pytest.raises(StorageError) as refused:
        table.read(DAYS[0], DAYS[-1])
    assert path.name in str(refused.value)
    assert f"run {day} again" in str(refused.value)
    assert len(table.read(next_day, next_day)) == 2

    table.write(next_day, rows(next_day, "realised", 0.9), kind="realised")
    with pytest.raises(StorageError, match=path.name):
        table.read(day, day)

    table.write(day, rows(day, "realised", 0.7), kind="realised")
    found = {row["kind"]: row["value"] for row in table.read(day, day).to_pylist()}
    assert found == {"estimated": 0.5, "realised": 0.7}
    assert len(table.read(DAYS[0], DAYS[-1])) == 2 * len(DAYS)


def test_a_stage_whose_day_has_lost_a_file_is_kept_and_the_others_are_gone(
    tmp_path: Path,
) -> None:
    lake = Lake(tmp_path, "toy")
    keep_nights(lake, *DAYS)
    for path in (lake.stage_metrics.path / f"day={DAYS[3]}").glob("*.parquet"):
        path.unlink()
    with pytest.raises(StorageError, match=f"run {DAYS[3]} again"):
        stages_of(lake, DAYS[3])

    keep_nights(lake, DAYS[3])

    assert len(stages_of(lake, DAYS[3])) == len(USUAL)
    assert len(stage_metrics(lake, DAYS[0], DAYS[-1])) == len(USUAL) * len(DAYS)


def test_a_table_with_rows_that_were_deleted_in_place_is_refused(
    table: MetricTable,
) -> None:
    """Its files still hold what the table does not."""
    delete_in_place(table.path, [0])

    with pytest.raises(
        StorageError, match=r"given it what its files .*deletionVectors"
    ):
        table.read(DAYS[0], DAYS[-1])
    with pytest.raises(StorageError, match="deletionVectors"):
        table.write(DAYS[0], rows(DAYS[0], "realised", 0.9), kind="realised")


def test_what_a_dashboard_s_owner_does_to_a_table_changes_no_row(
    table: MetricTable,
) -> None:
    before = table.read(DAYS[0], DAYS[-1])
    delta = DeltaTable(table.path)
    delta.optimize.compact()
    delta.create_checkpoint()
    delta.vacuum(retention_hours=0, enforce_retention_duration=False, dry_run=False)

    assert table.read(DAYS[0], DAYS[-1]).sort_by("value") == before.sort_by("value")
    table.write(DAYS[3], rows(DAYS[3], "realised", 0.9), kind="realised")
    found = {r["kind"]: r["value"] for r in table.read(DAYS[3], DAYS[3]).to_pylist()}
    assert found == {"estimated": 0.5, "realised": 0.9}


def test_rows_in_several_pieces_are_those_that_are_read_back(
    table: MetricTable,
) -> None:
    day = DAYS[3]
    pieces = [rows(day, "realised", float(number)) for number in range(50)]

    table.write(day, pa.concat_tables(pieces), kind="realised")

    found = table.read(day, day, kind="realised")
    assert found["value"].to_pylist() == [float(number) for number in range(50)]


def test_rows_of_a_day_that_are_said_to_be_written_and_are_not_are_named(
    table: MetricTable, monkeypatch: pytest.MonkeyPatch
) -> None:
    day, real = DAYS[3], metrics.write_deltalake

    def lying(*args: Any, **options: Any) -> None:
        before = set((table.path / f"day={day}").iterdir())
        real(*args, **options)
        for path in set((table.path / f"day={day}").iterdir()) - before:
            path.unlink()

    monkeypatch.setattr(metrics, "write_deltalake", lying)
    with pytest.raises(CommitError, match="were said to be written, and are not there"):
        table.write(day, rows(day, "realised", 0.9), kind="realised")
    monkeypatch.undo()
    table.write(day, rows(day, "realised", 0.9), kind="realised")

    assert sorted(table.read(day, day)["value"].to_pylist()) == [0.5, 0.9]


def test_where_a_file_can_t_be_opened_nothing_is_written_over_it(
    table: MetricTable, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its storage may answer again: what is there is not taken for lost."""
    day = DAYS[3]
    path = file_of(table, day, "realised")
    before = path.read_bytes()
    path.unlink()
    path.symlink_to(path.name)  # Too many levels of symbolic links.

    with pytest.raises(StorageError, match=path.name):
        table.write(day, rows(day, "realised", 0.9), kind="realised")

    path.unlink()
    path.write_bytes(before)
    assert sorted(table.read(day, day)["value"].to_pylist()) == [0.5, 0.6]
