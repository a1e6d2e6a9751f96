"""The gates of what is served, in one table, as `quality.gates` has those of a day."""

from dataclasses import dataclass

from batch_assets.lake.tables import Lake
from batch_assets.quality.verdict import Gate
from batch_assets.snapshots.judges import (
    equals_predictions,
    is_served,
    none_overridden,
)
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
    Gate(
        name="no_gate_was_overridden",
        asset="serving_snapshot",
        judge=lambda at: none_overridden(at.lake, at.store, at.day),
        description="The day passed its gates because they were open, and no person let "
        "it pass one that was shut.",
        moved_by="Its readers take the version for stale when the override ends: mend "
        "what shuts the gate and run the day again, or publish another",
        blocking=False,
    ),
)
