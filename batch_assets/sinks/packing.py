"""Rows as bytes, a block at a time, without a Python object for each.

A row's outputs are packed in their order, little-endian, without padding: 20 float32
are 80 bytes. A store with typed columns of its own has no use for them.
"""

import struct
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from batch_assets.sinks.base import SinkVersion

NUMPY = {"float32": "f4", "float64": "f8", "int32": "i4", "int64": "i8"}
STRUCT = {"float32": "f", "float64": "d", "int32": "i", "int64": "q"}


def pack(rows: pa.Table, about: SinkVersion) -> np.ndarray:
    """Pack the outputs of n rows: a structured array (n,)."""
    packed = np.empty(len(rows), dtype=_layout(about))
    for name, _ in about.outputs:
        packed[name] = rows[name].to_numpy()
    return packed


def unpack(data: bytes, about: SinkVersion) -> list[np.ndarray]:
    """Unpack n rows, one behind the other: a column (n,) for each output.

    Raises:
        ValueError: the bytes are not a whole number of rows.
    """
    packed = np.frombuffer(data, dtype=_layout(about))
    return [packed[name].astype(dtype) for name, dtype in about.outputs]


def unpack_row(data: bytes, about: SinkVersion) -> tuple[Any, ...]:
    """Unpack one row into Python numbers."""
    return struct.unpack(
        "<" + "".join(STRUCT[dtype] for _, dtype in about.outputs), data
    )


def width(about: SinkVersion) -> int:
    """Return how many bytes a packed row has."""
    return _layout(about).itemsize


def key_bytes(keys: pa.Array) -> pa.Array:
    """Write keys as text, UTF-8: an integer in decimal digits."""
    return keys.cast(pa.large_string()).cast(pa.large_binary())


def keys_of(names: list[bytes], about: SinkVersion) -> pa.Array:
    """Read the keys that `key_bytes` wrote.

    Raises:
        pa.ArrowInvalid: a name is not one of them.
    """
    text = pa.array(names, pa.large_binary()).cast(pa.large_string())
    return text if about.strings else text.cast(pa.int64())


def joined(*pieces: pa.Array | np.ndarray | bytes) -> tuple[np.ndarray, memoryview]:
    """Join the bytes of n rows from pieces that stand side by side in each.

    Args:
        pieces: n byte strings each, as Arrow; n records, as NumPy; or the same bytes in
            every row.

    Returns:
        The n+1 offsets at which rows begin, and all the bytes.
    """
    columns = []
    for piece in pieces:
        if isinstance(piece, bytes):
            columns.append(pa.scalar(piece, pa.large_binary()))
        elif isinstance(piece, np.ndarray):
            fixed, data = pa.binary(piece.dtype.itemsize), pa.py_buffer(piece)
            plain = pa.Array.from_buffers(fixed, len(piece), [None, data])
            columns.append(plain.cast(pa.large_binary()))
        else:
            columns.append(piece)
    whole = pc.binary_join_element_wise(*columns, pa.scalar(b"", pa.large_binary()))
    _, offsets, data = whole.buffers()
    return np.frombuffer(offsets, np.int64)[: len(whole) + 1], memoryview(data)


def _layout(about: SinkVersion) -> np.dtype:
    return np.dtype([(name, "<" + NUMPY[dtype]) for name, dtype in about.outputs])
