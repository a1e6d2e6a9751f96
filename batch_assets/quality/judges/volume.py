"""Whether a day has about as many rows as the days before it, and as its weekday has."""

import calendar
import statistics
from collections.abc import Mapping
from typing import NamedTuple

from batch_assets.quality.changes import ENOUGH_WEEKS, weekday_of
from batch_assets.quality.evidence import DayEvidence
from batch_assets.quality.verdict import Verdict
from batch_assets.spec import GateLimits

# How far off a day may be, in standard deviations of what its weekdays are off, and in
# shares; a day is off its weekday's median by chance alone.
DEVIATIONS, LEAST_LIMIT = 6.0, 0.05
# Of a normal distribution: standard deviation over the median of what is off.
OF_MEDIAN = 1.4826


class Usual(NamedTuple):
    """What is usual: the median, how far off it is no fault, and of which days."""

    median: float
    limit: float
    days: int
    what: str


def volume(evidence: DayEvidence) -> Verdict:
    """Judge the raw rows against the median of the committed days before the day.

    Where there are enough of them, the days are those of the same weekday, and how far
    off they are by themselves says how far this one may be.
    """
    if evidence.limits.volume == "off":
        return Verdict(passed=True, why="not judged: gates.volume is off")
    day, rows_by_day = evidence.day, evidence.rows_by_day()
    rows = rows_by_day.get(day, 0)
    usual = usual_rows(day, rows_by_day, evidence.limits)
    numbers = {"raw_rows": float(rows), "trailing_days": float(usual.days)}
    if not usual.days:
        why = f"{rows:,} raw rows; no day before it to compare with"
        return Verdict(passed=True, why=why, numbers=numbers)
    change = (
        abs(rows - usual.median) / usual.median if usual.median else float(rows > 0)
    )
    numbers |= {
        "trailing_median": usual.median,
        "change": change,
        "limit": usual.limit,
    }
    return Verdict(
        change <= usual.limit,
        f"{rows:,} raw rows, {change:.0%} off the median {usual.median:,.0f} of the "
        f"{usual.days} {usual.what} before; at most {usual.limit:.0%} is usual",
        numbers,
        blocks=evidence.limits.volume == "block",
    )


def usual_rows(day: str, rows_by_day: Mapping[str, int], limits: GateLimits) -> Usual:
    """Return what is usual for a day, from the rows of the days before it."""
    before = [d for d in sorted(rows_by_day) if d < day]
    weekday = weekday_of(day)
    by_weekday: dict[int, list[int]] = {}
    for one in before[-2 * limits.volume_days :]:
        by_weekday.setdefault(weekday_of(one), []).append(rows_by_day[one])
    same = by_weekday.get(weekday, [])
    if len(same) < ENOUGH_WEEKS:
        trailing = [rows_by_day[one] for one in before[-limits.volume_days :]]
        median = float(statistics.median(trailing)) if trailing else 0.0
        return Usual(median, limits.max_volume_change, len(trailing), "days")
    off = [
        abs(rows / median - 1)
        for each in by_weekday.values()
        if (median := statistics.median(each))
        for rows in each
    ]
    learned = DEVIATIONS * OF_MEDIAN * statistics.median(off) if off else LEAST_LIMIT
    limit = min(max(learned, LEAST_LIMIT), limits.max_volume_change)
    return Usual(
        float(statistics.median(same)),
        limit,
        len(same),
        f"{calendar.day_name[weekday]}s",
    )
