"""A plain loop over histories: Arrow reads a batch, torch scores it, Arrow writes it."""

import pyarrow as pa
import torch

from benchmarks.column import Work, main
from benchmarks.histories import load_model, score
from benchmarks.loop import write_batches

# The best of 32 to 1,024 on two cores.
BATCH_ROWS = 128


def run(work: Work) -> None:
    model = load_model(work.model)
    write_batches(work, BATCH_ROWS, lambda batch: scored(model, batch, work.version))


def scored(model: torch.nn.Module, batch: pa.RecordBatch, version: str) -> pa.Table:
    """A batch's predictions."""
    label, confidence = score(model, batch["items"])
    return pa.table(
        {
            "user_id": batch["user_id"],
            "label": label.numpy(),
            "confidence": confidence.numpy(),
            "model_version": pa.repeat(version, len(batch)),
        }
    )


if __name__ == "__main__":
    main(run, f"pyarrow {pa.__version__}, torch {torch.__version__}")
