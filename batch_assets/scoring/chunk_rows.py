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
) -> tuple[pa.Array, np.ndarray]:
    """Read keys and features of row groups, on this thread alone.

    Args:
        part: the part.
        file: the same, open.
        contract: of the release.
        groups: the row groups.
        pinned: whether the features go to a CUDA device from here.

    Returns:
        The keys (rows,), and the features, float32 (features, rows), row-major: one run
        of memory per column. They stay until the same thread reads its next.

    Raises:
        CorruptPartError: a page's checksum is wrong, or rows are gone.
    """
    key, features = contract.key.name, _room(part, contract, groups, pinned=pinned)
    columns = dict(zip(contract.feature_names, features, strict=True))
    if contract.key.dtype == "int64":
        keys = np.empty(features.shape[1], np.int64)
        if read_plain_columns(part, file, groups, {key: keys, **columns}):
            return pa.array(keys), features
    elif read_plain_columns(part, file, groups, columns):
        return _combined(read_open(part, file, [key], groups)[key], contract), features
    table = read_open(part, file, [key, *columns], groups)
    _pack(table, columns)
    return _combined(table[key], contract), features


def read_features(
    part: Part[Receipt],
    file: pq.ParquetFile,
    contract: Contract,
    groups: Sequence[int],
    which: np.ndarray,
    *,
    pinned: bool = False,
) -> np.ndarray:
    """Read features alone, as `read_rows` does, of those rows of the row groups.

    Args:
        which: the rows, bool (rows,).
    """
    features = _room(part, contract, groups, pinned=pinned)
    columns = dict(zip(contract.feature_names, features, strict=True))
    if not read_plain_columns(part, file, groups, columns):
        _pack(read_open(part, file, list(columns), groups), columns)
    if which.all():
        return features
    kept = int(np.count_nonzero(which))
    for column in features:
        column[:kept] = column[which]
    return features[:, :kept]


def _room(
    part: Part[Receipt], contract: Contract, groups: Sequence[int], *, pinned: bool
) -> np.ndarray:
    rows = sum(part.groups[group] for group in groups)
    return _own.room_for(len(contract.features), rows, pinned=pinned)


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
