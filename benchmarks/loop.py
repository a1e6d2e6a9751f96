"""The loop that people write: a file's batches, one after the other, into another file."""

from collections.abc import Callable

import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.column import Work


def write_batches(
    work: Work, batch_rows: int, scored: Callable[[pa.RecordBatch], pa.Table]
) -> None:
    """Score each file of the work by so many rows at a time, into a file of its own."""
    for number, file in enumerate(work.files):
        writer = None
        for batch in pq.ParquetFile(file).iter_batches(batch_rows):
            rows = scored(batch)
            if writer is None:
                writer = pq.ParquetWriter(work.out / f"{number}.parquet", rows.schema)
            writer.write_table(rows)
        if writer is not None:
            writer.close()
