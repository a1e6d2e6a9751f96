"""What `docs/production.md` says to write and to type, tried with a real PostgreSQL."""

import re
import subprocess
import sys
from pathlib import Path

import dagster as dg
import psycopg
import pytest
import yaml
from dagster._config import process_config, resolve_to_config_type
from dagster_k8s import K8sRunLauncher

from batch_assets_tests.commands import finish, make_home
from batch_assets_tests.projects import FIRST, FLIGHTS, attributes, write_project
from batch_assets_tests.servers import free_port
from batch_assets_tests.waiting import until

PAGE = (FLIGHTS / "docs" / "production.md").read_text(encoding="utf-8")
RECORD, LOCATIONS, SERVED, KUBERNETES = re.findall(
    r"^```yaml\n(.*?)^```$", PAGE, re.M | re.S
)
BIN = Path(sys.executable).parent


def jobs_of(folder: Path, location: str = "shop") -> str:
    """What the page's command lists of the workspace in a folder."""
    (command,) = re.findall(r"^    dagster (job list .*)$", PAGE, re.M)
    done = subprocess.run(
        [BIN / "dagster", *command.replace("shop", location).split()],
        cwd=folder,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_runs_are_recorded_in_postgres(tmp_path, postgres_here, monkeypatch):
    with psycopg.connect(postgres_here.url, autocommit=True) as connection:
        connection.execute("CREATE DATABASE record")
    (driver,) = re.findall(r"`(postgresql\+\w+)://user", PAGE)
    address = postgres_here.url.partition("://")[2].rpartition("/")[0]
    url = f"{driver}://{address}/record"
    monkeypatch.setenv("DAGSTER_PG_URL", url)
    home = make_home(tmp_path)
    dagster_home = tmp_path / "dagster"
    dagster_home.mkdir()
    kept = (FLIGHTS / "dagster.yaml").read_text(encoding="utf-8")
    (dagster_home / "dagster.yaml").write_text(kept + RECORD, encoding="utf-8")

    finish(
        home,
        "run",
        "toy",
        "--day",
        FIRST,
        DAGSTER_HOME=str(dagster_home),
        DAGSTER_PG_URL=url,
    )

    with dg.DagsterInstance.from_config(str(dagster_home)) as instance:
        (run,) = instance.get_runs()
        assert run.status == dg.DagsterRunStatus.SUCCESS
        days = instance.get_materialized_partitions(
            dg.AssetKey(["toy", "serving_snapshot"])
        )
    assert days == {FIRST}
    assert not list(dagster_home.rglob("*.db"))


@pytest.mark.slow
def test_projects_are_locations_of_their_own_and_one_may_serve_itself(
    tmp_path, monkeypatch
):
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path / "home"))
    (tmp_path / "home").mkdir()
    for name in ("shop", "bank"):
        write_project(tmp_path / name, name, [attributes(f"{name}_risk")])
    (tmp_path / "workspace.yaml").write_text(LOCATIONS, encoding="utf-8")
    assert "shop_risk_job" in jobs_of(tmp_path)
    assert "bank_risk_job" in jobs_of(tmp_path, "bank")

    port = free_port()
    (command,) = re.findall(r"^    dagster (code-server start .*)$", PAGE, re.M)
    text = SERVED.replace("4000", str(port)).replace("host: shop", "host: localhost")
    (tmp_path / "workspace.yaml").write_text(text, encoding="utf-8")
    arguments = (
        command.replace("4000", str(port)).replace("0.0.0.0", "127.0.0.1").split()
    )
    with subprocess.Popen(
        [BIN / "dagster", *arguments],
        cwd=tmp_path / "shop",
        stderr=subprocess.PIPE,
        text=True,
    ) as server:
        try:
            until(lambda: answers(port), seconds=300)
            listed = jobs_of(tmp_path)
        finally:
            server.terminate()
    assert "shop_risk_job" in listed
    assert "bank_risk_job" not in listed


def answers(port: int) -> bool:
    """Whether a code server is there; Dagster's own check asks for its health."""
    return (
        subprocess.run(
            [BIN / "dagster", "api", "grpc-health-check", "--port", str(port)],
            capture_output=True,
        ).returncode
        == 0
    )


def test_the_launcher_is_one_that_dagster_accepts():
    block = yaml.safe_load(KUBERNETES)["run_launcher"]
    assert (block["module"], block["class"]) == ("dagster_k8s", "K8sRunLauncher")

    result = process_config(
        resolve_to_config_type(K8sRunLauncher.config_type()), block["config"]
    )

    assert result.success, result.errors
    grace = block["config"]["run_k8s_config"]["pod_spec_config"]
    assert grace["termination_grace_period_seconds"] > 20


def test_what_is_asked_for_is_no_misspelling():
    wrong = yaml.safe_load(KUBERNETES)["run_launcher"]["config"] | {"job_imgae": "x"}

    assert not process_config(
        resolve_to_config_type(K8sRunLauncher.config_type()), wrong
    ).success
