"""The sensor of a deadline, on a real instance of Dagster, with real nights."""

import asyncio
import re
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import dagster as dg
import pytest
from dagster._core.definitions.freshness import FreshnessState
from dagster._core.definitions.freshness_evaluator import CronFreshnessPolicyEvaluator
from dagster._core.definitions.run_request import InstigatorType
from dagster._core.loader import LoadingContextForTest
from dagster._core.remote_origin import (
    InProcessCodeLocationOrigin,
    RemoteInstigatorOrigin,
    RemoteRepositoryOrigin,
)
from dagster._core.scheduler.instigation import (
    InstigatorState,
    InstigatorStatus,
    ScheduleInstigatorData,
)
from dagster._core.types.loadable_target_origin import LoadableTargetOrigin

from batch_assets.planner.clock import NightTimes
from batch_assets.planner.estimate import ROAD
from batch_assets.resources import StorageResource
from batch_assets.sensors.deadlines import is_scheduled, newest_run, sensor_name
from batch_assets_tests.measured import days_before, keep_nights, where_it_is_noon
from batch_assets_tests.projects import Project, attributes, make_project
from batch_assets_tests.toys import make_rows, make_spec, write_source

NOW = datetime.now(UTC)
ZONE = where_it_is_noon(NOW)
TODAY = NOW.astimezone(ZoneInfo(ZONE)).date()
DAY = str(TODAY - timedelta(days=1))  # It is due.
LATE = {"schedule": "0 0 * * *", "ready_by": "06:00"}
IN_TIME = {"schedule": "0 0 * * *", "ready_by": "23:59"}


@pytest.fixture
def instance():
    with dg.instance_for_test() as instance:
        yield instance


@pytest.fixture
def make(tmp_path, root, registry, monkeypatch):
    """A project of the toy pipeline, whose yesterday is due."""

    def make(**changes) -> Project:
        given = {"start_day": days_before(DAY, 30)[0], "end_day": str(TODAY)}
        pipeline = attributes(timezone=ZONE, **(given | changes))
        project = make_project(tmp_path / "p", root, monkeypatch, [pipeline])
        for day in (*days_before(DAY, 1), DAY):
            write_source(project.folder, make_rows(100), day=day)
        return project

    return make


TIMES = NightTimes.of(make_spec(**LATE))


def start_schedule(instance: dg.DagsterInstance, name: str = "toy_schedule") -> None:
    """As somebody does in the UI."""
    code = InProcessCodeLocationOrigin(LoadableTargetOrigin(module_name="toys"))
    repository = RemoteRepositoryOrigin(code, "__repository__")
    origin = RemoteInstigatorOrigin(repository, name)
    instance.add_instigator_state(
        InstigatorState(
            origin,
            InstigatorType.SCHEDULE,
            InstigatorStatus.RUNNING,
            ScheduleInstigatorData("0 0 * * *"),
        )
    )


def evaluate(project: Project, instance: dg.DagsterInstance) -> str:
    """One tick of the sensor; what it says it skips for."""
    sensor = project.definitions.resolve_sensor_def(sensor_name("toy"))
    with dg.build_sensor_context(
        instance=instance,
        resources={"storage": StorageResource(root=str(project.root))},
        definitions=project.definitions,
    ) as context:
        tick = sensor.evaluate_tick(context)
    assert not tick.run_requests
    return tick.skip_message or ""


def test_a_pipeline_without_a_deadline_has_no_sensor(make):
    assert not list(make().definitions.sensors or [])


def test_the_sensor_runs_by_itself_every_few_minutes(make):
    sensor = make(**LATE).definitions.resolve_sensor_def(sensor_name("toy"))

    assert sensor.default_status == dg.DefaultSensorStatus.RUNNING
    assert sensor.minimum_interval_seconds == 300
    assert "06:00" in (sensor.description or "")


def test_a_night_that_nobody_began_is_late_once_its_schedule_runs(
    make, instance, capfd
):
    project = make(**LATE)
    assert "toy_schedule is stopped" in evaluate(project, instance)
    assert "WARNING" not in capfd.readouterr().err
    start_schedule(instance)
    said = evaluate(project, instance)

    assert f"toy {DAY} is to be served by " in said
    assert re.search(r"and is not: \d+ h( \d+ min)? late", said), said
    assert "raw_features has not begun" in said
    assert said.endswith(f"Next: batch-assets run toy --day {DAY}")
    assert f"WARNING - {said}" in capfd.readouterr().err


def test_a_served_day_is_fine_and_a_backfill_of_an_older_one_does_not_make_it_so(
    make, instance, capfd
):
    project = make(**LATE)
    start_schedule(instance)
    (older,) = days_before(DAY, 1)
    assert project.run("toy", older, instance).success
    backfilled = evaluate(project, instance)
    by_dagster = freshness(project, instance)
    assert project.run("toy", DAY, instance).success
    capfd.readouterr()
    served = evaluate(project, instance)

    assert f"toy {DAY} is to be served by " in backfilled
    assert "and is not" in backfilled
    # Dagster looks at whatever was materialised last.
    assert by_dagster == FreshnessState.PASS
    assert f"toy {DAY} was to be served by " in served
    assert "late" in served
    assert "WARNING" not in capfd.readouterr().err


def freshness(project: Project, instance: dg.DagsterInstance) -> FreshnessState:
    """What Dagster's own daemon makes of the policy."""
    graph = project.definitions.resolve_asset_graph()
    node = graph.get(dg.AssetKey(["toy", "serving_snapshot"]))
    context = LoadingContextForTest(instance)
    evaluator = CronFreshnessPolicyEvaluator()
    return asyncio.run(evaluator.evaluate_freshness(context=context, node=node))


def test_the_daemon_judges_freshness_where_nothing_is_said_of_it(instance):
    assert instance.freshness_enabled
    assert "FRESHNESS_DAEMON" in instance.get_required_daemon_types()


def test_a_stage_that_failed_is_named_with_its_reason(make, instance, monkeypatch):
    project = make(**LATE)

    def break_(*_, **__):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("batch_assets.assets.predictions.score_day", break_)
        result = project.run("toy", DAY, instance)
    run = newest_run(instance, "toy", DAY)
    said = evaluate(project, instance)

    assert not result.success
    assert run
    assert (run.run, run.state) == (result.run_id, "failed")
    assert "No space left on device" in run.why
    assert "predictions failed after " in said
    assert "No space left on device" in said
    assert f"Next: batch-assets run toy --day {DAY}" in said


def test_a_gate_that_was_shut_is_the_reason_that_the_next_stage_gives(make, instance):
    project = make(**IN_TIME)
    start_schedule(instance)
    rows = make_rows(100)
    ages = rows["age"].to_pylist()
    bad = rows.set_column(1, "age", [[200] * 50 + ages[50:]])
    write_source(project.folder, bad.cast(rows.schema), day=DAY)
    assert not project.run("toy", DAY, instance).success
    said = evaluate(project, instance)

    assert "and may not be. predictions failed: quarantine_share_is_within_lim" in said
    assert said.count("quarantine_share_is_within_limit: ") == 1


def test_a_night_is_at_risk_by_what_is_left_and_the_nights_before(make, instance):
    project = make(**IN_TIME)
    start_schedule(instance)
    lake = project.lake("toy")
    keep_nights(lake, *days_before(DAY, 5), seconds=dict.fromkeys(ROAD, 60.0))
    fine = evaluate(project, instance)
    keep_nights(lake, *days_before(DAY, 5), seconds=dict.fromkeys(ROAD, 11_000.0))
    at_risk = evaluate(project, instance)

    assert "and may not be" not in fine
    assert "raw_features has not begun (usually 1 minute). If it goes on now, " in fine
    assert "and may not be" in at_risk


def test_nobody_is_warned_after_the_last_day(make, instance):
    project = make(end_day=days_before(DAY, 1)[0], **LATE)
    start_schedule(instance)

    assert evaluate(project, instance) == "no day of toy is due"


def test_runs_of_others_and_of_other_assets_are_no_night(make, instance):
    project = make(**LATE)
    assert newest_run(instance, "toy", DAY) is None
    night = project.run("toy", DAY, instance)
    project.materialize("toy", ["raw_features"], DAY, instance)

    found = newest_run(instance, "toy", DAY)
    assert found
    assert (found.run, found.state) == (night.run_id, "done")
    assert newest_run(instance, "to", DAY) is None
    assert newest_run(instance, "toy", "2020-01-01") is None


def test_a_schedule_runs_once_it_was_started(instance):
    assert not is_scheduled(instance, TIMES)
    start_schedule(instance, "toy_outcomes_schedule")
    assert not is_scheduled(instance, TIMES)
    start_schedule(instance)
    assert is_scheduled(instance, TIMES)
