"""The second floor: as the first, but of the layout that is read as it lies.

What is read is taken as it comes: no checksum is looked at.
"""

import os

import numpy as np
import pyarrow.parquet as pq

from benchmarks.column import CORES, Work
from benchmarks.columns.floor import DECODE_ROWS, measure
from benchmarks.model import FEATURES

VALUE_BYTES = 4
# Requests of about a megabyte, which a core's cache holds.
READ_BYTES = 1 << 20


def read(work: Work, core: int) -> int:
    """Read files of the fast layout into one matrix; how many rows."""
    done, room = 0, np.empty((FEATURES, 0), np.float32)
    for file in work.fast_files[core::CORES]:
        footer = pq.read_metadata(file)
        with open(file, "rb", buffering=0) as source:
            for group in map(footer.row_group, range(footer.num_row_groups)):
                if room.shape[1] < group.num_rows:
                    room = np.empty((FEATURES, group.num_rows), np.float32)
                _read(source.fileno(), group, room)
                done += group.num_rows
                if done >= DECODE_ROWS:
                    return done
    return done


def _read(descriptor: int, group: pq.RowGroupMetaData, room: np.ndarray) -> None:
    rows = group.num_rows
    columns = [group.column(at) for at in range(1, FEATURES + 1)]
    start, rooms = columns[0].data_page_offset, []
    each = max(READ_BYTES // (rows * VALUE_BYTES), 1)
    for at, column in enumerate(columns):
        rooms += [
            bytearray(column.total_compressed_size - rows * VALUE_BYTES),
            memoryview(room[at, :rows]).cast("B"),
        ]
        if len(rooms) == 2 * each or at == FEATURES - 1:
            start += os.preadv(descriptor, rooms, start)
            rooms = []


if __name__ == "__main__":
    measure(read)
