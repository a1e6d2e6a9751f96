"""What is said of a deadline: whether it is kept, which stage is why not, what to do."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from batch_assets.planner.clock import NightTimes
from batch_assets.planner.estimate import ROAD, Rate, Running, StageRun
from batch_assets.planner.status import Known, Night, duration, judge, unscheduled
from batch_assets_tests.toys import make_spec

DAY = "2026-01-05"
FOUND = NightTimes.of(make_spec(ready_by="06:00", timezone="Europe/Oslo"))
assert FOUND
TIMES = FOUND
DEADLINE = datetime(2026, 1, 6, 5, tzinfo=UTC)
# In minutes by 60 rows: a night of 100.
KNOWN = Known(
    {
        stage: Rate(0, minutes, 0, 5)
        for stage, minutes in zip(ROAD, (10, 20, 60, 10), strict=True)
    },
    60,
)
NEVER = Known({}, None)
AGAIN = "batch-assets run toy --day 2026-01-05"


def before(minutes: float) -> datetime:
    """So long before the deadline; after it if negative."""
    return DEADLINE - timedelta(minutes=minutes)


def scoring_since(minutes: float) -> Night:
    return Night(ROAD[2:], Running("predictions", before(minutes)))


@pytest.mark.parametrize(
    ("now", "night", "known", "kind"),
    [
        # The whole night takes 100 minutes.
        (101, Night(ROAD), KNOWN, "fine"),
        (100, Night(ROAD), KNOWN, "fine"),
        (99, Night(ROAD), KNOWN, "at_risk"),
        (0, Night(ROAD), KNOWN, "missed"),
        # Estimates were five minutes too early at times.
        (103, Night(ROAD), replace(KNOWN, errors={ROAD[0]: [300.0] * 5}), "at_risk"),
        (103, Night(ROAD), replace(KNOWN, errors={ROAD[1]: [300.0] * 5}), "fine"),
        (103, Night(ROAD), replace(KNOWN, errors={ROAD[0]: [300.0] * 4}), "fine"),
        # What is left counts, and since when it is at work.
        (60, scoring_since(80), KNOWN, "fine"),
        (60, scoring_since(65), KNOWN, "at_risk"),
        # An hour over its time, an hour before the deadline.
        (60, scoring_since(180), KNOWN, "at_risk"),
        # Nothing goes on by itself.
        (300, Night(ROAD[2:], broken="no room"), KNOWN, "at_risk"),
        (300, Night(ROAD[3:], held="ada has a doubt"), KNOWN, "at_risk"),
        # Before any night was measured.
        (31, Night(ROAD), NEVER, "unknown"),
        (30, Night(ROAD), NEVER, "at_risk"),
        (-1, Night(ROAD), NEVER, "missed"),
        (300, Night(ROAD), replace(NEVER, rates=KNOWN.rates), "unknown"),
        (300, Night(ROAD, broken="no room"), NEVER, "at_risk"),
        (-1, Night(()), KNOWN, "fine"),
    ],
)
def test_a_deadline_is_at_risk_when_what_is_left_does_not_fit_before_it(
    now, night, known, kind
):
    assert judge(TIMES, DAY, before(now), night, known).kind == kind


def test_a_night_at_work_says_since_when_and_how_long_it_usually_takes():
    status = judge(TIMES, DAY, before(60), scoring_since(65), KNOWN)

    assert (status.pipeline, status.day, status.deadline) == ("toy", DAY, DEADLINE)
    assert (status.stage, status.stage_seconds) == ("predictions", 300)
    assert status.usual_seconds == 3_600
    assert status.expected_ready_at == before(-5)
    assert status.next_command is None
    assert status.message == (
        "toy 2026-01-05 is to be served by 2026-01-06 06:00 CET, in 1 h 0 min, and may "
        "not be. predictions has been at work for 5 minutes (usually 1 h 0 min). "
        "It is expected at 2026-01-06 06:05 CET; how far off that is, no night has shown yet"
    )


def test_an_estimate_says_its_interval_and_how_far_off_it_was():
    errors = {"predictions": [-60.0, 240, 240, 300, 600]}
    status = judge(
        TIMES, DAY, before(60), scoring_since(70), replace(KNOWN, errors=errors)
    )

    assert (status.low, status.high) == (before(1), before(-10))
    assert status.message.endswith(
        "It is expected at 2026-01-06 06:00 CET (05:59 to 06:10); such estimates were off by "
        "4 minutes in the median of the last 5 nights"
    )


def test_a_late_night_that_broke_names_the_stage_the_reason_and_the_command():
    night = Night(ROAD[2:], broken="the disk is full.", broken_seconds=12, remedy=AGAIN)
    status = judge(TIMES, DAY, before(-25), night, KNOWN)

    assert (status.kind, status.stage) == ("missed", "predictions")
    assert (status.stage_seconds, status.next_command) == (12, AGAIN)
    assert status.message == (
        "toy 2026-01-05 is to be served by 2026-01-06 06:00 CET, and is not: 25 minutes "
        "late. predictions failed after 12 s (usually 1 h 0 min): the disk is full. If it "
        "goes on now, it is expected at 2026-01-06 07:35 CET; how far off that is, no "
        "night has shown yet"
    )


def test_a_late_night_that_was_never_begun_says_so():
    status = judge(TIMES, DAY, before(-1), Night(ROAD), NEVER)

    assert (status.stage, status.stage_seconds) == ("raw_features", None)
    assert status.next_command == AGAIN
    assert (
        "raw_features has not begun. When it will be ready can't be" in status.message
    )


def test_what_keeps_a_night_from_readers_is_named_beside_its_stage():
    held = "publishing is blocked until noon by ada: odd scores"
    built = judge(TIMES, DAY, before(9), Night(ROAD[3:], held=held), KNOWN)
    at_work = judge(TIMES, DAY, before(9), Night(ROAD[2:], held=held), KNOWN)

    assert f"not be. {held}. If it goes on now" in built.message
    assert f"{held}. predictions has not begun (usually" in at_work.message


def test_a_night_served_late_names_the_stage_that_took_too_long():
    runs = [
        StageRun(DAY, stage, before(100), minutes * 60.0, 60)
        for stage, minutes in zip(ROAD, (10, 21, 90, 10), strict=True)
    ]
    night = Night((), ready_at=before(-12), runs=runs)
    status = judge(TIMES, DAY, before(-60), night, KNOWN)
    in_time = judge(TIMES, DAY, before(0), replace(night, ready_at=before(1)), KNOWN)

    assert (status.kind, status.stage) == ("fine", "predictions")
    assert (status.stage_seconds, status.usual_seconds) == (5_400, 3_600)
    assert status.message == (
        "toy 2026-01-05 was to be served by 2026-01-06 06:00 CET, and was at 2026-01-06 "
        "06:12 CET: 12 minutes late. predictions took 1 h 30 min, usually 1 h 0 min"
    )
    assert in_time.stage is None
    assert in_time.message == (
        "toy 2026-01-05 is served, as it was to be by 2026-01-06 06:00 CET"
    )


def test_a_stopped_schedule_is_named_and_nobody_is_warned():
    status = unscheduled(TIMES, DAY)

    assert status.kind == "unknown"
    assert "toy_schedule is stopped" in status.message


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0.0 s"),
        (0.26, "0.3 s"),
        (12, "12 s"),
        (59.4, "59 s"),
        (60, "1 minute"),
        (-240, "4 minutes"),
    ]
    + [(3_599, "1 h 0 min"), (6_600, "1 h 50 min"), (90_000, "25 h 0 min")],
)
def test_a_duration_is_written_as_people_say_it(seconds, text):
    assert duration(seconds) == text
