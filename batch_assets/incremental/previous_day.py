"""Which rows of a day are as they were the night before: a hint for how it is laid out.

Rows that have not changed are kept in row groups of their own, so that whoever scores
only the others decodes few of them, and the receipt says in which parts of the night
before they were. No row is carried over for it: the scorer compares each.
"""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa

from batch_assets.lake.commits import ValidationCommit
from batch_assets.lake.delta_table import Table, digest_of
from batch_assets.lake.parts import Part, read_columns
from batch_assets.lake.receipts import ValidatedReceipt
from batch_assets.lake.shards import GOLDEN_RATIO, fingerprint, folded, hash_keys
from batch_assets.lake.tables import BEFORE
from batch_assets.models.contract import Contract
from batch_assets.parallel import ParallelMap, on_cores
from batch_assets.storage import local

FINGERPRINT = "fingerprint"


@dataclass(frozen=True)
class PreviousShard:
    """The rows of a shard the night before: one number for key and features, sorted.

    The numbers, and beside each the part that it was in, are mapped from files, because
    a day of them need not fit into memory.
    """

    numbers: Path
    part_of: Path
    parts: list[str]


@dataclass(frozen=True)
class PreviousDay:
    """The rows of the night before, by shard; `of` names the bytes that they are in."""

    of: str = ""
    shards: dict[int, PreviousShard] = field(default_factory=dict)

    def find(
        self, shard: int, hashes: np.ndarray, fingerprints: np.ndarray
    ) -> tuple[np.ndarray, set[str]]:
        """Return whether each row was there, bool (rows,), and in which parts.

        Args:
            shard: that the rows are of.
            hashes: of the keys, uint64 (rows,).
            fingerprints: of the features, uint64 (rows,).
        """
        indexed = self.shards.get(shard)
        if indexed is None:
            return np.zeros(len(hashes), dtype=bool), set()
        numbers = np.load(indexed.numbers, mmap_mode="r")
        asked = _rows(hashes, fingerprints)
        order = np.argsort(asked)
        at = np.searchsorted(numbers, asked[order])
        at[at == len(numbers)] = 0
        equal = numbers[at] == asked[order]
        unchanged = np.empty(len(asked), dtype=bool)
        unchanged[order] = equal
        part_of = np.load(indexed.part_of, mmap_mode="r")
        seen = np.flatnonzero(np.bincount(part_of[at[equal]]))
        return unchanged, {indexed.parts[number] for number in seen}


@contextmanager
def previous_day(
    table: Table[ValidatedReceipt, ValidationCommit],
    day: str,
    key: str,
    *,
    wanted: bool,
    parallel_map: ParallelMap = on_cores,
) -> Iterator[PreviousDay | None]:
    """Index the newest validated day before a day, while this is entered.

    None if it is not `wanted`; a day without rows if there is none with fingerprints.
    """
    if not wanted:
        yield None
        return
    earlier = max((d for d in table.rows_by_day() if d < day), default=None)
    parts = table.parts(earlier) if earlier else []
    if not all(part.receipt.has_fingerprints for part in parts) or not parts:
        yield PreviousDay()
        return
    shards: dict[int, list[Part[ValidatedReceipt]]] = {}
    for part in parts:
        if part.rows:
            shards.setdefault(part.shard, []).append(part)
    scratch = local(table.path)
    scratch.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=scratch, prefix=f"{BEFORE}{day}-") as folder:
        indexed = parallel_map(
            partial(_write, Path(folder), key), list(shards.values())
        )
        yield PreviousDay(digest_of(parts), dict(zip(shards, indexed, strict=True)))


def with_fingerprints(
    rows: pa.Table, contract: Contract
) -> tuple[pa.Table, np.ndarray]:
    """Append the fingerprint of each row's features; give them as uint64 (rows,), too."""
    rows = rows.combine_chunks()
    marks = np.zeros(len(rows), np.uint64)
    if contract.features:
        marks = fingerprint([rows[name].to_numpy() for name in contract.feature_names])
    for one in contract.inputs:
        for column in one.fields():
            marks = folded(marks, rows[column.name].combine_chunks())
    return rows.append_column(FINGERPRINT, pa.array(marks.view(np.int64))), marks


def _write(
    folder: Path, key: str, parts: list[Part[ValidatedReceipt]], _: object
) -> PreviousShard:
    rows = []
    for part in parts:
        table = read_columns(part.path, [key, FINGERPRINT])
        marks = table[FINGERPRINT].to_numpy().view(np.uint64)
        rows.append(_rows(hash_keys(table[key]), marks))
    numbers = np.concatenate(rows)
    part_of = np.repeat(np.arange(len(rows), dtype=np.uint32), [len(r) for r in rows])
    order = np.argsort(numbers)
    shard = parts[0].shard
    indexed = PreviousShard(
        folder / f"{shard}.npy",
        folder / f"{shard}-part.npy",
        [part.path.name for part in parts],
    )
    np.save(indexed.numbers, numbers[order])
    np.save(indexed.part_of, part_of[order])
    return indexed


def _rows(hashes: np.ndarray, fingerprints: np.ndarray) -> np.ndarray:
    return hashes ^ (fingerprints * np.uint64(GOLDEN_RATIO))
