"""Whether a day has about as many rows as the days before it."""

import statistics

from batch_assets.quality.evidence import DayEvidence
from batch_assets.quality.verdict import Verdict


def volume(evidence: DayEvidence) -> Verdict:
    """Judge the raw rows against the median of the committed days before the day."""
    day, limits, rows_by_day = evidence.day, evidence.limits, evidence.rows_by_day()
    rows = rows_by_day.get(day, 0)
    before = [rows_by_day[d] for d in sorted(rows_by_day) if d < day]
    trailing = before[-limits.volume_days :]
    numbers = {"raw_rows": float(rows), "trailing_days": float(len(trailing))}
    if not trailing:
        why = f"{rows:,} raw rows; no day before it to compare with"
        return Verdict(passed=True, why=why, numbers=numbers)
    median = statistics.median(trailing)
    change = abs(rows - median) / median if median else float(rows > 0)
    numbers |= {
        "trailing_median": float(median),
        "change": change,
        "limit": limits.max_volume_change,
    }
    return Verdict(
        change <= limits.max_volume_change,
        f"{rows:,} raw rows, {change:.0%} off the median {median:,.0f} of the "
        f"{len(trailing)} days before; at most {limits.max_volume_change:.0%} is usual",
        numbers,
    )
