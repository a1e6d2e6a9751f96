"""How many workers a device should have: measured on whole chunks, as a night scores them.

A device is fed by the host: its workers read, send, fetch and write beside each other, and
how many of them it takes is a matter of the cores, the disk and the model. The rows are the
release's own golden ones, many times over. It keeps nothing.
"""

import os
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa

from batch_assets.lake.page_layout import FAST
from batch_assets.lake.part_writer import PartWriter
from batch_assets.lake.receipts import ValidatedReceipt
from batch_assets.lake.reconciliation import ControlTotal
from batch_assets.models.contract import Contract
from batch_assets.models.formats import golden_batch
from batch_assets.models.input_rows import to_arrow
from batch_assets.models.release import Release
from batch_assets.scoring.chunk_task import ChunkTask
from batch_assets.scoring.device import Device
from batch_assets.scoring.engines.local import LocalEngine
from batch_assets.scoring.sweep import Clock, Effort
from batch_assets.scoring.sweep_results import Sweep, WorkerPoint

# Rows of a chunk, and chunks for each worker: the first of them is a warm-up.
CHUNK_ROWS = 131_072
CHUNKS_EACH = 4
DAY, JOB = "1970-01-01", "0" * 64


def with_workers(
    curve: Sweep,
    release: Release,
    device: Device,
    effort: Effort,
    *,
    tried: Callable[[WorkerPoint], None] = lambda point: None,
) -> Sweep:
    """Return a sweep with how many workers a CUDA device should have.

    A CPU has a worker for each core: more wait for each other.

    Args:
        curve: the sweep, which says how many rows a batch has.
        release: opened by the registry.
        device: where the sweep was measured.
        effort: how long it may take.
        tried: called with each point as it is found.

    Raises:
        GoldenBatchError: the release is not itself on this device.
    """
    if device.kind == "cpu":
        return curve
    clock = Clock(effort.seconds)
    tuned = replace(device, batch_rows=curve.knee.batch_rows)
    points = sweep_workers(release, tuned, candidates(), over=clock.over, tried=tried)
    return replace(curve, by_workers=tuple(points))


def candidates(cores: int | None = None) -> list[int]:
    """Return the numbers of workers to try: 1, 2, 3, 4, 6, 8, 12, … up to the cores."""
    cores = cores or len(os.sched_getaffinity(0))
    numbers = {1, cores, *(2**n for n in range(1, 10)), *(3 * 2**n for n in range(9))}
    return sorted(number for number in numbers if number <= cores)


def sweep_workers(
    release: Release,
    device: Device,
    numbers: Sequence[int],
    *,
    chunk_rows: int = CHUNK_ROWS,
    over: Callable[[], bool] = lambda: False,
    tried: Callable[[WorkerPoint], None] = lambda point: None,
) -> list[WorkerPoint]:
    """Measure rows a second of whole chunks with each number of workers.

    Args:
        release: opened by the registry.
        device: with the batches that a night takes.
        numbers: of workers, in the order in which they are tried.
        chunk_rows: rows of a chunk.
        over: whether there is no time for another number.
        tried: called with each point as it is found.

    Raises:
        GoldenBatchError: the release is not itself on this device.
        ScoringError: the model fails on its golden rows.
    """
    engine = LocalEngine(device.for_chunks(chunk_rows))
    engine.load(release)
    points: list[WorkerPoint] = []
    with tempfile.TemporaryDirectory(prefix="batch-assets-sweep-") as name:
        folder = Path(name)
        validated = _golden_part(folder, release, chunk_rows)
        for number in numbers:
            if points and over():
                break
            engine.workers = number
            list(engine.run(list(_tasks(folder, validated, number, chunk_rows))))
            tasks = list(_tasks(folder, validated, CHUNKS_EACH * number, chunk_rows))
            begin = time.perf_counter()
            for _ in engine.run(tasks):
                pass
            rate = len(tasks) * chunk_rows / (time.perf_counter() - begin)
            points.append(WorkerPoint(number, rate))
            tried(points[-1])
    return points


def _golden_part(folder: Path, release: Release, rows: int) -> Path:
    """A validated part of the golden rows, over and over, in one row group."""
    contract, golden = release.contract, golden_batch(release)[0]
    keys = _keys(contract, rows)
    repeated = golden.take(np.arange(rows) % len(golden))
    table = pa.table(
        [keys, *to_arrow(repeated, contract)], schema=contract.feature_schema()
    )
    receipt = ValidatedReceipt(
        DAY, 0, 0, JOB, ControlTotal.of(keys), raw="", contract=contract.digest
    )
    path = folder / "validated.parquet"
    with PartWriter(
        path, table.schema, row_group_rows=max(rows, 1), layout=FAST
    ) as writer:
        writer.write(table)
        writer.finish(receipt)
    return path


def _keys(contract: Contract, rows: int) -> pa.Array:
    numbers = np.arange(rows)
    if contract.key.dtype == "int64":
        return pa.array(numbers)
    return pa.array([f"{number:012d}" for number in numbers.tolist()])


def _tasks(
    folder: Path, validated: Path, chunks: int, rows: int
) -> Iterator[ChunkTask]:
    first = ChunkTask(
        day=DAY,
        shard=0,
        chunk=0,
        job=JOB,
        validated=validated,
        row_groups=(0, 1),
        rows=rows,
        predictions=folder,
        dead_letters=folder,
        max_faults=rows,
    )
    for number in range(chunks):
        # Written over by the next number of workers: the disk need not hold them all.
        yield replace(
            first,
            chunk=number,
            predictions=folder / f"predictions-{number}.parquet",
            dead_letters=folder / f"dead-{number}.parquet",
        )
