"""When the night of a day begins, and by when the day is to be served.

Days and times of day are the pipeline's, instants are in UTC. It reads no clock.
"""

from datetime import UTC, date, datetime, time, timedelta
from typing import Any, Self
from zoneinfo import ZoneInfo

from batch_assets.spec import PipelineSpec
from batch_assets.spec.schedules import (
    HOUR,
    is_next_morning,
    minute_of,
    minute_of_clock,
)
from batch_assets.strict import StrictModel

ONE_DAY = timedelta(days=1)


class NightClock(StrictModel):
    """When the nights of a pipeline begin, at the earliest, and what begins them."""

    pipeline: str
    timezone: str
    schedule: str
    start_day: date
    end_day: date | None = None
    waits: bool = False

    @classmethod
    def of_nights(cls, spec: PipelineSpec) -> "NightClock":
        """Return that of a pipeline."""
        return NightClock(**_of(spec))

    @property
    def begun_by(self) -> str:
        """The name of what begins the nights: a schedule, or a sensor that waits."""
        kind = "wait_sensor" if self.waits else "schedule"
        return f"{self.pipeline}_{kind}"

    @property
    def zone(self) -> ZoneInfo:
        return ZoneInfo(self.timezone)

    def begins(self, day: str) -> datetime:
        """Return when the schedule begins the night of a day: after the day has ended.

        Where the clock shows the time twice it is the second, where it skips it the end
        of the gap, as Dagster's schedules have it.
        """
        on = date.fromisoformat(day) + ONE_DAY
        wall = _wall(on, minute_of(self.schedule), self.zone)
        if not _exists(wall):
            wall = _end_of_gap(wall)
        return wall.astimezone(UTC)

    def ended(self, day: str) -> datetime:
        """Return when a day has ended."""
        on = date.fromisoformat(day) + ONE_DAY
        return datetime.combine(on, time(), self.zone).astimezone(UTC)

    def due(self, now: datetime) -> str | None:
        """Return the day whose night has begun last; None before the first or after the last.

        A day is due until the night of the next day begins.
        """
        day = now.astimezone(self.zone).date() - ONE_DAY
        if now < self.begins(str(day)):
            day -= ONE_DAY
        if day < self.start_day or (self.end_day and day > self.end_day):
            return None
        return str(day)

    def written(self, at: datetime) -> str:
        """Write an instant as a clock in the pipeline's zone shows it."""
        return f"{at.astimezone(self.zone):%Y-%m-%d %H:%M %Z}"


class NightTimes(NightClock):
    """When the nights of a pipeline begin, and by when each is to be ready."""

    ready_by: str

    @classmethod
    def of(cls, spec: PipelineSpec) -> Self | None:
        """Return those of a pipeline; None if it has no deadline."""
        if spec.ready_by is None:
            return None
        return cls(**_of(spec), ready_by=spec.ready_by)

    def deadline(self, day: str) -> datetime:
        """Return by when a day is to be served.

        It is on the date on which its night begins, or on the next where `ready_by` is
        before the time of the schedule. Where the clock shows the time twice it is the
        second; where it skips it, as long after the gap as the time is into it.
        """
        days = 2 if is_next_morning(self.schedule, self.ready_by) else 1
        on = date.fromisoformat(day) + days * ONE_DAY
        wall = _wall(on, minute_of_clock(self.ready_by), self.zone)
        # Of a time in a gap that is the offset before it.
        return (wall if _exists(wall) else wall.replace(fold=0)).astimezone(UTC)


def _of(spec: PipelineSpec) -> dict[str, Any]:
    return {
        "pipeline": spec.name,
        "timezone": spec.timezone,
        "schedule": spec.schedule,
        "start_day": spec.start_day,
        "end_day": spec.end_day,
        "waits": spec.waits,
    }


def _wall(on: date, minute: int, zone: ZoneInfo) -> datetime:
    return datetime.combine(on, time(minute // HOUR, minute % HOUR, fold=1), zone)


def _exists(wall: datetime) -> bool:
    back = wall.astimezone(UTC).astimezone(wall.tzinfo)
    return back.replace(tzinfo=None) == wall.replace(tzinfo=None)


def _end_of_gap(wall: datetime) -> datetime:
    """Return the first moment after the gap that a time of day falls into."""
    gap = wall.replace(fold=0).utcoffset(), wall.replace(fold=1).utcoffset()
    before, after = (offset or timedelta() for offset in gap)
    # By the offset before the gap it is as long after the gap's begin as it is into it.
    at = wall.replace(fold=0).astimezone(UTC)
    earliest = at - (after - before)
    low, high = int(earliest.timestamp()) // 60, int(at.timestamp()) // 60
    while high - low > 1:
        middle = (low + high) // 2
        then = datetime.fromtimestamp(middle * 60, wall.tzinfo)
        low, high = (low, middle) if then.utcoffset() == after else (middle, high)
    return datetime.fromtimestamp(high * 60, wall.tzinfo)
