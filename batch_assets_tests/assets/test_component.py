import datetime
import warnings

import dagster as dg
import pytest

from batch_assets.component import ScoringPipeline
from batch_assets.definitions import defs
from batch_assets.errors import PipelineError
from batch_assets.launch.project import load_definitions
from batch_assets.quality.gates import GATES
from batch_assets.quality.judges.performance import outcome_gates
from batch_assets.snapshots.gates import SNAPSHOT_GATES
from batch_assets.spec import PipelineSpec
from batch_assets_tests.projects import (
    ASSETS,
    FLIGHTS,
    attributes,
    declared_in,
    make_project,
    write_project,
)


@pytest.fixture(scope="module")
def loaded() -> dg.Definitions:
    found = defs()
    dg.Definitions.validate_loadable(found)
    return found


NOT_OF_A_DAY = ("model_release", "batch_size_sweep", "release_comparison")
# What the sources of the pipelines read, which nothing here makes.
TABLES = {
    ("flights", "source", "flights"),
    ("flights", "source", "weather"),
    ("baskets", "source", "transactions"),
}
OWNERS = {"flights": "team:airport-operations", "baskets": "team:merchandising"}


def test_every_asset_bears_the_pipelines_name(loaded):
    keys = {tuple(spec.key.path) for spec in loaded.resolve_all_asset_specs()}
    names = ASSETS | {"outcomes"}
    assert keys == {(pipeline, name) for pipeline in OWNERS for name in names} | TABLES


def test_every_asset_has_a_description_an_owner_and_kinds(loaded):
    for spec in loaded.resolve_all_asset_specs():
        assert spec.description, spec.key
        assert spec.kinds, spec.key
        assert spec.group_name == spec.key.path[0], spec.key
        # Who owns what is read here, nobody has said.
        owner = [] if tuple(spec.key.path) in TABLES else [OWNERS[spec.group_name]]
        assert spec.owners == owner, spec.key


def test_all_that_belongs_to_a_night_is_partitioned_by_day(loaded):
    for spec in loaded.resolve_all_asset_specs():
        partitioned = spec.partitions_def is not None
        path = tuple(spec.key.path)
        once = path[-1] in NOT_OF_A_DAY or path in TABLES
        assert partitioned != once, spec.key


def test_a_sweep_is_no_part_of_a_night(loaded):
    job = loaded.resolve_job_def("flights_job")
    selected = {key.path[-1] for key in job.asset_layer.executable_asset_keys}
    assert selected == ASSETS - {"batch_size_sweep", "release_comparison"}


def test_every_gate_is_a_partitioned_check_that_blocks_as_its_table_says(loaded):
    specs = [spec for check in loaded.asset_checks or [] for spec in check.check_specs]
    assert all(spec.partitions_def is not None for spec in specs)
    declared = [declared_in(FLIGHTS / "batch_assets", name) for name in OWNERS]
    assert {(*spec.asset_key.path, spec.name, spec.blocking) for spec in specs} == {
        (pipeline.name, gate.asset, gate.name, gate.blocking)
        for pipeline in declared
        for gate in (*GATES, *SNAPSHOT_GATES, *outcome_gates(pipeline.outcomes))
        if gate.when(pipeline)
    }


def test_the_graph_is_the_road(loaded):
    graph = loaded.resolve_asset_graph()

    def parents(name):
        found = graph.get(dg.AssetKey(["flights", name])).parent_keys
        return {"/".join(key.path[1:]) for key in found}

    assert parents("raw_features") == {"source/flights", "source/weather"}
    assert parents("validated_features") == {"raw_features"}
    assert parents("quarantined_rows") == {"raw_features"}
    assert parents("predictions") == {"validated_features", "model_release"}
    assert parents("dead_letters") == {"validated_features", "model_release"}
    assert parents("batch_size_sweep") == {"model_release"}
    assert parents("serving_snapshot") == {"predictions"}
    assert parents("night_report") == {"serving_snapshot"}
    assert parents("outcomes") == {"predictions", "source/flights"}


def test_the_schedule_asks_for_the_day_that_has_just_ended(loaded):
    schedule = loaded.resolve_schedule_def("flights_schedule")
    at = datetime.datetime(2013, 7, 23, 4, 30, tzinfo=datetime.UTC)  # 00:30 New York
    with dg.instance_for_test() as instance:
        tick = schedule.evaluate_tick(
            dg.build_schedule_context(
                instance=instance,
                scheduled_execution_time=at,
                repository_def=loaded.get_repository_def(),
            )
        )
    assert schedule.execution_timezone == "America/New_York"
    assert [request.partition_key for request in tick.run_requests] == ["2013-07-22"]


def test_outcomes_are_no_part_of_a_night_and_have_a_job_of_their_own(loaded):
    job = loaded.resolve_job_def("flights_outcomes_job")
    selected = {key.path[-1] for key in job.asset_layer.executable_asset_keys}
    assert selected == {"outcomes"}


@pytest.mark.parametrize(
    ("at", "asked"),
    [
        ((2013, 7, 23, 10), ["2013-07-20"]),  # Two days after the day that has ended.
        ((2013, 1, 31, 11), []),
        ((2013, 2, 1, 11), ["2013-01-29"]),
        ((2014, 1, 2, 11), ["2013-12-30"]),
        ((2014, 1, 3, 11), []),
    ],
)
def test_outcomes_are_asked_for_once_they_are_known(loaded, at, asked):
    schedule = loaded.resolve_schedule_def("flights_outcomes_schedule")
    with dg.instance_for_test() as instance:
        tick = schedule.evaluate_tick(
            dg.build_schedule_context(
                instance=instance,
                scheduled_execution_time=datetime.datetime(*at, tzinfo=datetime.UTC),
                repository_def=loaded.get_repository_def(),
            )
        )
    assert [request.partition_key for request in tick.run_requests] == asked


def test_the_days_are_those_that_the_yaml_declares(loaded):
    job = loaded.resolve_job_def("flights_job")
    days = job.partitions_def.get_partition_keys()
    assert (days[0], days[-1], len(days)) == ("2013-01-29", "2013-12-30", 336)


def test_the_job_runs_in_one_process(loaded):
    job = loaded.resolve_job_def("flights_job")
    assert job.executor_def.name == "in_process"


def test_a_templated_value_is_filled_in_and_the_day_is_left_for_later(
    tmp_path, root, monkeypatch
):
    monkeypatch.setenv("TOY_FOLDER", "elsewhere")
    glob = "{{ env.TOY_FOLDER }}/{{ day }}.parquet"
    project = make_project(
        tmp_path / "project",
        root,
        monkeypatch,
        [attributes(source={"kind": "parquet", "glob": glob})],
    )
    assert project.definitions.resolve_job_def("toy_job")
    context = dg.ComponentTree.for_test().load_context
    component = ScoringPipeline.from_attributes_dict(
        attributes=attributes(source={"kind": "parquet", "glob": glob}),
        context=context,
    )
    assert component.spec.source.glob == "elsewhere/{{ day }}.parquet"


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"source": {"kind": "parquet", "glob": "{{ env.NO_SUCH }}/x"}}, "source.glob"),
        ({"description": "{{ env('NO_SUCH') }}"}, "description"),
        (
            {
                "source": {
                    "kind": "sql",
                    "query": "features.sql",
                    "tables": {"users": "{{ env.NO_SUCH }}.parquet"},
                }
            },
            "source.tables.users",
        ),
    ],
    ids=["nested", "called", "named by the user"],
)
def test_a_variable_that_is_not_set_is_named_with_its_field(
    tmp_path, monkeypatch, change, field
):
    """Dagster's own `env` gives None, and a glob of None/x."""
    module = f"unset_{field.replace('.', '_')}"
    write_project(tmp_path / "p", module, [attributes(**change)])
    monkeypatch.chdir(tmp_path / "p")
    monkeypatch.syspath_prepend(str(tmp_path / "p"))
    with pytest.raises(PipelineError) as said:
        load_definitions()

    yaml = next((tmp_path / "p").rglob("defs.yaml"))
    assert str(yaml) in str(said.value)
    assert f"the field '{field}' is to be filled in" in str(said.value)
    assert "variable NO_SUCH, which is not set. Set it" in str(said.value)


def test_a_variable_may_have_a_default():
    text = "{{ env('NO_SUCH', 'elsewhere') }}"
    component = ScoringPipeline.from_attributes_dict(
        attributes=attributes(description=text),
        context=dg.ComponentTree.for_test().load_context,
    )
    assert component.spec.description == "elsewhere"


def test_the_yaml_of_dagster_has_the_same_schema_as_the_spec():
    assert ScoringPipeline.get_model_cls() is PipelineSpec


def test_loading_the_definitions_warns_of_nothing():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        defs()
