"""Ray Data: `map_batches` over a pool of actors, as its guide for inference has it.

Arrow batches without a copy, actors that hold the model, one thread of torch for each,
and half a core for each actor, so that reading and writing get theirs.
"""

from pathlib import Path

import numpy as np
import pyarrow as pa
import ray
import torch

from benchmarks.column import CORES, Work, main
from benchmarks.model import NAMES, SIZES, load_model, score
from benchmarks.starting import started_ray

# The one that is faster for it.
LAYOUT = "fast"
BATCH_ROWS = 8_192


class Actor:
    """Holds the model."""

    def __init__(self, model: Path, size: str, version: str) -> None:
        torch.set_num_threads(1)
        self.model = load_model(model, SIZES[size])
        self.version = version

    def __call__(self, batch: pa.Table) -> pa.Table:
        packed = np.empty((len(NAMES), len(batch)), dtype=np.float32)
        for row, name in zip(packed, NAMES, strict=True):
            row[:] = batch[name].to_numpy()
        label, confidence = score(self.model, torch.from_numpy(packed).T)
        return pa.table(
            {
                "user_id": batch["user_id"],
                "label": label.numpy(),
                "confidence": confidence.numpy(),
                "model_version": pa.repeat(self.version, len(batch)),
            }
        )


def run(work: Work) -> None:
    ray.data.read_parquet(work.files_of(LAYOUT), partitioning=None).map_batches(
        Actor,
        fn_constructor_args=(work.model, work.size, work.version),
        batch_size=BATCH_ROWS,
        batch_format="pyarrow",
        compute=ray.data.ActorPoolStrategy(size=CORES),
        num_cpus=0.5,
    ).write_parquet(str(work.out))


if __name__ == "__main__":
    with started_ray() as seconds:
        ray.data.DataContext.get_current().enable_progress_bars = False
        main(run, f"ray {ray.__version__}", startup_s=seconds)
