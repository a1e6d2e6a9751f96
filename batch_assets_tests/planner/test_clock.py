"""When nights begin and end, on every clock: also where it shows two at night twice."""

from datetime import UTC, date, datetime, timedelta
from itertools import islice
from zoneinfo import ZoneInfo

import pytest
from dagster._utils.schedules import schedule_execution_time_iterator

from batch_assets.planner.clock import NightTimes
from batch_assets_tests.toys import make_spec


def times(**changes: object) -> NightTimes:
    given = {"ready_by": "06:00", "timezone": "Europe/Oslo"} | changes
    found = NightTimes.of(make_spec(**given))
    assert found
    return found


def test_a_pipeline_without_ready_by_has_no_times():
    assert NightTimes.of(make_spec()) is None


@pytest.mark.parametrize(
    ("zone", "day", "schedule", "ready_by", "begins", "deadline"),
    [
        # In UTC, what a clock on a wall there shows.
        ("UTC", "2026-01-05", "30 0", "06:00", "2026-01-06 00:30", "2026-01-06 06:00"),
        ("Europe/Oslo", "2026-01-05", "30 0", "06:00", "2026-01-05 23:30", "2026-01-06 05:00"),
        ("Europe/Oslo", "2026-07-05", "30 0", "06:00", "2026-07-05 22:30", "2026-07-06 04:00"),
        ("America/New_York", "2026-01-05", "30 0", "06:00", "2026-01-06 05:30", "2026-01-06 11:00"),
        # A night that begins in the evening is ready on the next date.
        ("UTC", "2026-01-05", "0 23", "06:00", "2026-01-06 23:00", "2026-01-07 06:00"),
        ("Europe/Oslo", "2026-01-05", "0 12", "11:59", "2026-01-06 11:00", "2026-01-07 10:59"),
        # The night of two 2 a.m.s is an hour longer, the one without is one shorter.
        ("Europe/Oslo", "2026-10-24", "30 0", "06:00", "2026-10-24 22:30", "2026-10-25 05:00"),
        ("Europe/Oslo", "2026-03-28", "30 0", "06:00", "2026-03-28 23:30", "2026-03-29 04:00"),
        ("America/New_York", "2026-10-31", "30 0", "06:00", "2026-11-01 04:30", "2026-11-01 11:00"),
        ("America/New_York", "2026-03-07", "30 0", "06:00", "2026-03-08 05:30", "2026-03-08 10:00"),
        # Of a time that comes twice it is the second.
        ("Europe/Oslo", "2026-10-24", "15 2", "02:45", "2026-10-25 01:15", "2026-10-25 01:45"),
        ("America/New_York", "2026-10-31", "15 1", "01:45", "2026-11-01 06:15", "2026-11-01 06:45"),
        # One that does not come: the night begins when the gap ends, and is ready as long
        # after as it is into the gap.
        ("Europe/Oslo", "2026-03-28", "15 2", "02:45", "2026-03-29 01:00", "2026-03-29 01:45"),
        ("America/New_York", "2026-03-07", "15 2", "02:45", "2026-03-08 07:00", "2026-03-08 07:45"),
        # Half an hour, on Lord Howe.
        ("Australia/Lord_Howe", "2026-10-03", "15 2", "06:00", "2026-10-03 15:30", "2026-10-03 19:00"),
    ],
)  # fmt: skip
def test_a_night_begins_and_is_due_as_the_clock_on_the_wall_says(
    zone, day, schedule, ready_by, begins, deadline
):
    night = times(timezone=zone, schedule=f"{schedule} * * *", ready_by=ready_by)

    assert f"{night.begins(day):%Y-%m-%d %H:%M}" == begins
    assert f"{night.deadline(day):%Y-%m-%d %H:%M}" == deadline
    assert night.begins(day).tzinfo is night.deadline(day).tzinfo is UTC


@pytest.mark.parametrize(
    "zone",
    ["Europe/Oslo", "America/New_York", "Australia/Lord_Howe", "Asia/Kathmandu"],
)
@pytest.mark.parametrize("at", ["30 0", "0 2", "15 2", "59 2", "0 3", "30 23"])
def test_nights_begin_when_dagster_begins_them(zone, at):
    cron = f"{at} * * *"
    night = times(
        timezone=zone, schedule=cron, ready_by="23:45", start_day="2025-12-01"
    )
    year = datetime(2026, 1, 1, tzinfo=UTC).timestamp()
    ticks = schedule_execution_time_iterator(year, cron, zone, ascending=True)

    for tick in islice(ticks, 366):
        day = str(tick.astimezone(ZoneInfo(zone)).date() - timedelta(days=1))
        assert night.begins(day).timestamp() == tick.timestamp()
        assert night.due(tick) == day
        # A moment before, it was the turn of the day before.
        before = night.due(tick.astimezone(UTC) - timedelta(seconds=1))
        assert before == str(date.fromisoformat(day) - timedelta(days=1))


def at(text: str) -> datetime:
    return datetime.fromisoformat(text).astimezone(UTC)


@pytest.mark.parametrize(
    ("now", "due"),
    [
        ("2026-01-02T00:29+01:00", None),  # Before the first night.
        ("2026-01-02T00:30+01:00", "2026-01-01"),
        ("2026-01-03T00:29+01:00", "2026-01-01"),
        ("2026-01-03T00:30+01:00", "2026-01-02"),
        ("2026-02-01T00:30+01:00", "2026-01-31"),  # The last.
        ("2026-02-02T00:29+01:00", "2026-01-31"),
        ("2026-02-02T00:30+01:00", None),  # Nobody is warned for ever.
        ("2036-01-01T12:00+01:00", None),
    ],
)
def test_a_day_is_due_from_its_night_to_the_next_and_none_after_the_last(now, due):
    assert times(end_day="2026-01-31").due(at(now)) == due


def test_an_instant_is_written_as_the_wall_shows_it_with_its_zone():
    first, second = at("2026-10-25T02:30+02:00"), at("2026-10-25T02:30+01:00")

    assert times().written(first) == "2026-10-25 02:30 CEST"
    assert times().written(second) == "2026-10-25 02:30 CET"


def test_times_are_the_same_once_they_were_written_down():
    night = times(end_day="2026-01-31")

    assert NightTimes.model_validate_json(night.model_dump_json()) == night
