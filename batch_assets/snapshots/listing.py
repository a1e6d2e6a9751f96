"""The versions of a pipeline on disk, and what keeps one of them served."""

from dataclasses import dataclass
from datetime import datetime

from batch_assets.snapshots.history import Block
from batch_assets.snapshots.manifest import SnapshotManifest
from batch_assets.snapshots.store import CURRENT, PIN, SnapshotStore


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
    overridden_gates: tuple[str, ...] = ()
    kept_shards: tuple[int, ...] = ()


@dataclass(frozen=True)
class Listing:
    """The versions, the newest last; `dangling` pointers name none of them."""

    versions: list[ListedVersion]
    dangling: dict[str, str]
    block: Block | None


def list_versions(store: SnapshotStore) -> Listing:
    """List the versions of a store.

    Raises:
        SnapshotError: a pointer can't be read.
    """
    pointers = {CURRENT: store.current(), PIN: store.pinned()}
    listed = [_listed(m, pointers[CURRENT], pointers[PIN]) for m in store.versions()]
    names = {version.version for version in listed}
    dangling = {
        pointer: version
        for pointer, version in pointers.items()
        if version and version not in names
    }
    return Listing(listed, dangling, store.block())


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
        overridden_gates=tuple(one.gate for one in manifest.overrides),
        kept_shards=tuple(manifest.kept_shards),
    )
