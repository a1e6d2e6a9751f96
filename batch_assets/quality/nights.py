"""The nights before a night, as the metric tables have them, and what is put there.

Nights count that were profiled in the same bins and segments, whole, and that no drift has
stopped: a bad night is no measure of the next one.
"""

from collections.abc import Sequence
from datetime import date, timedelta

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from batch_assets.lake.metrics import DRIFT, PROFILE
from batch_assets.lake.parts import Part
from batch_assets.lake.profiles import Profile, add_profiles
from batch_assets.lake.receipts import PredictionsReceipt
from batch_assets.lake.tables import Lake
from batch_assets.models.profiling import rankings_of
from batch_assets.models.reference import psi
from batch_assets.models.release import Manifest
from batch_assets.quality.changes import (
    COVERAGE,
    WEEKS,
    Change,
    Nights,
    coverage_changes,
    coverage_of,
    segment_changes,
    whole_changes,
)
from batch_assets.quality.distances import jensen_shannon, wasserstein
from batch_assets.quality.drift_limits import Judged, judged
from batch_assets.quality.performance.history import write_estimates
from batch_assets.spec import GateLimits


def read_nights(lake: Lake, day: str, profile: Profile) -> Nights:
    """Read the nights that a day can be compared with, of the eight weeks before it."""
    today = date.fromisoformat(day)
    first, last = today - timedelta(weeks=WEEKS), today - timedelta(days=1)
    span = first.isoformat(), last.isoformat()
    rows = lake.profile_metrics.read(*span)
    verdicts = lake.drift_metrics.read(*span)
    stopped = verdicts.filter(pc.equal(verdicts["verdict"], "block"))["day"]
    rows = rows.filter(
        pc.and_(
            pc.and_(
                pc.equal(rows["layout"], profile.layout), pc.invert(rows["is_partial"])
            ),
            pc.invert(
                pc.is_in(rows["day"], value_set=pc.unique(stopped).cast(pa.string()))
            ),
        )
    )
    days = tuple(sorted(pc.unique(rows["day"]).to_pylist()))
    lines = 1 + len(profile.segments)
    counts = {}
    for column in profile.columns:
        of_column = rows.filter(pc.equal(rows["column"], column))["counts"]
        values = of_column.combine_chunks().flatten().to_numpy()
        shape = (len(days), lines, -1) if days else (0, lines, 1)
        counts[column] = values.reshape(shape)
    measured = verdicts.filter(pc.equal(verdicts["measure"], COVERAGE)).to_pylist()
    coverage = {
        name: np.array(
            [
                row["value"]
                for row in measured
                if row["column"] == name and row["day"] in set(days)
            ]
        )
        for name in profile.items
    }
    return Nights(days, counts, coverage)


def profile_of(parts: Sequence[Part[PredictionsReceipt]]) -> Profile | None:
    """Return the profile of a day's predictions; None if any of them has none.

    Of rows that were dead letters first, and are few, none is counted.
    """
    receipts = [part.receipt for part in parts]
    profiles = [one.profile for one in receipts if one.replayed is None]
    known = [one for one in profiles if one]
    if not known or len(known) < len(profiles) or len({p.layout for p in known}) > 1:
        return None
    return add_profiles(known)


def changes_of(
    day: str, profile: Profile, nights: Nights, manifest: Manifest
) -> list[Change]:
    """Return how unlike the nights before a night is: of all rows, and by segment."""
    tonight = profile.counts()
    ordered = {name for name, bins in manifest.profile.items() if bins.ordered}
    return [
        *whole_changes(day, tonight, nights, ordered),
        *segment_changes(tonight, nights, profile.segments, ordered),
        *coverage_changes(coverage_by_ranking(profile, manifest), nights),
    ]


def coverage_by_ranking(profile: Profile, manifest: Manifest) -> dict[str, float]:
    """Return which share of its catalogue each ranking of a night has."""
    words, rankings = manifest.contract.vocabularies, rankings_of(manifest.contract)
    return {
        name: coverage_of(counts[0], len(words[rankings[name].vocabulary]))
        for name, counts in profile.item_counts().items()
    }


def record_night(
    lake: Lake,
    day: str,
    parts: Sequence[Part[PredictionsReceipt]],
    manifest: Manifest,
    limits: GateLimits,
) -> None:
    """Write what a day's columns are like, and how unlike those before, to the tables.

    The gates judge for themselves; this is what later nights and dashboards read.
    """
    profile = profile_of(parts)
    if profile is None:
        return
    job = parts[0].receipt.job
    lake.profile_metrics.write(day, _profile_rows(day, job, profile))
    if profile.partial:
        return
    write_estimates(lake, day, parts, profile)
    nights = read_nights(lake, day, profile)
    changes = changes_of(day, profile, nights, manifest)
    found = judged(changes, manifest.contract.written_names, limits)
    lake.drift_metrics.write(day, _drift_rows(day, job, profile, manifest, found))


def _profile_rows(day: str, job: str, profile: Profile) -> pa.Table:
    columns: dict[str, list[object]] = {name: [] for name in PROFILE.names}
    for column, lines in profile.counts().items():
        for segment, counts in zip((None, *profile.segments), lines, strict=True):
            columns["column"].append(column)
            columns["segment_column"].append(segment and segment.column)
            columns["segment"].append(segment and segment.value)
            columns["rows"].append(int(counts.sum()))
            columns["counts"].append(counts)
    rows = len(columns["column"])
    for name, value in (
        ("day", day),
        ("job", job),
        ("layout", profile.layout),
        ("is_partial", profile.partial),
    ):
        columns[name] = [value] * rows
    return pa.table(columns, schema=PROFILE)


def _drift_rows(
    day: str, job: str, profile: Profile, manifest: Manifest, found: list[Judged]
) -> pa.Table:
    columns: dict[str, list[object]] = {name: [] for name in DRIFT.names}
    for column, lines in profile.counts().items():
        expected = np.asarray(manifest.profile[column].counts)
        for name, distance in (
            ("psi_reference", psi),
            ("jensen_shannon_reference", jensen_shannon),
            ("wasserstein_reference", wasserstein),
        ):
            columns[name].append(float(distance(expected, lines[0])))
        _append(columns, column=column, verdict="fine")
    covered = coverage_by_ranking(profile, manifest)
    judged_too = {one.change.column for one in found if one.change.measure == COVERAGE}
    for name in covered.keys() - judged_too:
        # Too few nights to judge it by: this one is measured all the same.
        _append(
            columns, column=name, measure=COVERAGE, value=covered[name], verdict="fine"
        )
    for one in found:
        change = one.change
        _append(
            columns,
            column=change.column,
            segment_column=change.segment and change.segment.column,
            segment=change.segment and change.segment.value,
            measure=change.measure,
            value=change.value,
            usual=change.usual,
            deviations=change.deviations,
            nights=change.nights,
            verdict=one.effect,
        )
    rows = len(columns["column"])
    columns |= {"day": [day] * rows, "job": [job] * rows}
    return pa.table(columns, schema=DRIFT)


def _append(columns: dict[str, list[object]], **values: object) -> None:
    """Add a row; what it does not say is null."""
    rows = len(columns["column"])
    for name, column in columns.items():
        if name in values:
            column.append(values[name])
        elif len(column) == rows and name not in ("day", "job"):
            column.append(None)
