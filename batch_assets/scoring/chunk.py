"""Score one chunk: the one unit of work, the same on every engine.

A chunk is a run of row groups of one validated part. It leaves one predictions part
with its receipt, and one part of dead letters if there are any. It knows neither the
rest of the day nor who runs it, and commits nothing.
"""

import threading
import time

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from batch_assets.errors import CorruptPartError, ScoringError
from batch_assets.incremental.reuse import ReusedRows, find_reusable_rows
from batch_assets.lake.parts import Part, open_part, read_open
from batch_assets.lake.receipts import Receipt
from batch_assets.models.contract import Contract, Output
from batch_assets.scoring.chunk_parts import write_dead_letters, write_predictions
from batch_assets.scoring.chunk_task import ChunkTask, Scored
from batch_assets.scoring.faults import FaultError
from batch_assets.scoring.isolation import TimedScorer
from batch_assets.scoring.scorer import Scorer, Spent

# The float32 values of a cache line.
LINE = 16


def score_chunk(task: ChunkTask, scorer: Scorer) -> Scored:
    """Read, pack, score and write one chunk.

    Raises:
        CorruptPartError: the validated part, or last night's, is not what was committed.
        ReuseError: rows that are taken over come out differently when scored.
        ScoringError: the model fails on too many rows.
    """
    contract = scorer.release.contract
    clock = _Clock()
    reused = None
    validated, file = open_part(task.validated)
    with file:
        if task.reuse:
            reused = find_reusable_rows(
                task.reuse, validated, file, task.row_groups, contract
            )
        table = _read(task, validated, file, contract, reused)
    clock.lap("read")
    features = _pack(table, contract)
    clock.lap("pack")
    outputs, faults, spent = _score(task, scorer, features)
    faults |= outside(outputs, contract.outputs, faults)
    clock.lap("compute")
    dead = write_dead_letters(task, scorer, table, faults) if faults else None
    if reused is None:
        keys = table[contract.key.name].combine_chunks()
    else:
        # From here on of all rows of the chunk, and not of those alone that were scored.
        keys = reused.keys
        outputs, faults = reused.merged(outputs, faults, scorer.tolerance)
    part = write_predictions(task, scorer, keys, outputs, faults, dead, reused)
    clock.lap("write")
    seconds = clock.seconds | {
        "copy": spent.copy,
        "compute": clock.seconds["compute"] - spent.copy,
    }
    return Scored(part, dead, seconds, spent.model)


def _read(
    task: ChunkTask,
    validated: Part[Receipt],
    file: pq.ParquetFile,
    contract: Contract,
    reused: ReusedRows | None,
) -> pa.Table:
    """The rows to score: all of the chunk, or those that are not taken over."""
    columns = contract.feature_schema().names
    if reused is None:
        table = read_open(validated, file, columns, range(*task.row_groups))
        if len(table) != task.rows:
            msg = f"part {task.validated} gave {len(table):,} rows of {task.rows:,}"
            raise CorruptPartError(msg)
        return table
    if not reused.groups:
        return contract.feature_schema().empty_table()
    table = read_open(validated, file, columns, reused.groups)
    which = reused.scored_of_groups
    return table if which.all() else table.filter(pa.array(which))


class _Own(threading.local):
    """What a worker keeps from chunk to chunk: fresh memory is paid for page by page."""

    buffer = np.empty(0, dtype=np.float32)

    def room_for(self, features: int, rows: int) -> np.ndarray:
        """Room for (features, rows), whose content is of the chunk before."""
        # An odd number of cache lines from column to column: at a power of two the
        # values of a row fall into the same few sets of the cache, and the matrix
        # product of a small model takes 5 % longer.
        apart = (-(-rows // LINE) | 1) * LINE
        if self.buffer.size < features * apart:
            room = np.empty(features * apart + LINE, dtype=np.float32)
            # From a cache line on: some libraries add up in another order elsewhere,
            # and NumPy's memory begins where it happens to.
            skipped = -room.ctypes.data // room.itemsize % LINE
            self.buffer = room[skipped:]
        return self.buffer[: features * apart].reshape(features, apart)[:, :rows]


_own = _Own()


def _pack(table: pa.Table, contract: Contract) -> np.ndarray:
    """Features as float32 (features, rows): each column one run of memory."""
    packed = _own.room_for(len(contract.features), len(table))
    for row, name in zip(packed, contract.feature_names, strict=True):
        start = 0
        for piece in table[name].chunks:
            row[start : start + len(piece)] = piece.to_numpy(zero_copy_only=False)
            start += len(piece)
    return packed


def _score(
    task: ChunkTask, scorer: Scorer, features: np.ndarray
) -> tuple[dict[str, np.ndarray], dict[int, str], Spent]:
    """Outputs, the rows at fault with their reason, and the scorer's seconds.

    If the model fails, the rows are halved until those at fault are alone.
    """
    rows = features.shape[1]
    faults: dict[int, str] = {}
    outputs: dict[str, np.ndarray] = {}
    seconds = Spent()
    spans = [(0, rows)]
    with TimedScorer(scorer, task.max_seconds, rows) as timed:
        while spans:
            start, stop = spans.pop()
            try:
                columns, spent = timed.score(features[:, start:stop])
            except FaultError as fault:
                if stop - start > 1:
                    middle = (start + stop) // 2
                    spans += [(middle, stop), (start, middle)]
                    continue
                faults[start] = str(fault)
                if len(faults) > task.max_faults:
                    raise _too_many(task, faults[start]) from fault
                continue
            seconds += spent
            for name, values in columns.items():
                outputs.setdefault(name, np.zeros(rows, values.dtype))[start:stop] = (
                    values
                )
    if not outputs:  # Every row is at fault: the columns are there all the same.
        outputs = {
            o.name: np.zeros(rows, o.dtype) for o in scorer.release.contract.outputs
        }
    return outputs, faults, seconds


def _too_many(task: ChunkTask, last: str) -> ScoringError:
    return ScoringError(
        f"the model failed on more than {task.max_faults} rows of shard {task.shard}, "
        f"chunk {task.chunk}; the night stops. The last: {last}. Nothing was committed."
    )


def outside(
    outputs: dict[str, np.ndarray], declared: tuple[Output, ...], faults: dict[int, str]
) -> dict[int, str]:
    """Return the rows whose outputs are not finite or not in their declared range."""
    at_fault: dict[int, str] = {}
    for output in declared:
        values = outputs[output.name]
        for row in np.flatnonzero(~output.in_range(values)).tolist():
            if row not in faults:
                at_fault[row] = f"output '{output.name}' is {values[row]}"
    return at_fault


class _Clock:
    """Seconds between laps."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._last = time.perf_counter()

    def lap(self, name: str) -> None:
        now = time.perf_counter()
        self.seconds[name] = now - self._last
        self._last = now
