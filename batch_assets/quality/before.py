"""Which rows of a day are as they were the night before: a hint for how it is laid out.

Rows that have not changed lie together, so that whoever scores only the others decodes
few of them. It decides nothing: a row is carried over by what the scorer compares.
"""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np

from batch_assets.lake.cores import Spread, on_cores
from batch_assets.lake.parts import Part, read_columns
from batch_assets.lake.shards import GOLDEN_RATIO, hash_keys
from batch_assets.lake.tables import BEFORE, Table

FINGERPRINT = "fingerprint"
# In the receipt of a part: whether its rows are all as they were the night before.
SAME = "as_before"


@dataclass(frozen=True)
class Before:
    """The rows of the night before, by shard: one number for key and features, sorted.

    The numbers are mapped from files, because a day of them need not fit into memory.
    """

    shards: dict[int, Path] = field(default_factory=dict)

    def has(
        self, shard: int, hashes: np.ndarray, fingerprints: np.ndarray
    ) -> np.ndarray:
        """Whether each row was there; bool (rows,).

        Args:
            shard: that the rows are of.
            hashes: of the keys, uint64 (rows,).
            fingerprints: of the features, uint64 (rows,).
        """
        path = self.shards.get(shard)
        if path is None:
            return np.zeros(len(hashes), dtype=bool)
        known = np.load(path, mmap_mode="r")
        asked = _rows(hashes, fingerprints)
        order = np.argsort(asked)
        at = np.searchsorted(known, asked[order])
        found = np.empty(len(asked), dtype=bool)
        found[order] = known[np.minimum(at, len(known) - 1)] == asked[order]
        return found


@contextmanager
def before_of(
    table: Table, day: str, key: str, *, wanted: bool, spread: Spread = on_cores
) -> Iterator[Before]:
    """The newest day of validated features before a day, while this is entered."""
    earlier = max((d for d in table.rows_by_day() if d < day), default=None)
    parts = table.parts(earlier) if wanted and earlier else []
    if not all(part.receipt.facts.get(FINGERPRINT) for part in parts) or not parts:
        yield Before()
        return
    shards: dict[int, list[Part]] = {}
    for part in parts:
        if part.receipt.tally.rows:
            shards.setdefault(part.receipt.shard, []).append(part)
    with tempfile.TemporaryDirectory(
        dir=table.path, prefix=f"{BEFORE}{day}-"
    ) as folder:
        paths = spread(partial(_write, Path(folder), key), list(shards.values()))
        yield Before(dict(zip(shards, paths, strict=True)))


def _write(folder: Path, key: str, parts: list[Part], _: object) -> Path:
    rows = []
    for part in parts:
        table = read_columns(part.path, [key, FINGERPRINT])
        found = table[FINGERPRINT].to_numpy().view(np.uint64)
        rows.append(_rows(hash_keys(table[key]), found))
    path = folder / f"{parts[0].receipt.shard}.npy"
    np.save(path, np.sort(np.concatenate(rows)))
    return path


def _rows(hashes: np.ndarray, fingerprints: np.ndarray) -> np.ndarray:
    return hashes ^ (fingerprints * np.uint64(GOLDEN_RATIO))
