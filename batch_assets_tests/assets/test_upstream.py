"""Pipelines behind assets of the user's own: by `deps`, and by an asset's own rows."""

import importlib
import json
from datetime import UTC, datetime
from pathlib import Path

import dagster as dg
import pyarrow.parquet as pq
import pytest

from batch_assets.assets.needs import keys_of
from batch_assets.assets.pipeline import Pipeline
from batch_assets.assets.upstream import Upstream
from batch_assets.checks import graph_digest
from batch_assets.component import ScoringPipeline
from batch_assets.errors import PipelineError
from batch_assets.launch.days import run_days
from batch_assets.launch.runner import PipelineRunner
from batch_assets.models.registry import Registry
from batch_assets.planner.clock import NightTimes
from batch_assets.schedules import day_partitions
from batch_assets.sensors.deadlines import is_scheduled
from batch_assets.sensors.waiting import tick
from batch_assets_tests.projects import (
    FIRST,
    SECOND,
    THIRD,
    Project,
    attributes,
    declared_in,
    errors_of,
    instance_for_readers,
    metadata_of,
    write_project,
)
from batch_assets_tests.toys import make_rows, make_spec

OWN = """\
import dagster as dg
import polars as pl

days = dg.DailyPartitionsDefinition("2026-01-01", end_date="2026-02-01")
earlier = dg.DailyPartitionsDefinition("2025-12-01", end_date="2026-02-01")
oslo = dg.DailyPartitionsDefinition("2026-01-01", timezone="Europe/Oslo")
# Two a day.
hours = dg.TimeWindowPartitionsDefinition(
    "2026-01-01-00:00", "%Y-%m-%d-%H:%M", cron_schedule="0 */12 * * *", end="2026-02-01-00:00"
)


def rows(day: str) -> pl.DataFrame:
    return pl.read_parquet(f"upstream/{day}.parquet")


@dg.asset
def raw_events() -> None: ...


@dg.asset(partitions_def=days, deps=[raw_events])
def daily_features(context: dg.AssetExecutionContext) -> pl.DataFrame:
    return rows(context.partition_key)


@dg.asset(partitions_def=earlier, key=["marketing", "long_ago"])
def long_ago(context: dg.AssetExecutionContext) -> pl.LazyFrame:
    return rows(context.partition_key).lazy()


@dg.asset(partitions_def=hours)
def hourly(context: dg.AssetExecutionContext) -> pl.DataFrame:
    day, hour = context.partition_key[:10], int(context.partition_key[11:13])
    return rows(day).gather_every(2, hour // 12)


@dg.asset(partitions_def=oslo)
def in_oslo() -> None: ...


@dg.asset
def of_now() -> pl.DataFrame:
    return rows("2026-01-05")


@dg.asset(partitions_def=days)
def a_word(context: dg.AssetExecutionContext) -> str:
    return "rows"


@dg.asset(partitions_def=days)
def kept_nowhere() -> dg.MaterializeResult:
    return dg.MaterializeResult()
"""
# Nothing of the project resolves.
BROKEN = """

job = dg.define_asset_job("of_what_is_not_there", selection=["no_such_asset"])
"""
FILES = {"kind": "parquet", "glob": "upstream/{{ day }}.parquet"}


def given(asset: str, **more) -> dict:
    return {"source": {"kind": "asset", "asset": asset, **more}}


def behind(*deps: str) -> dict:
    return {"source": {**FILES, "deps": list(deps)}}


PIPELINES = {
    "given": given("daily_features"),
    "whole": given("daily_features") | {"upstream": "include"},
    "hours": given("hourly"),
    "lazy": given("marketing/long_ago", load_as="polars.LazyFrame"),
    "now": given("of_now"),
    "word": given("a_word"),
    "nowhere": given("kept_nowhere"),
    "files": behind("daily_features", "hourly", "of_now"),
    "abroad": behind("in_oslo"),
    "typo": behind("daily_featurs"),
}


@pytest.fixture(scope="module")
def project(tmp_path_factory, toy_release):
    """One project of many pipelines, each behind other assets."""
    root = tmp_path_factory.mktemp("root")
    registry = Registry(root)
    registry.add(toy_release.folder)
    registry.approve("toy", toy_release.digest, why="the test", by="ada")
    pipelines = [attributes(name, **of) for name, of in PIPELINES.items()]
    with pytest.MonkeyPatch.context() as patch:
        yield _written(tmp_path_factory.mktemp("p") / "p", root, patch, pipelines)


@pytest.fixture
def instance():
    with instance_for_readers() as instance:
        yield instance


def _written(folder, root, patch, pipelines, own: str = OWN) -> Project:
    module = f"upstream_{abs(hash(folder))}"
    write_project(folder, module, pipelines)
    (folder / module / "defs" / "own.py").write_text(own, encoding="utf-8")
    for number, day in enumerate((FIRST, SECOND, THIRD)):
        write_rows(folder, day, number)
    patch.setenv("BATCH_ASSETS_ROOT", str(root))
    patch.chdir(folder)
    patch.syspath_prepend(str(folder))
    definitions = importlib.import_module(f"{module}.definitions").defs()
    return Project(folder, root, module, definitions)


def write_rows(folder: Path, day: str, seed: int = 0) -> None:
    (folder / "upstream").mkdir(exist_ok=True)
    rows = make_rows(480 + seed, seed=seed)
    pq.write_table(rows, folder / "upstream" / f"{day}.parquet")


def make(project, instance, name: str, partition: str | None = None):
    """Materialise an asset of the user's."""
    key = dg.AssetKey.from_user_string(name)
    (own,) = [one for one in project.definitions.assets if key in keys_of(one)]
    assert dg.materialize([own], partition_key=partition, instance=instance).success


def say_made(instance, name: str, day: str | None) -> None:
    """The event of an asset's day, as if it had been made."""
    key = dg.AssetKey.from_user_string(name)
    instance.report_runless_asset_event(dg.AssetMaterialization(key, partition=day))


def raw_of(project, pipeline: str, instance, day: str = FIRST):
    """Only the first step of a night."""
    return project.run(
        pipeline,
        day,
        instance,
        asset_selection=[dg.AssetKey([pipeline, "raw_features"])],
    )


# What is not there.


@pytest.mark.parametrize(
    ("pipeline", "said"),
    [
        (
            "given",
            f"daily_features of {FIRST} was never materialised. Nothing was read. "
            f"Materialise it first: `dg launch --assets 'daily_features' --partition {FIRST}`",
        ),
        ("hours", f"2 of 2 partitions of hourly were never materialised ({FIRST}-00:00, "),
        ("lazy", f"--assets 'marketing/long_ago' --partition {FIRST}`"),
        ("now", "of_now was never materialised. Nothing was read. Materialise it first: "
         "`dg launch --assets 'of_now'`. Or select it together with now/raw_features"),
        ("typo", "nothing in this code location makes it"),
        ("abroad", "Give one of them the other's `timezone`"),
    ],
)  # fmt: skip
def test_a_night_is_not_read_before_what_it_is_made_of_is_there(
    project, instance, pipeline, said
):
    result = raw_of(project, pipeline, instance)

    assert not result.success
    assert said in errors_of(result)
    assert project.lake(pipeline).raw_features.rows_by_day() == {}


def test_an_asset_of_another_code_location_is_waited_for_by_its_day(project, instance):
    """Nothing here knows its partitions; the instance has its events."""
    say_made(instance, "daily_featurs", SECOND)
    assert f"daily_featurs of {FIRST} was never" in errors_of(
        raw_of(project, "typo", instance)
    )
    say_made(instance, "daily_featurs", FIRST)
    assert raw_of(project, "typo", instance).success


def test_a_key_that_nobody_makes_is_shown_beside_the_one_that_is_meant(
    project, instance
):
    graph = project.definitions.resolve_asset_graph()
    spec = declared_in(project.folder / project.module, "typo")
    upstream = Upstream(spec, graph, dg.AssetKey(["typo", "raw_features"]))
    (missing,) = upstream.missing(instance, spec.upstream_assets, FIRST)
    assert missing.why.endswith("makes it; is 'daily_features' meant?")
    assert missing.command is None


# The rows of an asset.


def test_a_day_is_the_rows_that_the_asset_returned_for_it(project, instance):
    make(project, instance, "daily_features", partition=FIRST)
    first = raw_of(project, "given", instance)
    again = raw_of(project, "given", instance)

    assert first.success
    assert metadata_of(first, "raw_features")["raw_rows"] == 480
    lineage = metadata_of(first, "raw_features")["dagster/column_lineage"]
    assert lineage.deps_by_column["age"] == [
        dg.TableColumnDep(dg.AssetKey("daily_features"), "age")
    ]
    assert metadata_of(again, "raw_features")["unchanged"]
    # The same rows made once more are the same night; others are another.
    make(project, instance, "daily_features", partition=FIRST)
    assert metadata_of(raw_of(project, "given", instance), "raw_features")["unchanged"]
    write_rows(project.folder, FIRST, seed=7)
    make(project, instance, "daily_features", partition=FIRST)
    changed = metadata_of(raw_of(project, "given", instance), "raw_features")
    write_rows(project.folder, FIRST)
    assert (changed["unchanged"], changed["raw_rows"]) == (False, 487)


def test_the_copy_is_what_a_night_goes_on_with(project, instance):
    """What the asset returned is gone, and the day is validated and scored all the same.

    Nobody selects `quarantined_rows` and `dead_letters`; they are made and recorded.
    """
    make(project, instance, "daily_features", FIRST)
    assert raw_of(project, "given", instance).success
    (Path(instance.storage_directory()) / "daily_features" / FIRST).unlink()
    names = ["validated_features", "model_release", "predictions"]
    selected = [dg.AssetKey(["given", name]) for name in names]
    result = project.run("given", FIRST, instance, asset_selection=selected)
    assert result.success, errors_of(result)
    assert metadata_of(result, "predictions")["scored_rows"] == 480
    beside = dg.AssetKey(["given", "dead_letters"])
    assert instance.get_materialized_partitions(beside) == {FIRST}

    # The gate of the release knows of the predictions that they were not selected.
    alone = project.run("given", FIRST, instance, asset_selection=[beside])
    assert alone.success, errors_of(alone)
    served = dg.AssetKey(["given", "serving_snapshot"])
    gates = project.run("given", FIRST, instance, asset_selection=[served])
    assert gates.success, errors_of(gates)
    spec = declared_in(project.folder / project.module, "given")
    pipeline = Pipeline(spec, Path(), Path(), day_partitions(spec))
    release = project.registry.resolve("toy").digest
    assert graph_digest(instance, pipeline, FIRST) == release


def test_hours_are_the_rows_of_their_day(project, instance):
    early, late = f"{FIRST}-00:00", f"{FIRST}-12:00"
    make(project, instance, "hourly", early)
    said = f"1 of 2 partitions of hourly were never materialised ({late})"
    assert said in errors_of(raw_of(project, "hours", instance))
    make(project, instance, "hourly", late)
    rows = metadata_of(raw_of(project, "hours", instance), "raw_features")["raw_rows"]
    assert rows == 480


def test_days_that_begin_earlier_are_the_same_days(project, instance):
    make(project, instance, "marketing/long_ago", partition=FIRST)
    assert raw_of(project, "lazy", instance).success


def test_an_asset_without_days_tells_of_now_alone(project, instance):
    make(project, instance, "of_now")
    result = raw_of(project, "now", instance)
    assert not result.success
    assert "the source keeps no history" in errors_of(result)


@pytest.mark.parametrize(
    ("pipeline", "asset", "said"),
    [
        (
            "word",
            "a_word",
            f"a_word of {FIRST} gives a value of type str, which is none",
        ),
        ("nowhere", "kept_nowhere", "of one that returns a MaterializeResult or None"),
    ],
)
def test_what_is_no_rows_is_refused_by_name(project, instance, pipeline, asset, said):
    make(project, instance, asset, partition=FIRST)
    result = raw_of(project, pipeline, instance)
    assert not result.success
    assert said in errors_of(result)


# Together in one night.


def test_a_night_that_includes_its_upstream_makes_all_of_it(project, instance):
    result = project.run("whole", FIRST, instance)

    assert result.success, errors_of(result)
    made = [
        event.materialization.asset_key.to_user_string()
        for event in result.get_asset_materialization_events()
    ]
    assert made.index("raw_events") < made.index("daily_features")
    assert made.index("daily_features") < made.index("whole/raw_features")
    assert project.snapshots("whole").current().startswith(FIRST)


def test_the_command_line_runs_both_and_says_what_is_missing(project, instance):
    def run(pipeline: str):
        runner = PipelineRunner(project.definitions, instance, pipeline)
        (outcome,) = run_days(runner, [SECOND])
        return outcome

    (error,) = run("given").report.errors
    assert error.startswith(f"{SECOND} waits for what it is made of: daily_features of")
    assert run("whole").state == "done"
    assert run("whole").state == "unchanged"


def test_what_is_broken_elsewhere_in_the_project_stops_no_night(
    tmp_path, root, registry, monkeypatch, instance
):
    broken = OWN + BROKEN
    pipelines = [attributes(**given("daily_features"), upstream="include")]
    made = _written(tmp_path / "p", root, monkeypatch, pipelines, broken)
    runner = PipelineRunner(made.definitions, instance, "toy")
    assert FIRST in runner.days()


@pytest.mark.parametrize(
    ("asset", "said"),
    [
        ("marketing/long_ago", "whose partitions are: Daily, starting 2025-12-01"),
        ("hourly", "A run is of one kind of partition: give both the same days"),
        (
            "elsewhere",
            "no function of this code location makes it: say `upstream: wait`",
        ),
    ],
)
def test_what_no_night_can_make_is_not_included(
    tmp_path, root, registry, monkeypatch, asset, said
):
    pipelines = [attributes(**behind(asset), upstream="include")]
    with pytest.raises(PipelineError, match=said):
        _written(tmp_path / "p", root, monkeypatch, pipelines)


def test_a_source_behind_its_own_predictions_is_refused_by_name():
    own = ScoringPipeline(make_spec(**given("toy/predictions")))
    with pytest.raises(PipelineError, match="toy/predictions is made by toy itself"):
        own.build_defs(dg.ComponentTree.for_test().load_context)


# Who begins a night.


def at(day: int, hour: int, minute: int = 0) -> datetime:
    return datetime(2026, 1, day, hour, minute, tzinfo=UTC)


def requested(ticked: dg.SensorResult) -> list[str]:
    return [request.partition_key for request in ticked.run_requests or []]


@pytest.fixture
def look(project, instance):
    """Ticks of the sensor of `given`, each with what the one before has left."""
    cursors: list[str | None] = [None]
    spec = declared_in(project.folder / project.module, "given")
    graph = project.definitions.resolve_asset_graph()

    def look(now: datetime) -> dg.SensorResult:
        ticked = tick(spec, graph, instance, cursors[-1], now)
        cursors.append(ticked.cursor)
        return ticked

    return look


def test_a_night_begins_once_and_when_all_of_its_day_is_there(project, instance, look):
    waits = look(at(6, 0, 30))
    assert requested(waits) == []
    assert (
        f"{FIRST} waits: daily_features of {FIRST} was"
        in waits.skip_reason.skip_message
    )

    say_made(instance, "daily_features", SECOND)
    assert requested(look(at(6, 0, 31))) == []
    say_made(instance, "daily_features", FIRST)
    begins = look(at(6, 0, 32))
    assert requested(begins) == [FIRST]
    assert begins.run_requests[0].run_key == FIRST
    say_made(instance, "daily_features", FIRST)
    assert requested(look(at(6, 0, 33))) == []


def test_no_night_begins_before_the_time_of_the_schedule(project, instance, look):
    look(at(6, 12))
    say_made(instance, "daily_features", SECOND)
    assert requested(look(at(7, 0, 29))) == []
    assert requested(look(at(7, 0, 30))) == [SECOND]


def test_a_day_whose_upstream_is_late_begins_when_it_comes(project, instance, look):
    look(at(6, 12))
    say_made(instance, "daily_features", SECOND)
    late = look(at(7, 12))
    assert requested(late) == [SECOND]
    say_made(instance, "daily_features", FIRST)
    assert requested(look(at(8, 12))) == [FIRST]


def test_days_from_before_it_was_turned_on_and_of_a_week_ago_are_a_backfill(
    project, instance, look
):
    for day in (FIRST, SECOND, THIRD):
        say_made(instance, "daily_features", day)
    assert requested(look(at(7, 12))) == [SECOND]
    # The daemon was away for a week and two days: 01-07 and 01-08 are too old by then.
    days = sorted(json.loads(look(at(16, 12)).cursor)["waiting"])
    assert (days[0], days[-1]) == ("2026-01-09", "2026-01-15")


def test_a_night_that_somebody_has_run_is_not_begun_again(project, instance, look):
    say_made(instance, "daily_features", THIRD)
    job = project.definitions.resolve_job_def("given_job")
    tags = {"dagster/partition": THIRD}
    instance.create_run_for_job(job, tags=tags, status=dg.DagsterRunStatus.SUCCESS)
    ticked = look(at(8, 0, 30))
    assert requested(ticked) == []
    assert "has begun" in ticked.skip_reason.skip_message


def test_a_night_that_is_being_made_is_waited_for(project, instance, look):
    say_made(instance, "daily_features", SECOND)
    job = project.definitions.resolve_job_def("given_job")
    run = instance.create_run_for_job(
        job, tags={"dagster/partition": SECOND}, status=dg.DagsterRunStatus.STARTED
    )
    ticked = look(at(7, 0, 30))
    assert requested(ticked) == []
    assert f"is being made by run {run.run_id}" in ticked.skip_reason.skip_message
    instance.report_run_failed(run)
    assert requested(look(at(7, 0, 31))) == [SECOND]


def test_a_pipeline_that_waits_has_a_sensor_and_no_schedule(project):
    schedules = {one.name for one in project.definitions.schedules}
    sensors = {one.name: one for one in project.definitions.sensors}
    assert "whole_schedule" in schedules
    assert "whole_wait_sensor" not in sensors
    assert "given_schedule" not in schedules
    assert sensors["given_wait_sensor"].default_status is dg.DefaultSensorStatus.STOPPED


def test_the_sensor_runs_as_the_daemon_runs_it(project, instance):
    """Its graph is the one of the code location: `abroad` can't be mapped, and says so."""
    sensor = project.definitions.resolve_sensor_def("files_wait_sensor")
    with dg.build_sensor_context(
        instance=instance, definitions=project.definitions
    ) as context:
        # Its last day is long over.
        assert sensor.evaluate_tick(context).skip_message.endswith("due has begun")
    assert sensor.job_name == "files_job"


def test_a_deadline_is_watched_once_the_sensor_was_started(instance):
    times = NightTimes.of(make_spec(**behind("daily"), ready_by="06:00"))
    assert times.begun_by == "toy_wait_sensor"
    assert not is_scheduled(instance, times)


# What others hang on a pipeline.


def test_automation_conditions_downstream_see_a_night(project, instance):
    @dg.asset(
        deps=[["given", "predictions"]],
        partitions_def=dg.DailyPartitionsDefinition(
            "2026-01-01", end_date="2026-02-01"
        ),
        automation_condition=dg.AutomationCondition.eager(),
    )
    def letters() -> None: ...

    whole = dg.Definitions.merge(project.definitions, dg.Definitions(assets=[letters]))
    last = "2026-01-31"
    asked = {"asset_selection": dg.AssetSelection.assets("letters")}
    before = dg.evaluate_automation_conditions(whole, instance, **asked)
    assert before.total_requested == 0
    key = dg.AssetKey(["given", "predictions"])
    instance.report_runless_asset_event(dg.AssetMaterialization(key, partition=last))
    after = dg.evaluate_automation_conditions(
        whole, instance, cursor=before.cursor, **asked
    )
    assert after.get_requested_partitions(dg.AssetKey("letters")) == {last}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"source": FILES | {"deps": "daily"}}, "valid list"),
        ({"source": FILES | {"deps": ["a", "a"]}}, "'a' is named twice"),
        ({"source": FILES | {"deps": ["a//b"]}}, "an asset is named by its key"),
        ({"source": FILES | {"deps": [""]}}, "an asset is named by its key"),
        (given("a b"), "an asset is named by its key"),
        (given("a", load_as="numpy.ndarray"), "polars.DataFrame"),
        ({"upstream": "both"}, "'wait' or 'include'"),
    ],
)
def test_what_names_no_asset_is_refused_in_the_yaml(change, said):
    with pytest.raises(ValueError, match=said):
        make_spec(**change)
