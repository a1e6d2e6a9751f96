"""`make bench`, its second part: histories and a small transformer, as one table."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks import parts
from benchmarks.histories import LONGEST, NAME, load_model, make_rows, prepare, score
from benchmarks.parts import NIGHT, Part, PartBench, measure
from benchmarks.run import Column

TRUTH_ROWS = 512
COLUMNS = [
    Column("floor", "sequences_floor"),
    Column(NIGHT, "sequences_night"),
    Column("by arrival", "sequences_arrival"),
    Column("ray_data", "sequences_ray_data"),
    Column("plain", "sequences_plain"),
]


def write_truth(root: Path, path: Path) -> None:
    """What torch says of each row, so many at a time."""
    model, pieces = load_model(root / f"{NAME}.pt"), []
    rows = pq.ParquetFile(root / "source.parquet")
    for batch in rows.iter_batches(TRUTH_ROWS):
        label, confidence = score(model, batch["items"])
        said = {"label": label.numpy(), "confidence": confidence.numpy()}
        pieces.append(pa.table({"user_id": batch["user_id"], **said}))
    pq.write_table(pa.concat_tables(pieces), path)


def tokens_of_a_row() -> float:
    """How long a history is in the mean; a third of the longest."""
    mean = len(make_rows(100_000)["items"].combine_chunks().flatten()) / 100_000
    assert 0.3 < mean / LONGEST < 0.37
    return mean


PART = Part(
    name="sequences",
    model=NAME,
    columns=COLUMNS,
    bars={"floor": 0.9, "by arrival": 1.5, "ray_data": 3.0},
    prepare=prepare,
    write_truth=write_truth,
    tokens=tokens_of_a_row,
    rounds=5,
    warm_rows=2_048,
)
BEGIN, END = PART.begin, PART.end


class Sequences(PartBench):
    """Its folders."""

    def __init__(self, folder: Path, rows: int) -> None:
        super().__init__(PART, folder, rows)


def show(results: dict[str, Any]) -> str:
    """The tables, in Markdown."""
    return parts.show(PART, results)


if __name__ == "__main__":
    measure(PART, 32_768, __doc__)
