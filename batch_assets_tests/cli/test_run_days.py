"""`batch-assets run --from A --to B`: a range of days as a person types it."""

import json
import os
import signal
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import dagster as dg
import psutil
import pytest
from click.testing import CliRunner

from batch_assets.cli.main import main
from batch_assets.errors import PipelineError
from batch_assets.lake.tables import Lake
from batch_assets.launch.days import days_between, run_days
from batch_assets.launch.runner import PipelineRunner
from batch_assets.models.registry import Registry
from batch_assets.snapshots.store import SnapshotStore
from batch_assets_tests.commands import chunks_on_disk, finish, started
from batch_assets_tests.models_that_fail import write_mendable
from batch_assets_tests.projects import Project, attributes, make_project, write_project
from batch_assets_tests.toys import make_rows, read_day, write_source
from batch_assets_tests.waiting import until

DAYS = [f"2026-01-0{number}" for number in range(1, 6)]
BAD = DAYS[2]


@pytest.fixture
def project(tmp_path, root, registry, monkeypatch) -> Project:
    """A toy project with rows of four days, and none of the third."""
    made = make_project(tmp_path / "project", root, monkeypatch, [attributes()])
    for number, day in enumerate(DAYS):
        if day != BAD:
            write_source(made.folder, make_rows(300, seed=number), day=day)
    return made


@pytest.fixture
def runner(project) -> Iterator[PipelineRunner]:
    with dg.instance_for_test() as instance:
        yield PipelineRunner(project.definitions, instance, "toy")


def test_a_day_that_fails_stops_no_other_and_what_is_done_is_not_done_again(
    project, runner
):
    first = list(run_days(runner, DAYS))
    write_source(project.folder, make_rows(300, seed=2), day=BAD)
    again = list(run_days(runner, DAYS))

    assert [day.report.day for day in first] == DAYS
    assert [day.state for day in first] == ["done", "done", "failed", "done", "done"]
    assert "no file matches" in first[2].report.errors[0]
    assert [day.report.raw_rows for day in first] == [300, 300, None, 300, 300]
    assert all(day.seconds > 0 for day in first)
    others = [day.state for day in again if day.report.day != BAD]
    assert others == ["unchanged"] * 4
    assert again[2].state == "done"
    assert project.snapshots("toy").current().startswith(DAYS[-1])


@pytest.mark.parametrize(
    ("first", "last", "said"),
    [
        ("2025-12-31", "2026-01-02", "no day '2025-12-31'"),
        ("2026-01-30", "2026-02-01", "no day '2026-02-01'"),
        ("2026-02-01", None, "no day '2026-02-01'"),
    ],
)
def test_a_day_that_is_none_of_the_pipelines_is_refused(runner, first, last, said):
    with pytest.raises(PipelineError, match=said) as raised:
        days_between(runner, first, last)
    assert "2026-01-01 to 2026-01-31" in str(raised.value)


def test_without_an_end_a_range_ends_with_the_newest_day(runner):
    days = days_between(runner, "2026-01-29", None)
    assert days == ["2026-01-29", "2026-01-30", "2026-01-31"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), "either --day, or --from"),
        (("--to", DAYS[0]), "either --day, or --from"),
        (("--day", DAYS[0], "--from", DAYS[0]), "either --day, or --from"),
        (("--day", DAYS[0], "--to", DAYS[1]), "belong to --from"),
        (("--day", DAYS[0], "--parallel", "2"), "belong to --from"),
        (("--from", DAYS[1], "--to", DAYS[0]), "the first day comes first"),
        (("--from", "1.1.2026"), "a day is written YYYY-MM-DD"),
        (("--from", DAYS[0], "--parallel", "0"), "x>=1"),
    ],
)
def test_options_that_contradict_each_other_are_refused(arguments, said):
    result = CliRunner().invoke(main, ["run", "toy", *arguments])
    assert result.exit_code == 2
    assert said in " ".join(result.output.split())


def test_days_that_build_on_each_other_are_not_scored_at_the_same_time(
    tmp_path, root, registry, monkeypatch
):
    pipelines = [attributes(incremental=True)]
    made = make_project(tmp_path / "project", root, monkeypatch, pipelines)
    with (
        dg.instance_for_test() as instance,
        pytest.raises(
            PipelineError, match=r"one after the other\. Leave --parallel out"
        ),
    ):
        next(
            run_days(
                PipelineRunner(made.definitions, instance, "toy"), DAYS, parallel=2
            )
        )


def test_other_parts_of_a_project_that_are_broken_stop_no_night(project, tmp_path):
    """A job, a schedule and an asset that can't be resolved, in the same project."""

    @dg.asset(required_resource_keys={"nowhere"})
    def broken() -> None: ...

    everything = dg.Definitions.merge(
        project.definitions,
        dg.Definitions(
            assets=[broken],
            jobs=[dg.define_asset_job("broken_job", selection=["no_such_asset"])],
            schedules=[
                dg.ScheduleDefinition(
                    job=dg.define_asset_job("other_job", selection=["nor_this"]),
                    cron_schedule="0 0 * * *",
                )
            ],
        ),
    )
    with pytest.raises(Exception, match="no_such_asset|nor_this|nowhere"):
        everything.resolve_all_job_defs()

    with dg.instance_for_test() as instance:
        (day,) = run_days(PipelineRunner(everything, instance, "toy"), DAYS[:1])

    assert day.state == "done", day.report.errors
    assert (day.report.checks_passed, day.report.checks) == (17, 17)


# Each of the following starts processes that import Dagster and torch.


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A project on disk, with rows of three days of four; of the first the most."""
    release = write_mendable(tmp_path / "release")
    write_project(tmp_path / "p", "toys_project", [attributes(grace_seconds=2)])
    for number, day in enumerate(FOUR):
        if day != BAD:
            rows = make_rows(2_000 if day == DAYS[0] else 400, seed=number)
            write_source(tmp_path / "p", rows, day=day)
    registry = Registry(tmp_path / "root")
    registry.add(release.folder)
    registry.approve("toy", release.digest, channel="batch", why="ok")
    return tmp_path


FOUR = DAYS[:4]
RANGE = ("run", "toy", "--from", FOUR[0], "--to", FOUR[-1])


@pytest.mark.slow
def test_days_at_a_time_leave_what_days_in_order_leave(home, tmp_path):
    """The first day is scored last; served are the days in their order all the same."""
    failed = finish(home, *RANGE, "--parallel", "3", "--json", code=1, SLOW_SECONDS="2")
    served = SnapshotStore(home / "root", "toy").versions()
    acts, _ = SnapshotStore(home / "root", "toy").history()
    write_source(home / "p", make_rows(400, seed=2), day=BAD)
    again = json.loads(finish(home, *RANGE, "--parallel", "3", "--json"))

    assert f"{BAD} failed: no file matches" in failed
    assert "toy: 3 of 4 days are done, 1 failed" in failed
    assert "run the same command again" in failed
    good = [day for day in FOUR if day != BAD]
    assert [manifest.day for manifest in served] == good
    assert [act.version[:10] for act in acts if act.act == "publish"] == good
    assert all(a.created_at < b.created_at for a, b in pairwise(served))
    assert [one["state"] for one in again] == [
        "done" if day == BAD else "unchanged" for day in FOUR
    ]
    lake = Lake(home / "root", "toy")
    assert [len(read_day(lake, "predictions", day)) for day in FOUR] == [
        2_000,
        400,
        400,
        400,
    ]


@pytest.mark.slow
def test_a_line_is_printed_for_each_day(home):
    with started(home, *RANGE) as process:
        out, err = process.communicate(timeout=240)
    lines = out.splitlines()
    assert process.returncode == 1
    assert [line.split()[:2] for line in lines[:4]] == [
        [day, "FAILED" if day == BAD else "done"] for day in FOUR
    ]
    assert "2,000 rows" in lines[0]
    assert lines[0].endswith(" s")
    assert lines[4] == "toy: 3 of 4 days are done, 1 failed"
    assert f"{BAD} failed: no file matches" in err


@pytest.mark.slow
@pytest.mark.parametrize(
    ("parallel", "number"), [("1", signal.SIGTERM), ("2", signal.SIGINT)]
)
def test_an_interrupted_range_ends_cleanly_and_goes_on(home, parallel, number):
    command = (*RANGE, "--parallel", parallel)
    with started(home, *command, SLOW_SECONDS="1") as process:
        until(lambda: chunks_on_disk(home, DAYS[0]) >= 2, seconds=180)
        others = psutil.Process(process.pid).children(recursive=True)
        process.send_signal(number)
        _, err = process.communicate(timeout=90)
    assert process.returncode == 130, err
    assert "Traceback" not in err
    assert "Interrupted. Run the same command again" in err
    _, alive = psutil.wait_procs(others, timeout=10)
    assert alive == []
    # A shorter day beside it may have been scored by then; none is served.
    assert DAYS[0] not in Lake(home / "root", "toy").predictions.rows_by_day()
    assert SnapshotStore(home / "root", "toy").current() is None

    write_source(home / "p", make_rows(400, seed=2), day=BAD)
    found = json.loads(finish(home, *command, "--json"))
    assert [one["state"] for one in found] == ["done"] * 4
    assert found[0]["resumed_chunks"] >= 2


@pytest.mark.slow
def test_a_range_that_is_killed_leaves_no_worker_and_loses_nothing(home):
    command = (*RANGE, "--parallel", "2")
    with started(home, *command, SLOW_SECONDS="1") as process:
        until(lambda: chunks_on_disk(home, DAYS[0]) >= 2, seconds=180)
        others = psutil.Process(process.pid).children(recursive=True)
        assert others
        process.kill()
        process.communicate(timeout=90)
    _, alive = psutil.wait_procs(others, timeout=30)
    assert alive == []

    write_source(home / "p", make_rows(400, seed=2), day=BAD)
    found = json.loads(finish(home, *command, "--json"))
    assert [one["success"] for one in found] == [True] * 4


@pytest.mark.slow
def test_a_worker_that_is_killed_fails_its_day_and_no_other(home):
    write_source(home / "p", make_rows(400, seed=2), day=BAD)
    command = (*RANGE, "--parallel", "2")
    with started(home, *command, SLOW_SECONDS="1") as process:
        until(lambda: chunks_on_disk(home, DAYS[0]) >= 2, seconds=180)
        for worker in psutil.Process(process.pid).children():
            if DAYS[0] in worker.cmdline():
                os.kill(worker.pid, signal.SIGKILL)
        out, err = process.communicate(timeout=240)
    assert process.returncode == 1, out + err
    assert f"{DAYS[0]} failed: the process that scored it was killed by SIGKILL" in err
    assert out.count("  done ") == 3
    assert finish(home, *command).count("  done ") == 1
