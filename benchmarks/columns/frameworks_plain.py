"""A plain loop: Arrow reads a batch, the framework predicts it on all cores as it likes,
Arrow writes it."""

from functools import cache
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.column import Work, arguments, main
from benchmarks.trained import NAMES, Predict, loaded

# The best of 4,096 to 262,144 on two cores, or as good as that, for each.
BATCH_ROWS = 65_536
PACKAGES = {
    "xgboost": "xgboost-cpu",
    "sklearn": "scikit-learn",
    "onnx": "onnxruntime",
}


@cache
def model(framework: str, root: Path) -> Predict:
    (path,) = (root / "releases" / framework).glob("model.*")
    return loaded(framework, path)


def run(work: Work) -> None:
    predict = model(work.size, arguments().root)
    for number, file in enumerate(work.files):
        writer = None
        for batch in pq.ParquetFile(file).iter_batches(BATCH_ROWS):
            # A null is a missing number to all of them.
            rows = np.column_stack(
                [batch[name].to_numpy(zero_copy_only=False) for name in NAMES]
            )
            table = pa.table(
                {
                    "user_id": batch["user_id"],
                    "risk": predict(rows).astype(np.float32),
                    "model_version": pa.repeat(work.version, len(batch)),
                }
            )
            if writer is None:
                writer = pq.ParquetWriter(work.out / f"{number}.parquet", table.schema)
            writer.write_table(table)
        if writer is not None:
            writer.close()


def load(work: Work) -> None:
    """A model that lies in memory, as a service has it."""
    model(work.size, arguments().root)


if __name__ == "__main__":
    size = arguments().size
    package = PACKAGES.get(size, size)
    main(run, f"{package} {version(package)}", before=load)
