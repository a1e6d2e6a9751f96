"""The files of a version, built from a day's predictions shard by shard, each proved.

What is proved is what lies on disk then, against the receipts of the predictions. It
knows neither gates nor what is served.
"""

import hashlib
import os
import shutil
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from batch_assets.errors import CorruptPartError, SnapshotError
from batch_assets.lake.books import Tally, total
from batch_assets.lake.cores import Report, on_cores
from batch_assets.lake.parts import Part, sync_folder
from batch_assets.lake.shards import WORD_MASK, content, hash_keys, shard_of
from batch_assets.lake.tables import Lake
from batch_assets.models.release import Release
from batch_assets.serving.manifest import (
    MANIFEST,
    ShardFile,
    SnapshotManifest,
    version_folder,
)
from batch_assets.serving.version import KEY_HASH, map_shard

# Where a receipt of predictions holds the checksum of its rows, `shards.content`.
CONTENT = "content"
STAYS = "nothing was published; what was served is still served"


def build_version(
    lake: Lake,
    release: Release,
    snapshots: Path,
    version: str,
    day: str,
    parts: list[Part],
    parent: str | None,
) -> SnapshotManifest:
    target = version_folder(snapshots, version)
    building = snapshots / f".building-{version}"
    # What a killed publisher left; nobody else builds under the lock.
    for leftover in snapshots.glob(".building-*"):
        shutil.rmtree(leftover)
    if target.exists():
        shutil.rmtree(target)
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
    sync_file(path)
    sync_folder(building)
    building.rename(target)
    sync_folder(snapshots)
    return manifest


def _write_shard(
    folder: Path, plan: SnapshotManifest, shard: int, shards: int, parts: list[Part]
) -> ShardFile:
    """Build one file, and prove what lies on disk then."""
    rows = shard_rows(parts, plan.key, plan.key_dtype, plan.outputs)
    path = folder / f"shard={shard:02d}.arrow"
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, rows.schema) as out:
        # One batch, uncompressed: each column is one run of memory in the map.
        out.write_table(rows, max_chunksize=max(len(rows), 1))
    del rows
    sync_file(path)
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


def shard_rows(
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


def _read(path: Path, columns: list[str]) -> pa.Table:
    try:
        # Not through a dataset: it would add the folders' day and shard as columns.
        with pq.ParquetFile(
            path, page_checksum_verification=True, pre_buffer=False
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
    found, found_content = evidence_of(rows, plan)
    expected, expected_content = expected_of(parts)
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


def evidence_of(rows: pa.Table, manifest: SnapshotManifest) -> tuple[Tally, int]:
    """The tally and the content of a file's rows."""
    hashes = hash_keys(rows[manifest.key])
    outputs = [rows[name].to_numpy() for name in manifest.outputs]
    return Tally.of_hashes(hashes), content(hashes, outputs)


def expected_of(parts: list[Part]) -> tuple[Tally, int | None]:
    """The tally and the content that the receipts of a shard's parts tell.

    None for the content where an earlier version of this program made a part.
    """
    whole = total(part.receipt.tally for part in parts)
    if any(CONTENT not in part.receipt.facts for part in parts):
        return whole, None
    return whole, sum(part.receipt.facts[CONTENT] for part in parts) & WORD_MASK


def sync_file(path: Path) -> None:
    """Make a file's bytes outlast a power cut."""
    with path.open("rb") as file:
        os.fsync(file.fileno())
