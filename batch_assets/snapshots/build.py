"""The files of a version, built from a day's predictions shard by shard, each proved.

What is proved is what lies on disk then, against the receipts of the predictions. It
knows neither gates nor what is served.
"""

import hashlib
import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa

from batch_assets.errors import SnapshotError
from batch_assets.lake.shards import hash_keys
from batch_assets.parallel import Report, on_cores
from batch_assets.snapshots.fetch import must_be_whole
from batch_assets.snapshots.kept import NONE_FAILED, FailedShard, keep_shard, lies_alike
from batch_assets.snapshots.layout import KEY_HASH, Group, grouped, packed
from batch_assets.snapshots.manifest import (
    MANIFEST,
    ShardFile,
    SnapshotManifest,
    read_manifest,
)
from batch_assets.snapshots.proof import (
    STAYS,
    Parts,
    ShardPlan,
    expected_of,
    prove_lookups,
    prove_rows,
    rows_of,
    sample_of,
    sample_of_parts,
)
from batch_assets.snapshots.shard import map_shard
from batch_assets.storage import sync_folder

log = logging.getLogger(__name__)

MAKE_ROOM = "Make room, or give the permission, and run the day again"


def build_version(
    folder: Path,
    plan: SnapshotManifest,
    parts: Parts,
    raw_rows: Mapping[int, int],
    earlier: Sequence[tuple[Path, SnapshotManifest]],
    failed: Mapping[int, FailedShard] = NONE_FAILED,
) -> SnapshotManifest:
    """Write a version's files and manifest into a folder, and prove each from disk.

    A shard whose rows are those of an earlier version is that version's file, linked.

    Args:
        folder: where; made here.
        plan: the manifest, but for its files.
        parts: the day's predictions.
        raw_rows: of each shard that night.
        earlier: folders and manifests of versions to link from, the best first.
        failed: the shards that have no predictions, and keep the rows of an earlier night.

    Raises:
        SnapshotError: what was built is not what was predicted, or there is no earlier
            night to keep.
    """
    folder.mkdir()
    shards = sorted({part.receipt.shard for part in parts} | failed.keys())
    if shards != list(range(len(shards))):
        msg = (
            f"{plan.day} has parts of the shards {shards}, expected 0 to "
            f"{len(shards) - 1}"
        )
        raise SnapshotError(msg)

    def build(number: int, _: Report) -> ShardFile:
        its_parts = [part for part in parts if part.receipt.shard == number]
        shard = ShardPlan(folder, plan, number, len(shards), raw_rows.get(number, 0))
        if number in failed:
            return keep_shard(shard, failed[number])
        return _link_shard(shard, its_parts, earlier) or _write_shard(shard, its_parts)

    try:
        files = tuple(on_cores(build, shards))
        manifest = plan.model_copy(update={"files": files})
        path = folder / MANIFEST
        path.write_text(manifest.dumps(), encoding="utf-8")
        sync_file(path)
        path.chmod(0o444)
        sync_folder(folder)
    except OSError as error:
        msg = f"{folder} can't be written: {error}; {STAYS}. {MAKE_ROOM}"
        raise SnapshotError(msg) from error
    # What is read again now, from disk, is what readers will read.
    if read_manifest(folder, plan.version) != manifest:
        msg = f"{path} is not the manifest that was written; {STAYS}"
        raise SnapshotError(msg)
    return manifest


def _link_shard(
    shard: ShardPlan,
    parts: Parts,
    earlier: Sequence[tuple[Path, SnapshotManifest]],
) -> ShardFile | None:
    """Link an earlier version's file of the same rows, if there is one that is whole.

    The receipts tell which rows it must hold. Two names of one file share a bit that
    flips, so it is hashed as if it came from a stranger.
    """
    total, rows_content = expected_of(parts)
    if rows_content is None:
        return None
    plan = shard.version
    for folder, manifest in earlier:
        if not lies_alike(manifest, shard):
            continue
        other = manifest.files[shard.number]
        if (other.rows, other.keys, other.content) != (
            total.rows,
            total.keys,
            rows_content,
        ):
            continue
        try:
            must_be_whole(folder / other.name, other)
            shard.path.hardlink_to(folder / other.name)
        # Gone, altered, or on a disk that knows no links: then it is built.
        except (SnapshotError, OSError) as error:
            log.warning("shard %s is built and not linked: %s", shard.number, error)
            continue
        entry = other.model_copy(
            update={
                "raw_rows": shard.raw_rows,
                "linked_from": other.linked_from or manifest.version,
            }
        )
        prove_lookups(shard, entry, sample_of_parts(parts, plan))
        return entry
    return None


def _write_shard(shard: ShardPlan, parts: Parts) -> ShardFile:
    """Build one file, and prove what lies on disk then."""
    plan, path = shard.version, shard.path
    predicted = rows_of(parts, plan)
    sample = sample_of(predicted)
    rows = shard_rows(predicted, plan)
    del predicted
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, rows.schema) as out:
        # One batch, uncompressed: each column is one run of memory in the map.
        out.write_table(rows, max_chunksize=max(len(rows), 1))
    del rows
    sync_file(path)
    path.chmod(0o444)
    with path.open("rb") as file:
        sha = hashlib.file_digest(file, "sha256").hexdigest()
    total, rows_content = expected_of(parts)
    entry = ShardFile(
        name=path.name,
        size=path.stat().st_size,
        sha256=sha,
        rows=total.rows,
        keys=total.keys,
        content=rows_content,
        raw_rows=shard.raw_rows,
    )
    prove_rows(map_shard(path), entry, shard, parts)
    prove_lookups(shard, entry, sample)
    return entry


def shard_rows(rows: pa.Table, plan: SnapshotManifest) -> pa.Table:
    """Return a shard's rows as a file holds them: sorted by key, or by its hash."""
    keys = rows[plan.key].combine_chunks()
    if plan.key_dtype != "string":
        order = np.argsort(keys.to_numpy())
        columns = {plan.key: keys.take(pa.array(order))}
    else:
        hashes = hash_keys(keys)
        order = np.argsort(hashes, kind="stable")
        # A shard's strings may be more than a 32-bit offset can reach.
        texts = keys.cast(pa.large_string()).take(pa.array(order))
        columns = {plan.key: texts, KEY_HASH: pa.array(hashes[order])}
    groups = grouped(rows, plan.outputs)
    return packed(columns, (Group(n, values[order]) for n, values in groups))


def sync_file(path: Path) -> None:
    """Make a file's bytes outlast a power cut."""
    with path.open("rb") as file:
        os.fsync(file.fileno())
