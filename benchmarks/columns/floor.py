"""The floor: decode, forward and encode alone, each measured apart on every core.

It is the seconds of processor time that a row costs in the three, over the cores: what
a night would take if reading, scoring and writing overlapped without a gap, and
nothing else had to be done. The model is torch's own, in float32, in whichever batch is
the fastest.
"""

import statistics
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from benchmarks.column import CORES, Work, main
from benchmarks.model import FEATURES, LABELS, SIZES, load_model, score

REPEATS = 5
# Rows that each core decodes, scores and encodes at a time.
DECODE_ROWS = 262_144
ENCODE_ROWS = 262_144
FORWARD_ROWS = (1_024, 2_048, 4_096)
FORWARD_SECONDS = 0.3
PACKED_ROWS = 65_536
# As the project writes predictions: smaller and faster than without.
ENCODINGS = {
    "user_id": "DELTA_BINARY_PACKED",
    "label": "DELTA_BINARY_PACKED",
    "confidence": "BYTE_STREAM_SPLIT",
}
# An odd number of cache lines from column to column, as the project lays them.
APART = 16


def decode(work: Work, core: int) -> int:
    """Decode files of the compact layout; how many rows."""
    done = 0
    for file in work.files[core::CORES]:
        source = pq.ParquetFile(file, pre_buffer=False)
        for group in range(source.num_row_groups):
            done += len(source.read_row_group(group, use_threads=False))
            if done >= DECODE_ROWS:
                return done
    return done


def run(read: Callable[[Work, int], int], work: Work) -> float:
    model = load_model(work.model, SIZES[work.size])
    random = np.random.default_rng(0)
    # Rows as a chunk has them once it is packed: each comes from memory once.
    packed = [
        random.standard_normal((FEATURES, PACKED_ROWS + APART), np.float32)
        for _ in range(CORES)
    ]

    def forward(batch_rows: int, core: int) -> int:
        done, end = 0, time.perf_counter() + FORWARD_SECONDS
        while time.perf_counter() < end:
            start = done % PACKED_ROWS
            batch = packed[core][:, start : start + batch_rows]
            score(model, torch.from_numpy(batch).T)
            done += batch_rows
        return done

    # Chosen in one measurement and taken from another: the least of several is too low.
    fastest = min(FORWARD_ROWS, key=lambda rows: per_row(partial(forward, rows)))
    each = [
        per_row(of)
        for of in (partial(read, work), partial(forward, fastest), encoder(work))
    ]
    return work.rows * sum(each) / CORES


def encoder(work: Work) -> Callable[[int], int]:
    """Return what encodes predictions on a core, as the project writes them."""
    random = np.random.default_rng(0)
    rows = pa.table(
        {
            "user_id": random.permutation(ENCODE_ROWS),
            "label": random.integers(0, LABELS, ENCODE_ROWS),
            "confidence": random.random(ENCODE_ROWS, np.float32),
        }
    )

    def encode(core: int) -> int:
        file = Path(work.out) / f"{core}.bin"
        pq.write_table(
            rows,
            file,
            compression="zstd",
            use_dictionary=False,
            column_encoding=ENCODINGS,
        )
        file.unlink()
        return len(rows)

    return encode


def per_row(work: Callable[[int], int]) -> float:
    """Seconds of processor time for a row, with all cores at it; a median."""

    def on_core(core: int) -> float:
        torch.set_num_threads(1)
        start = time.thread_time()
        rows = work(core)
        return (time.thread_time() - start) / rows

    found: list[float] = []
    with ThreadPoolExecutor(CORES) as pool:
        for _ in range(REPEATS):
            found += pool.map(on_core, range(CORES))
    return statistics.median(found)


def measure(read: Callable[[Work, int], int]) -> None:
    """Be a column: a floor that reads rows so."""
    # Each figure is a median of several: nothing is left to get warm.
    main(partial(run, read), f"torch {torch.__version__}", warms_up=False)


if __name__ == "__main__":
    measure(decode)
