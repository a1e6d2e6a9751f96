"""Nights through Dagster: how long their stages took is kept, plotted, and never in the way."""

import math
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import dagster as dg
import pytest
from dagster._core.definitions.freshness import CronFreshnessPolicy

from batch_assets.assets import stages
from batch_assets.assets.serving_snapshot import freshness_of
from batch_assets.deadlines import read_night
from batch_assets.errors import CommitError
from batch_assets.lake.stages import StageMetric, read_state, stage_metrics
from batch_assets.planner.estimate import ROAD
from batch_assets.snapshots.operations import rollback, unblock
from batch_assets_tests.measured import (
    days_before,
    keep_nights,
    where_it_is_noon,
)
from batch_assets_tests.projects import (
    FIRST,
    SECOND,
    Project,
    attributes,
    errors_of,
    make_project,
    metadata_of,
)
from batch_assets_tests.toys import make_rows, make_spec, write_source

DEADLINE = datetime(2026, 1, 6, 6, tzinfo=UTC)


@pytest.fixture
def priced(tmp_path, root, registry, monkeypatch) -> Project:
    """A project with a deadline and a price."""
    pipeline = attributes(ready_by="06:00", cost_per_hour=7.2)
    project = make_project(tmp_path / "project", root, monkeypatch, [pipeline])
    write_source(project.folder, make_rows(1_000), day=FIRST)
    return project


def kept(project: Project, day: str = FIRST) -> dict[str, StageMetric]:
    found = stage_metrics(project.lake("toy"), day, day)
    assert len(found) == len({one.stage for one in found})
    return {one.stage: one for one in found}


def test_a_night_leaves_how_long_each_stage_took(priced, instance):
    begun = datetime.now(UTC)
    assert priced.run("toy", FIRST, instance).success
    found = kept(priced)

    assert set(found) == set(ROAD)
    began = [found[stage].started_at for stage in ROAD]
    assert [begun, *began] == sorted([begun, *began])
    for one, after in zip(ROAD, ROAD[1:], strict=False):
        end = found[one].started_at + timedelta(seconds=found[one].seconds)
        assert end <= found[after].started_at + timedelta(milliseconds=5)
    assert {one.rows for one in found.values()} == {1_000}
    assert all(one.seconds > 0 and one.job for one in found.values())
    assert 0 < (found["predictions"].device_share or 0) < 1
    assert {found[s].device_share for s in ROAD if s != "predictions"} == {None}
    assert read_state(priced.lake("toy"), FIRST) is None


def test_what_a_night_took_and_cost_is_plotted(priced, instance):
    result = priced.run("toy", FIRST, instance)
    found = kept(priced)

    for name in ("raw_features", "validated_features", "serving_snapshot"):
        shown = metadata_of(result, name)
        assert shown["seconds"] == found[name].seconds
        assert shown["rows_per_second"] == pytest.approx(1_000 / found[name].seconds)
    shown, scored = metadata_of(result, "predictions"), found["predictions"]
    assert shown["stage_seconds"] == scored.seconds > shown["seconds"]
    assert shown["device_share"] == scored.device_share
    # 7.2 an hour is 2 for a thousand seconds; a million rows are a thousand nights.
    assert shown["cost_per_million_rows"] == pytest.approx(2 * scored.seconds)
    night = metadata_of(result, "serving_snapshot")
    whole = sum(one.seconds for one in found.values())
    assert night["night_seconds"] == pytest.approx(whole)
    assert night["night_cost_per_million_rows"] == pytest.approx(2 * whole)
    # In January that was due long ago: it is a backfill, and not late.
    assert "minutes_before_deadline" not in night


def test_without_a_price_there_is_no_cost_and_without_a_deadline_no_estimate(
    served, instance
):
    write_source(served.folder, make_rows(1_000), day=SECOND)
    result = served.run("toy", SECOND, instance)
    names = ("raw_features", "predictions", "serving_snapshot")
    shown = {k: v for name in names for k, v in metadata_of(result, name).items()}

    assert not [name for name in shown if "cost" in name or "deadline" in name]
    assert shown["night_seconds"] > 0
    assert not [v for v in shown.values() if isinstance(v, float) and math.isnan(v)]
    assert set(kept(served, SECOND)) == set(ROAD)
    assert len(served.lake("toy").estimate_metrics.read("", "9")) == 0


def test_a_night_that_finds_all_done_keeps_what_was_measured(priced, instance):
    priced.run("toy", FIRST, instance)
    before = kept(priced)
    result = priced.run("toy", FIRST, instance)

    assert result.success
    assert metadata_of(result, "predictions")["unchanged"] is True
    assert kept(priced) == before
    assert "seconds" not in metadata_of(result, "raw_features")
    assert "stage_seconds" not in metadata_of(result, "predictions")
    # Of the whole night the plot still has its number.
    assert metadata_of(result, "serving_snapshot")["night_seconds"] > 0


def test_a_stage_that_really_ran_again_is_measured_again(priced, instance):
    priced.run("toy", FIRST, instance)
    before = kept(priced)
    write_source(priced.folder, make_rows(900), day=FIRST)
    assert priced.run("toy", FIRST, instance).success
    after = kept(priced)

    assert {one.rows for one in after.values()} == {900}
    assert all(after[s].started_at > before[s].started_at for s in ROAD)
    assert all(after[s].job != before[s].job for s in ROAD)


def test_a_version_that_is_only_swapped_in_is_no_measure(priced, instance):
    priced.run("toy", FIRST, instance)
    write_source(priced.folder, make_rows(1_000, seed=2), day=SECOND)
    priced.run("toy", SECOND, instance)
    before = kept(priced, SECOND)
    store = priced.snapshots("toy")
    rollback(store, why="odd scores", by="ada")
    unblock(store, why="they were right", by="ada")
    result = priced.run("toy", SECOND, instance)

    assert metadata_of(result, "serving_snapshot")["published"] is True
    assert kept(priced, SECOND) == before


def test_a_stage_that_fails_says_so_and_is_not_measured(priced, instance, monkeypatch):
    def break_(*_, **__):
        raise CommitError("the disk is full")

    with monkeypatch.context() as patch:
        patch.setattr("batch_assets.assets.validated_features.validate_day", break_)
        result = priced.run("toy", FIRST, instance)
    lake = priced.lake("toy")
    state = read_state(lake, FIRST)
    night = read_night(lake, priced.snapshots("toy"), FIRST, DEADLINE)

    assert not result.success
    assert state
    assert (state.stage, state.failed) == ("validated_features", "the disk is full")
    assert state.run == result.run_id
    assert (night.left, night.broken) == (ROAD[1:], "the disk is full")
    assert set(kept(priced)) == {"raw_features"}

    assert priced.run("toy", FIRST, instance).success
    assert read_state(lake, FIRST) is None
    assert read_night(lake, priced.snapshots("toy"), FIRST, DEADLINE).left == ()


@pytest.mark.parametrize(
    "broken",
    [
        ("write_state",),
        ("keep_stage", "keep_estimate", "stage_metrics"),
        ("settle_estimates",),
    ],
    ids=" ".join,
)
def test_what_can_not_be_kept_fails_no_night(priced, instance, monkeypatch, broken):
    asked = set()

    def breaking(name):
        def break_(*_, **__):
            asked.add(name)
            raise OSError(28, "No space left on device")

        return break_

    for name in broken:
        monkeypatch.setattr(stages, name, breaking(name))
    result = priced.run("toy", FIRST, instance)

    assert result.success, errors_of(result)
    assert asked == set(broken)
    assert priced.snapshots("toy").current().startswith(FIRST)


def test_a_damaged_table_of_metrics_fails_no_night(priced, instance):
    priced.run("toy", FIRST, instance)
    log = priced.lake("toy").stage_metrics.path / "_delta_log"
    for path in log.glob("*.json"):
        path.write_text("{", encoding="utf-8")
    write_source(priced.folder, make_rows(1_000, seed=2), day=SECOND)
    result = priced.run("toy", SECOND, instance)

    assert result.success, errors_of(result)
    said = [e.user_message for e in instance.all_logs(result.run_id) if e.level >= 30]
    assert any("could not be kept" in text for text in said)


def test_progress_of_a_stage_is_there_while_it_is_at_work(
    priced, instance, monkeypatch
):
    """Said at most every half a minute; here each time."""
    monkeypatch.setattr(stages, "SAYS_SECONDS", 0.0)
    seen = []
    real = stages.write_state

    def watch(lake, day, state):
        real(lake, day, state)
        seen.append(read_state(lake, day))

    monkeypatch.setattr(stages, "write_state", watch)
    priced.run("toy", FIRST, instance)
    scoring = [one for one in seen if one and one.stage == "predictions"]

    assert [one.rows for one in scoring] == sorted(one.rows for one in scoring)
    assert (scoring[0].rows, scoring[-1].rows) == (0, 1_000)
    assert scoring[-1].before == 0
    assert scoring[-1].counted_from < scoring[-1].at
    assert len({one.run for one in scoring}) == 1


def test_the_estimate_of_a_night_is_kept_with_how_far_off_it_was(priced, instance):
    lake = priced.lake("toy")
    keep_nights(lake, *days_before(FIRST, 3), seconds=dict.fromkeys(ROAD, 0.01))
    result = priced.run("toy", FIRST, instance)
    rows = {r["stage"]: r for r in lake.estimate_metrics.read(FIRST, FIRST).to_pylist()}

    assert set(rows) == set(ROAD)
    assert len({row["ready_at"] for row in rows.values()}) == 1
    for row in rows.values():
        late = (row["ready_at"] - row["expected_ready_at"]).total_seconds()
        assert row["error_seconds"] == pytest.approx(late)
    shown = metadata_of(result, "serving_snapshot")["estimate_error_seconds"]
    assert shown == rows[ROAD[0]]["error_seconds"] > 0


def test_a_night_that_is_due_says_how_long_before_its_deadline_it_was(
    tmp_path, root, registry, monkeypatch, instance
):
    now = datetime.now(UTC)
    zone = where_it_is_noon(now)
    today = now.astimezone(ZoneInfo(zone)).date()
    days = [str(today - timedelta(days=back)) for back in (2, 1)]
    pipeline = attributes(
        start_day=days[0],
        end_day=str(today),
        timezone=zone,
        schedule="0 0 * * *",
        ready_by="06:00",
    )
    project = make_project(tmp_path / "p", root, monkeypatch, [pipeline])
    found = []
    # Of the second, the nights before took no time.
    for day in days:
        write_source(project.folder, make_rows(100), day=day)
        result = project.run("toy", day, instance)
        found.append(metadata_of(result, "serving_snapshot"))
        before = dict.fromkeys(ROAD, 1e-6)
        keep_nights(project.lake("toy"), *days_before(days[1], 3), seconds=before)
    late = datetime.now(UTC) - now.replace(minute=0, second=0, microsecond=0)

    # The first was due until midnight: taken now, it is a backfill.
    assert "minutes_before_deadline" not in found[0]
    # Six hours and some minutes after six it is late, and says by what.
    minutes = -6 * 60 - late.total_seconds() / 60
    assert found[1]["minutes_before_deadline"] == pytest.approx(minutes, abs=5)
    assert " took " in found[1]["late_stage"]
    assert found[1]["late_stage"].endswith(", usually 0.0 s")


def policy(**changes: object) -> CronFreshnessPolicy | None:
    found = freshness_of(make_spec(**changes))
    assert found is None or isinstance(found, CronFreshnessPolicy)
    return found


@pytest.mark.parametrize(
    ("changes", "cron", "hours"),
    [
        ({"ready_by": "06:00"}, "0 6 * * *", 7),
        ({"ready_by": "00:45"}, "45 0 * * *", 1.75),
        ({"ready_by": "23:30"}, "30 23 * * *", 24),
        ({"ready_by": "06:00", "schedule": "0 23 * * *"}, "0 6 * * *", 24),
    ],
)
def test_the_catalogs_policy_is_of_the_deadline_since_the_day_has_ended(
    changes, cron, hours
):
    found = policy(timezone="Europe/Oslo", **changes)

    assert found
    assert (found.deadline_cron, found.timezone) == (cron, "Europe/Oslo")
    assert found.lower_bound_delta == timedelta(hours=hours)


def test_only_what_is_served_has_a_policy_and_only_while_there_is_a_deadline(
    tmp_path, root, registry, monkeypatch
):
    open_ended = attributes(ready_by="06:00")
    del open_ended["end_day"]
    project = make_project(tmp_path / "p", root, monkeypatch, [open_ended])
    specs = project.definitions.resolve_all_asset_specs()

    assert {s.key.path[-1] for s in specs if s.freshness_policy} == {"serving_snapshot"}
    assert policy() is None
    assert policy(ready_by="06:00", end_day="2026-01-05") is None
    assert policy(ready_by="06:00", end_day="2126-01-05")
    dg.Definitions.validate_loadable(project.definitions)
