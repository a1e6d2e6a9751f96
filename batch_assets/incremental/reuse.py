"""Rows that have not changed since the last night take over its predictions.

A row is taken over only if its key was scored then, by the same release, from the very
same feature bytes: the fingerprints of both nights are equal. Some of these rows are
scored all the same, and must come out equal. This knows neither chunks nor commits.
"""

import threading
from collections import OrderedDict
from concurrent.futures import Future
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from batch_assets.errors import ScoringError
from batch_assets.incremental.key_index import KeyIndex
from batch_assets.incremental.previous_day import FINGERPRINT
from batch_assets.lake.parts import Part, read_columns, read_open, sealed_part
from batch_assets.lake.receipts import Receipt
from batch_assets.lake.reconciliation import ControlTotal
from batch_assets.lake.shards import hash_keys
from batch_assets.models.contract import Contract
from batch_assets.models.likeness import unlike
from batch_assets.storage import StoragePath

# Sources in memory at once, each a few parts of last night or a shard of it: those that
# the workers are at, and the next.
SOURCES_KEPT = 4


class ReuseError(ScoringError):
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
class Origin:
    """A validated part of last night, and the predictions of its rows, in their order."""

    validated: StoragePath
    predictions: tuple[StoragePath, ...]


@dataclass(frozen=True)
class ReuseSource:
    """Where the rows of a part are taken over from. A descriptor without a row in it.

    Only rows of the row groups `groups` were there last night, in `origins`. Of the row
    groups `rescored`, `rescored_rows` each are scored although they could be taken over.
    """

    origins: tuple[Origin, ...]
    groups: tuple[int, ...]
    rescored: tuple[int, ...] = ()
    rescored_rows: int = 0


@dataclass(frozen=True)
class PreviousPredictions:
    """Rows as they were last predicted."""

    index: KeyIndex
    fingerprints: np.ndarray
    outputs: dict[str, np.ndarray]

    def find(
        self, keys: pa.Array, hashes: np.ndarray, fingerprints: np.ndarray
    ) -> np.ndarray:
        """Return where the predictions of these rows are; -1 where a row is new or changed.

        Args:
            keys: of the rows.
            hashes: of the keys, uint64 (rows,).
            fingerprints: of the features, uint64 (rows,).
        """
        positions = self.index.find(keys, hashes)
        if len(self.fingerprints):
            positions[self.fingerprints[positions] != fingerprints] = -1
        return positions

    def taken(self, name: str, positions: np.ndarray) -> np.ndarray:
        """Return an output at these positions; anything where they are -1."""
        values = self.outputs[name]
        if not len(values):
            return np.zeros((len(positions), *values.shape[1:]), values.dtype)
        taken: np.ndarray = values[positions]
        return taken


@dataclass(frozen=True)
class ReusedRows:
    """The rows of a chunk that take over their prediction, and those that are scored.

    `carried` and `scored` are masks over the chunk's rows; what is in both is rescored.
    `outputs` are those of the carried rows, and anything elsewhere. `groups` are the
    row groups to read, `scored_of_groups` is `scored` over their rows.
    """

    keys: pa.Array
    hashes: np.ndarray
    carried: np.ndarray
    scored: np.ndarray
    outputs: dict[str, np.ndarray]
    groups: list[int]
    scored_of_groups: np.ndarray

    @property
    def total(self) -> ControlTotal:
        """The rows that take over their prediction."""
        return ControlTotal.of_hashes(self.hashes[self.carried])

    @property
    def rescored(self) -> int:
        """How many of these are scored all the same."""
        return int((self.carried & self.scored).sum())

    def merged(
        self,
        outputs: dict[str, np.ndarray],
        faults: dict[int, str],
        contract: Contract,
        tolerance: float,
    ) -> tuple[dict[str, np.ndarray], dict[int, str]]:
        """Return outputs and faults of the whole chunk, from those of the scored rows.

        Raises:
            ReuseError: a row that was rescored is not what it was.
        """
        at = np.flatnonzero(self.scored)
        again = self.carried[at]
        changed = np.zeros(len(at), dtype=bool)
        changed[list(faults)] = True
        before = {name: values[at] for name, values in self.outputs.items()}
        for _, rows in unlike(outputs, before, contract, tolerance):
            changed |= rows
        changed &= again
        if changed.any():
            row = int(at[changed.argmax()])
            msg = (
                f"{int(changed.sum()):,} of {int(again.sum()):,} rows that were scored "
                "again are not what they were, though their features and the release "
                f"are the same; the first has the key {self.keys[row]}"
            )
            raise ReuseError(msg)
        whole = {}
        for name, values in outputs.items():
            whole[name] = self.outputs[name].copy()
            whole[name][at[~again]] = values[~again]
        return whole, {int(at[row]): why for row, why in faults.items()}


def find_reusable_rows(
    source: ReuseSource,
    part: Part[Receipt],
    file: pq.ParquetFile,
    row_groups: tuple[int, int],
    contract: Contract,
) -> ReusedRows:
    """Find which rows of a chunk were predicted last night from the same features.

    Args:
        source: where they may have been.
        part: tonight's validated part.
        file: the same, open.
        row_groups: the chunk's: the first, and one past the last.
        contract: of the release, which is last night's too.

    Raises:
        CorruptPartError: a part is not what was committed.
    """
    groups = range(*row_groups)
    table = read_open(part, file, [contract.key.name, FINGERPRINT], groups)
    keys = table[contract.key.name].combine_chunks()
    hashes = hash_keys(keys)
    fingerprints = table[FINGERPRINT].to_numpy().view(np.uint64)
    before = _loaded.get(source, contract)
    ends = np.cumsum([part.groups[group] for group in groups]).tolist()
    spans = dict(zip(groups, map(slice, [0, *ends], ends), strict=True))
    positions = np.full(len(keys), -1)
    for group in spans.keys() & source.groups:
        rows = spans[group]
        positions[rows] = before.find(keys[rows], hashes[rows], fingerprints[rows])
    carried = positions >= 0
    scored = ~carried
    for group in spans.keys() & source.rescored:
        # Evenly over the group: rows beside each other may have much in common.
        candidates = np.flatnonzero(carried[spans[group]])
        count = min(source.rescored_rows, len(candidates))
        picks = np.linspace(0, len(candidates) - 1, count).astype(np.int64)
        scored[spans[group]][candidates[picks]] = True
    needed = [group for group, rows in spans.items() if scored[rows].any()]
    return ReusedRows(
        keys,
        hashes,
        carried,
        scored,
        {name: before.taken(name, positions) for name in contract.written_names},
        needed,
        np.concatenate([scored[:0], *(scored[spans[group]] for group in needed)]),
    )


def _load(source: ReuseSource, contract: Contract) -> PreviousPredictions:
    rows = pa.concat_tables([_rows_of(origin, contract) for origin in source.origins])
    keys = rows[contract.key.name].combine_chunks()
    return PreviousPredictions(
        KeyIndex(keys, hash_keys(keys)),
        rows[FINGERPRINT].to_numpy().view(np.uint64),
        contract.computed(rows),
    )


def _rows_of(origin: Origin, contract: Contract) -> pa.Table:
    """Predictions with the fingerprints that they were made from."""
    key = contract.key.name
    validated = read_columns(origin.validated, [key, FINGERPRINT])
    tables = []
    for path in origin.predictions:
        sealed_part(path)
        tables.append(read_columns(path, [key, *contract.written_names]))
    predicted = pa.concat_tables(tables)
    fingerprints = validated[FINGERPRINT]
    if not predicted[key].equals(validated[key]):
        # Dead letters were among them, or have been replayed.
        keys = predicted[key].combine_chunks()
        all_keys = validated[key].combine_chunks()
        index = KeyIndex(all_keys, hash_keys(all_keys))
        positions = index.find(keys, hash_keys(keys))
        predicted = predicted.filter(pa.array(positions >= 0))
        fingerprints = fingerprints.take(pa.array(positions[positions >= 0]))
    return predicted.append_column(FINGERPRINT, fingerprints)


class _Loaded:
    """What of last night is in memory, each source loaded once for all chunks of it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._futures: OrderedDict[tuple[Origin, ...], Future[PreviousPredictions]] = (
            OrderedDict()
        )

    def get(self, source: ReuseSource, contract: Contract) -> PreviousPredictions:
        name = source.origins
        with self._lock:
            first = name not in self._futures
            future = self._futures.setdefault(name, Future())
            self._futures.move_to_end(name)
            while len(self._futures) > SOURCES_KEPT:
                self._futures.popitem(last=False)
        if first:
            try:
                future.set_result(_load(source, contract))
            except BaseException as error:
                with self._lock:
                    self._futures.pop(name, None)
                future.set_exception(error)
                raise
        return future.result()


_loaded = _Loaded()
