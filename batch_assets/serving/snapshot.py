"""Look keys up in the version that is served. It knows neither Dagster nor torch.

    <root>/snapshots/<pipeline>/v=<version>/shard=NN.arrow    sorted, one batch each
    <root>/snapshots/<pipeline>/v=<version>/manifest.json     sizes, sha256, lineage
    <root>/snapshots/<pipeline>/CURRENT                       the name of one version

Files are memory-mapped and searched in place. Each is hashed before it is first used,
because Arrow serves a flipped bit without a word.
"""

import hashlib
import json
import operator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
from pydantic import AwareDatetime, BaseModel, ConfigDict, ValidationError

from batch_assets.errors import NotServedError, SnapshotError
from batch_assets.lake.shards import hash_key
from batch_assets.storage import ObjectPath, Place, Seen, fetch, local, read_seen

CURRENT = "CURRENT"
MANIFEST = "manifest.json"
KEY_HASH = "key_hash"


class ShardFile(BaseModel):
    """One file of a version: bytes, sha256, rows, and the checksum of its keys."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    size: int
    sha256: str
    rows: int
    keys: int


class SnapshotManifest(BaseModel):
    """What one version is: of which day, release and predictions, in which files."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    format: Literal[1] = 1
    pipeline: str
    version: str
    day: str
    created_at: AwareDatetime
    key: str
    key_dtype: Literal["int64", "string"]
    outputs: tuple[str, ...]
    model_name: str
    model_version: str
    job: str
    files: tuple[ShardFile, ...]
    parent: str | None = None

    @property
    def rows(self) -> int:
        return sum(file.rows for file in self.files)


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


class Snapshot:
    """One version, opened for lookups; it never changes under its reader."""

    def __init__(self, folder: Place, manifest: SnapshotManifest) -> None:
        self.folder = folder
        self.manifest = manifest
        self._shards: dict[int, _Shard] = {}

    @classmethod
    def current(cls, snapshots: Place) -> "Snapshot":
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
    def open(cls, snapshots: Place, version: str) -> "Snapshot":
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
        self, folder: Place, entry: ShardFile, manifest: SnapshotManifest
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


def _mapped(place: Place, entry: ShardFile) -> pa.Table:
    path = local(place)
    if isinstance(place, ObjectPath) and not path.exists():
        fetch(place, path)
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


def current_version(snapshots: Place) -> str | None:
    """The version that CURRENT names, or None.

    Raises:
        SnapshotError: CURRENT is there but names no version.
    """
    return version_in(snapshots, read_seen(snapshots / CURRENT))


def version_in(snapshots: Place, seen: Seen) -> str | None:
    """The version that a CURRENT names that was seen, or None.

    Raises:
        SnapshotError: it was there but named no version.
    """
    if seen.data is None:
        return None
    text = seen.data.decode(errors="replace").strip()
    if not text:
        msg = f"{snapshots / CURRENT} is empty; write the name of a version into it"
        raise SnapshotError(msg)
    return text


def day_of(version: str) -> str:
    """The day that a version is of; its name begins with it."""
    return version[:10]


def versions(snapshots: Place) -> list[SnapshotManifest]:
    """The whole versions on disk, oldest first."""
    found = []
    for folder in snapshots.iterdir() if snapshots.is_dir() else ():
        if not folder.name.startswith("v="):
            continue
        try:
            data = (folder / MANIFEST).read_bytes()
            manifest = SnapshotManifest.model_validate(json.loads(data))
        except (ValueError, OSError):
            continue
        # A copy under another name is somebody's backup.
        if folder.name == f"v={manifest.version}":
            found.append(manifest)
    return sorted(found, key=lambda manifest: manifest.created_at)


def version_folder(snapshots: Place, version: str) -> Place:
    """Where a version lies."""
    return snapshots / f"v={version}"
