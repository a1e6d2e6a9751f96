"""Publish a day: build a version, prove it, swap it in. Forward only.

The evidence is read again for the very day that is published: its books, its gates,
its release. If anything is wrong, yesterday stays up. It knows no Dagster.
"""

import hashlib
import json
import logging
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import filelock

from batch_assets.errors import CorruptPartError, LakeError, SnapshotError
from batch_assets.lake.books import total
from batch_assets.lake.cores import Report, on_cores
from batch_assets.lake.parts import Part, sealed_part, sync_folder
from batch_assets.lake.tables import Lake, digest_of
from batch_assets.models.registry import Registry
from batch_assets.models.release import Release
from batch_assets.quality.gates import after_scoring
from batch_assets.quality.verdict import Verdict, must_be_open
from batch_assets.serving.build import (
    STAYS,
    build_version,
    evidence_of,
    expected_of,
    shard_rows,
    sync_file,
)
from batch_assets.serving.manifest import (
    CURRENT,
    SnapshotManifest,
    current_version,
    day_of,
    version_folder,
    versions,
)
from batch_assets.serving.version import Version
from batch_assets.spec import Gates

log = logging.getLogger(__name__)

FORMAT = 1


@dataclass(frozen=True)
class Published:
    """The day's version, what is served now, and whether that was swapped in now."""

    version: str
    manifest: SnapshotManifest
    swapped: bool
    why: str
    verdicts: list[Verdict]


def publish_day(
    lake: Lake,
    registry: Registry,
    snapshots: Path,
    day: str,
    *,
    gates: Gates,
    keep: int,
    guard: Callable[[], None] = lambda: None,
) -> Published:
    """Build a version from a day's predictions and serve it, if no newer one is served.

    Args:
        lake: the pipeline's tables.
        registry: the models.
        snapshots: `<root>/snapshots/<pipeline>`.
        day: the day.
        gates: the limits that the day must keep.
        keep: how many versions stay on disk.
        guard: raises if this run may not publish any more.

    Raises:
        GateError: a gate of that day is shut.
        LakeError: the day has no predictions.
        SnapshotError: the version that was built is not what was predicted.
    """
    snapshots.mkdir(parents=True, exist_ok=True)
    # One publisher at a time: to read the evidence, look at CURRENT and swap it is one
    # act, or a slow publisher could undo a newer one.
    with filelock.FileLock(snapshots / ".lock"):
        parts = lake.predictions.parts(day)
        if not parts:
            msg = f"predictions has no {day}: materialise it first; {STAYS}"
            raise LakeError(msg)
        release = _release_of(registry, parts)
        verdicts = after_scoring(lake, registry, release.manifest, day, gates)
        must_be_open(day, verdicts, then=STAYS)
        _must_be_committed(lake, day, parts)
        version = _version_of(day, parts)
        served = _served(snapshots)
        if served and day_of(served) > day:
            why = f"{served} is served already, which is of a newer day"
            manifest = Version.open(snapshots, served).manifest
            return Published(
                version, manifest, swapped=False, why=why, verdicts=verdicts
            )
        if served == version and _is_whole(snapshots, version):
            why = "this very version is served already"
            manifest = Version.open(snapshots, version).manifest
            return Published(
                version, manifest, swapped=False, why=why, verdicts=verdicts
            )
        manifest = build_version(lake, release, snapshots, version, day, parts, served)
        if lake.predictions.paths(day) != [part.path for part in parts]:
            msg = f"{day} was scored again while its version was built; {STAYS}"
            raise SnapshotError(msg)
        guard()
        _swap(snapshots, version)
        _collect(snapshots, keep, {version, served})
    return Published(
        version, manifest, swapped=True, why="published", verdicts=verdicts
    )


def equals_predictions(lake: Lake, snapshots: Path, day: str) -> Verdict:
    """Every row of a day's version is the row that was predicted, and no other."""
    gate = "snapshot_equals_predictions"
    parts = lake.predictions.parts(day)
    served = current_version(snapshots)
    version = _version_of(day, parts)
    if version not in {manifest.version for manifest in versions(snapshots)}:
        newer = served is not None and day_of(served) > day
        why = f"{served or 'nothing'} is served, and {version} is not on disk"
        facts = {"served": served or "nothing"}
        return Verdict(gate, passed=newer, why=why, facts=facts)
    snapshot = Version.open(snapshots, version)
    manifest = snapshot.manifest

    def is_alike(number: int, _: Report) -> bool:
        rows = snapshot.shard(number).table
        mine = [part for part in parts if part.receipt.shard == number]
        expected = expected_of(mine)
        if expected[1] is None:  # The rows themselves are left to compare.
            how = (manifest.key, manifest.key_dtype, manifest.outputs)
            return rows.equals(shard_rows(mine, *how))
        return evidence_of(rows, manifest) == expected

    alike = on_cores(is_alike, range(len(manifest.files)))
    unlike = [number for number, same in enumerate(alike) if not same]
    predicted = total(part.receipt.tally for part in parts)
    return Verdict(
        gate,
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


def _release_of(registry: Registry, parts: list[Part]) -> Release:
    facts = parts[0].receipt.facts
    return registry.verify(facts["model"], facts["release"])


def _must_be_committed(lake: Lake, day: str, parts: list[Part]) -> None:
    """Refuse parts whose bytes are not those that were committed."""
    commit = lake.predictions.last_commit(day)
    if commit is None or commit.facts["parts"] != digest_of(parts):
        msg = (
            f"the predictions of {day} are not the bytes that were committed; {STAYS}. "
            "Run the day again: what was changed is made again."
        )
        raise CorruptPartError(msg)
    # Their keys are proved where they end: in what was built of them.
    on_cores(lambda part, _: sealed_part(part.path), parts)


def _served(snapshots: Path) -> str | None:
    """What is served; nothing, if CURRENT names nothing: that is no reason to stop."""
    try:
        return current_version(snapshots)
    except SnapshotError as error:
        log.warning("%s; the next version takes its place", error)
        return None


def _is_whole(snapshots: Path, version: str) -> bool:
    """Whether a version can be served; one that can't is built again."""
    try:
        Version.open(snapshots, version).verify()
    except SnapshotError:
        return False
    return True


def _version_of(day: str, parts: list[Part]) -> str:
    """The version that these predictions make: the day, and a digest of the parts."""
    content = [FORMAT, [[p.path.name, p.receipt.shard, p.size] for p in parts]]
    return f"{day}-{hashlib.sha256(json.dumps(content).encode()).hexdigest()[:12]}"


def _swap(snapshots: Path, version: str) -> None:
    beside = snapshots / f"{CURRENT}.tmp"
    beside.write_text(version + "\n", encoding="utf-8")
    sync_file(beside)
    beside.replace(snapshots / CURRENT)
    sync_folder(snapshots)


def _collect(snapshots: Path, keep: int, never: set[str | None]) -> None:
    """Remove all but the newest versions; never what is served, or was before it."""
    for manifest in versions(snapshots)[:-keep]:
        if manifest.version not in never:
            shutil.rmtree(version_folder(snapshots, manifest.version))
