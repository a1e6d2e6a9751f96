"""Past nights, planned from the nights before each: how far off a plan is.

It knows no tables: nights come as values.
"""

import statistics
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from batch_assets.planner.estimate import ROAD, StageRun, expected_end, rates_of


@dataclass(frozen=True)
class PastPlan:
    """A night as it would have been planned, and as it was, in seconds.

    `error_share` is by what share of the plan the night took longer, below 0 shorter.
    `nights` are those before it that it was planned from.
    """

    day: str
    rows: int
    predicted_seconds: float
    actual_seconds: float
    error_share: float
    nights: int


@dataclass(frozen=True)
class StageError:
    """By what share a stage took longer than it was planned, in the median of nights."""

    stage: str
    off_by_share: float
    nights: int


def past_plans(runs: Sequence[StageRun]) -> tuple[list[PastPlan], list[str]]:
    """Plan each night from those before it.

    Returns:
        The plans by day, and the days that tell nothing: a stage is missing, or was run
        again later, so that what it took is not what a night takes.
    """
    nights: dict[str, dict[str, StageRun]] = defaultdict(dict)
    for run in runs:
        nights[run.day][run.stage] = run
    told, left_out = [], []
    for day in sorted(nights):
        night = [nights[day][stage] for stage in ROAD if stage in nights[day]]
        rates = rates_of(runs, day)
        if not _is_whole(night):
            left_out.append(day)
        elif all(stage in rates for stage in ROAD):
            told.append(_plan(night, runs))
    return told, left_out


def stage_errors(runs: Sequence[StageRun], days: Sequence[str]) -> list[StageError]:
    """Return how far off the plan of each stage was, of the nights of some days."""
    errors: dict[str, list[float]] = defaultdict(list)
    for run in runs:
        rate = rates_of(runs, run.day).get(run.stage) if run.day in days else None
        if rate and (planned := rate.seconds(run.rows)):
            errors[run.stage].append(abs(run.seconds / planned - 1))
    return [
        StageError(stage, statistics.median(errors[stage]), len(errors[stage]))
        for stage in ROAD
        if stage in errors
    ]


def off_by_share(errors: Sequence[float]) -> float | None:
    """Return by what share plans were off in the median, too long or too short."""
    return statistics.median(abs(error) for error in errors) if errors else None


def _is_whole(night: Sequence[StageRun]) -> bool:
    """Whether these are all stages, one after the other, each of all the rows of it."""
    if [run.stage for run in night] != list(ROAD):
        return False
    ends = [_end(run) for run in night]
    begins = [run.started_at.timestamp() for run in night]
    return all(end <= begin + 1.0 for end, begin in zip(ends, begins[1:], strict=False))


def _plan(night: Sequence[StageRun], runs: Sequence[StageRun]) -> PastPlan:
    first, last = night[0], night[-1]
    rates = rates_of(runs, first.day)
    begin: datetime = first.started_at
    end = expected_end(begin, ROAD, first.rows, rates)
    assert end is not None  # Each stage has a rate.
    predicted = (end - begin).total_seconds()
    actual = _end(last) - begin.timestamp()
    return PastPlan(
        first.day,
        first.rows,
        predicted,
        actual,
        actual / predicted - 1 if predicted else 0.0,
        min(rates[stage].nights for stage in ROAD),
    )


def _end(run: StageRun) -> float:
    return run.started_at.timestamp() + run.seconds
