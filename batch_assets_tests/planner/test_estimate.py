"""When a night will be ready, from tables of nights that are written out here."""

from datetime import UTC, datetime, timedelta

import pytest

from batch_assets.planner.estimate import (
    ROAD,
    Rate,
    Running,
    StageRun,
    cost_per_million_rows,
    expected_end,
    off_by,
    rates_of,
    slowest,
    usual_rows,
    with_interval,
)

RAW, VALIDATED, PREDICTIONS, SNAPSHOT = ROAD
MIDNIGHT = datetime(2026, 1, 6, tzinfo=UTC)
TODAY = "2026-02-01"


def minutes(number: float) -> datetime:
    return MIDNIGHT + timedelta(minutes=number)


def night(
    day: str,
    rows: int,
    *seconds: float,
    between: float = 0.0,
    begins: datetime = MIDNIGHT,
) -> list[StageRun]:
    """The stages of a night, one after the other."""
    runs, at = [], begins
    for stage, took in zip(ROAD, seconds, strict=False):
        runs.append(StageRun(day, stage, at, took, rows))
        at += timedelta(seconds=took + between)
    return runs


def nights(table: list[tuple[int, float]], stage: str = PREDICTIONS) -> list[StageRun]:
    """A stage on the days of January, of so many rows in so many seconds."""
    return [
        StageRun(f"2026-01-{day:02d}", stage, MIDNIGHT, seconds, rows)
        for day, (rows, seconds) in enumerate(table, 1)
    ]


@pytest.mark.parametrize(
    ("table", "fixed", "per_row"),
    [
        # Nights alike: all is by the row.
        ([(1_000, 10)], 0, 0.01),
        ([(1_000, 10), (1_010, 12), (990, 9)], 0, 0.01),
        # Nights apart tell the fixed part: 5 s and 1 s for each hundred rows.
        ([(100, 6), (1_000, 15), (2_000, 25)], 5, 0.01),
        ([(100, 6), (1_000, 15), (2_000, 25), (2_000, 900)], 5, 0.01),  # An odd night.
        # No time is less than nothing, whatever nights say.
        ([(1_000, 10), (2_000, 30)], 0, 0.0125),
        ([(1_000, 30), (2_000, 10)], 20, 0),
        # Nights without rows tell nothing of a row.
        ([(0, 3), (1_000, 10)], 0, 0.01),
        ([(0, 3), (0, 5), (0, 4)], 4, 0),
    ],
)
def test_a_rate_is_a_fixed_part_and_so_much_a_row(table, fixed, per_row):
    rate = rates_of(nights(table), TODAY)[PREDICTIONS]

    assert rate.fixed == pytest.approx(fixed, abs=1e-9)
    assert rate.per_row == pytest.approx(per_row)
    assert rate.nights == len(table)


def test_a_rate_is_of_the_newest_fourteen_nights_before_the_day():
    table = [(1_000, 100.0)] * 10 + [(1_000, 10.0)] * 14
    rate = rates_of(nights(table), TODAY)[PREDICTIONS]
    until = rates_of(nights(table), "2026-01-11")[PREDICTIONS]

    assert (rate.nights, rate.seconds(1_000)) == (14, 10)
    assert (until.nights, until.seconds(1_000)) == (10, 100)
    assert rates_of(nights(table), "2026-01-01") == {}


def test_what_passes_between_two_stages_is_part_of_the_night():
    runs = [
        *night("2026-01-01", 100, 60, 60, 60, 60, between=30),
        *night("2026-01-02", 100, 60, 60, 60, 60, between=30),
        # Of these the first stage was made again, hours after the second.
        *(
            run
            for day in ("2026-01-03", "2026-01-04")
            for run in (
                *night(day, 100, 60, begins=minutes(600)),
                *night(day, 100, 60, 60)[1:],
            )
        ),
    ]
    rates = rates_of(runs, TODAY)

    assert {stage: rate.after for stage, rate in rates.items()} == {
        **dict.fromkeys(ROAD[:3], 30),
        SNAPSHOT: 0,
    }
    # Four minutes, and what is between them.
    assert expected_end(MIDNIGHT, ROAD, 100, rates) == minutes(5.5)


def test_the_usual_rows_are_the_median_of_what_came_in():
    runs = [*nights([(100, 1), (300, 1), (200, 1)], RAW), *nights([(9, 1)])]

    assert usual_rows(runs, TODAY) == 200
    assert usual_rows(runs, "2026-01-02") == 100
    assert usual_rows(runs, "2026-01-01") is None


RATES = {
    stage: Rate(0, seconds, 0, 5)  # By the row; the nights here are of 60 rows.
    for stage, seconds in zip(ROAD, (10, 20, 60, 10), strict=True)
}


@pytest.mark.parametrize(
    ("now", "left", "running", "end"),
    [
        (0, ROAD, None, 100),
        (0, ROAD[2:], None, 70),
        (5, ROAD, Running(RAW, minutes(0)), 100),
        (40, ROAD[2:], Running(PREDICTIONS, minutes(30)), 100),
        # Over its time: as long again.
        (91, ROAD[2:], Running(PREDICTIONS, minutes(30)), 102),
        (150, ROAD[2:], Running(PREDICTIONS, minutes(30)), 220),
        # Half of its rows took 20 minutes: at tonight's pace, not the usual one.
        (50, ROAD[2:], Running(PREDICTIONS, minutes(30), 30, minutes(50), 0, minutes(30)), 80),
        # The first 20 were there already, and 10 more took 20 minutes.
        (50, ROAD[2:], Running(PREDICTIONS, minutes(30), 30, minutes(50), 20, minutes(30)), 120),
        # Of so few rows no pace is believed.
        (31, ROAD[2:], Running(PREDICTIONS, minutes(30), 5, minutes(31), 0, minutes(30)), 100),
        # It stood still since: half an hour over what was to be at the 70th minute.
        (100, ROAD[2:], Running(PREDICTIONS, minutes(30), 30, minutes(50), 0, minutes(30)), 140),
        # More rows than expected are no negative time.
        (50, ROAD[2:], Running(PREDICTIONS, minutes(30), 90, minutes(50), 0, minutes(30)), 60),
    ],
)  # fmt: skip
def test_a_night_ends_when_what_is_left_of_it_has_been_done(now, left, running, end):
    assert expected_end(minutes(now), left, 60, RATES, running) == minutes(end)


def test_more_rows_than_usual_are_a_longer_night():
    assert expected_end(MIDNIGHT, ROAD, 120, RATES) == minutes(200)


def test_a_stage_that_was_never_measured_leaves_the_night_unknown():
    rates = {stage: rate for stage, rate in RATES.items() if stage != SNAPSHOT}

    assert expected_end(MIDNIGHT, ROAD, 60, rates) is None
    assert expected_end(MIDNIGHT, ROAD, 60, {}) is None


@pytest.mark.parametrize(
    ("errors", "low", "high"),
    [
        ([60, -60, 0, 0], None, None),  # Too few.
        ([60, -120, 0, 0, 0], -2, 1),
        ([60, 120, 180, 240, 300], 0, 5),  # Always too early: it is not before itself.
        ([-60.0] * 19 + [-6_000.0], -1, 0),  # The 5th percentile, not the worst.
        ([6_000.0] + [60.0] * 28, 0, 1),  # The last 28 alone.
    ],
)
def test_an_interval_is_what_the_estimate_was_off_by(errors, low, high):
    found = with_interval(MIDNIGHT, errors)

    assert found.low == (None if low is None else minutes(low))
    assert found.high == (None if high is None else minutes(high))
    assert found.latest == (found.high or MIDNIGHT)


def test_how_far_estimates_were_off_does_not_know_early_from_late():
    assert off_by([240, -240, 120]) == 240
    assert off_by([6_000.0] * 5 + [60.0] * 28) == 60
    assert off_by([]) is None


def test_the_stage_that_made_a_night_late_is_the_one_most_over_its_time():
    rates = {stage: Rate(60, 0, 0, 5) for stage in ROAD}
    tonight = night(TODAY, 60, 61, 30, 300, 200)

    run, usual = slowest(tonight, rates) or pytest.fail("none")

    assert (run.stage, run.seconds, usual) == (PREDICTIONS, 300, 60)
    assert slowest(night(TODAY, 60, 60, 30), rates) is None
    assert slowest(tonight, {}) is None


def test_a_million_rows_cost_what_their_time_does():
    assert cost_per_million_rows(1_800, 500_000, 4.0) == 4.0
    assert cost_per_million_rows(1_800, 500_000, 0.0) == 0.0
    assert cost_per_million_rows(1_800, 500_000, None) is None
    assert cost_per_million_rows(1_800, 0, 4.0) is None
