"""A plain loop: Arrow reads a batch, torch scores it on all cores, Arrow writes it."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from benchmarks.column import Work, main
from benchmarks.model import NAMES, SIZES, load_model, score

# The one that is faster for it.
LAYOUT = "fast"
BATCH_ROWS = 8_192


def run(work: Work) -> None:
    model = load_model(work.model, SIZES[work.size])
    for number, file in enumerate(work.files_of(LAYOUT)):
        source = pq.ParquetFile(file)
        writer = None
        for table in source.iter_batches(BATCH_ROWS):
            packed = np.column_stack([table[name].to_numpy() for name in NAMES])
            label, confidence = score(model, torch.from_numpy(packed))
            rows = pa.table(
                {
                    "user_id": table["user_id"],
                    "label": label.numpy(),
                    "confidence": confidence.numpy(),
                    "model_version": pa.repeat(work.version, len(table)),
                }
            )
            if writer is None:
                writer = pq.ParquetWriter(work.out / f"{number}.parquet", rows.schema)
            writer.write_table(rows)
        if writer is not None:
            writer.close()


if __name__ == "__main__":
    main(run, f"pyarrow {pa.__version__}, torch {torch.__version__}")
