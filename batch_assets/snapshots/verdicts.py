"""What is said of a day once it is published: is it served, and is it what was predicted.

Each is read from the files anew; it knows nothing of how a version is built or swapped.
"""

from batch_assets.lake.reconciliation import total_of
from batch_assets.lake.tables import Lake
from batch_assets.parallel import Report, on_cores
from batch_assets.quality.verdict import Verdict
from batch_assets.snapshots.build import evidence_of, expected_of, rows_of, shard_rows
from batch_assets.snapshots.manifest import day_of
from batch_assets.snapshots.pointers import pinned_version
from batch_assets.snapshots.publish import built_versions, kept_back, readable_current
from batch_assets.snapshots.version import Version
from batch_assets.storage import StoragePath


def is_served(lake: Lake, snapshots: StoragePath, day: str) -> Verdict:
    """Judge whether readers get a day's version, or a newer one, and what keeps it back.

    It warns and does not block: a person wanted it so, and the night is well.
    """
    current, pinned = readable_current(snapshots), pinned_version(snapshots)
    name, again = snapshots.name, "then run the day again"
    newer = current is not None and day_of(current) > day
    passed = not pinned and (newer or current in built_versions(lake, snapshots, day))
    why = f"{current or 'nothing'} is served"
    if pinned:
        why = (
            f"readers are pinned to {pinned}, whatever is published. To end it: "
            f"batch-assets snapshot unpin {name} --why …"
        )
    elif not passed:
        reason = kept_back(snapshots, day)
        unblock = f"batch-assets snapshot unblock {name} --why …"
        why += f", and not {day}. "
        why += (
            f"{reason}. To end it: {unblock}, {again}"
            if reason
            else "Run the day again"
        )
    facts = {"current": current or "nothing", "pinned": pinned or "nothing"}
    return Verdict(passed, why, facts=facts)


def equals_predictions(lake: Lake, snapshots: StoragePath, day: str) -> Verdict:
    """Judge whether every row of a day's version is the row that was predicted."""
    parts = lake.predictions.parts(day)
    served, built = readable_current(snapshots), built_versions(lake, snapshots, day)
    if not built:
        newer = served is not None and day_of(served) > day
        why = f"{served or 'nothing'} is served, and no version of {day} is on disk"
        return Verdict(newer, why, facts={"served": served or "nothing"})
    version = served if served in built else built[-1]
    snapshot = Version.open(snapshots, version)
    manifest = snapshot.manifest

    def is_alike(number: int, _: Report) -> bool:
        rows = snapshot.shard(number).packed
        of_shard = [part for part in parts if part.receipt.shard == number]
        expected = expected_of(of_shard)
        if expected[1] is None:  # The rows themselves are left to compare.
            return rows.equals(shard_rows(rows_of(of_shard, manifest), manifest))
        return evidence_of(rows, manifest) == expected

    alike = on_cores(is_alike, range(len(manifest.files)))
    unlike = [number for number, same in enumerate(alike) if not same]
    predicted = total_of(part.receipt.total for part in parts)
    return Verdict(
        not unlike and manifest.rows == predicted.rows,
        f"version {manifest.version} has {manifest.rows:,} rows, predictions have "
        f"{predicted.rows:,}; shards that differ: {unlike or 'none'}",
        {
            "snapshot_rows": float(manifest.rows),
            "predictions_rows": float(predicted.rows),
            "unlike_shards": float(len(unlike)),
        },
        {"version": manifest.version, "served": served or "nothing"},
    )
