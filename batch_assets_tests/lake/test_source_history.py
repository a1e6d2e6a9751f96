"""A source without history: only the newest day is read, and what was forced is marked."""

import json
from datetime import UTC, datetime, timedelta

import dagster as dg
import pyarrow as pa
import pytest
from click.testing import CliRunner

from batch_assets.cli.main import main
from batch_assets.errors import NoHistoryError
from batch_assets.lake.sources import DeltaSource, ParquetSource, SqlSource
from batch_assets.launch.reports import NightReport
from batch_assets.launch.runner import PipelineRunner
from batch_assets.schedules import newest_day
from batch_assets.snapshots.manifest import SnapshotManifest
from batch_assets_tests.commands import batch_assets
from batch_assets_tests.projects import attributes, make_project
from batch_assets_tests.toys import (
    DAY,
    copy_rows,
    make_rows,
    make_spec,
    read_day,
    write_source,
)

NEXT = "2026-01-06"
NOW = ParquetSource(kind="parquet", glob="days/*.parquet")


def take(lake, rows: pa.Table, *, newest: str = NEXT, **changes):
    """Take rows as the day, of a source that holds only what is now."""
    return copy_rows(lake, rows, source=NOW, newest=newest, **changes)


@pytest.mark.parametrize("force", [False, True])
def test_rows_of_now_are_no_rows_of_an_older_day(lake, force):
    if not force:
        with pytest.raises(NoHistoryError, match=f"{NEXT}, not of {DAY}.*--force"):
            take(lake, make_rows(10))
        assert lake.raw_features.parts(DAY) == []
        return
    before = datetime.now(UTC)

    taken = take(lake, make_rows(10), force=True)

    assert taken.forced_at is not None
    assert before <= taken.forced_at <= datetime.now(UTC)
    assert lake.forced_at(DAY) == taken.forced_at


def test_the_newest_day_is_taken_and_not_marked(lake):
    taken = take(lake, make_rows(10), newest=DAY)

    assert taken.forced_at is None
    assert lake.forced_at(DAY) is None


def test_an_older_day_stays_as_it_was_taken(lake):
    rows = make_rows(10)
    take(lake, rows, newest=DAY)

    again = take(lake, make_rows(20, seed=1))

    assert again.unchanged
    assert read_day(lake, "raw_features").equals(rows.sort_by("user_id"))


def test_an_older_day_is_not_taken_in_other_shards(lake):
    take(lake, make_rows(10), newest=DAY)

    with pytest.raises(NoHistoryError, match="other settings"):
        take(lake, make_rows(10), shards=2)


def test_a_forced_day_keeps_its_mark_when_it_is_run_again(lake):
    first = take(lake, make_rows(10), force=True)

    assert take(lake, make_rows(10)).forced_at == first.forced_at
    assert take(lake, make_rows(10), force=True).forced_at == first.forced_at


def test_a_source_with_history_needs_no_force(lake):
    assert copy_rows(lake, make_rows(10), newest=NEXT).forced_at is None


def test_history_is_taken_from_the_source(tmp_path):
    (tmp_path / "day.sql").write_text("SELECT 1 AS user_id WHERE $day > '2026-01-01'")
    (tmp_path / "now.sql").write_text("SELECT 1 AS user_id -- $day")
    with_history = [
        SqlSource(kind="sql", query="day.sql"),
        ParquetSource(kind="parquet", glob="{{ day }}.parquet"),
        DeltaSource(kind="delta", table="events"),
    ]
    without = [
        SqlSource(kind="sql", query="now.sql"),
        ParquetSource(kind="parquet", glob="a.parquet"),
        DeltaSource(kind="delta", table="events", day_column=None),
        *(s.model_copy(update={"history": "none"}) for s in with_history),
    ]

    assert all(source.keeps_history(tmp_path) for source in with_history)
    assert not any(source.keeps_history(tmp_path) for source in without)


@pytest.mark.parametrize(
    "declared",
    [
        {"kind": "parquet", "glob": "a.parquet", "history": "days"},
        {"kind": "delta", "table": "t", "day_column": None, "history": "days"},
    ],
)
def test_a_source_can_not_be_said_to_have_the_history_it_lacks(declared):
    with pytest.raises(ValueError, match="history: none"):
        make_spec(source=declared)


def test_a_version_of_before_the_mark_reads_as_it_did():
    manifest = SnapshotManifest(
        pipeline="toy",
        version=f"{DAY}-a",
        day=DAY,
        created_at=datetime.now(UTC),
        stale_after_seconds=1,
        key="user_id",
        key_dtype="int64",
        outputs=("risk",),
        model_name="toy",
        model_version="0",
        job="0",
        predictions="0",
        files=(),
    )

    assert "forced_at" not in manifest.dumps()
    forced = manifest.model_copy(update={"forced_at": datetime.now(UTC)})
    for found in (manifest, forced):
        assert SnapshotManifest.loads(found.dumps().encode()) == found


@pytest.mark.parametrize(
    ("timezone", "newest"),
    [
        ("UTC", "2026-01-04"),
        ("Asia/Tokyo", "2026-01-05"),
        ("America/New_York", "2026-01-04"),
    ],
)
def test_the_newest_day_is_that_of_the_pipelines_zone(timezone, newest):
    at = datetime(2026, 1, 5, 20, tzinfo=UTC)

    assert newest_day(make_spec(timezone=timezone), at) == newest


@pytest.mark.slow
def test_a_forced_day_is_marked_in_the_books_and_the_manifest(
    tmp_path, root, registry, monkeypatch
):
    today = datetime.now(UTC).date()
    old, newest = (str(today - timedelta(days=ago)) for ago in (3, 1))
    declared = attributes(
        start_day="2026-01-01",
        end_day="2040-01-01",
        source={"kind": "parquet", "glob": "days/now.parquet"},
    )
    project = make_project(tmp_path / "p", root, monkeypatch, [declared])
    write_source(project.folder, make_rows(50), day="now")

    def night(day: str, **options) -> NightReport:
        runner = PipelineRunner(project.definitions, instance, "toy")
        return runner.run_night(day, **options)

    def books(day: str, *words: str) -> str:
        told = CliRunner().invoke(main, ["books", "toy", "--day", day, *words])
        assert told.exit_code == 0, told.output
        return told.output

    with dg.instance_for_test() as instance:
        assert "keeps no history" in night(old).errors[0]
        batch_assets(tmp_path, "run", "toy", "--day", old, "--force")
        assert night(newest).success
    assert "forced: its rows were taken at" in books(old)
    assert "forced:" not in books(newest)
    told = json.loads(books(old, "--json"))["forced_at"]
    marks = {m.day: m.forced_at for m in project.snapshots("toy").versions()}
    assert marks == {old: datetime.fromisoformat(told), newest: None}
