"""`make bench`, its third part: texts and a real sentence model, as one table."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.parts import NIGHT, Part, measure
from benchmarks.run import Column
from benchmarks.sentences import (
    NAME,
    load_model,
    prepare,
    score,
    tokens_of_a_row,
)

TRUTH_ROWS = 32
COLUMNS = [
    Column(NIGHT, "texts_night"),
    Column("by arrival", "texts_arrival"),
    Column("ray_data", "texts_ray_data"),
    Column("plain", "texts_plain"),
]


def write_truth(root: Path, path: Path) -> None:
    """What torch says of each row, so many of about one length at a time."""
    rows, model, pieces = pq.read_table(root / "source.parquet"), load_model(), []
    order = np.argsort([len(text) for text in rows["text"].to_pylist()])
    rows = rows.take(pa.array(order))
    for start in range(0, len(rows), TRUTH_ROWS):
        some = rows.slice(start, TRUTH_ROWS)
        label, confidence, _ = score(model, some["text"])
        said = {"label": label.numpy(), "confidence": confidence.numpy()}
        pieces.append(pa.table({"user_id": some["user_id"], **said}))
    pq.write_table(pa.concat_tables(pieces), path)


PART = Part(
    name="texts",
    model=NAME,
    columns=COLUMNS,
    bars={"by arrival": 1.5, "ray_data": 2.0},
    prepare=prepare,
    write_truth=write_truth,
    tokens=tokens_of_a_row,
    rounds=3,
    warm_rows=64,
)


if __name__ == "__main__":
    measure(PART, 2_048, __doc__)
