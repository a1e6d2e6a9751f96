"""The gates of what is served, in one table, as `quality.gates` has those of a day."""

from dataclasses import dataclass

from batch_assets.lake.tables import Lake
from batch_assets.quality.verdict import Gate
from batch_assets.snapshots.judges import equals_predictions, is_served
from batch_assets.snapshots.store import SnapshotStore


@dataclass(frozen=True)
class SnapshotEvidence:
    """A day of the lake, and what is served of it."""

    lake: Lake
    store: SnapshotStore
    day: str


SNAPSHOT_GATES: tuple[Gate[SnapshotEvidence], ...] = (
    Gate(
        name="snapshot_equals_predictions",
        asset="serving_snapshot",
        judge=lambda at: equals_predictions(at.lake, at.store, at.day),
        description="Every row of the day's version is the row that was predicted, and no "
        "other.",
        moved_by="No field of the YAML moves it: run the day again",
        look="run {pipeline} --day {day}",
    ),
    Gate(
        name="snapshot_is_served",
        asset="serving_snapshot",
        judge=lambda at: is_served(at.lake, at.store, at.day),
        description="The day's version, or a newer one, is what readers get.",
        moved_by="No field of the YAML moves it",
        blocking=False,
        look="snapshot history {pipeline}",
    ),
)
