"""What is said of a day once it is published: is it served, and is it what was predicted.

Each is read from the files anew; it knows nothing of how a version is built or swapped.
"""

from batch_assets.lake.delta_table import digest_of
from batch_assets.lake.reconciliation import ControlTotal, total_of
from batch_assets.lake.tables import Lake
from batch_assets.parallel import Report, on_cores
from batch_assets.quality.verdict import Verdict
from batch_assets.snapshots.build import shard_rows
from batch_assets.snapshots.manifest import day_of
from batch_assets.snapshots.proof import evidence_of, expected_of, rows_of
from batch_assets.snapshots.store import CURRENT, SnapshotStore
from batch_assets.snapshots.version import Version


def is_served(lake: Lake, store: SnapshotStore, day: str) -> Verdict:
    """Judge whether readers get a day's version, or a newer one, and why not.

    It warns and does not block: a person wanted it so, and the night is well.
    """
    current, pinned = store.pointer(CURRENT).version_or_none(), store.pinned()
    newer = current is not None and day_of(current) > day
    passed = not pinned and (newer or current in _built(lake, store, day))
    why = f"{current or 'nothing'} is served"
    if pinned:
        why = (
            f"readers are pinned to {pinned}, whatever is published. To end it: "
            f"batch-assets snapshot unpin {store.pipeline} --why …"
        )
    elif not passed:
        why += f", and not {day}. "
        if reason := store.held_back(day):
            unblock = f"batch-assets snapshot unblock {store.pipeline} --why …"
            why += f"{reason}. To end it: {unblock}, then run the day again"
        else:
            why += "Run the day again"
    facts = {"current": current or "nothing", "pinned": pinned or "nothing"}
    return Verdict(passed, why, facts=facts)


def none_overridden(lake: Lake, store: SnapshotStore, day: str) -> Verdict:
    """Judge whether a day's version was published though a gate was shut, and by whom."""
    built = _built(lake, store, day)
    overrides = store.manifest(built[-1]).overrides if built else ()
    if not overrides:
        return Verdict(True, "no gate was overridden", {"overridden_gates": 0.0})
    return Verdict(
        False,
        "; ".join(f"{one.gate} is {one}" for one in overrides),
        {"overridden_gates": float(len(overrides))},
        {
            one.gate: f"{one.by} until {one.until:%Y-%m-%d %H:%M} UTC"
            for one in overrides
        },
    )


def equals_predictions(lake: Lake, store: SnapshotStore, day: str) -> Verdict:
    """Judge whether a day's version holds every row that was predicted, and no other."""
    parts = lake.predictions.parts(day)
    served = store.pointer(CURRENT).version_or_none()
    built = _built(lake, store, day)
    if not built:
        newer = served is not None and day_of(served) > day
        why = f"{served or 'nothing'} is served, and no version of {day} is on disk"
        return Verdict(newer, why, facts={"served": served or "nothing"})
    snapshot = Version.open(store, served if served in built else built[-1])
    manifest = snapshot.manifest

    def is_alike(number: int, _: Report) -> bool:
        rows, file = snapshot.shard(number).packed, manifest.files[number]
        if file.kept:
            total, content = evidence_of(rows, manifest)
            kept = ControlTotal(file.rows, file.keys)
            return total == kept and file.content in (None, content)
        its_parts = [part for part in parts if part.receipt.shard == number]
        expected = expected_of(its_parts)
        if expected[1] is None:  # The rows themselves are left to compare.
            again = shard_rows(rows_of(its_parts, manifest), manifest)
            return bool(rows.equals(again))
        return evidence_of(rows, manifest) == expected

    alike = on_cores(is_alike, range(len(manifest.files)))
    unlike = [number for number, same in enumerate(alike) if not same]
    predicted = total_of(part.receipt.total for part in parts)
    kept_rows = sum(manifest.files[shard].rows for shard in manifest.kept_shards)
    rows = manifest.rows - kept_rows
    beside = f", and {kept_rows:,} kept of earlier nights" if kept_rows else ""
    return Verdict(
        not unlike and rows == predicted.rows,
        f"version {manifest.version} has {rows:,} rows{beside}, predictions have "
        f"{predicted.rows:,}; shards that differ: {unlike or 'none'}",
        {
            "snapshot_rows": float(rows),
            "predictions_rows": float(predicted.rows),
            "unlike_shards": float(len(unlike)),
        },
        {"version": manifest.version, "served": served or "nothing"},
    )


def _built(lake: Lake, store: SnapshotStore, day: str) -> list[str]:
    """Return the versions of the predictions that a day has now, the newest last."""
    parts = lake.predictions.parts(day)
    return store.versions_of(digest_of(parts)) if parts else []
