"""The floor of histories: decode, forward and encode alone, each apart on every core.

The model is asked by length, in batches of so many positions as are the fastest.
"""

from functools import partial

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from benchmarks.column import CORES, Work, main
from benchmarks.columns.floor import encoder, per_row
from benchmarks.histories import load_model, make_rows, score

TOKENS = (1 << 12, 1 << 13, 1 << 14, 1 << 15)
SAMPLE_ROWS = 2_048


def decode(work: Work, core: int) -> int:
    """Decode histories; how many rows."""
    done = 0
    for file in work.files[core::CORES]:
        source = pq.ParquetFile(file, pre_buffer=False)
        for group in range(source.num_row_groups):
            done += len(source.read_row_group(group, use_threads=False))
    return done


def batches_of(tokens: int) -> list[pa.Array]:
    """A sample of histories by their length, in batches of so many positions."""
    lists = make_rows(SAMPLE_ROWS)["items"].combine_chunks()
    lengths = np.diff(lists.offsets.to_numpy())
    lists = lists.take(pa.array(np.argsort(lengths, kind="stable")))
    lengths, start, batches = np.sort(lengths), 0, []
    while start < len(lengths):
        stop = start + 1
        while stop < len(lengths) and (stop + 1 - start) * lengths[stop] <= tokens:
            stop += 1
        batches.append(lists.slice(start, stop - start))
        start = stop
    return batches


def run(work: Work) -> float:
    model = load_model(work.model)
    batches = {tokens: batches_of(tokens) for tokens in TOKENS}

    def forward(tokens: int, core: int) -> int:
        for batch in batches[tokens]:
            score(model, batch)
        return SAMPLE_ROWS

    fastest = min(TOKENS, key=lambda tokens: per_row(partial(forward, tokens)))
    each = [
        per_row(of)
        for of in (partial(decode, work), partial(forward, fastest), encoder(work))
    ]
    return work.rows * sum(each) / CORES


if __name__ == "__main__":
    main(run, f"torch {torch.__version__}", warms_up=False)
