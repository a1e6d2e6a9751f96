"""Rows in the format of PostgreSQL's binary COPY, a block at a time.

https://www.postgresql.org/docs/current/sql-copy.html, "Binary Format". It sends nothing.
"""

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from batch_assets.sinks.base import SinkVersion
from batch_assets.sinks.packing import NUMPY, joined, key_bytes

BLOCK_ROWS = 50_000
HEADER = b"PGCOPY\n\xff\r\n\0" + bytes(8)
TRAILER = b"\xff\xff"


def encode(rows: pa.Table, about: SinkVersion) -> Iterator[memoryview]:
    """Encode rows, a block at a time, without header and trailer."""
    fields = np.array(1 + len(about.outputs), ">i2").tobytes()
    for start in range(0, len(rows), BLOCK_ROWS):
        block = rows.slice(start, BLOCK_ROWS)
        keys = block[about.key].combine_chunks()
        if about.strings:
            keys = key_bytes(keys)
            sizes = pc.binary_length(keys).to_numpy().astype(">i4")
        else:
            keys = keys.to_numpy().astype(">i8")
            sizes = np.full(len(keys), 8, ">i4")
        outputs = np.empty(len(block), _layout(about))
        for name, _ in about.outputs:
            outputs[name] = block[name].to_numpy()
            outputs[f"{name} size"] = outputs.dtype[name].itemsize
        offsets, data = joined(fields, sizes, keys, outputs)
        yield data[: offsets[-1]]


def decode(
    messages: Iterable[Any], about: SinkVersion
) -> Iterator[tuple[pa.Array, list[np.ndarray]]]:
    """Decode what the server sends into keys and outputs, a block at a time.

    The server sends a message for each row; the first has the header before it.
    """
    layout = _layout(about)
    rows = (bytes(message).removeprefix(HEADER) for message in messages)
    while block := list(islice(rows, BLOCK_ROWS)):
        block = [row for row in block if row and row != TRAILER]
        names = [row[6 : -layout.itemsize] for row in block]
        data = np.frombuffer(b"".join(row[-layout.itemsize :] for row in block), layout)
        if about.strings:
            keys = pa.array(names, pa.large_binary()).cast(pa.large_string())
        else:
            keys = pa.array(np.frombuffer(b"".join(names), ">i8").astype("i8"))
        yield keys, [data[name].astype(dtype) for name, dtype in about.outputs]


def _layout(about: SinkVersion) -> np.dtype:
    """Return the outputs of a row on the wire: the size of each before it, big-endian."""
    fields = []
    for name, dtype in about.outputs:
        fields += [(f"{name} size", ">i4"), (name, ">" + NUMPY[dtype])]
    return np.dtype(fields)
