"""The rows of a chunk as the model gets them: keys, and features as one matrix.

A worker reads them into memory that it keeps from chunk to chunk; what lies in the file
as in memory is read straight into it, all else is decoded and packed. It scores nothing.
"""

import threading
from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from batch_assets.lake.parts import Part, read_open, read_plain_columns
from batch_assets.lake.receipts import Receipt
from batch_assets.models.contract import KEY_TYPES, Contract
from batch_assets.models.input_rows import InputRows, input_columns

# The float32 values of a cache line.
LINE = 16


class _Own(threading.local):
    """What a worker keeps from chunk to chunk: fresh memory is paid for page by page."""

    buffer = np.empty(0, dtype=np.float32)

    def room_for(self, features: int, rows: int, *, pinned: bool) -> np.ndarray:
        """Room for (features, rows), whose content is of the chunk before."""
        # An odd number of cache lines from column to column: at a power of two the
        # values of a row fall into the same few sets of the cache, and the matrix
        # product of a small model takes 5 % longer.
        apart = (-(-rows // LINE) | 1) * LINE
        if self.buffer.size < features * apart:
            room = _allocated(features * apart + LINE, pinned=pinned)
            # From a cache line on: some libraries add up in another order elsewhere,
            # and NumPy's memory begins where it happens to.
            skipped = -room.ctypes.data // room.itemsize % LINE
            self.buffer = room[skipped:]
        return self.buffer[: features * apart].reshape(features, apart)[:, :rows]


_own = _Own()


def read_rows(
    part: Part[Receipt],
    file: pq.ParquetFile,
    contract: Contract,
    groups: Sequence[int],
    *,
    pinned: bool = False,
) -> tuple[pa.Array, InputRows]:
    """Read keys and rows of row groups, on this thread alone.

    Args:
        part: the part.
        file: the same, open.
        contract: of the release.
        groups: the row groups.
        pinned: whether the features go to a CUDA device from here.

    Returns:
        The keys (rows,), and the rows. Their features stay until the same thread reads
        its next.

    Raises:
        CorruptPartError: a page's checksum is wrong, or rows are gone.
    """
    key, features = contract.key.name, _room(part, contract, groups, pinned=pinned)
    columns = dict(zip(contract.feature_names, features, strict=True))
    others = _other_columns(contract)
    keys, asked, read = np.empty(features.shape[1], np.int64), [key, *others], False
    if contract.key.dtype == "int64":
        read = read_plain_columns(part, file, groups, {key: keys, **columns})
        asked = others if read else asked
    elif columns:
        read = read_plain_columns(part, file, groups, columns)
    if not read:
        asked += columns
    table = read_open(part, file, asked, groups) if asked else pa.table({})
    if not read:
        _pack(table, columns)
    found = pa.array(keys) if key not in asked else _combined(table[key], contract)
    return found, InputRows(features, input_columns(table, contract))


def read_features(
    part: Part[Receipt],
    file: pq.ParquetFile,
    contract: Contract,
    groups: Sequence[int],
    which: np.ndarray,
    *,
    pinned: bool = False,
) -> InputRows:
    """Read rows without their keys, as `read_rows` does, of those of the row groups.

    Args:
        which: the rows, bool (rows,).
    """
    features = _room(part, contract, groups, pinned=pinned)
    columns = dict(zip(contract.feature_names, features, strict=True))
    asked = _other_columns(contract)
    read = not columns or read_plain_columns(part, file, groups, columns)
    if not read:
        asked += columns
    table = read_open(part, file, asked, groups) if asked else pa.table({})
    if not read:
        _pack(table, columns)
    if which.all():
        return InputRows(features, input_columns(table, contract))
    kept = int(np.count_nonzero(which))
    for column in features:
        column[:kept] = column[which]
    if contract.inputs:
        table = table.filter(pa.array(which))
    return InputRows(features[:, :kept], input_columns(table, contract))


def _room(
    part: Part[Receipt], contract: Contract, groups: Sequence[int], *, pinned: bool
) -> np.ndarray:
    rows = sum(part.groups[group] for group in groups)
    return _own.room_for(len(contract.features), rows, pinned=pinned)


def _other_columns(contract: Contract) -> list[str]:
    """The columns of the inputs beside the features."""
    return [field.name for one in contract.inputs for field in one.fields()]


def _pack(table: pa.Table, columns: Mapping[str, np.ndarray]) -> None:
    for name, column in columns.items():
        start = 0
        for piece in table[name].chunks:
            column[start : start + len(piece)] = piece.to_numpy(zero_copy_only=False)
            start += len(piece)


def _combined(keys: pa.ChunkedArray, contract: Contract) -> pa.Array:
    """Keys in one piece, as the contract has them."""
    return keys.combine_chunks().cast(KEY_TYPES[contract.key.dtype])


def _allocated(values: int, *, pinned: bool) -> np.ndarray:
    if not pinned:
        return np.empty(values, dtype=np.float32)
    # The device fetches from here by itself, while the host goes on.
    return torch.empty(values, dtype=torch.float32, pin_memory=True).numpy()
