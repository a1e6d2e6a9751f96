"""The versions of a pipeline on disk, and what keeps one of them served."""

from dataclasses import dataclass
from datetime import datetime

from batch_assets.snapshots.manifest import SnapshotManifest, versions
from batch_assets.snapshots.pointers import (
    CURRENT,
    PIN,
    Block,
    block_of,
    current_version,
    pinned_version,
)
from batch_assets.storage import StoragePath


@dataclass(frozen=True)
class ListedVersion:
    """A version, and which pointers name it; readers take the `served` one."""

    version: str
    day: str
    rows: int
    coverage: float
    model: str
    digest: str
    created_at: datetime
    linked_shards: int
    current: bool
    pinned: bool
    served: bool


@dataclass(frozen=True)
class Listing:
    """The versions, the newest last; `dangling` pointers name none of them."""

    versions: list[ListedVersion]
    dangling: dict[str, str]
    block: Block | None


def list_versions(snapshots: StoragePath) -> Listing:
    """List what is on disk at `<root>/snapshots/<pipeline>`.

    Raises:
        SnapshotError: a pointer can't be read.
    """
    pointers = {CURRENT: current_version(snapshots), PIN: pinned_version(snapshots)}
    listed = [_listed(m, pointers[CURRENT], pointers[PIN]) for m in versions(snapshots)]
    names = {version.version for version in listed}
    dangling = {
        pointer: version
        for pointer, version in pointers.items()
        if version and version not in names
    }
    return Listing(listed, dangling, block_of(snapshots))


def _listed(
    manifest: SnapshotManifest, current: str | None, pinned: str | None
) -> ListedVersion:
    return ListedVersion(
        version=manifest.version,
        day=manifest.day,
        rows=manifest.rows,
        coverage=manifest.coverage,
        model=manifest.model_name,
        digest=manifest.model_version,
        created_at=manifest.created_at,
        linked_shards=sum(file.linked_from is not None for file in manifest.files),
        current=manifest.version == current,
        pinned=manifest.version == pinned,
        served=manifest.version == (pinned or current),
    )
