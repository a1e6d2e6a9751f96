"""Find what the nights of a pipeline have left under `<root>`."""

from typing import TYPE_CHECKING

from batch_assets.errors import PipelineError
from batch_assets.root import data_root

if TYPE_CHECKING:
    from batch_assets.lake.tables import Lake
    from batch_assets.snapshots.store import SnapshotStore
    from batch_assets.storage import StoragePath


def snapshots_of(pipeline: str) -> "SnapshotStore":
    """Return the snapshots of a pipeline.

    Raises:
        PipelineError: there is nothing.
    """
    from batch_assets.snapshots.store import SnapshotStore

    store = SnapshotStore(data_root(), pipeline)
    _must_be_there(store.folder)
    return store


def lake_of(pipeline: str) -> "Lake":
    """Return the lake of a pipeline.

    Raises:
        PipelineError: there is none.
    """
    from batch_assets.lake.tables import Lake

    lake = Lake(data_root(), pipeline)
    _must_be_there(lake.folder)
    return lake


def _must_be_there(folder: "StoragePath") -> None:
    if folder.is_dir():
        return
    parent = folder.parent
    known = sorted(p.name for p in parent.iterdir()) if parent.is_dir() else []
    msg = (
        f"'{folder.name}' has nothing at {folder}; there: "
        f"{', '.join(known) or 'nothing'}. Run a night of it, or set BATCH_ASSETS_ROOT"
    )
    raise PipelineError(msg)
