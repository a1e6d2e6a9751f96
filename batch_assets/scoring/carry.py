"""Rows that have not changed since the last night take over its predictions.

A row is taken over only if its key was scored then, by the same release, from the very
same feature bytes: the fingerprints of both nights are equal. Some of these rows are
scored all the same, and must come out equal. This knows neither chunks nor commits.
"""

import threading
from collections import OrderedDict
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from batch_assets.errors import ScoringError
from batch_assets.lake.books import Tally
from batch_assets.lake.parts import group_rows, read_columns, sealed_part
from batch_assets.lake.shards import hash_keys
from batch_assets.models.contract import Contract
from batch_assets.quality.before import FINGERPRINT

# Last night's shards in memory at once: those that the workers are at, and the next.
SHARDS_KEPT = 4


class CarryError(ScoringError):
    """Rows that were taken over come out differently when they are scored."""


@dataclass(frozen=True)
class Incremental:
    """How nights build on each other.

    Each `full_every`-th night scores every row; of the rows that the others take over,
    `rescored_share` are scored all the same and must be equal.
    """

    full_every: int = 7
    rescored_share: float = 0.01


@dataclass(frozen=True)
class Source:
    """Where a shard's rows are taken over from: last night's parts of it.

    A descriptor without a row in it. Of the row groups `rescored` of tonight's part,
    `rescored_rows` each are scored although they could be taken over.
    """

    validated: tuple[Path, ...]
    predictions: tuple[Path, ...]
    rescored: tuple[int, ...] = ()
    rescored_rows: int = 0


@dataclass(frozen=True)
class LastNight:
    """A shard as it was last predicted, sorted by the hash of the key."""

    hashes: np.ndarray
    fingerprints: np.ndarray
    outputs: dict[str, np.ndarray]

    def find(self, hashes: np.ndarray, fingerprints: np.ndarray) -> np.ndarray:
        """Where the predictions of these rows are; -1 for a row that is new or changed.

        Args:
            hashes: of the keys, uint64 (rows,).
            fingerprints: of the features, uint64 (rows,).
        """
        if not len(self.hashes):
            return np.full(len(hashes), -1)
        # Sorted questions run through memory in its order: 20 ns each, unsorted 180.
        order = np.argsort(hashes)
        asked = hashes[order]
        at = np.searchsorted(self.hashes, asked)
        at[at == len(self.hashes)] = 0
        same = (self.hashes[at] == asked) & (
            self.fingerprints[at] == fingerprints[order]
        )
        found = np.empty(len(hashes), dtype=np.int64)
        found[order] = np.where(same, at, -1)
        return found

    def taken(self, name: str, found: np.ndarray) -> np.ndarray:
        """An output at the places that `find` has found; anything where it has not."""
        values = self.outputs[name]
        return values[found] if len(values) else np.zeros(len(found), values.dtype)


@dataclass(frozen=True)
class Taken:
    """The rows of a chunk that are taken over, and those that are scored.

    `carried` and `scored` are masks over the chunk's rows; what is in both is rescored.
    `outputs` are those of the carried rows, and anything elsewhere. `groups` are the
    row groups to read, `scored_of_groups` is `scored` over their rows.
    """

    keys: pa.Array
    carried: np.ndarray
    scored: np.ndarray
    outputs: dict[str, np.ndarray]
    groups: list[int]
    scored_of_groups: np.ndarray

    @property
    def facts(self) -> dict[str, Any]:
        """What the receipt says of it."""
        tally = Tally.of(self.keys.filter(pa.array(self.carried)))
        return {
            "carried": {"rows": tally.rows, "keys": tally.keys},
            "rescored": int((self.carried & self.scored).sum()),
        }

    def merged(
        self,
        outputs: dict[str, np.ndarray],
        faults: dict[int, str],
        tolerance: float,
    ) -> tuple[dict[str, np.ndarray], dict[int, str]]:
        """Outputs and faults of the whole chunk, from those of the rows scored now.

        Raises:
            CarryError: a row that was rescored is not what it was.
        """
        at = np.flatnonzero(self.scored)
        again = self.carried[at]
        unlike = np.zeros(len(at), dtype=bool)
        unlike[list(faults)] = True
        for name, values in outputs.items():
            unlike |= ~np.isclose(
                values,
                self.outputs[name][at],
                rtol=tolerance,
                atol=tolerance,
                equal_nan=True,
            )
        unlike &= again
        if unlike.any():
            row = int(at[unlike.argmax()])
            msg = (
                f"{int(unlike.sum()):,} of {int(again.sum()):,} rows that were scored "
                "again are not what they were, though their features and the release "
                f"are the same; the first has the key {self.keys[row]}"
            )
            raise CarryError(msg)
        whole = {}
        for name, values in outputs.items():
            whole[name] = self.outputs[name].copy()
            whole[name][at[~again]] = values[~again]
        return whole, {int(at[row]): why for row, why in faults.items()}


def take_over(
    source: Source, validated: Path, row_groups: tuple[int, int], contract: Contract
) -> Taken:
    """Find which rows of a chunk were predicted last night from the same features.

    Args:
        source: last night's parts of the shard.
        validated: tonight's part.
        row_groups: the chunk's: the first, and one past the last.
        contract: of the release, which is last night's too.

    Raises:
        CorruptPartError: a part is not what was committed.
    """
    groups = range(*row_groups)
    sizes = group_rows(validated)[row_groups[0] : row_groups[1]]
    group_of = np.repeat(np.arange(*row_groups), sizes)
    columns = [contract.key.name, FINGERPRINT]
    table = read_columns(validated, columns, groups)
    keys = table[contract.key.name].combine_chunks()
    before = _shards.get(source, contract)
    fingerprints = table[FINGERPRINT].to_numpy().view(np.uint64)
    found = before.find(hash_keys(keys), fingerprints)
    carried = found >= 0
    scored = ~carried
    for group in set(groups).intersection(source.rescored):
        # Evenly over the group: rows beside each other may have much in common.
        rows = np.flatnonzero(carried & (group_of == group))
        picks = np.linspace(0, len(rows) - 1, min(source.rescored_rows, len(rows)))
        scored[rows[picks.astype(np.int64)]] = True
    needed = np.unique(group_of[scored])
    return Taken(
        keys,
        carried,
        scored,
        {name: before.taken(name, found) for name in contract.output_names},
        needed.tolist(),
        scored[np.isin(group_of, needed)],
    )


def _load(source: Source, contract: Contract) -> LastNight:
    key = contract.key.name
    hashes, columns = _columns(source.validated, key, [FINGERPRINT])
    seen, scored = _columns(source.predictions, key, contract.output_names, sealed=True)
    order = np.argsort(hashes)
    hashes, fingerprints = hashes[order], columns[FINGERPRINT][order].view(np.uint64)
    # Two keys with one hash, if that ever happens, are scored each night.
    alone = np.ones(len(hashes), dtype=bool)
    alone[1:] &= hashes[1:] != hashes[:-1]
    alone[:-1] &= hashes[1:] != hashes[:-1]
    hashes, fingerprints = hashes[alone], fingerprints[alone]
    order = np.argsort(seen)
    seen = seen[order]
    at = np.searchsorted(hashes, seen)
    at[at == len(hashes)] = 0
    both = hashes[at] == seen if len(hashes) else np.zeros(len(seen), dtype=bool)
    return LastNight(
        seen[both],
        fingerprints[at[both]],
        {name: values[order][both] for name, values in scored.items()},
    )


def _columns(
    paths: tuple[Path, ...], key: str, names: list[str], *, sealed: bool = False
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """The hashes of the keys of some parts, and columns beside them."""
    tables = []
    for path in paths:
        if sealed:
            sealed_part(path)
        tables.append(read_columns(path, [key, *names]))
    table = pa.concat_tables(tables)
    return hash_keys(table[key]), {name: table[name].to_numpy() for name in names}


class _Shards:
    """Last night's shards that are in memory, each loaded once."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._loaded: OrderedDict[tuple, Future[LastNight]] = OrderedDict()

    def get(self, source: Source, contract: Contract) -> LastNight:
        name = (source.validated, source.predictions)
        with self._lock:
            mine = name not in self._loaded
            future = self._loaded.setdefault(name, Future())
            self._loaded.move_to_end(name)
            while len(self._loaded) > SHARDS_KEPT:
                self._loaded.popitem(last=False)
        if mine:
            try:
                future.set_result(_load(source, contract))
            except BaseException as error:
                with self._lock:
                    self._loaded.pop(name, None)
                future.set_exception(error)
                raise
        return future.result()


_shards = _Shards()
