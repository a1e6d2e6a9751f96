"""What a version is, in the words of its manifest, and which versions there are.

    <root>/snapshots/<pipeline>/v=<version>/shard=NN.arrow    sorted, one batch each
    <root>/snapshots/<pipeline>/v=<version>/manifest.json     sizes, sha256, lineage
    <root>/snapshots/<pipeline>/CURRENT                       the name of one version

It knows nothing of how a version is made, nor of how a key is found in it.
"""

import json
from pathlib import Path
from typing import Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict

from batch_assets.errors import SnapshotError

CURRENT = "CURRENT"
MANIFEST = "manifest.json"


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


def current_version(snapshots: Path) -> str | None:
    """The version that CURRENT names, or None.

    Raises:
        SnapshotError: CURRENT is there but names no version.
    """
    path = snapshots / CURRENT
    try:
        text = path.read_text(encoding="utf-8").strip()
    except FileNotFoundError:
        return None
    if not text:
        msg = f"{path} is empty; write the name of a version into it"
        raise SnapshotError(msg)
    return text


def day_of(version: str) -> str:
    """The day that a version is of; its name begins with it."""
    return version[:10]


def versions(snapshots: Path) -> list[SnapshotManifest]:
    """The whole versions on disk, oldest first."""
    found = []
    for path in snapshots.glob(f"v=*/{MANIFEST}"):
        try:
            manifest = SnapshotManifest.model_validate(json.loads(path.read_bytes()))
        except (ValueError, OSError):
            continue
        # A copy under another name is somebody's backup.
        if path.parent.name == f"v={manifest.version}":
            found.append(manifest)
    return sorted(found, key=lambda manifest: manifest.created_at)


def version_folder(snapshots: Path, version: str) -> Path:
    """Where a version lies."""
    return snapshots / f"v={version}"
