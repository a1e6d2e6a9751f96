"""A night that is preempted, and dead letters replayed: each as a person would type it."""

import json
import os
import signal
import time
from pathlib import Path

import pytest

from batch_assets.lake.tables import Lake
from batch_assets_tests.commands import (
    HOME_ROWS,
    chunks_on_disk,
    finish,
    make_home,
    started,
    wait_for_chunks,
)
from batch_assets_tests.toys import DAY, make_rows
from batch_assets_tests.waiting import until

# Each starts the command several times, and each start imports Dagster and torch.
pytestmark = pytest.mark.slow


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return make_home(tmp_path)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_an_interrupted_night_finishes_its_chunks_says_so_and_goes_on(home, number):
    with started(home, "run", "toy", "--day", DAY, SLOW_SECONDS="1") as process:
        wait_for_chunks(home, process, 2)
        time.sleep(0.4)  # Between two chunks of a worker there is none in flight.
        done = chunks_on_disk(home)
        process.send_signal(number)
        _, err = process.communicate(timeout=60)

    assert process.returncode == 130
    # Those in flight had time to finish; the others were not begun.
    left = chunks_on_disk(home)
    assert done < left <= done + 2 * len(os.sched_getaffinity(0))
    assert f"{left} of" in err
    assert "done and stay on disk, nothing was committed" in err
    assert Lake(home / "root", "toy").predictions.rows_by_day() == {}

    report = json.loads(finish(home, "run", "toy", "--day", DAY, "--json"))
    assert report["success"]
    assert report["scored_rows"] == HOME_ROWS
    assert report["resumed_chunks"] == left


def test_chunks_that_take_longer_than_the_grace_period_are_abandoned(home):
    """Also those whose model hangs: a stuck thread does not keep the process."""
    asked = home / "asked"
    told = {"SLOW_SECONDS": "600", "ASKED": str(asked)}
    with started(home, "run", "toy", "--day", DAY, **told) as process:
        until(asked.exists, seconds=180)
        begin = time.monotonic()
        process.send_signal(signal.SIGTERM)
        _, err = process.communicate(timeout=60)

    assert process.returncode == 130, err
    assert time.monotonic() - begin < 20
    assert "0 of" in err
    assert json.loads(finish(home, "run", "toy", "--day", DAY, "--json"))["success"]


def test_dead_letters_are_listed_and_replayed(home):
    finish(home, "run", "toy", "--day", DAY, BROKEN_AGES="7 11")

    listed = finish(home, "dead-letters", "list", "toy", "--day", DAY, "--limit", "3")
    letters = json.loads(
        finish(home, "dead-letters", "list", "toy", "--day", DAY, "--json")
    )
    rows = make_rows(HOME_ROWS)
    bad = {
        key
        for key, age in zip(
            rows["user_id"].to_pylist(), rows["age"].to_pylist(), strict=True
        )
        if age in (7, 11)
    }
    assert {letter["user_id"] for letter in letters} == bad
    assert {letter["reason"] for letter in letters} == {
        "KeyError: 'no table for age 7'",
        "KeyError: 'no table for age 11'",
    }
    assert all(letter["age"] in (7.0, 11.0) for letter in letters)
    assert f"{len(bad)} dead letters; most often" in listed
    assert f"and {len(bad) - 3} more" in listed
    key = str(min(bad))
    finish(home, "lookup", "toy", key, code=1)

    said = finish(home, "dead-letters", "replay", "toy", "--day", DAY)

    assert f"{len(bad)} of {len(bad)} dead letters are scored now, 0 are left" in said
    finish(home, "lookup", "toy", key)
    finish(home, "books", "toy", "--day", DAY)
    again = json.loads(
        finish(home, "dead-letters", "replay", "toy", "--day", DAY, "--json")
    )
    assert (again["success"], again["rescued_rows"]) == (True, 0)
    assert "no dead letters" in finish(
        home, "dead-letters", "list", "toy", "--day", DAY
    )


@pytest.mark.parametrize("command", ["list", "replay"])
def test_dead_letters_of_a_day_that_was_not_scored_are_an_error(home, command):
    (home / "root" / "lake" / "toy").mkdir(parents=True)

    said = finish(home, "dead-letters", command, "toy", "--day", DAY, code=1)

    assert DAY in said
    assert "is not committed" in said or "nothing to replay" in said
