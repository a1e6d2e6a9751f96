"""Which versions may go, and their removal. It decides nothing of what is served."""

import logging
from contextlib import suppress
from datetime import UTC, datetime, timedelta

from batch_assets.errors import SnapshotError
from batch_assets.snapshots.history import new_entry
from batch_assets.snapshots.manifest import MANIFEST
from batch_assets.snapshots.store import SnapshotStore
from batch_assets.storage import REMOVING, StoragePath, hide_tree, remove_tree

log = logging.getLogger(__name__)


def collect(store: SnapshotStore, keep: int, keep_for: timedelta) -> list[str]:
    """Remove all but the newest versions; return their names.

    Never what is current or pinned, the version that was served before either, or one
    that is younger than `keep_for`: readers need time to move on. A folder that holds
    no readable version goes when it is old enough.

    Args:
        store: of the pipeline's versions.
        keep: how many of the newest stay, those that are spared among them.
        keep_for: the age below which a version stays.
    """
    hidden = []
    with store.lock():
        try:
            removed = _may_go(store, keep, keep_for)
        except SnapshotError as error:
            log.warning("%s; no version is removed", error)
            return []
        for version in removed:
            store.record(new_entry("collect", version, why=f"keep is {keep}"))
            # Gone for every reader at once; the bytes may take a while.
            hidden.append(hide_tree(store.folder / f"v={version}", first=MANIFEST))
    left_by_killed = [p for p in store.folder.iterdir() if p.name.startswith(REMOVING)]
    for folder in {*hidden, *left_by_killed}:
        with suppress(OSError):
            remove_tree(folder)
    return removed


def _may_go(store: SnapshotStore, keep: int, keep_for: timedelta) -> list[str]:
    manifests = {manifest.version: manifest for manifest in store.versions()}
    served = {store.current(), store.pinned()} - {None}
    if unreadable := served - manifests.keys():
        msg = f"{', '.join(map(str, unreadable))} is served and can't be read"
        raise SnapshotError(msg)
    spared = served | {manifests[str(version)].parent for version in served}
    spared |= set(list(manifests)[-keep:])
    youngest = datetime.now(UTC) - keep_for
    old = [v for v, m in manifests.items() if m.created_at < youngest]
    old += [
        version
        for version in store.version_names()
        if version not in manifests and _is_old(store.folder / f"v={version}", youngest)
    ]
    return [version for version in old if version not in spared]


def _is_old(folder: StoragePath, youngest: datetime) -> bool:
    """Tell whether what lies in a folder that is no version is of before a time."""
    times = [file.stat().st_mtime for file in folder.iterdir()]
    return all(datetime.fromtimestamp(time, UTC) < youngest for time in times)
