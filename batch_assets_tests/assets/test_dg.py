"""Dagster's own commands and servers on this project, as a user starts them."""

import json
import os
import shutil
import subprocess
from pathlib import Path

import httpx
import pyarrow as pa
import pytest

from batch_assets.lake.tables import Lake
from batch_assets.models.registry import Registry
from batch_assets.snapshots.version import Version
from batch_assets_tests.commands import BIN
from batch_assets_tests.dagster_server import ask, server
from batch_assets_tests.listeners import SECRET, http_listener
from batch_assets_tests.models_that_fail import write_mendable
from batch_assets_tests.projects import ASSETS, FLIGHTS, attributes, write_project
from batch_assets_tests.toys import make_rows, write_source, write_toy_release
from batch_assets_tests.waiting import until

COMPONENT = "batch_assets.component.ScoringPipeline"
DAY, TOY_DAY = "2013-08-15", "2026-01-05"

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


@pytest.fixture
def environment(tmp_path) -> dict[str, str]:
    """A root with the approved flights release, and a DAGSTER_HOME, of the test's own."""
    registry = Registry(tmp_path / "root")
    release = registry.add(FLIGHTS / "data" / "releases" / "flight_delay")
    registry.approve("flight_delay", release.digest, why="the test", by="ada")
    home = tmp_path / "home"
    home.mkdir()
    shutil.copy(FLIGHTS / "dagster.yaml", home)
    return {
        **os.environ,
        "BATCH_ASSETS_ROOT": str(tmp_path / "root"),
        "DAGSTER_HOME": str(home),
        "COLUMNS": "200",
    }


def run(environment: dict[str, str], *command: str, cwd: Path = FLIGHTS) -> str:
    found = subprocess.run(
        [str(BIN / command[0]), *command[1:]],
        cwd=cwd,
        env=environment,
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert found.returncode == 0, found.stdout + found.stderr
    return found.stdout + found.stderr


def test_dg_check_and_list_defs(environment):
    run(environment, "dg", "check", "defs")
    found = json.loads(run(environment, "dg", "list", "defs", "--json"))
    assert {asset["asset_key"] for asset in found["assets"]} >= {"flights/predictions"}
    assert {job["name"] for job in found["jobs"]} == {
        "baskets_job",
        "baskets_outcomes_job",
        "baskets_replay_job",
        "flights_job",
        "flights_outcomes_job",
        "flights_replay_job",
    }
    assert sorted(s["name"] for s in found["schedules"]) == [
        "baskets_outcomes_schedule",
        "baskets_schedule",
        "flights_outcomes_schedule",
        "flights_schedule",
    ]


def test_dg_list_components_shows_the_component(environment):
    found = json.loads(run(environment, "dg", "list", "components", "--json"))
    summaries = {entry["key"]: entry["summary"] for entry in found["items"]}
    assert summaries[COMPONENT].startswith("Scores a whole user base")


def test_dg_scaffold_starts_a_pipeline_that_loads(environment, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(
        FLIGHTS,
        copy,
        # What Dagster and the nights leave; a room of the package has such a name, too.
        ignore=lambda folder, _: (
            {".venv", ".git", "data", "storage", "history"}
            if Path(folder) == FLIGHTS
            else set()
        ),
    )
    environment["PYTHONPATH"] = str(copy)
    run(environment, "dg", "scaffold", "defs", COMPONENT, "churn", cwd=copy)
    made = copy / "batch_assets" / "defs" / "churn"
    assert {path.name for path in made.iterdir()} >= {"defs.yaml", "features.sql"}
    found = json.loads(run(environment, "dg", "list", "defs", "--json", cwd=copy))
    assert {job["name"] for job in found["jobs"]} == {
        "churn_job",
        "churn_replay_job",
        "baskets_job",
        "baskets_outcomes_job",
        "baskets_replay_job",
        "flights_job",
        "flights_outcomes_job",
        "flights_replay_job",
    }


def test_dg_launch_scores_a_night(environment, tmp_path):
    run(environment, "dg", "launch", "--job", "flights_job", "--partition", DAY)
    snapshot = Version.current(tmp_path / "root" / "snapshots" / "flights")
    assert snapshot.manifest.day == DAY


@pytest.mark.parametrize(
    "command",
    [("dg", "dev"), ("dagster", "dev", "-w", "workspace.yaml")],
    ids=["dg dev", "dagster dev -w"],
)
def test_the_ui_shows_the_graph(environment, command):
    with server(environment, *command) as url:
        nodes = ask(
            url,
            "{ assetNodes { assetKey { path } isExecutable description "
            "owners { __typename } kinds } }",
        )["assetNodes"]
        made = [node for node in nodes if node["isExecutable"]]
        assert {node["assetKey"]["path"][-1] for node in made} == ASSETS | {"outcomes"}
        read = {"/".join(n["assetKey"]["path"]) for n in nodes if n not in made}
        assert read >= {"flights/source/flights", "flights/source/weather"}
        assert all(node["description"] and node["kinds"] for node in nodes)
        assert all(node["owners"] for node in made)
        assert httpx.get(url).status_code == 200


def test_a_night_launched_from_the_ui_is_scored_by_a_worker_of_its_own(
    environment, tmp_path
):
    """Queue, daemon, run worker and pool: what a night at 3 a.m. really goes through."""
    with server(environment, "dg", "dev") as url:
        assert ended(url, launched(url, "flights_job", DAY)) == "SUCCESS"
    snapshot = Version.current(tmp_path / "root" / "snapshots" / "flights")
    assert snapshot.manifest.day == DAY


def test_a_night_cancelled_in_the_ui_commits_nothing_and_keeps_what_is_done(
    environment, tmp_path
):
    release = write_mendable(tmp_path / "release")
    registry = Registry(tmp_path / "root")
    registry.add(release.folder)
    registry.approve("toy", release.digest, why="the test", by="ada")
    write_project(tmp_path / "p", "toys_project", [attributes(grace_seconds=3)])
    write_source(tmp_path / "p", make_rows(2_000), day=TOY_DAY)
    environment["SLOW_SECONDS"] = "0.5"
    environment["PYTHONPATH"] = str(FLIGHTS)
    table = Lake(tmp_path / "root", "toy").predictions

    def chunks() -> int:
        return len(list(table.path.glob("day=*/*/*.parquet")))

    with server(environment, "dg", "dev", cwd=tmp_path / "p") as url:
        run_id = launched(url, "toy_job", TOY_DAY)
        until(lambda: chunks() >= 2, seconds=120)
        ask(url, f'mutation {{ terminateRun(runId: "{run_id}") {{ __typename }} }}')
        assert ended(url, run_id) == "CANCELED"
        left = chunks()
        assert left >= 2
        assert table.rows_by_day() == {}

        run_id = launched(url, "toy_job", TOY_DAY)
        assert ended(url, run_id) == "SUCCESS"
        query = (
            f'{{ runOrError(runId: "{run_id}") {{ ... on Run {{ assetMaterializations '
            "{ metadataEntries { label ... on IntMetadataEntry { intValue } } } } } }"
        )
        made = ask(url, query)["runOrError"]["assetMaterializations"]
        numbers = {
            entry["label"]: entry.get("intValue")
            for one in made
            for entry in one["metadataEntries"]
        }
    assert numbers["resumed_chunks"] == left
    assert table.rows_by_day() == {TOY_DAY: 2_000}


@pytest.mark.timeout(900)
def test_a_night_whose_gate_shuts_calls_somebody_and_its_mending_too(
    environment, tmp_path
):
    """Through the daemon, whose sensors nobody has switched on."""
    release = write_toy_release(tmp_path / "release")
    registry = Registry(tmp_path / "root")
    registry.add(release.folder)
    registry.approve("toy", release.digest, why="the test", by="ada")
    alerts = {"receivers": [{"kind": "webhook"}]}
    write_project(tmp_path / "p", "toys_project", [attributes(alerts=alerts)])
    rows = make_rows(1_000)
    ages = pa.array([-1] * 1_000, pa.int16())
    write_source(tmp_path / "p", rows.set_column(1, "age", ages), day=TOY_DAY)
    environment["PYTHONPATH"] = str(FLIGHTS)
    environment["ALERTS_WEBHOOK_SECRET"] = SECRET
    with http_listener() as web:
        environment["ALERTS_WEBHOOK_URL"] = web.url
        with server(environment, "dg", "dev", cwd=tmp_path / "p") as url:
            # A sensor tells of what comes after its first tick.
            until(lambda: ticked(url, 3), seconds=180, every=0.5)
            assert ended(url, launched(url, "toy_job", TOY_DAY)) == "FAILURE"
            until(lambda: web.received, seconds=180, every=0.5)
            write_source(tmp_path / "p", rows, day=TOY_DAY)
            assert ended(url, launched(url, "toy_job", TOY_DAY)) == "SUCCESS"
            until(lambda: len(web.received) > 1, seconds=180, every=0.5)
    gate = "gate shut: quarantine_share_is_within_limit"
    assert web.headlines == [
        f"[toy] {TOY_DAY} {gate}",
        f"[toy] {TOY_DAY} resolved: {gate}",
    ]


def ticked(url: str, sensors: int) -> bool:
    """Whether so many sensors have been looked at by the daemon."""
    found = ask(
        url,
        "{ repositoriesOrError { ... on RepositoryConnection { nodes { sensors { "
        "name sensorState { status ticks(limit: 1) { status } } } } } } }",
    )["repositoriesOrError"]["nodes"]
    found = [sensor for repository in found for sensor in repository["sensors"]]
    # Dagster's own, of automation conditions, is off until somebody turns it on.
    found = [sensor for sensor in found if sensor["name"].startswith("toy_")]
    states = [sensor["sensorState"] for sensor in found]
    return (
        len(states) == sensors
        and all(state["status"] == "RUNNING" for state in states)
        and all(
            state["ticks"] and state["ticks"][0]["status"] != "STARTED"
            for state in states
        )
    )


def launched(url: str, job: str, day: str) -> str:
    """Start a job for a day as the launchpad does; give the run's id."""
    found = ask(
        url,
        "{ repositoriesOrError { ... on RepositoryConnection { nodes { name location { name } } } } }",
    )
    (repository,) = found["repositoriesOrError"]["nodes"]
    answer = ask(
        url,
        """mutation($p: ExecutionParams!) { launchRun(executionParams: $p) {
             __typename ... on LaunchRunSuccess { run { runId } }
             ... on PythonError { message } } }""",
        p={
            "selector": {
                "repositoryLocationName": repository["location"]["name"],
                "repositoryName": repository["name"],
                "jobName": job,
            },
            "mode": "default",
            "executionMetadata": {"tags": [{"key": "dagster/partition", "value": day}]},
        },
    )["launchRun"]
    assert answer["__typename"] == "LaunchRunSuccess", answer
    return answer["run"]["runId"]


def ended(url: str, run_id: str) -> str:
    """Wait for a run, and give the state that it ended in."""
    query = f'{{ runOrError(runId: "{run_id}") {{ ... on Run {{ status }} }} }}'
    ends = ("SUCCESS", "FAILURE", "CANCELED")
    return until(
        lambda: s if (s := ask(url, query)["runOrError"]["status"]) in ends else None,
        seconds=120,
        every=0.5,
    )
