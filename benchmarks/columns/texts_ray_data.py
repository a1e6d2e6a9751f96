"""Ray Data over texts: `map_batches` over a pool of actors that hold model and tokenizer."""

import os

import pyarrow as pa
import ray
import torch

from benchmarks.column import CORES, Work, main
from benchmarks.columns.texts_plain import scored
from benchmarks.sentences import load_model
from benchmarks.starting import started_ray

# The best of 8 to 128 on two cores.
BATCH_ROWS = 32


class Actor:
    """Holds the model."""

    def __init__(self, version: str) -> None:
        torch.set_num_threads(1)
        os.environ["TOKENIZERS_PARALLELISM"] = "false"
        self.model, self.version = load_model(), version

    def __call__(self, batch: pa.Table) -> pa.Table:
        return scored(self.model, batch, self.version)


def run(work: Work) -> None:
    ray.data.read_parquet(work.files, partitioning=None).map_batches(
        Actor,
        fn_constructor_args=(work.version,),
        batch_size=BATCH_ROWS,
        batch_format="pyarrow",
        compute=ray.data.ActorPoolStrategy(size=CORES),
        num_cpus=0.5,
    ).write_parquet(str(work.out))


if __name__ == "__main__":
    with started_ray() as seconds:
        ray.data.DataContext.get_current().enable_progress_bars = False
        main(run, f"ray {ray.__version__}", startup_s=seconds)
