"""The sensor of a pipeline that waits, through the daemon's own loop."""

import logging
from datetime import UTC, datetime, timedelta

import dagster as dg
import pytest
from dagster._core.test_utils import (
    create_test_daemon_workspace_context,
    freeze_time,
)
from dagster._core.workspace.load_target import ModuleTarget
from dagster._daemon.sensor import execute_sensor_iteration

from batch_assets.planner.clock import NightClock
from batch_assets_tests.projects import attributes, write_project
from batch_assets_tests.toys import make_spec

SOURCE = {"kind": "asset", "asset": "daily"}
OWN = """\
import dagster as dg

days = dg.DailyPartitionsDefinition("2026-01-01")


@dg.asset(partitions_def=days)
def daily() -> None: ...
"""


@pytest.mark.slow
def test_the_daemon_begins_a_night_once_its_upstream_is_there(
    tmp_path, root, monkeypatch
):
    folder = tmp_path / "p"
    write_project(folder, "waiting_project", [attributes(source=SOURCE, end_day=None)])
    own = folder / "waiting_project" / "defs" / "own.py"
    own.write_text(OWN, encoding="utf-8")
    monkeypatch.setenv("BATCH_ASSETS_ROOT", str(root))
    monkeypatch.chdir(folder)
    now = datetime.now(UTC)
    day = NightClock.of_nights(make_spec(source=SOURCE)).due(now)
    target = ModuleTarget("waiting_project.definitions", None, str(folder), "p")
    with (
        # Runs stay in its queue: nothing takes them out of it here.
        dg.instance_for_test() as instance,
        create_test_daemon_workspace_context(target, instance) as context,
    ):
        location = context.create_request_context().get_code_location("p")
        (repository,) = location.get_repositories().values()
        sensor = repository.get_sensor("toy_wait_sensor")
        instance.start_sensor(sensor)

        def tick(minutes: int):
            with freeze_time(now + timedelta(minutes=minutes)):
                list(execute_sensor_iteration(context, logging.getLogger(), None, None))
            origin = sensor.get_remote_origin_id()
            (last,) = instance.get_ticks(origin, sensor.selector_id, limit=1)
            return last

        waits = tick(0)
        made = dg.AssetMaterialization("daily", partition=day)
        instance.report_runless_asset_event(made)
        begins = tick(2)
        again = tick(4)
        runs = instance.get_runs()
    assert f"{day} waits: daily of {day} was never" in waits.tick_data.skip_reason
    assert begins.run_keys == [day]
    assert f"{day} is being made by run" in again.tick_data.skip_reason or (
        "has begun" in again.tick_data.skip_reason
    )
    (run,) = runs
    assert (run.job_name, run.tags["dagster/partition"]) == ("toy_job", day)
    assert run.tags["batch_assets/pipeline"] == "toy"
