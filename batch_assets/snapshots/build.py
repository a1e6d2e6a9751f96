"""The files of a version, built from a day's predictions shard by shard, each proved.

What is proved is what lies on disk then, against the receipts of the predictions. It
knows neither gates nor what is served.
"""

import hashlib
import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from batch_assets.errors import CorruptPartError, SnapshotError
from batch_assets.lake.parts import Part, read_columns
from batch_assets.lake.receipts import PredictionsReceipt
from batch_assets.lake.reconciliation import ControlTotal, total_of
from batch_assets.lake.shards import (
    WORD_MASK,
    content,
    hash_key,
    hash_keys,
    shard_of,
)
from batch_assets.parallel import Report, on_cores
from batch_assets.snapshots.fetch import must_be_whole
from batch_assets.snapshots.layout import (
    BLOCK_ROWS,
    KEY_HASH,
    Group,
    columns_of,
    grouped,
    groups_of,
    packed,
)
from batch_assets.snapshots.manifest import (
    MANIFEST,
    ShardFile,
    SnapshotManifest,
    read_manifest,
)
from batch_assets.snapshots.shard import Shard, map_shard
from batch_assets.storage import StoragePath, sync_folder

log = logging.getLogger(__name__)

# How many keys of each shard are looked up before it is served.
SAMPLE = 100
STAYS = "nothing was published; what was served is still served"
MAKE_ROOM = "Make room, or give the permission, and run the day again"


def build_version(
    folder: Path,
    plan: SnapshotManifest,
    parts: list[Part[PredictionsReceipt]],
    raw_rows: Mapping[int, int],
    earlier: Sequence[tuple[Path, SnapshotManifest]],
) -> SnapshotManifest:
    """Write a version's files and manifest into a folder, and prove each from disk.

    A shard whose rows are those of an earlier version is that version's file, linked.

    Args:
        folder: where; made here.
        plan: the manifest, but for its files.
        parts: the day's predictions.
        raw_rows: of each shard that night.
        earlier: folders and manifests of versions to link from, the best first.

    Raises:
        SnapshotError: what was built is not what was predicted.
    """
    folder.mkdir()
    shards = sorted({part.receipt.shard for part in parts})
    if shards != list(range(len(shards))):
        msg = (
            f"{plan.day} has parts of the shards {shards}, expected 0 to "
            f"{len(shards) - 1}"
        )
        raise SnapshotError(msg)

    def build(number: int, _: Report) -> ShardFile:
        mine = [part for part in parts if part.receipt.shard == number]
        shard = _ShardPlan(folder, plan, number, len(shards), raw_rows.get(number, 0))
        return _link_shard(shard, mine, earlier) or _write_shard(shard, mine)

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


@dataclass(frozen=True)
class _ShardPlan:
    """One file that is to be: where, of which version, and of how many."""

    folder: Path
    version: SnapshotManifest
    number: int
    shards: int
    raw_rows: int

    @property
    def path(self) -> Path:
        return self.folder / f"shard={self.number:02d}.arrow"


def _link_shard(
    shard: _ShardPlan,
    parts: list[Part[PredictionsReceipt]],
    earlier: Sequence[tuple[Path, SnapshotManifest]],
) -> ShardFile | None:
    """An earlier version's file of the same rows, if there is one that is whole.

    The receipts tell which rows it must hold. Two names of one file share a bit that
    flips, so it is hashed as if it came from a stranger.
    """
    total, rows_content = expected_of(parts)
    if rows_content is None:
        return None
    plan = shard.version
    for folder, manifest in earlier:
        form = (manifest.key, manifest.key_dtype, manifest.outputs, len(manifest.files))
        if form != (plan.key, plan.key_dtype, plan.outputs, shard.shards):
            continue
        there = manifest.files[shard.number]
        if (there.rows, there.keys, there.content) != (
            total.rows,
            total.keys,
            rows_content,
        ):
            continue
        try:
            must_be_whole(folder / there.name, there)
            shard.path.hardlink_to(folder / there.name)
        # Gone, altered, or on a disk that knows no links: then it is built.
        except (SnapshotError, OSError) as error:
            log.warning("shard %s is built and not linked: %s", shard.number, error)
            continue
        entry = there.model_copy(
            update={
                "raw_rows": shard.raw_rows,
                "linked_from": there.linked_from or manifest.version,
            }
        )
        _prove_lookups(shard, entry, _some_rows(parts, plan))
        return entry
    return None


def _write_shard(shard: _ShardPlan, parts: list[Part[PredictionsReceipt]]) -> ShardFile:
    """Build one file, and prove what lies on disk then."""
    plan, path = shard.version, shard.path
    predicted = rows_of(parts, plan)
    sample = _sample(predicted)
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
    _prove(map_shard(path), entry, shard, parts)
    _prove_lookups(shard, entry, sample)
    return entry


def rows_of(parts: list[Part[PredictionsReceipt]], plan: SnapshotManifest) -> pa.Table:
    """The key and the outputs of a shard's predictions, as they lie there."""
    names = [plan.key, *plan.outputs]
    return pa.concat_tables([_read(part.path, names) for part in parts])


def shard_rows(rows: pa.Table, plan: SnapshotManifest) -> pa.Table:
    """A shard's rows as a file holds them: sorted by key, or by its hash."""
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


def _read(path: StoragePath, columns: list[str]) -> pa.Table:
    try:
        return read_columns(path, columns)
    except CorruptPartError as error:
        msg = f"{error}; {STAYS}"
        raise CorruptPartError(msg) from error


def _prove(
    rows: pa.Table,
    entry: ShardFile,
    shard: _ShardPlan,
    parts: list[Part[PredictionsReceipt]],
) -> None:
    """Compare what was built, as it is read again, with the receipts of the predictions."""
    plan = shard.version
    hashes = hash_keys(rows[plan.key])
    found, found_content = _evidence(rows, hashes, plan)
    expected, expected_content = expected_of(parts)
    if found != expected:
        msg = f"{entry.name} holds {found}, predictions hold {expected}; {STAYS}"
        raise SnapshotError(msg)
    if expected_content not in (None, found_content):
        msg = f"{entry.name} holds other outputs than the predictions; {STAYS}"
        raise SnapshotError(msg)
    if (shard_of(hashes, shard.shards) != shard.number).any():
        msg = f"{entry.name} of {shard.shards} holds keys of other shards; {STAYS}"
        raise SnapshotError(msg)
    if not _is_sorted(rows, plan):
        msg = f"{entry.name} is not sorted, or has a key twice; {STAYS}"
        raise SnapshotError(msg)


def _is_sorted(rows: pa.Table, plan: SnapshotManifest) -> bool:
    """Whether the index ascends, and no key is there twice."""
    if plan.key_dtype != "string":
        keys = rows[plan.key].to_numpy()
        return bool((keys[1:] > keys[:-1]).all())
    index = rows[KEY_HASH].to_numpy()
    if not (index[1:] >= index[:-1]).all():
        return False
    # Equal keys have equal hashes, so only those are left to compare.
    same = index[1:] == index[:-1]
    shared = np.flatnonzero(np.append(same, False) | np.insert(same, 0, False))
    return len(pc.unique(rows[plan.key].take(shared))) == len(shared)


def _some_rows(
    parts: list[Part[PredictionsReceipt]], plan: SnapshotManifest
) -> pa.Table:
    """A sample of a shard's predictions, from the largest row group alone."""
    sizes = [
        (rows, p, n)
        for p, part in enumerate(parts)
        for n, rows in enumerate(part.groups)
    ]
    names = [plan.key, *plan.outputs]
    if not sizes:
        return _sample(_read(parts[0].path, names))
    _, part, group = max(sizes)
    return _sample(read_columns(parts[part].path, names, [group]))


def _sample(rows: pa.Table) -> pa.Table:
    """The same rows each time, spread over them all."""
    at = np.linspace(0, max(len(rows) - 1, 0), min(len(rows), SAMPLE), dtype=int)
    return rows.take(np.unique(at)).combine_chunks()


def _prove_lookups(shard: _ShardPlan, entry: ShardFile, sample: pa.Table) -> None:
    """Look a sample of keys up, as readers do, and compare each bit of the outputs."""
    plan = shard.version
    reader = Shard(shard.folder, entry, plan, hashed=True)
    keys = sample[plan.key].to_pylist()
    found = [reader.find(key, hash_key(key)) for key in keys]
    rows = [row for row in found if row is not None]
    if len(rows) < len(keys):
        lost = keys[found.index(None)]
        msg = f"{entry.name} does not answer for {lost!r}, which is predicted; {STAYS}"
        raise SnapshotError(msg)
    for name in plan.outputs:
        predicted, served = sample[name].to_numpy(), reader.columns[name][rows]
        bits = np.dtype(f"u{predicted.dtype.itemsize}")
        unlike = np.flatnonzero(predicted.view(bits) != served.view(bits))
        if predicted.dtype != served.dtype or len(unlike):
            at = unlike[0] if len(unlike) else 0
            msg = (
                f"{entry.name} answers {served[at]} for '{name}' of {keys[at]!r}, "
                f"predicted is {predicted[at]}; {STAYS}"
            )
            raise SnapshotError(msg)


def evidence_of(rows: pa.Table, manifest: SnapshotManifest) -> tuple[ControlTotal, int]:
    """The total and the content of a file's rows."""
    return _evidence(rows, hash_keys(rows[manifest.key]), manifest)


def _evidence(
    rows: pa.Table, hashes: np.ndarray, manifest: SnapshotManifest
) -> tuple[ControlTotal, int]:
    columns = columns_of(groups_of(rows))
    outputs = [columns[name] for name in manifest.outputs]
    found = 0
    # In blocks that stay in a core's cache: each output is a column of a wide row.
    for start in range(0, len(hashes), BLOCK_ROWS):
        some = slice(start, start + BLOCK_ROWS)
        found += content(hashes[some], [column[some] for column in outputs])
    return ControlTotal.of_hashes(hashes), found & WORD_MASK


def expected_of(
    parts: list[Part[PredictionsReceipt]],
) -> tuple[ControlTotal, int | None]:
    """The total and the content that the receipts of a shard's parts tell.

    None for the content where an earlier version of this program made a part.
    """
    whole = total_of(part.receipt.total for part in parts)
    contents = [part.receipt.content for part in parts]
    known = [checksum for checksum in contents if checksum is not None]
    if len(known) < len(contents):
        return whole, None
    return whole, sum(known) & WORD_MASK


def sync_file(path: Path) -> None:
    """Make a file's bytes outlast a power cut."""
    with path.open("rb") as file:
        os.fsync(file.fileno())
