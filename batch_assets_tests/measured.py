"""Nights that were measured, without a night: their rows in the tables of metrics."""

from datetime import UTC, date, datetime, timedelta

from batch_assets.lake.stages import StageMetric, keep_stage, put_row
from batch_assets.lake.tables import Lake
from batch_assets.planner.estimate import ROAD

# In seconds, of 60 rows: a night of 100 minutes.
USUAL = dict(zip(ROAD, (600.0, 1_200.0, 3_600.0, 600.0), strict=True))


def where_it_is_noon(now: datetime) -> str:
    """A time zone in which it is between 12 and 1 p.m., far from any midnight."""
    # By its sign, this family of names counts westwards.
    return f"Etc/GMT{now.astimezone(UTC).hour - 12:+d}"


def days_before(day: str, number: int) -> list[str]:
    last = date.fromisoformat(day)
    return [str(last - timedelta(days=back)) for back in range(number, 0, -1)]


def keep_nights(lake: Lake, *days: str, seconds: dict[str, float] = USUAL) -> None:
    """Nights of 60 rows, one stage right after the other."""
    for day in days:
        at = datetime.fromisoformat(day).replace(tzinfo=UTC) + timedelta(days=1)
        for stage, took in seconds.items():
            keep_stage(lake, StageMetric(day, "job", stage, at, took, 60))
            at += timedelta(seconds=took)


def keep_errors(lake: Lake, stage: str, errors: dict[str, float]) -> None:
    """Estimates of earlier nights, with how far off they were, in seconds."""
    for day, error in errors.items():
        at = datetime.fromisoformat(day).replace(tzinfo=UTC)
        put_row(
            lake.estimate_metrics,
            {
                "day": day,
                "stage": stage,
                "made_at": at,
                "expected_ready_at": at,
                "ready_at": at + timedelta(seconds=error),
                "error_seconds": error,
            },
        )
