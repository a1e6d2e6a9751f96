"""Score one chunk: the one unit of work, the same on every engine.

A chunk is a run of row groups of one validated part. It leaves one predictions part
with its receipt, and one part of dead letters if there are any. It knows neither the
rest of the day nor who runs it, and commits nothing.
"""

import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from batch_assets.errors import CorruptPartError, ScoringError
from batch_assets.incremental.reuse import ReusedRows, ReuseSource, find_reusable_rows
from batch_assets.lake.parts import Part, PartWriter, Receipt, open_part, read_open
from batch_assets.lake.reconciliation import ControlTotal
from batch_assets.lake.shards import content, hash_keys
from batch_assets.models.contract import Contract, Output
from batch_assets.models.reference import histogram
from batch_assets.scoring.isolation import FaultError, TimedScorer
from batch_assets.scoring.scorer import Scorer, Spent
from batch_assets.spec import CHUNK_SECONDS
from batch_assets.storage import StoragePath

# The float32 values of a cache line.
LINE = 16


@dataclass(frozen=True)
class ChunkTask:
    """What it takes to score one chunk; a descriptor, without a row in it.

    `row_groups` counts from the first to one past the last. More than `max_faults`
    rows on which the model raises, or takes longer than its share of `max_seconds`, stop
    the chunk. In a replay `validated` is a part of dead letters, and `replay_of` names
    the validated part that they are of. With `carry`, rows that have not changed take
    over their prediction.
    """

    day: str
    shard: int
    chunk: int
    job: str
    validated: StoragePath
    row_groups: tuple[int, int]
    rows: int
    predictions: StoragePath
    dead_letters: StoragePath
    max_faults: int
    max_seconds: float = CHUNK_SECONDS
    replay_of: str | None = None
    reuse: ReuseSource | None = None

    @property
    def made_of(self) -> str:
        """The name of the validated part that the rows come from."""
        return self.replay_of or self.validated.name


@dataclass(frozen=True)
class Scored:
    """What a chunk left, and where its seconds went.

    `seconds` are those of each stage (read, pack, copy, compute, write) and add up to
    the whole; `model_seconds` are those of compute and copy that were the scorer's.
    """

    part: Part
    dead: Part | None
    seconds: dict[str, float] = field(default_factory=dict)
    model_seconds: float = 0.0

    @property
    def dead_rows(self) -> int:
        return self.dead.receipt.total.rows if self.dead else 0


def in_turn(tasks: Sequence[ChunkTask]) -> list[ChunkTask]:
    """Tasks as an engine should begin them, on however many workers.

    The largest first: at the end no worker waits long for another's last chunk. Those
    that take rows over stay beside each other: they share what they load.
    """
    return sorted(tasks, key=lambda task: 0 if task.reuse else -task.rows)


def score_chunk(task: ChunkTask, scorer: Scorer) -> Scored:
    """Read, pack, score and write one chunk.

    Raises:
        CorruptPartError: the validated part, or last night's, is not what was committed.
        ReuseError: rows that are taken over come out differently when scored.
        ScoringError: the model fails on too many rows.
    """
    contract = scorer.release.contract
    clock = _Clock()
    taken = None
    validated, file = open_part(task.validated)
    with file:
        if task.reuse:
            taken = find_reusable_rows(
                task.reuse, validated, file, task.row_groups, contract
            )
        table = _read(task, validated, file, contract, taken)
    clock.lap("read")
    features = _pack(table, contract)
    clock.lap("pack")
    outputs, faults, spent = _score(task, scorer, features)
    faults |= outside(outputs, contract.outputs, faults)
    clock.lap("compute")
    dead = _write_dead_letters(task, scorer, table, faults) if faults else None
    if taken is None:
        keys = table[contract.key.name].combine_chunks()
    else:
        keys = taken.keys
        outputs, faults = taken.merged(outputs, faults, scorer.tolerance)
    part = _write_predictions(task, scorer, keys, outputs, faults, dead, taken)
    clock.lap("write")
    seconds = clock.seconds | {
        "copy": spent.copy,
        "compute": clock.seconds["compute"] - spent.copy,
    }
    return Scored(part, dead, seconds, spent.model)


def dead_letter_schema(contract: Contract) -> pa.Schema:
    """The columns of dead letters: the whole row as scored, the reason, the release."""
    return pa.schema(
        list(contract.feature_schema())
        + [
            (name, pa.string())
            for name in ("stage", "reason", "model_name", "model_version")
        ]
    )


def _read(
    task: ChunkTask,
    validated: Part,
    file: pq.ParquetFile,
    contract: Contract,
    taken: ReusedRows | None,
) -> pa.Table:
    """The rows to score: all of the chunk, or those that are not taken over."""
    columns = contract.feature_schema().names
    if taken is None:
        table = read_open(validated, file, columns, range(*task.row_groups))
        if len(table) != task.rows:
            msg = f"part {task.validated} gave {len(table):,} rows of {task.rows:,}"
            raise CorruptPartError(msg)
        return table
    if not taken.groups:
        return contract.feature_schema().empty_table()
    table = read_open(validated, file, columns, taken.groups)
    which = taken.scored_of_groups
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
            self.buffer = np.empty(features * apart, dtype=np.float32)
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
                found, spent = timed.score(features[:, start:stop])
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
            for name, values in found.items():
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
    """Rows whose outputs are not finite or not in their declared range."""
    found: dict[int, str] = {}
    for output in declared:
        values = outputs[output.name]
        for row in np.flatnonzero(~output.in_range(values)).tolist():
            if row not in faults:
                found[row] = f"output '{output.name}' is {values[row]}"
    return found


def _write_predictions(
    task: ChunkTask,
    scorer: Scorer,
    keys: pa.Array,
    outputs: dict[str, np.ndarray],
    faults: dict[int, str],
    dead: Part | None,
    taken: ReusedRows | None,
) -> Part:
    release, contract = scorer.release, scorer.release.contract
    schema = _as_written(contract.prediction_schema())
    kept = np.ones(len(keys), dtype=bool)
    kept[list(faults)] = False
    if faults:
        keys = keys.filter(pa.array(kept))
        outputs = {name: values[kept] for name, values in outputs.items()}
    rows = pa.table(
        [
            keys,
            *(pa.array(outputs[o.name]) for o in contract.outputs),
            _same_on_every_row(release.name, len(keys)),
            _same_on_every_row(release.digest, len(keys)),
        ],
        schema=schema,
    )
    hashes = hash_keys(keys)
    facts: dict[str, Any] = {
        "model": release.name,
        "release": release.digest,
        "contract": contract.digest,
        "validated": task.made_of,
        "replayed": task.validated.name if task.replay_of else None,
        "row_groups": list(task.row_groups),
        # By digest: of two attempts of a chunk, each has its own pair of parts.
        "dead": dead.sha256 if dead else None,
        "arithmetic": scorer.device.arithmetic,
        **(taken.facts if taken else {}),
        "content": content(hashes, [outputs[o.name] for o in contract.outputs]),
        "outputs": {
            o.name: _distribution(scorer, o.name, outputs[o.name])
            for o in contract.outputs
        },
    }
    with PartWriter(
        task.predictions, schema, row_group_rows=max(len(rows), 1), numbers=True
    ) as writer:
        writer.write(rows)
        return writer.finish(
            Receipt(
                "predictions",
                task.day,
                task.shard,
                task.chunk,
                task.job,
                ControlTotal.of_hashes(hashes),
                facts,
            )
        )


def _write_dead_letters(
    task: ChunkTask, scorer: Scorer, table: pa.Table, faults: dict[int, str]
) -> Part:
    contract = scorer.release.contract
    schema = dead_letter_schema(contract)
    at = sorted(faults)
    taken = table.take(pa.array(at))
    rows = pa.table(
        [
            *taken.columns,
            pa.repeat("score", len(at)),
            pa.array([faults[row] for row in at]),
            pa.repeat(scorer.release.name, len(at)),
            pa.repeat(scorer.release.digest, len(at)),
        ],
        schema=schema,
    )
    keys = rows[contract.key.name]
    with PartWriter(task.dead_letters, schema, row_group_rows=len(at)) as writer:
        writer.write(rows)
        return writer.finish(
            Receipt(
                "dead_letters",
                task.day,
                task.shard,
                task.chunk,
                task.job,
                ControlTotal.of(keys),
                {
                    "release": scorer.release.digest,
                    "validated": task.made_of,
                },
            )
        )


def _as_written(schema: pa.Schema) -> pa.Schema:
    """The columns of predictions, with strings as dictionaries on their way to disk."""
    for at, column in enumerate(schema):
        if column.name in ("model_name", "model_version"):
            schema = schema.set(
                at, column.with_type(pa.dictionary(pa.int32(), pa.string()))
            )
    return schema


def _same_on_every_row(text: str, rows: int) -> pa.Array:
    """A column of one string, as a dictionary: written in a third of the time."""
    return pa.DictionaryArray.from_arrays(
        np.zeros(rows, np.int32), pa.array([text]), safe=False
    )


def _distribution(scorer: Scorer, name: str, values: np.ndarray) -> dict[str, Any]:
    """What a day's distribution is summed from: exact, and mergeable in any order."""
    reference = scorer.release.manifest.reference.get(name)
    edges = reference.edges if reference else ()
    wide = values.astype(np.float64)
    return {
        "rows": len(values),
        "sum": float(wide.sum()),
        "min": float(wide.min()) if len(values) else None,
        "max": float(wide.max()) if len(values) else None,
        "counts": histogram(wide, edges),
    }


class _Clock:
    """Seconds between laps."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._last = time.perf_counter()

    def lap(self, name: str) -> None:
        now = time.perf_counter()
        self.seconds[name] = now - self._last
        self._last = now
