"""A range of days by Dagster's own ways, each as the docs write it."""

import contextlib
import os
import shutil
import signal
import subprocess
from pathlib import Path

import dagster as dg
import pytest
from dagster import AssetCheckKey, DagsterInstance

from batch_assets.lake.tables import Lake
from batch_assets.snapshots.store import SnapshotStore
from batch_assets_tests.commands import BIN
from batch_assets_tests.projects import (
    FLIGHTS,
    attributes,
    checks_of,
    make_project,
    write_project,
)
from batch_assets_tests.toys import make_rows, write_source
from batch_assets_tests.waiting import until

DAYS = [f"2026-01-0{number}" for number in range(1, 4)]
RANGE = {
    "dagster/asset_partition_range_start": DAYS[0],
    "dagster/asset_partition_range_end": DAYS[-1],
}
WORKSPACE = """\
load_from:
  - python_module:
      module_name: toys_project.definitions
      working_directory: .
      location_name: toys_project
"""


def write_days(folder: Path) -> None:
    for number, day in enumerate(DAYS):
        write_source(folder, make_rows(300 + number, seed=number), day=day)


def break_rows(folder: Path, day: str) -> None:
    """Give a day so many bad rows that the gate before scoring is shut."""
    rows = make_rows(300).to_pydict()
    rows["age"] = [121] * 300
    schema = make_rows(1).schema
    write_source(folder, type(make_rows(1)).from_pydict(rows, schema=schema), day=day)


@pytest.fixture
def project(tmp_path, root, registry, monkeypatch):
    made = make_project(tmp_path / "project", root, monkeypatch, [attributes()])
    write_days(made.folder)
    return made


def verdicts_of(instance: DagsterInstance, asset: str, check: str) -> dict[str, bool]:
    """The last verdict of each day."""
    key = AssetCheckKey(dg.AssetKey(["toy", asset]), check)
    found = instance.event_log_storage.get_asset_check_execution_history(key, limit=100)
    evaluations = [
        record.event.dagster_event.event_specific_data
        for record in reversed(found)
        if record.event and record.event.dagster_event
    ]
    return {
        one.partition: one.passed
        for one in evaluations
        if getattr(one, "passed", None) is not None and one.partition
    }


def run_range(project, instance):
    return project.definitions.resolve_job_def("toy_job").execute_in_process(
        instance=instance, tags=RANGE, raise_on_error=False
    )


def test_a_run_for_a_range_makes_each_day_as_a_run_of_its_own_does(project):
    with dg.instance_for_test() as instance:
        assert run_range(project, instance).success
        made = instance.get_materialized_partitions(
            dg.AssetKey(["toy", "serving_snapshot"])
        )
        coverage = verdicts_of(instance, "predictions", "coverage_is_within_limit")
        event = instance.fetch_materializations(
            dg.AssetRecordsFilter(
                dg.AssetKey(["toy", "predictions"]), asset_partitions=[DAYS[1]]
            ),
            limit=1,
        ).records[0]
        alone = [project.run("toy", day, instance) for day in DAYS]

    assert made == set(DAYS)
    assert coverage == dict.fromkeys(DAYS, True)
    assert event.asset_materialization.metadata["scored_rows"].value == 301
    lake = project.lake("toy")
    assert lake.predictions.rows_by_day() == dict(
        zip(DAYS, (300, 301, 302), strict=True)
    )
    assert project.snapshots("toy").current().startswith(DAYS[-1])
    # Nothing is left to do for a run of one day, and all that a check asks for is there.
    for result in alone:
        assert result.success
        (unchanged,) = [
            event.materialization.metadata["unchanged"].value
            for event in result.get_asset_materialization_events()
            if event.materialization.asset_key.path[-1] == "predictions"
        ]
        assert unchanged is True
        checks = result.get_asset_check_evaluations()
        assert {check.check_name for check in checks} == checks_of()
        assert all(check.passed for check in checks)


@pytest.mark.parametrize("bad", DAYS)
def test_a_gate_that_is_shut_on_one_day_of_a_range_lets_nothing_be_served(project, bad):
    break_rows(project.folder, bad)
    with dg.instance_for_test() as instance:
        result = run_range(project, instance)
        share = verdicts_of(
            instance, "validated_features", "quarantine_share_is_within_limit"
        )
    assert not result.success
    assert share == {day: day != bad for day in DAYS}
    assert project.lake("toy").predictions.rows_by_day() == {}
    assert project.snapshots("toy").current() is None


def test_a_day_of_a_range_that_fails_is_named_and_nothing_is_served(project):
    (project.folder / "days" / f"{DAYS[1]}.parquet").unlink()
    with dg.instance_for_test() as instance:
        result = run_range(project, instance)
        (failed,) = [e for e in result.all_node_events if e.is_step_failure]
    assert not result.success
    assert f"This was {DAYS[1]}" in str(failed.step_failure_data.error)
    assert project.snapshots("toy").current() is None


def test_a_backfill_elsewhere_is_a_run_for_each_day(project):
    graph = project.definitions.resolve_asset_graph()
    policies = {node.backfill_policy for node in graph.asset_nodes}
    assert policies <= {None, dg.BackfillPolicy.multi_run(1)}


@pytest.fixture
def home(tmp_path, registry) -> Path:
    """A project of one's own, set up as docs/pipeline.md says."""
    folder = tmp_path / "p"
    write_project(folder, "toys_project", [attributes()])
    with (folder / "pyproject.toml").open("a", encoding="utf-8") as file:
        file.write('code_location_name = "toys_project"\n')
    (folder / "workspace.yaml").write_text(WORKSPACE, encoding="utf-8")
    shutil.copy(FLIGHTS / "dagster.yaml", folder)
    write_days(folder)
    return folder


def dagster(home: Path, *command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(BIN / command[0]), *command[1:]],
        cwd=home,
        env=environment(home),
        capture_output=True,
        text=True,
        timeout=250,
        check=False,
    )


def environment(home: Path) -> dict[str, str]:
    return {
        **os.environ,
        "DAGSTER_HOME": str(home),
        "BATCH_ASSETS_ROOT": str(home.parent / "root"),
        "PYTHONPATH": f"{home}:{FLIGHTS}",
        "PYTHONWARNINGS": "ignore",
    }


@pytest.mark.slow
@pytest.mark.parametrize("target", [("--job", "toy_job"), ("--assets", "group:toy")])
def test_dg_launch_runs_a_range(home, target):
    launch = ("dg", "launch", *target, "--partition-range", f"{DAYS[0]}...{DAYS[2]}")
    found = dagster(home, *launch)
    assert found.returncode == 0, found.stdout[-3_000:] + found.stderr[-3_000:]
    root = home.parent / "root"
    assert set(Lake(root, "toy").predictions.rows_by_day()) == set(DAYS)
    assert SnapshotStore(root, "toy").current().startswith(DAYS[-1])

    break_rows(home, DAYS[1])
    again = dagster(home, *launch)
    assert again.returncode == 1
    assert f"{DAYS[1]}: " in again.stdout + again.stderr
    assert SnapshotStore(root, "toy").current().startswith(DAYS[-1])


@pytest.mark.slow
@pytest.mark.parametrize(
    "server",
    [("dg", "dev", "-p", "0"), ("dagster-daemon", "run", "-w", "workspace.yaml")],
    ids=["dg dev", "daemon"],
)
def test_dagster_job_backfill_runs_each_day(home, server):
    root, (good, bad) = home.parent / "root", DAYS[:2]
    break_rows(home, bad)
    span = ("--from", good, "--to", bad, "--noprompt")
    found = dagster(
        home,
        "dagster",
        "job",
        "backfill",
        "-w",
        "workspace.yaml",
        "-j",
        "toy_job",
        *span,
    )
    assert "Launched" in found.stdout, found.stdout + found.stderr
    command = [str(BIN / server[0]), *server[1:]]
    with (
        dg.DagsterInstance.from_config(str(home)) as instance,
        subprocess.Popen(
            command,
            cwd=home,
            env=environment(home),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        ) as process,
    ):
        try:
            ended = until(lambda: states(instance, 2), seconds=400, every=0.5)
        finally:
            os.killpg(process.pid, signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(10)
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
    assert ended == {good: "SUCCESS", bad: "FAILURE"}
    assert set(Lake(root, "toy").predictions.rows_by_day()) == {good}
    assert SnapshotStore(root, "toy").current().startswith(good)


def states(instance: DagsterInstance, days: int) -> dict[str, str] | None:
    """How each day's run ended, once all have."""
    runs = instance.get_runs()
    if len(runs) < days or not all(run.is_finished for run in runs):
        return None
    return {run.tags["dagster/partition"]: run.status.value for run in runs}
