"""A plain loop over texts: Arrow reads a batch, it is tokenised, torch scores it."""

import pyarrow as pa
import torch

from benchmarks.column import Work, main
from benchmarks.loop import write_batches
from benchmarks.sentences import Sentences, load_model, score

# The best of 8 to 128 on two cores.
BATCH_ROWS = 32


def run(work: Work) -> None:
    model = load_model()
    write_batches(work, BATCH_ROWS, lambda batch: scored(model, batch, work.version))


def scored(
    model: Sentences, batch: pa.RecordBatch | pa.Table, version: str
) -> pa.Table:
    """A batch's predictions."""
    label, confidence, vector = score(model, batch["text"])
    return pa.table(
        {
            "user_id": batch["user_id"],
            "label": label.numpy(),
            "confidence": confidence.numpy(),
            "meaning": list(vector.numpy()),
            "model_version": pa.repeat(version, len(batch)),
        }
    )


if __name__ == "__main__":
    main(run, f"pyarrow {pa.__version__}, torch {torch.__version__}")
