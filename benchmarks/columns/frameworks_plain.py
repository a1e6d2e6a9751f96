"""A plain loop: Arrow reads a batch, the framework predicts it on all cores as it likes,
Arrow writes it."""

from functools import cache
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pyarrow as pa

from benchmarks.column import Work, arguments, main
from benchmarks.loop import write_batches
from benchmarks.trained import NAMES, Predict, loaded

# Enough that what a call costs by itself does not show.
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

    def scored(batch: pa.RecordBatch) -> pa.Table:
        # A null is a missing number to all of them.
        rows = np.column_stack(
            [batch[name].to_numpy(zero_copy_only=False) for name in NAMES]
        )
        return pa.table(
            {
                "user_id": batch["user_id"],
                "risk": predict(rows).astype(np.float32),
                "model_version": pa.repeat(work.version, len(batch)),
            }
        )

    write_batches(work, BATCH_ROWS, scored)


def load(work: Work) -> None:
    """A model that lies in memory, as a service has it."""
    model(work.size, arguments().root)


if __name__ == "__main__":
    size = arguments().size
    package = PACKAGES.get(size, size)
    main(run, f"{package} {version(package)}", before=load)
