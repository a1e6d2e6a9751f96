"""Whether the day that is due will be served in time, and which stage is why not.

It is told what is known of the night, and looks nothing up.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Literal

from batch_assets.planner.clock import NightTimes
from batch_assets.planner.estimate import (
    Estimate,
    Rate,
    Running,
    StageRun,
    expected_end,
    off_by,
    slowest,
    with_interval,
)

Kind = Literal["fine", "unknown", "at_risk", "missed"]
# A night that can't be estimated is at risk from so long before its deadline.
NEAR = timedelta(minutes=30)


@dataclass(frozen=True)
class DeadlineStatus:
    """What is known of one deadline; `stage` is what the night is at, or was late by.

    `stage_seconds` is how long that stage has taken so far, None if it has not begun, and
    `usual_seconds` how long it usually takes, None if that is not known. `ready_at` is
    when the day was served, None if it is not.
    """

    pipeline: str
    day: str
    deadline: datetime
    kind: Kind
    message: str
    expected_ready_at: datetime | None = None
    low: datetime | None = None
    high: datetime | None = None
    ready_at: datetime | None = None
    stage: str | None = None
    stage_seconds: float | None = None
    usual_seconds: float | None = None
    next_command: str | None = None


@dataclass(frozen=True)
class Known:
    """What is known of the nights before: rates, rows, and how far off estimates were.

    `errors` are in seconds, by the stage that was about to begin, oldest first.
    """

    rates: Mapping[str, Rate]
    rows: float | None
    errors: Mapping[str, Sequence[float]] = field(default_factory=dict)

    def estimate(
        self, now: datetime, left: Sequence[str], running: Running | None = None
    ) -> Estimate | None:
        """Return when a night with these stages left will be ready, if that is known."""
        if self.rows is None or not left:
            return None
        end = expected_end(now, left, self.rows, self.rates, running)
        return with_interval(end, self.errors.get(left[0], ())) if end else None

    def usual_seconds(self, stage: str | None) -> float | None:
        """Return how long a stage usually takes for tonight's rows, if that is known."""
        rate = self.rates.get(stage or "")
        if rate is None or self.rows is None:
            return None
        return rate.seconds(self.rows)


@dataclass(frozen=True)
class Night:
    """How far a night is.

    Attributes:
        left: the stages that are left, in their order; empty once the day is served.
        running: the stage at work, if any.
        broken: why the first stage that is left does not go on, if it does not.
        broken_seconds: how long it had taken by then.
        held: why the day is not served though it is built, if so.
        remedy: the command that helps, where it is broken or held.
        ready_at: when the day was served, if that is known.
        runs: the stages that have ended.
        begun: whether anything was done for the day, or is asked for.
    """

    left: Sequence[str]
    running: Running | None = None
    broken: str | None = None
    broken_seconds: float | None = None
    held: str | None = None
    remedy: str | None = None
    ready_at: datetime | None = None
    runs: Sequence[StageRun] = ()
    begun: bool = True


def judge(
    times: NightTimes, day: str, now: datetime, night: Night, known: Known
) -> DeadlineStatus:
    """Judge a day that is due."""
    if not night.left:
        return _served(times, day, night, known)
    stage, running = night.left[0], night.running
    estimate = known.estimate(now, night.left, running)
    deadline = times.deadline(day)
    stuck = night.broken is not None or night.held is not None
    kind: Kind
    if now >= deadline:
        kind = "missed"
    elif stuck or (estimate and estimate.latest > deadline):
        kind = "at_risk"
    elif estimate is None:
        kind = "at_risk" if deadline - now <= NEAR else "unknown"
    else:
        kind = "fine"
    seconds = night.broken_seconds
    if running:
        seconds = (now - running.started_at).total_seconds()
    usual = known.usual_seconds(stage)
    where = _where(stage, night, seconds, usual)
    return DeadlineStatus(
        times.pipeline,
        day,
        deadline,
        kind,
        f"{_head(times, day, now, deadline, kind)}. {where}. "
        f"{_outlook(times, estimate, stage, known, at_work=running is not None)}",
        expected_ready_at=estimate.ready_at if estimate else None,
        low=estimate.low if estimate else None,
        high=estimate.high if estimate else None,
        stage=stage,
        stage_seconds=seconds,
        usual_seconds=usual,
        next_command=night.remedy
        or (None if running else f"batch-assets run {times.pipeline} --day {day}"),
    )


def unscheduled(times: NightTimes, day: str) -> DeadlineStatus:
    """Say that nothing begins the night of a day."""
    kind = "sensor" if times.waits else "schedule"
    return DeadlineStatus(
        times.pipeline,
        day,
        times.deadline(day),
        "unknown",
        f"{times.pipeline} {day}: nothing has begun its night, and {times.begun_by} is "
        f"stopped, so no deadline is watched. Start the {kind} in the UI, or run the day",
        next_command=f"batch-assets run {times.pipeline} --day {day}",
    )


def duration(seconds: float) -> str:
    """Write how long something takes: `4 minutes`, `1 h 50 min`, `12 s`, `0.3 s`."""
    whole = round(abs(seconds))
    if abs(seconds) < 10:
        return f"{abs(seconds):.1f} s"
    if whole < 60:
        return f"{whole} s"
    minutes = round(whole / 60)
    if minutes < 60:
        return f"{minutes} minute{'s' if minutes > 1 else ''}"
    return f"{minutes // 60} h {minutes % 60} min"


def _served(times: NightTimes, day: str, night: Night, known: Known) -> DeadlineStatus:
    deadline, at = times.deadline(day), night.ready_at
    by = f"by {times.written(deadline)}"
    message = f"{times.pipeline} {day} is served, as it was to be {by}"
    late = slowest(night.runs, known.rates) if at and at > deadline else None
    if at and at > deadline:
        message = (
            f"{times.pipeline} {day} was to be served {by}, and was at {times.written(at)}: "
            f"{duration((at - deadline).total_seconds())} late"
        )
    if late:
        run, usual = late
        message += (
            f". {run.stage} took {duration(run.seconds)}, usually {duration(usual)}"
        )
    return DeadlineStatus(
        times.pipeline,
        day,
        deadline,
        "fine",
        message,
        ready_at=at,
        stage=late[0].stage if late else None,
        stage_seconds=late[0].seconds if late else None,
        usual_seconds=late[1] if late else None,
    )


def _head(
    times: NightTimes, day: str, now: datetime, deadline: datetime, kind: Kind
) -> str:
    what = f"{times.pipeline} {day} is to be served by {times.written(deadline)}"
    apart = duration((now - deadline).total_seconds())
    if kind == "missed":
        return f"{what}, and is not: {apart} late"
    if kind == "at_risk":
        return f"{what}, in {apart}, and may not be"
    return f"{what}, in {apart}"


def _where(stage: str, night: Night, seconds: float | None, usual: float | None) -> str:
    usually = f" (usually {duration(usual)})" if usual is not None else ""
    if night.broken:
        took = f" after {duration(seconds)}" if seconds is not None else ""
        where = f"{stage} failed{took}{usually}: {night.broken.rstrip('. ')}"
    elif night.running and seconds is not None:
        where = f"{stage} has been at work for {duration(seconds)}{usually}"
    else:
        where = f"{stage} has not begun{usually}"
    if night.held is None:
        return where
    held = night.held.rstrip(". ")
    return held if len(night.left) == 1 else f"{held}. {where}"


def _outlook(
    times: NightTimes,
    estimate: Estimate | None,
    stage: str,
    known: Known,
    *,
    at_work: bool,
) -> str:
    if estimate is None:
        return (
            "When it will be ready can't be estimated yet: no night before has measured "
            "all that is left"
        )
    said = f"expected at {times.written(estimate.ready_at)}"
    said = f"It is {said}" if at_work else f"If it goes on now, it is {said}"
    if estimate.low and estimate.high:
        low, high = (at.astimezone(times.zone) for at in (estimate.low, estimate.high))
        said += f" ({low:%H:%M} to {high:%H:%M})"
    errors = known.errors.get(stage, ())
    off = off_by(errors)
    if off is None:
        return f"{said}; how far off that is, no night has shown yet"
    nights = min(len(errors), 28)
    return (
        f"{said}; such estimates were off by {duration(off)} in the median of the last "
        f"{nights} night{'s' if nights > 1 else ''}"
    )
