"""When a night will be ready, from how long its stages took on the nights before.

It knows neither tables nor clocks: nights come as values, and so does the time of now.
"""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import combinations

# The stages of a night up to where it is served, in their order.
ROAD = ("raw_features", "validated_features", "predictions", "serving_snapshot")
# Rates are of so many nights, the newest: two weeks forget a machine that is gone.
NIGHTS = 14
# What the fixed part of a stage is told by: nights of which one has so many times the
# rows of the other. Of nights alike it can't be told, and all counts by the row.
APART = 1.5
# So much of a stage must be done before tonight's own pace is believed.
PACE_SHARE = 0.1
# The estimate's own errors make an interval from so many nights on: their 5th to 95th
# percentile, of up to 28.
ENOUGH_ERRORS, ERROR_NIGHTS, TAIL = 5, 28, 0.05


@dataclass(frozen=True)
class StageRun:
    """How long one stage of one night took, for how many rows."""

    day: str
    stage: str
    started_at: datetime
    seconds: float
    rows: int


@dataclass(frozen=True)
class Rate:
    """How long a stage usually takes, in seconds.

    `after` is what usually passes from its end to the begin of the next: its checks.
    """

    fixed: float
    per_row: float
    after: float
    nights: int

    def seconds(self, rows: float) -> float:
        """Return how long it takes for so many rows."""
        return self.fixed + self.per_row * rows


@dataclass(frozen=True)
class Running:
    """A stage at work: since when, and what it has done of its rows.

    `rows` were done by `at`, and the first `before` of them by `counted_from`, which is
    when the work began after what an earlier run had left.
    """

    stage: str
    started_at: datetime
    rows: int = 0
    at: datetime | None = None
    before: int = 0
    counted_from: datetime | None = None


@dataclass(frozen=True)
class Estimate:
    """When a night is expected to be served; `low` and `high` None until errors are known."""

    ready_at: datetime
    low: datetime | None
    high: datetime | None

    @property
    def latest(self) -> datetime:
        """The upper bound, where there is one."""
        return self.high or self.ready_at


def rates_of(runs: Sequence[StageRun], day: str) -> dict[str, Rate]:
    """Return how long each stage usually takes, from the nights of the days before a day."""
    before: dict[str, list[StageRun]] = {}
    for run in sorted(runs, key=lambda run: run.day):
        if run.day < day:
            before.setdefault(run.stage, []).append(run)
    begun = {(run.stage, run.day): run.started_at for run in runs}
    return {
        stage: _rate(some[-NIGHTS:], _next_of(stage), begun)
        for stage, some in before.items()
    }


def usual_rows(runs: Sequence[StageRun], day: str) -> float | None:
    """Return how many rows a night usually takes in; None before the first."""
    rows = [
        run.rows
        for run in sorted(runs, key=lambda run: run.day)
        if run.stage == ROAD[0] and run.day < day
    ]
    return statistics.median(rows[-NIGHTS:]) if rows else None


def expected_end(
    now: datetime,
    left: Sequence[str],
    rows: float,
    rates: Mapping[str, Rate],
    running: Running | None = None,
) -> datetime | None:
    """Return when all stages that are left will have ended; None if a rate is not known.

    Args:
        now: an instant.
        left: the stages, in their order; the first of them may be `running`.
        rows: how many the night takes in.
        rates: of each stage.
        running: the stage at work; without one the first of those left begins now.
    """
    if any(stage not in rates for stage in left):
        return None
    end, after = now, 0.0
    for stage in left:
        rate = rates[stage]
        if running and stage == running.stage:
            end = _end_of(running, now, rate.seconds(rows), rows)
        else:
            end += timedelta(seconds=after + rate.seconds(rows))
        after = rate.after
    return end


def with_interval(expected: datetime, errors: Sequence[float]) -> Estimate:
    """Return an estimate with the interval that its own past errors make.

    Args:
        expected: when the night is expected to be served.
        errors: by how many seconds such estimates were too early, oldest first.
    """
    bounds = error_bounds(errors)
    if bounds is None:
        return Estimate(expected, None, None)
    least, most = bounds
    return Estimate(
        expected,
        expected + timedelta(seconds=least),
        expected + timedelta(seconds=most),
    )


def error_bounds(errors: Sequence[float]) -> tuple[float, float] | None:
    """Return the 5th and 95th percentile of past errors, oldest first; None of too few.

    What was expected is between them: the lower is 0 at most, the upper 0 at least.
    """
    recent = sorted(errors[-ERROR_NIGHTS:])
    if len(recent) < ENOUGH_ERRORS:
        return None
    at = math.floor(TAIL * len(recent))
    return min(recent[at], 0.0), max(recent[-1 - at], 0.0)


def off_by(errors: Sequence[float]) -> float | None:
    """Return by how many seconds the estimates were off in the median, early or late."""
    recent = errors[-ERROR_NIGHTS:]
    return statistics.median(abs(error) for error in recent) if recent else None


def slowest(
    runs: Sequence[StageRun], rates: Mapping[str, Rate]
) -> tuple[StageRun, float] | None:
    """Return the stage that took most longer than it usually does, and its usual time."""
    known = [
        (run, rates[run.stage].seconds(run.rows))
        for run in runs
        if run.stage in rates and run.stage in ROAD
    ]
    longer = [pair for pair in known if pair[0].seconds > pair[1]]
    return max(longer, key=lambda pair: pair[0].seconds - pair[1], default=None)


def cost_per_million_rows(
    seconds: float, rows: int, cost_per_hour: float | None
) -> float | None:
    """Return what a million rows cost; None without a price, or without rows."""
    if cost_per_hour is None or not rows:
        return None
    return seconds / 3600 * cost_per_hour / rows * 1e6


def _next_of(stage: str) -> str | None:
    following = dict(zip(ROAD, ROAD[1:], strict=False))
    return following.get(stage)


def _rate(
    runs: Sequence[StageRun],
    following: str | None,
    begun: Mapping[tuple[str, str], datetime],
) -> Rate:
    gaps = [
        (begun[following, run.day] - run.started_at).total_seconds() - run.seconds
        for run in runs
        if following and (following, run.day) in begun
    ]
    # Of a stage that was run again alone, what follows began before it.
    gaps = [gap for gap in gaps if gap >= 0]
    fixed, per_row = _line([(run.rows, run.seconds) for run in runs])
    return Rate(fixed, per_row, statistics.median(gaps) if gaps else 0.0, len(runs))


def _line(points: Sequence[tuple[int, float]]) -> tuple[float, float]:
    """Fit seconds by rows so that a few odd nights do not matter (Theil and Sen)."""
    with_rows = [(rows, seconds) for rows, seconds in points if rows > 0]
    if not with_rows:
        return statistics.median(seconds for _, seconds in points), 0.0
    per_row = statistics.median(seconds / rows for rows, seconds in with_rows)
    slopes = [
        (many[1] - few[1]) / (many[0] - few[0])
        for few, many in combinations(sorted(with_rows), 2)
        if many[0] >= APART * few[0]
    ]
    if not slopes or (slope := statistics.median(slopes)) >= per_row:
        return 0.0, per_row  # A fixed part of less than nothing there is not.
    slope = max(slope, 0.0)
    fixed = statistics.median(seconds - slope * rows for rows, seconds in with_rows)
    return max(fixed, 0.0), slope


def _end_of(running: Running, now: datetime, usual: float, rows: float) -> datetime:
    """Return when a stage at work ends: by its pace tonight, or else by its usual time.

    One that is over its time is expected to be so as long again: the longer it is late,
    the less is known of it.
    """
    end = running.started_at + timedelta(seconds=usual)
    done = running.rows - running.before
    if running.at and running.counted_from and done >= max(PACE_SHARE * rows, 1):
        pace = (running.at - running.counted_from).total_seconds() / done
        end = running.at + timedelta(seconds=pace * max(rows - running.rows, 0.0))
    return end if end >= now else now + (now - end)
