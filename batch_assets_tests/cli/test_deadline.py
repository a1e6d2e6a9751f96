"""`batch-assets deadline` as a person asks it, before the first night and after some."""

import json
from datetime import UTC, datetime, time, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest

from batch_assets.lake.tables import Lake
from batch_assets.planner.estimate import ROAD
from batch_assets_tests.commands import batch_assets, finish
from batch_assets_tests.measured import (
    days_before,
    keep_errors,
    keep_nights,
    where_it_is_noon,
)
from batch_assets_tests.projects import attributes, write_project
from batch_assets_tests.toys import make_rows, write_source

NOW = datetime.now(UTC)
ZONE = where_it_is_noon(NOW)
TODAY = NOW.astimezone(ZoneInfo(ZONE)).date()
DAY = str(TODAY - timedelta(days=1))


def pipeline(name: str, **changes: object) -> dict[str, object]:
    given = {
        "start_day": days_before(DAY, 30)[0],
        "end_day": str(TODAY),
        "timezone": ZONE,
        "schedule": "0 0 * * *",
        "ready_by": "06:00",
    }
    return attributes(name, **(given | changes))


@pytest.fixture(scope="module")
def home(tmp_path_factory, toy_release) -> Path:
    folder = tmp_path_factory.mktemp("home")
    over = {"end_day": days_before(DAY, 9)[0]}
    pipelines = [pipeline("toy"), attributes("free"), pipeline("over", **over)]
    write_project(folder / "p", "toys_project", pipelines)
    write_source(folder / "p", make_rows(100), day=DAY)
    batch_assets(folder, "release", "add", "toy", str(toy_release.folder))
    batch_assets(folder, "release", "approve", "toy", toy_release.digest, "--why", "ok")
    return folder


def test_before_any_night_it_says_that_it_does_not_know(home):
    text = finish(home, "deadline", "toy")
    over = finish(home, "deadline", "over")

    assert "toy_schedule is stopped" in text
    assert f"next: batch-assets run toy --day {DAY}" in text
    assert f"{TODAY} begins at {TODAY + timedelta(days=1)} 00:00 " in text
    assert "when it will be served can't be estimated yet" in text
    assert over == "no day of over is due\n"


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("free", "free has no deadline: say in its YAML by when it is to be served"),
        ("tyo", "no pipeline is named 'tyo'; declared: free, over, toy"),
    ],
)
def test_what_has_no_deadline_is_a_clear_error(home, name, said):
    assert said in finish(home, "deadline", name, code=1)


def test_it_says_what_is_late_what_is_next_and_how_far_off_it_was(home):
    ready_by = datetime.combine(TODAY, time(6), ZoneInfo(ZONE))
    lake = Lake(home / "root", "toy")
    keep_nights(lake, *days_before(DAY, 6))
    keep_errors(lake, ROAD[0], dict.fromkeys(days_before(DAY, 6), -240.0))
    # A gate is shut: no night goes on by itself.
    rows = make_rows(100)
    bad = rows.set_column(1, "age", [[200] * 100]).cast(rows.schema)
    write_source(home / "p", bad, day=DAY)
    batch_assets(home, "run", "toy", "--day", DAY, code=1)
    done = batch_assets(home, "deadline", "toy", code=1)
    report = json.loads(batch_assets(home, "deadline", "toy", "--json", code=1).stdout)

    assert f"missed: toy {DAY} is to be served by {TODAY} 06:00 " in done.stdout
    assert "predictions failed (usually " in done.stdout
    assert "quarantine_share_is_within_limit" in done.stdout
    assert "such estimates were" not in done.stdout.partition("\nnext:")[2]
    assert "off by 4 minutes in the median of the last 6" in done.stdout
    assert f"{TODAY} begins at {TODAY + timedelta(days=1)} 00:00 " in done.stdout
    for stage, took in zip(ROAD, ("10", "20", "1 h", "10"), strict=True):
        assert f"\n{stage}  " in done.stdout
        assert took in done.stdout

    (status,) = report["statuses"]
    assert (status["kind"], status["stage"]) == ("missed", "predictions")
    # In UTC, which may still have the day before where it is noon.
    assert datetime.fromisoformat(status["deadline"]) == ready_by
    assert [one["stage"] for one in report["stages"]] == list(ROAD)
    assert (report["off_by_seconds"], report["nights"]) == (240, 6)
    assert report["next_night"]["day"] == str(TODAY)
    assert report["next_night"]["low"] < report["next_night"]["expected_ready_at"]
    assert report["next_night"]["high"] == report["next_night"]["expected_ready_at"]
