"""Which versions may go, and their removal. It decides nothing of what is served."""

import logging
from contextlib import suppress
from datetime import UTC, datetime, timedelta

from batch_assets.errors import SnapshotError
from batch_assets.snapshots.history import new_entry, record
from batch_assets.snapshots.manifest import MANIFEST, version_names, versions
from batch_assets.snapshots.pointers import (
    current_version,
    lock_pointers,
    pinned_version,
)
from batch_assets.storage import REMOVING, StoragePath, hide_tree, remove_tree

log = logging.getLogger(__name__)


def collect(snapshots: StoragePath, keep: int, keep_for: timedelta) -> list[str]:
    """Remove all but the newest versions; their names.

    Never what is current or pinned, the version that was served before either, or one
    that is younger than `keep_for`: readers need time to move on. A folder that holds
    no readable version goes when it is old enough.

    Args:
        snapshots: `<root>/snapshots/<pipeline>`.
        keep: how many of the newest stay, those that are spared among them.
        keep_for: the age below which a version stays.
    """
    hidden: list[StoragePath] = []
    with lock_pointers(snapshots):
        try:
            may_go = _may_go(snapshots, keep, keep_for)
        except SnapshotError as error:
            log.warning("%s; no version is removed", error)
            return []
        for version in may_go:
            record(snapshots, new_entry("collect", version, why=f"keep is {keep}"))
            hidden.append(hide_tree(snapshots / f"v={version}", first=MANIFEST))
    # The bytes may take a while. What a killed run left hidden goes with them.
    hidden += [p for p in snapshots.iterdir() if p.name.startswith(REMOVING)]
    for folder in set(hidden):
        with suppress(OSError):
            remove_tree(folder)
    return may_go


def _may_go(snapshots: StoragePath, keep: int, keep_for: timedelta) -> list[str]:
    there = {manifest.version: manifest for manifest in versions(snapshots)}
    served = {current_version(snapshots), pinned_version(snapshots)} - {None}
    if unreadable := served - there.keys():
        msg = f"{', '.join(map(str, unreadable))} is served and can't be read"
        raise SnapshotError(msg)
    spared = served | {there[str(version)].parent for version in served}
    spared |= set(list(there)[-keep:])
    youngest = datetime.now(UTC) - keep_for
    old = [v for v, m in there.items() if m.created_at < youngest]
    old += [
        v
        for v in version_names(snapshots)
        if v not in there and _is_old(snapshots / f"v={v}", youngest)
    ]
    return [version for version in old if version not in spared]


def _is_old(folder: StoragePath, youngest: datetime) -> bool:
    """Whether what lies in a folder that is no version is of before a time."""
    times = [file.stat().st_mtime for file in folder.iterdir()]
    return all(datetime.fromtimestamp(time, UTC) < youngest for time in times)
