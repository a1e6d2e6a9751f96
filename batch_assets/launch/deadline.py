"""What is known of a pipeline's deadline, for whoever asks on the command line."""

from dataclasses import dataclass
from datetime import date, datetime, timedelta

from batch_assets.deadlines import read_known
from batch_assets.errors import PipelineError
from batch_assets.lake.tables import Lake
from batch_assets.launch.runner import PipelineRunner
from batch_assets.planner.clock import NightTimes
from batch_assets.planner.estimate import ROAD, Estimate, off_by
from batch_assets.planner.status import DeadlineStatus
from batch_assets.root import data_root
from batch_assets.sensors.deadlines import NIGHT_TIMES, sensor_name, watch
from batch_assets.snapshots.store import SnapshotStore


@dataclass(frozen=True)
class UsualStage:
    """How long a stage usually takes, for the rows of the night that was asked of."""

    stage: str
    seconds: float
    nights: int


@dataclass(frozen=True)
class NextNight:
    """A night that has not begun: when it will, and when it is expected to be ready."""

    day: str
    begins: datetime
    deadline: datetime
    expected_ready_at: datetime | None
    low: datetime | None
    high: datetime | None


@dataclass(frozen=True)
class DeadlineReport:
    """What is known of a deadline; `off_by_seconds` is the median of past errors."""

    pipeline: str
    ready_by: str
    timezone: str
    statuses: list[DeadlineStatus]
    next_night: NextNight | None
    stages: list[UsualStage]
    off_by_seconds: float | None
    nights: int


def deadline_report(runner: PipelineRunner, now: datetime) -> DeadlineReport:
    """Look up what is known of the deadline of a pipeline.

    Raises:
        PipelineError: there is no such pipeline, or it has no deadline.
    """
    times = night_times(runner)
    name = times.pipeline
    lake, store = Lake(data_root(), name), SnapshotStore(data_root(), name)
    statuses = watch(runner.instance, times, lake, store, now)
    upcoming = _next_day(times, now)
    known = read_known(lake, upcoming or str(times.end_day))
    errors = known.errors.get(ROAD[0], ())
    stages = [
        UsualStage(stage, seconds, known.rates[stage].nights)
        for stage in ROAD
        if (seconds := known.usual_seconds(stage)) is not None
    ]
    begins = times.begins(upcoming) if upcoming else now
    estimate = known.estimate(begins, ROAD)
    return DeadlineReport(
        name,
        times.ready_by,
        times.timezone,
        statuses,
        _next_night(times, upcoming, estimate) if upcoming else None,
        stages,
        off_by(errors),
        min(len(errors), 28),
    )


def night_times(runner: PipelineRunner) -> NightTimes:
    """Return when the nights of a pipeline begin, and by when they are to be ready.

    Raises:
        PipelineError: there is no such pipeline, or it has no deadline.
    """
    runner.days()  # Says so if there is no such pipeline.
    for sensor in runner.definitions.sensors or []:
        if sensor.name == sensor_name(runner.pipeline):
            return NightTimes.model_validate_json(
                str(sensor.metadata[NIGHT_TIMES].value)
            )
    msg = (
        f"{runner.pipeline} has no deadline: say in its YAML by when it is to be served, "
        "such as ready_by: '06:00'"
    )
    raise PipelineError(msg)


def _next_day(times: NightTimes, now: datetime) -> str | None:
    """Return the day whose night begins next; None if there is none left."""
    due = times.due(now)
    if due:
        day = date.fromisoformat(due) + timedelta(days=1)
    elif now < times.begins(str(times.start_day)):
        day = times.start_day
    else:
        return None
    return None if times.end_day and day > times.end_day else str(day)


def _next_night(times: NightTimes, day: str, estimate: Estimate | None) -> NextNight:
    return NextNight(
        day,
        times.begins(day),
        times.deadline(day),
        estimate.ready_at if estimate else None,
        estimate.low if estimate else None,
        estimate.high if estimate else None,
    )
