"""One file of a version, mapped and searched in place.

It is hashed before it is first used, because Arrow serves a flipped bit without a word.
It knows nothing of other files.
"""

import copy
import struct
from bisect import bisect_left
from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from batch_assets.errors import SnapshotError
from batch_assets.snapshots.fetch import must_be_whole
from batch_assets.snapshots.forms import Assembly, Denied
from batch_assets.snapshots.layout import (
    KEY_HASH,
    Group,
    columns_of,
    groups_of,
    in_place,
    unpacked,
)
from batch_assets.snapshots.manifest import ShardFile, SnapshotManifest

# So many rows of all files of a version are in memory a second time, to search from.
FENCES = 1 << 16
# As one batch, on this thread: a worker of Arrow's would not outlive a fork.
READING = pa.ipc.IpcReadOptions(use_threads=False)


class Shard:
    """One mapped file, as arrays over the map, without a copy.

    `index` is what it is sorted by, (rows,); `columns` each output, (rows,).
    """

    def __init__(
        self,
        folder: Path,
        entry: ShardFile,
        manifest: SnapshotManifest,
        denied: Denied | None = None,
        *,
        hashed: bool = False,
    ) -> None:
        """Map a file; it is hashed first, unless it was by whoever asks."""
        path = folder / entry.name
        try:
            if not hashed:
                must_be_whole(path, entry)
            self.packed = map_shard(path)
            self._strings = manifest.key_dtype == "string"
            index = KEY_HASH if self._strings else manifest.key
            self.index = _one_array(self.packed[index])
            self._keys = _Texts(self.packed[manifest.key]) if self._strings else None
            groups = groups_of(self.packed)
            columns = columns_of(groups)
            self.columns = {name: columns[name] for name in manifest.outputs}
        except (OSError, KeyError, pa.ArrowException) as error:
            msg = f"{path} can't be read: {error}. Nothing was answered from it"
            raise SnapshotError(msg) from error
        self._outputs = manifest.outputs
        # A search that compares whole integers, never floats, and Python's own numbers
        # as the outputs, many at once.
        self._sorted = self.index.data
        # Where a search begins: the first of each so many rows, as Python's own numbers,
        # which are compared in half the time and lie close together.
        self._step = max(-(-len(self.index) * len(manifest.files) // FENCES), 1)
        self._fences = self.index[:: self._step].tolist()
        self._values = [(group.names, group.values) for group in groups]
        self._forms = manifest.forms
        self._assembly = self._assembled(denied)
        self._groups = [
            (
                group.names,
                struct.Struct(_code(group)),
                group.values.data.cast("B"),
            )
            for group in groups
            if len(group.values)
        ]

    def denying(self, denied: Denied) -> "Shard":
        """Return the same rows without other items of rankings."""
        other = copy.copy(self)
        other._assembly = self._assembled(denied)
        return other

    def _assembled(self, denied: Denied | None) -> Assembly | None:
        names = [names for names, values in self._values if len(values)]
        if not self._forms:
            return None
        return Assembly(self._outputs, self._forms, names, denied)

    @property
    def table(self) -> pa.Table:
        """The rows with a column for each output, which are copied."""
        return unpacked(self.packed, self._outputs)

    def find(self, key: int | str, hashed: int) -> int | None:
        """Return the row of a key."""
        sought = hashed if self._strings else key
        fence = bisect_left(self._fences, sought)
        step, rows = self._step, len(self._sorted)
        start, stop = max(fence - 1, 0) * step, min(fence * step, rows)
        row = bisect_left(self._sorted, sought, start, stop)
        if self._strings:
            return self.match(key, sought, row)
        return row if row < rows and self._sorted[row] == key else None

    def find_many(self, keys: Sequence[int | str], sought: np.ndarray) -> np.ndarray:
        """Return the row of each key, int64 (n,); -1 where it is not here.

        Args:
            keys: n keys.
            sought: what each is searched by, (n,): itself, or its hash.
        """
        if not len(self.index):
            return np.full(len(sought), -1)
        rows: np.ndarray = self.index.searchsorted(sought)
        rows[self.index.take(rows, mode="clip") != sought] = -1
        if self._strings:
            for at in np.flatnonzero(rows >= 0).tolist():
                row = self.match(keys[at], int(sought[at]), int(rows[at]))
                rows[at] = -1 if row is None else row
        return rows

    def match(self, key: int | str, sought: int | str, row: int) -> int | None:
        """Return the row of a key, of those from `row` on that have what is sought."""
        keys, index = self._keys, self._sorted
        while row < len(index) and index[row] == sought:
            # Two strings may share a hash: the key itself decides.
            if keys is None or keys.is_at(row, key):
                return row
            row += 1
        return None

    def rows(self, rows: np.ndarray) -> list[dict[str, Any]]:
        """Return the outputs of many rows, (n,); cheaper than one by one."""
        if self._assembly:
            some = [values[rows].tolist() for _, values in self._values]
            return [self._assembly.row(groups) for groups in zip(*some, strict=True)]
        names, *more = [names for names, _ in self._values]
        each = zip(*(values[rows].tolist() for _, values in self._values), strict=True)
        if not more:
            return [dict(zip(names, row)) for (row,) in each]  # noqa: B905
        names = tuple(name for names, _ in self._values for name in names)
        return [dict(zip(names, chain(*row), strict=True)) for row in each]

    def row(self, row: int) -> dict[str, Any]:
        """Return the outputs of one row."""
        if self._assembly:
            return self._assembly.row(
                [
                    packing.unpack_from(values, row * packing.size)
                    for _, packing, values in self._groups
                ]
            )
        if len(self._groups) == 1:  # As most have one type, in fewer steps.
            names, packing, values = self._groups[0]
            return dict(zip(names, packing.unpack_from(values, row * packing.size)))  # noqa: B905
        outputs: dict[str, Any] = {}
        for names, packing, values in self._groups:
            at = row * packing.size
            outputs.update(zip(names, packing.unpack_from(values, at), strict=True))
        return outputs


def _code(group: Group) -> str:
    """Return how `struct` calls a row of a group."""
    return f"={len(group.names)}{group.values.dtype.char.replace('l', 'q')}"


class _Texts:
    """A column of strings, compared in place."""

    def __init__(self, column: pa.ChunkedArray) -> None:
        self._data, self._offsets = memoryview(b""), memoryview(b"")
        if len(column):
            _, offsets, data = column.chunk(0).buffers()
            self._offsets = memoryview(offsets).cast("q")
            # Arrow's bytes are signed: above 127 they would equal none of Python's.
            self._data = memoryview(data or b"").cast("B")

    def is_at(self, row: int, text: int | str) -> bool:
        value = self._data[self._offsets[row] : self._offsets[row + 1]]
        return value == str(text).encode()


def _one_array(column: pa.ChunkedArray) -> np.ndarray:
    """What a file is sorted by; it has one chunk, or none if it has no rows."""
    (column,) = column.chunks or [pa.nulls(0, column.type)]
    return in_place(column)


def map_shard(path: Path) -> pa.Table:
    """Return the rows of a file, in place; who answers from them hashes it before."""
    mapped = pa.memory_map(str(path))
    table = pa.ipc.open_file(mapped, options=READING).read_all()
    return table.combine_chunks() if table.num_columns and len(table) else table
