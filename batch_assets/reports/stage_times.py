"""How long each stage of a night took, from the table `stage_metrics` of the lake."""

from dataclasses import dataclass
from datetime import datetime

import pyarrow as pa

from batch_assets.lake.metrics import MetricTable
from batch_assets.lake.tables import Lake

STAGES = pa.schema(
    [
        ("day", pa.string()),
        ("job", pa.string()),
        ("stage", pa.string()),
        ("started_at", pa.timestamp("us", "UTC")),
        ("seconds", pa.float64()),
        ("rows", pa.int64()),
        ("device_share", pa.float64()),
    ]
)


@dataclass(frozen=True)
class StageTime:
    """A stage of a night: when it began, its seconds and its rows.

    `device_share` is the share of them in which the device computed, where it is known.
    """

    stage: str
    started_at: datetime
    seconds: float
    rows: int
    device_share: float | None = None


def stage_times(lake: Lake, day: str) -> list[StageTime]:
    """Return the stages of a day in the order in which they began; of each the last run.

    A day whose stages nobody timed has none.
    """
    rows = MetricTable(lake.folder / "stage_metrics", STAGES).read(day, day)
    last = {
        row["stage"]: StageTime(
            row["stage"],
            row["started_at"],
            row["seconds"],
            row["rows"] or 0,
            row["device_share"],
        )
        for row in sorted(rows.to_pylist(), key=lambda row: row["started_at"])
    }
    return sorted(last.values(), key=lambda one: one.started_at)
