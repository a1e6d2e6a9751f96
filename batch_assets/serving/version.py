"""One version, opened to look keys up. It knows neither Dagster nor torch.

Files are memory-mapped and searched in place. Each is hashed before it is first used,
because Arrow serves a flipped bit without a word.
"""

import hashlib
import operator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from pydantic import ValidationError

from batch_assets.errors import NotServedError, SnapshotError
from batch_assets.lake.shards import hash_key
from batch_assets.serving.manifest import (
    CURRENT,
    MANIFEST,
    ShardFile,
    SnapshotManifest,
    current_version,
    version_folder,
)

# In a file of string keys, the column that it is sorted by.
KEY_HASH = "key_hash"


@dataclass(frozen=True)
class Answer:
    """What a lookup found: the outputs, and which release and version they are of."""

    key: int | str
    outputs: dict[str, Any]
    version: str
    day: str
    model_name: str
    model_version: str
    age: timedelta


class Version:
    """One version, opened for lookups; it never changes under its reader."""

    def __init__(self, folder: Path, manifest: SnapshotManifest) -> None:
        self.folder = folder
        self.manifest = manifest
        self._shards: dict[int, _Shard] = {}

    @classmethod
    def current(cls, snapshots: Path) -> "Version":
        """Open the version that is served.

        Args:
            snapshots: `<root>/snapshots/<pipeline>`.

        Raises:
            NotServedError: nothing is published.
            SnapshotError: the version can't be trusted.
        """
        version = current_version(snapshots)
        if version is None:
            msg = f"nothing is served at {snapshots}: no {CURRENT}. Run a night first"
            raise NotServedError(msg)
        return cls.open(snapshots, version)

    @classmethod
    def open(cls, snapshots: Path, version: str) -> "Version":
        """Open one version.

        Raises:
            SnapshotError: it is not there, or its manifest is not whole.
        """
        folder = version_folder(snapshots, version)
        path = folder / MANIFEST
        try:
            manifest = SnapshotManifest.model_validate_json(path.read_bytes())
        except (OSError, ValidationError) as error:
            msg = f"version {version} has no readable {path}: {error}"
            raise SnapshotError(msg) from error
        if manifest.version != version:
            msg = f"{path} is the manifest of {manifest.version}, not of {version}"
            raise SnapshotError(msg)
        return cls(folder, manifest)

    @property
    def version(self) -> str:
        return self.manifest.version

    @property
    def age(self) -> timedelta:
        """How long ago the version was made."""
        return datetime.now(UTC) - self.manifest.created_at

    def get(self, key: int | str) -> Answer | None:
        """The outputs of a key, or None if the night did not score it.

        Raises:
            SnapshotError: the key is of the wrong type, or the file is not whole.
        """
        manifest = self.manifest
        if manifest.key_dtype == "int64":
            try:
                # Not int() alone: it would answer for 1 where it was asked for 1.5.
                key = int(key) if isinstance(key, str) else operator.index(key)
            except (TypeError, ValueError):
                msg = f"the key '{manifest.key}' is an integer, got {key!r}"
                raise SnapshotError(msg) from None
            if not -(2**63) <= key < 2**63:
                return None
        else:
            if not isinstance(key, str):
                msg = f"the key '{manifest.key}' is a string, got {key!r}"
                raise SnapshotError(msg)
        hashed = hash_key(key)
        shard = self.shard(hashed % len(manifest.files))
        row = shard.find(key, hashed)
        if row is None:
            return None
        return Answer(
            key=key,
            outputs={n: shard.columns[n][row].item() for n in manifest.outputs},
            version=manifest.version,
            day=manifest.day,
            model_name=manifest.model_name,
            model_version=manifest.model_version,
            age=self.age,
        )

    def shard(self, number: int) -> "_Shard":
        """One shard's columns, hashed before their first use."""
        if number not in self._shards:
            self._shards[number] = _Shard(
                self.folder, self.manifest.files[number], self.manifest
            )
        return self._shards[number]

    def verify(self) -> None:
        """Hash every file of the version.

        Raises:
            SnapshotError: a file is missing, truncated or altered.
        """
        for number in range(len(self.manifest.files)):
            self.shard(number)


class _Shard:
    """One mapped file: columns as arrays over the map, without a copy."""

    def __init__(
        self, folder: Path, entry: ShardFile, manifest: SnapshotManifest
    ) -> None:
        path = folder / entry.name
        try:
            self.table = _mapped(path, entry)
        except (OSError, pa.ArrowException) as error:
            msg = f"{path} can't be read: {error}. Nothing was answered from it"
            raise SnapshotError(msg) from error
        self._keys = self.table[manifest.key]
        index = KEY_HASH if manifest.key_dtype == "string" else manifest.key
        self.index = self.table[index].to_numpy()
        self.columns = {n: self.table[n].to_numpy() for n in manifest.outputs}
        self._strings = manifest.key_dtype == "string"

    def find(self, key: int | str, hashed: int) -> int | None:
        """The row of a key."""
        # A Python int would turn the whole index into float64 at each lookup: slow,
        # and wrong above 2**53.
        wanted = np.uint64(hashed) if self._strings else np.int64(key)
        row = int(np.searchsorted(self.index, wanted))
        while row < len(self.index) and self.index[row] == wanted:
            # Two strings may share a hash: the key itself decides.
            if not self._strings or self._keys[row].as_py() == key:
                return row
            row += 1
        return None


def _mapped(path: Path, entry: ShardFile) -> pa.Table:
    size = path.stat().st_size
    if size != entry.size:
        msg = f"{path} has {size} bytes, its manifest says {entry.size}"
        raise SnapshotError(msg)
    with path.open("rb") as file:
        sha = hashlib.file_digest(file, "sha256").hexdigest()
    if sha != entry.sha256:
        msg = f"{path} hashes to {sha}, its manifest says {entry.sha256}"
        raise SnapshotError(msg)
    return map_shard(path)


def map_shard(path: Path) -> pa.Table:
    """The rows of a file, in place; whoever answers from them hashes it before."""
    table = pa.ipc.open_file(pa.memory_map(str(path))).read_all()
    return table.combine_chunks() if table.num_columns and len(table) else table
