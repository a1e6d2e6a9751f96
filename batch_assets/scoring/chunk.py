"""Score one chunk: the one unit of work, the same on every engine.

A chunk is a run of row groups of one validated part. It leaves one predictions part
with its receipt, and one part of dead letters if there are any. It knows neither the
rest of the day nor who runs it, and commits nothing.
"""

import time

import numpy as np
import pyarrow as pa

from batch_assets.errors import ScoringError
from batch_assets.incremental.reuse import find_reusable_rows
from batch_assets.lake.parts import open_part
from batch_assets.lake.shards import hash_keys
from batch_assets.models.contract import Contract
from batch_assets.models.input_rows import InputRows
from batch_assets.models.output_specs import Computed
from batch_assets.scoring.chunk_parts import (
    PredictedRows,
    write_dead_letters,
    write_predictions,
)
from batch_assets.scoring.chunk_profile import profile_of_chunk
from batch_assets.scoring.chunk_rows import read_features, read_rows
from batch_assets.scoring.chunk_task import ChunkTask, Scored
from batch_assets.scoring.faults import FaultError
from batch_assets.scoring.isolation import TimedScorer
from batch_assets.scoring.scorer import Scorer, Spent
from batch_assets.scoring.side_items import with_side_items


def score_chunk(task: ChunkTask, scorer: Scorer) -> Scored:
    """Read, score and write one chunk.

    Raises:
        CorruptPartError: the validated part, or last night's, is not what was committed.
        ReuseError: rows that are taken over come out differently when scored.
        ScoringError: the model fails on too many rows.
    """
    contract = scorer.release.contract
    pinned = scorer.device.kind == "cuda" and not scorer.lost_device
    clock = _Clock()
    reused = None
    part, file = open_part(task.validated)
    with file:
        if task.reuse:
            reused = find_reusable_rows(
                task.reuse, part, file, task.row_groups, contract
            )
            which = reused.scored_of_groups
            rows = read_features(
                part, file, contract, reused.groups, which, pinned=pinned
            )
            keys = reused.keys.filter(pa.array(reused.scored))
        else:
            groups = range(*task.row_groups)
            keys, rows = read_rows(part, file, contract, groups, pinned=pinned)
    clock.lap("read")
    if task.side:
        rows = with_side_items(rows, task.side, scorer.release)
    outputs, faults, spent = _score(task, scorer, rows)
    faults |= outside(outputs, contract, faults)
    clock.lap("compute")
    dead = write_dead_letters(task, scorer, keys, rows, faults) if faults else None
    hashes = hash_keys(keys)
    profile = profile_of_chunk(
        task, scorer.release, rows, outputs, hashes, faults, reused
    )
    if reused is not None:
        # From here on of all rows of the chunk, and not of those alone that were scored.
        keys, hashes = reused.keys, reused.hashes
        outputs, faults = reused.merged(outputs, faults, contract, scorer.tolerance)
    predicted = PredictedRows(keys, hashes, outputs).without(faults)
    predictions = write_predictions(task, scorer, predicted, dead, reused, profile)
    clock.lap("write")
    seconds = clock.seconds | {
        "copy": spent.copy,
        "compute": clock.seconds["compute"] - spent.copy,
    }
    return Scored(predictions, dead, seconds, spent.model)


def _score(
    task: ChunkTask, scorer: Scorer, given: InputRows
) -> tuple[dict[str, np.ndarray], dict[int, str], Spent]:
    """Outputs, the rows at fault with their reason, and the scorer's seconds.

    If the model fails, the rows are halved until those at fault are alone.
    """
    rows = len(given)
    faults: dict[int, str] = {}
    outputs = {
        # Zeros where a row is at fault.
        column.name: np.zeros_like(column.empty(rows))
        for column in scorer.release.contract.output_columns
    }
    seconds = Spent()
    spans = [(0, rows)]
    with TimedScorer(scorer, task.max_seconds, rows) as timed:
        while spans:
            start, stop = spans.pop()
            try:
                columns, spent = timed.score(given.slice(start, stop))
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
                outputs[name][start:stop] = values
    return outputs, faults, seconds


def _too_many(task: ChunkTask, last: str) -> ScoringError:
    return ScoringError(
        f"the model failed on more than {task.max_faults} rows of shard {task.shard}, "
        f"chunk {task.chunk}; the night stops. The last: {last}. Nothing was committed."
    )


def outside(
    outputs: Computed, contract: Contract, faults: dict[int, str]
) -> dict[int, str]:
    """Return the rows whose outputs are not as declared, such as not in their range."""
    found: dict[int, str] = {}
    words = contract.vocabularies
    for output in contract.outputs:
        wrong = output.at_fault(outputs, words)
        for row in [] if wrong is None else np.flatnonzero(wrong).tolist():
            if row not in faults and row not in found:
                found[row] = output.why(outputs, row, words)
    return found


class _Clock:
    """Seconds between laps."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._last = time.perf_counter()

    def lap(self, name: str) -> None:
        now = time.perf_counter()
        self.seconds[name] = now - self._last
        self._last = now
