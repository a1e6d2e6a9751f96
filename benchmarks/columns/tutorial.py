"""The loop of the usual tutorial: a Ray actor that is called chunk by chunk.

128 rows a call, a Python dict for each row, a pandas frame at the end.
"""

from typing import Any

import pandas as pd
import pyarrow.parquet as pq
import ray
import torch

from benchmarks.column import Work, main
from benchmarks.model import NAMES, SIZES, load_model
from benchmarks.starting import started_ray

CHUNK_ROWS = 128


@ray.remote
class Actor:
    """Holds the model."""

    def __init__(self, model: str, size: str, version: str) -> None:
        self.model = load_model(model, SIZES[size])
        self.version = version

    @torch.inference_mode()
    def predict(self, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
        features = [[row[name] for name in NAMES] for row in rows]
        label, confidence = self.model(torch.tensor(features))
        return [
            {
                "user_id": row["user_id"],
                "label": int(label[at]),
                "confidence": float(confidence[at]),
                "model_version": self.version,
            }
            for at, row in enumerate(rows)
        ]


def run(work: Work) -> None:
    actor = Actor.remote(work.model, work.size, work.version)
    done: list[dict[str, Any]] = []
    for file in work.files:
        left = work.rows - len(done)
        if not left:
            break
        rows = pq.read_table(file).slice(0, left).to_pylist()
        for start in range(0, len(rows), CHUNK_ROWS):
            done += ray.get(actor.predict.remote(rows[start : start + CHUNK_ROWS]))
    frame = pd.DataFrame(done).astype({"confidence": "float32"})
    frame.to_parquet(work.out / "predictions.parquet")


if __name__ == "__main__":
    with started_ray() as seconds:
        main(run, f"ray {ray.__version__}", startup_s=seconds)
