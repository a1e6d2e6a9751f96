"""Spark: `mapInArrow` on local cores, the model kept by each Python worker.

Batches large enough that the way to Python and back is paid seldom.
"""

from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import pyspark
import torch
from pyspark.sql import SparkSession

from benchmarks.column import Work, main
from benchmarks.model import NAMES, SIZES, load_model, score
from benchmarks.starting import started_spark

# The one that is faster for it.
LAYOUT = "fast"
SCHEMA = "user_id long, label long, confidence float, model_version string"


def run(work: Work) -> None:
    path, size, version = work.model, work.size, work.version

    def predict(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        torch.set_num_threads(1)
        model = load_model(path, SIZES[size])
        for batch in batches:
            packed = np.empty((len(NAMES), len(batch)), np.float32)
            for row, name in zip(packed, NAMES, strict=True):
                row[:] = batch[name].to_numpy(zero_copy_only=False)
            label, confidence = score(model, torch.from_numpy(packed).T)
            yield pa.record_batch(
                {
                    "user_id": batch["user_id"],
                    "label": label.numpy(),
                    "confidence": confidence.numpy(),
                    "model_version": pa.repeat(version, len(batch)),
                }
            )

    session = SparkSession.active()
    frame = session.read.parquet(*work.files_of(LAYOUT)).mapInArrow(predict, SCHEMA)
    frame.write.mode("overwrite").parquet(str(work.out))


if __name__ == "__main__":
    with started_spark() as seconds:
        main(run, f"pyspark {pyspark.__version__}", startup_s=seconds)
