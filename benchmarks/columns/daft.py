"""Daft: a class that holds the model, with a method over batches."""

import daft
import numpy as np
import torch
from daft import DataType, Series

from benchmarks.column import CORES, Work, main
from benchmarks.model import NAMES, SIZES, load_model, score

# The one that is faster for it.
LAYOUT = "fast"
BATCH_ROWS = 16_384
PREDICTION = DataType.struct(
    {"label": DataType.int64(), "confidence": DataType.float32()}
)


@daft.cls(max_concurrency=CORES, use_process=False)
class Predictor:
    """Holds the model."""

    def __init__(self, model: str, size: str) -> None:
        torch.set_num_threads(1)
        self.model = load_model(model, SIZES[size])

    @daft.method.batch(return_dtype=PREDICTION, batch_size=BATCH_ROWS)
    def predict(self, *features: Series) -> Series:
        import pyarrow as pa

        torch.set_num_threads(1)
        packed = np.empty((len(features), len(features[0])), dtype=np.float32)
        for row, column in zip(packed, features, strict=True):
            row[:] = column.to_arrow().to_numpy(zero_copy_only=False)
        label, confidence = score(self.model, torch.from_numpy(packed).T)
        return pa.StructArray.from_arrays(
            [pa.array(label.numpy()), pa.array(confidence.numpy())],
            ["label", "confidence"],
        )


def run(work: Work) -> None:
    frame = daft.read_parquet(work.files_of(LAYOUT))
    predictor = Predictor(str(work.model), work.size)
    frame = frame.select(
        daft.col("user_id"),
        predictor.predict(*map(daft.col, NAMES)).alias("prediction"),
    )
    frame.select(
        daft.col("user_id"),
        daft.col("prediction").get("label"),
        daft.col("prediction").get("confidence"),
        daft.lit(work.version).alias("model_version"),
    ).write_parquet(str(work.out))


if __name__ == "__main__":
    daft.set_runner_native()
    main(run, f"daft {daft.__version__}")
