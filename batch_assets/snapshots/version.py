"""One version, opened to look keys up. It never changes under its reader.

Files are memory-mapped and searched in place. Each is hashed before it is first used,
because Arrow serves a flipped bit without a word. It knows neither Dagster nor torch,
nor which version is served.
"""

import operator
import re
import struct
from bisect import bisect_left
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from batch_assets.errors import NotServedError, SnapshotError
from batch_assets.lake.shards import hash_key, hash_keys
from batch_assets.snapshots.fetch import fetched, must_be_whole
from batch_assets.snapshots.layout import (
    KEY_HASH,
    Group,
    columns_of,
    groups_of,
    unpacked,
)
from batch_assets.snapshots.manifest import (
    ReleaseName,
    ShardFile,
    SnapshotManifest,
    read_manifest,
)
from batch_assets.snapshots.pointers import CURRENT, served_version
from batch_assets.storage import StoragePath, is_local

# As one batch, on this thread: a worker of Arrow's would not outlive a fork.
READING = pa.ipc.IpcReadOptions(use_threads=False)
# Not what int() takes: `1_0`, `+1`, ` 1` and digits of other scripts are no keys.
AN_INTEGER = re.compile(r"-?[0-9]+", re.ASCII)
# So much of a key is shown in an error.
SHOWN = 80


class Answer(NamedTuple):
    """What a lookup found: the outputs, and of which version they are.

    A tuple, because it is made in half the time of a frozen dataclass.
    """

    key: int | str
    outputs: dict[str, Any]
    manifest: SnapshotManifest

    @property
    def version(self) -> str:
        return self.manifest.version

    @property
    def day(self) -> str:
        return self.manifest.day

    @property
    def release(self) -> ReleaseName:
        return self.manifest.release

    @property
    def age(self) -> timedelta:
        """How long ago the version was made."""
        return age_of(self.manifest)

    @property
    def is_stale(self) -> bool:
        """Whether it is older than the pipeline allows."""
        return self.age > self.manifest.stale_after

    def to_dict(self) -> dict[str, Any]:
        """All of it as plain values, for JSON; `age` in seconds."""
        return {
            "key": self.key,
            "outputs": self.outputs,
            "version": self.version,
            "day": self.day,
            "model_name": self.release.name,
            "model_version": self.release.digest,
            "age": self.age.total_seconds(),
            "is_stale": self.is_stale,
        }


class Version:
    """One version, opened for lookups."""

    def __init__(
        self, folder: Path, manifest: SnapshotManifest, *, hashed: bool = False
    ) -> None:
        """A version in a folder of this machine; hashed, if its files have been."""
        self.folder = folder
        self._hashed = hashed
        self.manifest = manifest
        self._strings = manifest.key_dtype == "string"
        self._count = len(manifest.files)
        self._shards: dict[int, Shard] = {}

    @classmethod
    def current(cls, snapshots: StoragePath) -> "Version":
        """Open the version that readers take now: the pinned or the current one.

        Args:
            snapshots: `<root>/snapshots/<pipeline>`.

        Raises:
            NotServedError: nothing is published.
            SnapshotError: the version can't be trusted.
        """
        version = served_version(snapshots)
        if version is None:
            msg = f"nothing is served at {snapshots}: no {CURRENT}. Run a night first"
            raise NotServedError(msg)
        return cls.open(snapshots, version)

    @classmethod
    def open(cls, snapshots: StoragePath, version: str) -> "Version":
        """Open one version; its files are hashed when they are first used.

        From an object store all of them are copied down and hashed first.

        Raises:
            SnapshotError: it is not there, or its manifest is not whole.
        """
        folder = fetched(snapshots, version)
        hashed = not is_local(snapshots)
        return cls(folder, read_manifest(folder, version), hashed=hashed)

    @property
    def name(self) -> str:
        return self.manifest.version

    def get(self, key: int | str) -> Answer | None:
        """The outputs of a key, or None if the night has no prediction for it.

        Raises:
            SnapshotError: the key is of the wrong type, or the file is not whole.
        """
        key = self._checked(key)
        try:
            hashed = hash_key(key)
        except UnicodeEncodeError:  # Half of a surrogate pair: no file can hold it.
            return None
        number = hashed % self._count
        shard = self._shards.get(number) or self.shard(number)
        row = shard.find(key, hashed)
        return None if row is None else Answer(key, shard.row(row), self.manifest)

    def get_many(self, keys: Iterable[int | str]) -> list[Answer | None]:
        """The same for many keys, in their order; cheaper than one by one.

        Raises:
            SnapshotError: as `get`.
        """
        checked = [self._checked(key) for key in keys]
        answers: list[Answer | None] = [None] * len(checked)
        asked = [at for at, key in enumerate(checked) if self._can_be_there(key)]
        if not asked:
            return answers
        dtype = pa.large_string() if self._strings else pa.int64()
        column = pa.array([checked[at] for at in asked], dtype)
        hashes = hash_keys(column)
        numbers = (hashes % np.uint64(self._count)).astype(np.int64)
        for number in np.unique(numbers):
            mine = np.flatnonzero(numbers == number)
            shard = self.shard(int(number))
            wanted = hashes[mine] if self._strings else column.to_numpy()[mine]
            starts = shard.index.searchsorted(wanted)
            for at, start, sought in zip(
                mine.tolist(), starts.tolist(), wanted.tolist(), strict=True
            ):
                key = checked[asked[at]]
                row = shard.match(key, sought, start)
                if row is not None:
                    answers[asked[at]] = Answer(key, shard.row(row), self.manifest)
        return answers

    def shard(self, number: int) -> "Shard":
        """One shard's columns, hashed before their first use.

        Raises:
            SnapshotError: the file is missing, truncated or altered.
        """
        if number not in self._shards:
            file = self.manifest.files[number]
            self._shards[number] = Shard(
                self.folder, file, self.manifest, hashed=self._hashed
            )
        return self._shards[number]

    def verify(self) -> None:
        """Hash every file of the version, and map it.

        Raises:
            SnapshotError: a file is missing, truncated or altered.
        """
        for number in range(self._count):
            self.shard(number)

    def _checked(self, key: int | str) -> int | str:
        """A key of the right type; an integer may be written as text."""
        if self._strings:
            if isinstance(key, str):
                return key
            msg = f"the key '{self.manifest.key}' is a string, got {key!r}"
            raise SnapshotError(msg)
        try:
            # Not int() alone: it would answer for 1 where it was asked for 1.5.
            found = integer_of(key) if isinstance(key, str) else operator.index(key)
        except TypeError:
            found = None
        if found is None:
            got = repr(key) if len(repr(key)) <= SHOWN else f"{repr(key)[:SHOWN]}…"
            msg = (
                f"the key '{self.manifest.key}' is an integer, got {got}; expected an "
                "int64 in the digits 0 to 9, such as 42 or -42"
            )
            raise SnapshotError(msg)
        return found

    def _can_be_there(self, key: int | str) -> bool:
        if isinstance(key, int):
            return -(2**63) <= key < 2**63
        try:
            key.encode()
        except UnicodeEncodeError:
            return False
        return True


class Shard:
    """One mapped file, as arrays over the map, without a copy.

    `index` is what it is sorted by, (rows,); `columns` each output, (rows,).
    """

    def __init__(
        self,
        folder: Path,
        entry: ShardFile,
        manifest: SnapshotManifest,
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
            self.index = self.packed[index].to_numpy()
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
        self._sorted = memoryview(self.index)
        self._groups = [
            (
                group.names,
                struct.Struct(_code(group)),
                group.values.data.cast("B"),
            )
            for group in groups
            if len(group.values)
        ]

    @property
    def table(self) -> pa.Table:
        """The rows with a column for each output, which are copied."""
        return unpacked(self.packed, self._outputs)

    def find(self, key: int | str, hashed: int) -> int | None:
        """The row of a key."""
        sought = hashed if self._strings else key
        return self.match(key, sought, bisect_left(self._sorted, sought))

    def match(self, key: int | str, sought: int | str, row: int) -> int | None:
        """The row of a key, of those that begin with `row` and have what is sought."""
        keys, index = self._keys, self._sorted
        while row < len(index) and index[row] == sought:
            # Two strings may share a hash: the key itself decides.
            if keys is None or keys.is_at(row, key):
                return row
            row += 1
        return None

    def row(self, row: int) -> dict[str, Any]:
        """The outputs of one row."""
        if len(self._groups) == 1:  # As most have one type, in fewer steps.
            names, packing, values = self._groups[0]
            return dict(zip(names, packing.unpack_from(values, row * packing.size)))  # noqa: B905
        found: dict[str, Any] = {}
        for names, packing, values in self._groups:
            at = row * packing.size
            found.update(zip(names, packing.unpack_from(values, at), strict=True))
        return found


def _code(group: Group) -> str:
    """How `struct` calls a row of a group."""
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
        here = self._data[self._offsets[row] : self._offsets[row + 1]]
        return here == str(text).encode()


def map_shard(path: Path) -> pa.Table:
    """The rows of a file, in place; whoever answers from them hashes it before."""
    mapped = pa.memory_map(str(path))
    table = pa.ipc.open_file(mapped, options=READING).read_all()
    return table.combine_chunks() if table.num_columns and len(table) else table


def integer_of(text: str) -> int | None:
    """The int64 that a text writes in ASCII digits; None if it writes none."""
    if not AN_INTEGER.fullmatch(text):
        return None
    digits = text.lstrip("-0") or "0"
    # Python reads no integer of thousands of digits, and no key has more than these.
    found = int(digits) if len(digits) < 20 else 2**63
    found = -found if text[0] == "-" else found
    return found if -(2**63) <= found < 2**63 else None


def age_of(manifest: SnapshotManifest) -> timedelta:
    """How long ago a version was made."""
    return datetime.now(UTC) - manifest.created_at
