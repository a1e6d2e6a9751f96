"""Publish a day: build a version, prove it, swap it in. Forward only.

The evidence is read again for the very day that is published: its books, its gates,
its release. If anything is wrong, yesterday stays up. It knows no Dagster.
"""

import hashlib
import json
import logging
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from batch_assets.errors import CorruptPartError, LakeError, SnapshotError
from batch_assets.lake.books import Tally, total
from batch_assets.lake.cores import Report, on_cores
from batch_assets.lake.parts import Part, sealed_part
from batch_assets.lake.shards import WORD_MASK, content, hash_keys, shard_of
from batch_assets.lake.tables import Lake, digest_of
from batch_assets.models.registry import Registry
from batch_assets.models.release import Release
from batch_assets.quality.gates import after_scoring
from batch_assets.quality.verdict import Verdict, must_be_open
from batch_assets.serving.snapshot import (
    CURRENT,
    KEY_HASH,
    MANIFEST,
    ShardFile,
    Snapshot,
    SnapshotManifest,
    current_version,
    day_of,
    map_shard,
    version_folder,
    version_in,
    versions,
)
from batch_assets.spec import Gates
from batch_assets.storage import (
    COPYING,
    ObjectPath,
    Place,
    Seen,
    copied,
    each,
    exclusive,
    local,
    put_file,
    read_seen,
    remove_tree,
    replace,
    source,
    sync_folder,
)

log = logging.getLogger(__name__)

FORMAT = 1
# Where a receipt of predictions holds the checksum of its rows, `shards.content`.
CONTENT = "content"
NEWER = " is served already, which is of a newer day"
STAYS = "nothing was published; what was served is still served"


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
    snapshots: Place,
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
    # One publisher at a time: to read the evidence, look at CURRENT and swap it is one
    # act, or a slow publisher could undo a newer one. In a store there may be others,
    # on other machines: there CURRENT is swapped only if it is still the one seen here.
    with exclusive(snapshots):
        parts = lake.predictions.parts(day)
        if not parts:
            msg = f"predictions has no {day}: materialise it first; {STAYS}"
            raise LakeError(msg)
        release = _release_of(registry, parts)
        verdicts = after_scoring(lake, registry, release.manifest, day, gates)
        must_be_open(day, verdicts, then=STAYS)
        _must_be_committed(lake, day, parts)
        version = _version_of(day, parts)
        seen = read_seen(snapshots / CURRENT)
        served = _served(snapshots, seen)

        def stays(served: str, why: str) -> Published:
            manifest = Snapshot.open(snapshots, served).manifest
            return Published(
                version, manifest, swapped=False, why=why, verdicts=verdicts
            )

        if served and day_of(served) > day:
            return stays(served, f"{served}{NEWER}")
        if served == version and _is_whole(snapshots, version):
            return stays(version, "this very version is served already")
        manifest = _build(lake, release, snapshots, version, day, parts, served)
        if lake.predictions.paths(day) != [part.path for part in parts]:
            msg = f"{day} was scored again while its version was built; {STAYS}"
            raise SnapshotError(msg)
        guard()
        while not replace(snapshots / CURRENT, f"{version}\n".encode(), seen=seen):
            # Another machine's publisher has swapped it meanwhile.
            seen = read_seen(snapshots / CURRENT)
            served = _served(snapshots, seen)
            if served and day_of(served) > day:
                return stays(served, f"{served}{NEWER}")
            guard()
        _collect(snapshots, keep, {version, served})
    return Published(
        version, manifest, swapped=True, why="published", verdicts=verdicts
    )


def equals_predictions(lake: Lake, snapshots: Place, day: str) -> Verdict:
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
    snapshot = Snapshot.open(snapshots, version)
    manifest = snapshot.manifest

    def is_alike(number: int, _: Report) -> bool:
        rows = snapshot.shard(number).table
        mine = [part for part in parts if part.receipt.shard == number]
        expected = _expected(mine)
        if expected[1] is None:  # The rows themselves are left to compare.
            how = (manifest.key, manifest.key_dtype, manifest.outputs)
            return rows.equals(_shard_rows(mine, *how))
        return _evidence(rows, manifest) == expected

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


def _served(snapshots: Place, seen: Seen) -> str | None:
    """What is served; nothing, if CURRENT names nothing: that is no reason to stop."""
    try:
        return version_in(snapshots, seen)
    except SnapshotError as error:
        log.warning("%s; the next version takes its place", error)
        return None


def _is_whole(snapshots: Place, version: str) -> bool:
    """Whether a version can be served; one that can't is built again."""
    try:
        Snapshot.open(snapshots, version).verify()
    except SnapshotError:
        return False
    return True


def _version_of(day: str, parts: list[Part]) -> str:
    """The version that these predictions make: the day, and a digest of the parts."""
    content = [FORMAT, [[p.path.name, p.receipt.shard, p.size] for p in parts]]
    return f"{day}-{hashlib.sha256(json.dumps(content).encode()).hexdigest()[:12]}"


def _build(
    lake: Lake,
    release: Release,
    snapshots: Place,
    version: str,
    day: str,
    parts: list[Part],
    parent: str | None,
) -> SnapshotManifest:
    target = version_folder(snapshots, version)
    here = local(snapshots)
    building = here / f".building-{version}"
    # What a killed publisher left; nobody else builds under the lock.
    for leftover in here.glob(".building-*"):
        shutil.rmtree(leftover)
    building.mkdir()
    contract = release.contract
    shards = sorted({part.receipt.shard for part in parts})
    if shards != list(range(len(shards))):
        msg = f"{day} has parts of the shards {shards}, expected 0 to {len(shards) - 1}"
        raise SnapshotError(msg)
    plan = SnapshotManifest(
        pipeline=lake.pipeline,
        version=version,
        day=day,
        created_at=datetime.now(UTC),
        key=contract.key.name,
        key_dtype=contract.key.dtype,
        outputs=tuple(contract.output_names),
        model_name=release.name,
        model_version=release.digest,
        job=parts[0].receipt.job,
        files=(),
        parent=parent,
    )

    def build(shard: int, _: Report) -> ShardFile:
        mine = [part for part in parts if part.receipt.shard == shard]
        return _write_shard(building, plan, shard, len(shards), mine)

    files = tuple(on_cores(build, shards))
    manifest = plan.model_copy(update={"files": files})
    path = building / MANIFEST
    path.write_text(manifest.model_dump_json(indent=2) + "\n", encoding="utf-8")
    _sync(path)
    sync_folder(building)
    if isinstance(target, ObjectPath):
        _put(building, target, manifest)
        return manifest
    if target.exists():
        shutil.rmtree(target)
    building.rename(target)
    sync_folder(target.parent)
    return manifest


def _put(building: Path, target: ObjectPath, manifest: SnapshotManifest) -> None:
    """Put a version into a store, and prove what lies there; its manifest comes last."""

    def put(entry: ShardFile) -> None:
        place = target / entry.name
        put_file(building / entry.name, place)
        with copied(place) as data:
            sha = hashlib.file_digest(data, "sha256").hexdigest()
        if sha != entry.sha256:
            msg = f"{place} hashes to {sha}, {entry.sha256} was built; {STAYS}"
            raise SnapshotError(msg)

    each(target, put, manifest.files, at_once=COPYING)
    put_file(building / MANIFEST, target / MANIFEST)
    building.rmdir()


def _write_shard(
    folder: Path, plan: SnapshotManifest, shard: int, shards: int, parts: list[Part]
) -> ShardFile:
    """Build one file, and prove what lies on disk then."""
    rows = _shard_rows(parts, plan.key, plan.key_dtype, plan.outputs)
    path = folder / f"shard={shard:02d}.arrow"
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, rows.schema) as out:
        # One batch, uncompressed: each column is one run of memory in the map.
        out.write_table(rows, max_chunksize=max(len(rows), 1))
    del rows
    _sync(path)
    path.chmod(0o444)
    with path.open("rb") as file:
        sha = hashlib.file_digest(file, "sha256").hexdigest()
    entry = ShardFile(
        name=path.name,
        size=path.stat().st_size,
        sha256=sha,
        rows=sum(part.receipt.tally.rows for part in parts),
        keys=total(part.receipt.tally for part in parts).keys,
    )
    _prove(map_shard(path), entry, plan, shard, shards, parts)
    return entry


def _shard_rows(
    parts: list[Part], key: str, key_dtype: str, outputs: tuple[str, ...]
) -> pa.Table:
    """A shard's predictions as they are served: sorted by key, or by its hash."""
    pieces = [_read(part.path, [key, *outputs]) for part in parts]
    rows = pa.concat_tables(pieces).combine_chunks()
    if key_dtype != "string":
        order = np.argsort(rows[key].to_numpy())
        return rows.take(pa.array(order)).combine_chunks()
    hashes = hash_keys(rows[key])
    order = np.argsort(hashes, kind="stable")
    rows = rows.take(pa.array(order)).combine_chunks()
    # A shard's strings may be more than a 32-bit offset can reach.
    rows = rows.set_column(0, key, rows[key].cast(pa.large_string()))
    return rows.append_column(KEY_HASH, pa.array(hashes[order]))


def _read(path: Place, columns: list[str]) -> pa.Table:
    try:
        # Not through a dataset: it would add the folders' day and shard as columns.
        with pq.ParquetFile(
            source(path),
            page_checksum_verification=True,
            pre_buffer=not isinstance(path, Path),
        ) as file:
            return file.read(columns=columns)
    except (OSError, pa.ArrowException) as error:
        msg = f"part {path} can't be read: {error}; {STAYS}"
        raise CorruptPartError(msg) from error


def _prove(
    rows: pa.Table,
    entry: ShardFile,
    plan: SnapshotManifest,
    number: int,
    shards: int,
    parts: list[Part],
) -> None:
    """Compare what was built, as it is read again, with the receipts of the predictions."""
    found, found_content = _evidence(rows, plan)
    expected, expected_content = _expected(parts)
    if found != expected:
        msg = f"{entry.name} holds {found}, predictions hold {expected}; {STAYS}"
        raise SnapshotError(msg)
    if expected_content not in (None, found_content):
        msg = f"{entry.name} holds other outputs than the predictions; {STAYS}"
        raise SnapshotError(msg)
    if (shard_of(hash_keys(rows[plan.key]), shards) != number).any():
        msg = f"{entry.name} of {shards} holds keys of other shards; {STAYS}"
        raise SnapshotError(msg)
    strings = plan.key_dtype == "string"
    keys = rows[KEY_HASH if strings else plan.key].to_numpy()
    ascending = keys[1:] > keys[:-1]
    if strings:
        ascending |= keys[1:] == keys[:-1]
    if not ascending.all():
        msg = f"{entry.name} is not sorted, or has a key twice; {STAYS}"
        raise SnapshotError(msg)


def _evidence(rows: pa.Table, manifest: SnapshotManifest) -> tuple[Tally, int]:
    """The tally and the content of a file's rows."""
    hashes = hash_keys(rows[manifest.key])
    outputs = [rows[name].to_numpy() for name in manifest.outputs]
    return Tally.of_hashes(hashes), content(hashes, outputs)


def _expected(parts: list[Part]) -> tuple[Tally, int | None]:
    """The tally and the content that the receipts of a shard's parts tell.

    None for the content where an earlier version of this program made a part.
    """
    whole = total(part.receipt.tally for part in parts)
    if any(CONTENT not in part.receipt.facts for part in parts):
        return whole, None
    return whole, sum(part.receipt.facts[CONTENT] for part in parts) & WORD_MASK


def _collect(snapshots: Place, keep: int, never: set[str | None]) -> None:
    """Remove all but the newest versions; never what is served, or was before it."""
    for manifest in versions(snapshots)[:-keep]:
        if manifest.version not in never:
            remove_tree(version_folder(snapshots, manifest.version), first=MANIFEST)


def _sync(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())
