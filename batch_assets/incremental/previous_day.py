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

from batch_assets.lake.parts import Part, read_columns
from batch_assets.lake.shards import GOLDEN_RATIO, hash_keys
from batch_assets.lake.tables import BEFORE, Table, digest_of
from batch_assets.parallel import ParallelMap, on_cores
from batch_assets.storage import local

FINGERPRINT = "fingerprint"
# In the receipt of a part: what `LayoutHint` says. Not "as_before", where receipts of before
# there were hints hold a boolean.
HINT = "hint"


@dataclass(frozen=True)
class LayoutHint:
    """What a validated part says of the night before.

    Of its row groups, `groups` hold only rows that were in the validated day whose
    bytes `of` names, in its `parts`; none of the other row groups holds such a row.
    """

    of: str = ""
    groups: list[int] = field(default_factory=list)
    parts: list[str] = field(default_factory=list)

    @classmethod
    def in_receipt(cls, part: Part) -> "LayoutHint":
        return cls(**part.receipt.facts.get(HINT, {}))


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
        """Whether each row was there, bool (rows,), and in which parts they were.

        Args:
            shard: that the rows are of.
            hashes: of the keys, uint64 (rows,).
            fingerprints: of the features, uint64 (rows,).
        """
        known = self.shards.get(shard)
        if known is None:
            return np.zeros(len(hashes), dtype=bool), set()
        numbers = np.load(known.numbers, mmap_mode="r")
        asked = _rows(hashes, fingerprints)
        order = np.argsort(asked)
        at = np.searchsorted(numbers, asked[order])
        at[at == len(numbers)] = 0
        there = numbers[at] == asked[order]
        found = np.empty(len(asked), dtype=bool)
        found[order] = there
        part_of = np.load(known.part_of, mmap_mode="r")
        seen = np.flatnonzero(np.bincount(part_of[at[there]]))
        return found, {known.parts[number] for number in seen}


@contextmanager
def previous_day(
    table: Table,
    day: str,
    key: str,
    *,
    wanted: bool,
    parallel_map: ParallelMap = on_cores,
) -> Iterator[PreviousDay]:
    """The newest day of validated features before a day, while this is entered."""
    earlier = max((d for d in table.rows_by_day() if d < day), default=None)
    parts = table.parts(earlier) if wanted and earlier else []
    if not all(part.receipt.facts.get(FINGERPRINT) for part in parts) or not parts:
        yield PreviousDay()
        return
    shards: dict[int, list[Part]] = {}
    for part in parts:
        if part.receipt.total.rows:
            shards.setdefault(part.receipt.shard, []).append(part)
    here = local(table.path)
    here.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=here, prefix=f"{BEFORE}{day}-") as folder:
        known = parallel_map(partial(_write, Path(folder), key), list(shards.values()))
        yield PreviousDay(digest_of(parts), dict(zip(shards, known, strict=True)))


def _write(folder: Path, key: str, parts: list[Part], _: object) -> PreviousShard:
    rows = []
    for part in parts:
        table = read_columns(part.path, [key, FINGERPRINT])
        found = table[FINGERPRINT].to_numpy().view(np.uint64)
        rows.append(_rows(hash_keys(table[key]), found))
    numbers = np.concatenate(rows)
    part_of = np.repeat(np.arange(len(rows), dtype=np.uint32), [len(r) for r in rows])
    order = np.argsort(numbers)
    shard = parts[0].receipt.shard
    known = PreviousShard(
        folder / f"{shard}.npy",
        folder / f"{shard}-part.npy",
        [part.path.name for part in parts],
    )
    np.save(known.numbers, numbers[order])
    np.save(known.part_of, part_of[order])
    return known


def _rows(hashes: np.ndarray, fingerprints: np.ndarray) -> np.ndarray:
    return hashes ^ (fingerprints * np.uint64(GOLDEN_RATIO))
