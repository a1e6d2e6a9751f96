"""How far outputs and columns were from what is usual, night by night.

The nights are those of `drift_metrics`; tonight's limits are those that its gate judged by.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from datetime import date, timedelta
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from batch_assets.lake.tables import Lake
from batch_assets.quality.changes import ENOUGH_NIGHTS, WEEKS
from batch_assets.reports.facts import Drift, FarColumn, NightPoint, OutputDrift
from batch_assets.reports.verdicts import GateLine

# So many columns are listed, the furthest first.
FURTHEST = 8
WORST = ("fine", "warn", "block")


def drift_of(
    lake: Lake, day: str, outputs: Sequence[str], gates: Sequence[GateLine]
) -> Drift:
    """Return what is known of drift, up to a day.

    Args:
        lake: the pipeline's tables.
        day: the day.
        outputs: the columns of the release's outputs.
        gates: what those of the day say.
    """
    first = str(date.fromisoformat(day) - timedelta(weeks=WEEKS))
    rows = lake.drift_metrics.read(first, day)
    tonight = pc.equal(rows["day"], day)
    # Of a pipeline with many segments most rows are of these, and of other nights.
    whole = pc.and_(
        pc.is_null(rows["segment_column"]),
        pc.is_in(rows["column"], value_set=pa.array(outputs, pa.string())),
    )
    by_day: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for row in rows.filter(whole).to_pylist():
        by_day[row["day"]].append(row)
    numbers = {name: n for line in gates for name, n in line.numbers.items()}
    found = []
    for name in outputs:
        nights = tuple(
            point
            for one, rows in by_day.items()
            if (point := _point(one, name, rows)) is not None
        )
        if nights or f"{name}_warns_above" in numbers:
            found.append(
                OutputDrift(
                    name,
                    nights,
                    numbers.get(f"{name}_psi") if _has_limits(name, numbers) else None,
                    numbers.get(f"{name}_warns_above"),
                    numbers.get(f"{name}_blocks_above"),
                )
            )
    return Drift(
        tuple(found),
        tuple(_furthest(rows.filter(tonight))),
        len(by_day.keys() - {day}),
        ENOUGH_NIGHTS,
    )


def _has_limits(name: str, numbers: Mapping[str, float]) -> bool:
    # Another gate has a `_psi` of its own, against the nights before.
    return f"{name}_warns_above" in numbers


def _point(day: str, output: str, rows: Sequence[dict[str, Any]]) -> NightPoint | None:
    """A night's index of an output, with the worst that was said of it that night."""
    own = [row for row in rows if row["column"] == output]
    index = next(
        (r["psi_reference"] for r in own if r["psi_reference"] is not None), None
    )
    if index is None:
        return None
    worst = max((r["verdict"] for r in own), key=WORST.index)
    return NightPoint(day, index, worst)


def _furthest(rows: pa.Table) -> list[FarColumn]:
    """The columns and segments of a day that are furthest from what is usual."""
    judged = rows.filter(
        pc.and_(pc.is_valid(rows["measure"]), pc.is_valid(rows["deviations"]))
    ).to_pylist()
    judged.sort(key=lambda r: (-WORST.index(r["verdict"]), -r["deviations"]))
    return [
        FarColumn(
            row["column"],
            f"{row['segment_column']} {row['segment']}" if row["segment"] else None,
            row["measure"],
            row["value"],
            row["usual"],
            row["deviations"],
            row["verdict"],
        )
        for row in judged[:FURTHEST]
    ]
