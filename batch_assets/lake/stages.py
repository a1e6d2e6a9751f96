"""What a night says of its stages: which is at work, how far it is, how long each took.

    <root>/lake/<pipeline>/.stages/<day>.json     the stage at work, or the one that broke
    <root>/lake/<pipeline>/stage_metrics          how long each stage of each day took

It knows neither what a stage does nor how long it should take.
"""

from dataclasses import dataclass
from datetime import datetime

import pyarrow as pa
from pydantic import AwareDatetime, ValidationError

from batch_assets.lake.metrics import STAGE, MetricTable
from batch_assets.lake.tables import Lake
from batch_assets.storage import (
    StoragePath,
    exclusive,
    read_versioned,
    replace_if_unchanged,
)
from batch_assets.strict import StrictModel


class StageState(StrictModel):
    """The stage of a day that is at work, or that broke.

    `rows` were done by `at`; `before` of them were done already by `counted_from`, when
    an earlier run had left them. `failed` says why it broke, at `at`.
    """

    stage: str
    run: str
    started_at: AwareDatetime
    at: AwareDatetime
    rows: int = 0
    before: int = 0
    counted_from: AwareDatetime | None = None
    failed: str | None = None


@dataclass(frozen=True)
class StageMetric:
    """How long a stage of a day took, and for how many rows."""

    day: str
    job: str
    stage: str
    started_at: datetime
    seconds: float
    rows: int
    device_share: float | None = None


def read_state(lake: Lake, day: str) -> StageState | None:
    """Return which stage of a day is at work or broke; None if none is, or it is not known."""
    data = read_versioned(_path(lake, day)).data
    try:
        return StageState.model_validate_json(data) if data else None
    except (
        ValidationError
    ):  # Torn, or of another version: it is no evidence of anything.
        return None


def write_state(lake: Lake, day: str, state: StageState | None) -> None:
    """Say which stage of a day is at work or broke, or that none is."""
    path = _path(lake, day)
    data = state.model_dump_json(exclude_none=True).encode() if state else b""
    with exclusive(path.parent):
        while replace_if_unchanged(path, data, seen=read_versioned(path)) is None:
            continue


def keep_stage(lake: Lake, metric: StageMetric) -> None:
    """Keep how long a stage took, in the place of what was kept of it for that day.

    Only for whoever holds the day's claim. All stages of a day lie in one file.
    """
    put_row(lake.stage_metrics, vars(metric))


def put_row(table: MetricTable, row: dict[str, object]) -> None:
    """Put the row of a day and a stage in its place among those of the day."""
    day = str(row["day"])
    others = [
        other for other in table.left(day).to_pylist() if other["stage"] != row["stage"]
    ]
    table.write(day, pa.Table.from_pylist([*others, row], schema=table.schema))


def stage_metrics(lake: Lake, first: str, last: str) -> list[StageMetric]:
    """Return what was kept of the days from the first to the last, by day."""
    rows = lake.stage_metrics.read(first, last).select(STAGE.names).to_pylist()
    return [StageMetric(**row) for row in rows]


def stages_of(lake: Lake, day: str) -> list[StageMetric]:
    """Return what was kept of a day, in the order in which its stages began."""
    stages = stage_metrics(lake, day, day)
    return sorted(stages, key=lambda stage: stage.started_at)


def _path(lake: Lake, day: str) -> StoragePath:
    return lake.folder / ".stages" / f"{day}.json"
