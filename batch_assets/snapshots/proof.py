"""The proof of a version's files: what lies on disk, against the receipts of predictions.

It writes nothing.
"""

from collections.abc import Sequence
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
from batch_assets.snapshots.flattening import flattened, written_names
from batch_assets.snapshots.layout import BLOCK_ROWS, KEY_HASH, columns_of, groups_of
from batch_assets.snapshots.manifest import ShardFile, SnapshotManifest
from batch_assets.snapshots.shard import Shard
from batch_assets.storage import StoragePath

# How many keys of each shard are looked up before it is served.
SAMPLE = 100
STAYS = "nothing was published; what was served is still served"

Parts = Sequence[Part[PredictionsReceipt]]


@dataclass(frozen=True)
class ShardPlan:
    """One file that is to be: where, of which version, and of how many."""

    folder: Path
    version: SnapshotManifest
    number: int
    shards: int
    raw_rows: int

    @property
    def path(self) -> Path:
        return self.folder / f"shard={self.number:02d}.arrow"


def rows_of(parts: Parts, plan: SnapshotManifest) -> pa.Table:
    """Return the key and the outputs of a shard's predictions, as they lie there."""
    names = [plan.key, *written_names(plan)]
    rows = pa.concat_tables([_read(part.path, names) for part in parts])
    return flattened(rows, plan)


def expected_of(
    parts: Parts,
) -> tuple[ControlTotal, int | None]:
    """Return the total and the content that the receipts of a shard's parts tell.

    None for the content where an earlier version of this program made a part.
    """
    whole = total_of(part.receipt.total for part in parts)
    contents = [part.receipt.content for part in parts]
    known = [checksum for checksum in contents if checksum is not None]
    if len(known) < len(contents):
        return whole, None
    return whole, sum(known) & WORD_MASK


def evidence_of(rows: pa.Table, manifest: SnapshotManifest) -> tuple[ControlTotal, int]:
    """Return the total and the content of a file's rows."""
    return _evidence(rows, hash_keys(rows[manifest.key]), manifest)


def prove_rows(
    rows: pa.Table,
    entry: ShardFile,
    shard: ShardPlan,
    parts: Parts,
) -> None:
    """Compare what was built, as it is read again, with the receipts of the predictions.

    Raises:
        SnapshotError: it is not what was predicted.
    """
    plan = shard.version
    hashes = hash_keys(rows[plan.key])
    total, rows_content = _evidence(rows, hashes, plan)
    expected, expected_content = expected_of(parts)
    if total != expected:
        msg = f"{entry.name} holds {total}, predictions hold {expected}; {STAYS}"
        raise SnapshotError(msg)
    if expected_content not in (None, rows_content):
        msg = f"{entry.name} holds other outputs than the predictions; {STAYS}"
        raise SnapshotError(msg)
    if (shard_of(hashes, shard.shards) != shard.number).any():
        msg = f"{entry.name} of {shard.shards} holds keys of other shards; {STAYS}"
        raise SnapshotError(msg)
    if not _is_sorted(rows, plan):
        msg = f"{entry.name} is not sorted, or has a key twice; {STAYS}"
        raise SnapshotError(msg)


def prove_lookups(shard: ShardPlan, entry: ShardFile, sample: pa.Table) -> None:
    """Look a sample of keys up, as readers do, and compare each bit of the outputs.

    Raises:
        SnapshotError: one is not answered, or other than was predicted.
    """
    plan = shard.version
    reader = Shard(shard.folder, entry, plan, hashed=True)
    keys = sample[plan.key].to_pylist()
    answers = [reader.find(key, hash_key(key)) for key in keys]
    rows = [row for row in answers if row is not None]
    if len(rows) < len(keys):
        lost = keys[answers.index(None)]
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


def sample_of_parts(parts: Parts, plan: SnapshotManifest) -> pa.Table:
    """Return a sample of a shard's predictions, from the largest row group alone."""
    sizes = [
        (rows, p, n)
        for p, part in enumerate(parts)
        for n, rows in enumerate(part.groups)
    ]
    names = [plan.key, *written_names(plan)]
    if not sizes:
        return sample_of(flattened(_read(parts[0].path, names), plan))
    _, part, group = max(sizes)
    rows = read_columns(parts[part].path, names, [group])
    return sample_of(flattened(rows, plan))


def sample_of(rows: pa.Table) -> pa.Table:
    """Return the same rows each time, spread over them all."""
    at = np.linspace(0, max(len(rows) - 1, 0), min(len(rows), SAMPLE), dtype=int)
    return rows.take(np.unique(at)).combine_chunks()


def _is_sorted(rows: pa.Table, plan: SnapshotManifest) -> bool:
    """Tell whether the index ascends, and no key is there twice."""
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


def _evidence(
    rows: pa.Table, hashes: np.ndarray, manifest: SnapshotManifest
) -> tuple[ControlTotal, int]:
    columns = columns_of(groups_of(rows))
    outputs = [columns[name] for name in manifest.outputs]
    checksum = 0
    # In blocks that stay in a core's cache: each output is a column of a wide row.
    for start in range(0, len(hashes), BLOCK_ROWS):
        some = slice(start, start + BLOCK_ROWS)
        checksum += content(hashes[some], [column[some] for column in outputs])
    return ControlTotal.of_hashes(hashes), checksum & WORD_MASK


def _read(path: StoragePath, columns: list[str]) -> pa.Table:
    try:
        return read_columns(path, columns)
    except CorruptPartError as error:
        msg = f"{error}; {STAYS}"
        raise CorruptPartError(msg) from error
