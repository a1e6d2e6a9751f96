"""What a person does to what is served: roll back, pin, unpin, unblock, verify.

Each act is recorded with who and why before it is done, and takes the same time
whatever the size: no row is read. Readers hash a version before they take it, and
`verify` does so beforehand. It knows nothing of how versions are made.
"""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from batch_assets.errors import NotServedError, SnapshotError
from batch_assets.snapshots.fetch import must_be_whole
from batch_assets.snapshots.history import (
    HistoryEntry,
    entries_of,
    new_entry,
    record,
    withdrawn,
)
from batch_assets.snapshots.manifest import (
    ShardFile,
    SnapshotManifest,
    read_manifest,
    version_folder,
    version_names,
    versions,
)
from batch_assets.snapshots.pointers import (
    BLOCKED,
    CURRENT,
    PIN,
    Block,
    block_of,
    current_version,
    lock_pointers,
    named,
    pinned_version,
    point,
)
from batch_assets.storage import Seen, StoragePath, each, read_seen

# Until when a rollback keeps the nights from publishing, if nobody says: one night, and
# a working day to find out why.
BLOCK_FOR = timedelta(hours=24)


@dataclass(frozen=True)
class Done:
    """What was done, and what readers take now."""

    act: HistoryEntry
    served: str | None
    block: Block | None


@dataclass(frozen=True)
class Verified:
    """A version, and what is wrong with it, if anything."""

    version: str
    problem: str | None


def rollback(
    snapshots: StoragePath,
    *,
    why: str,
    to: str | None = None,
    by: str | None = None,
    until: datetime | None = None,
) -> Done:
    """Serve an earlier version again, and keep the nights from publishing for a while.

    Args:
        snapshots: `<root>/snapshots/<pipeline>`.
        why: the reason.
        to: a version; the one that was served before the current one, if left out.
        by: who; this machine's user if left out.
        until: until when nothing is published, with a timezone; for 24 hours if left
            out.

    Raises:
        NotServedError: nothing is served.
        SnapshotError: there is no such version, or its files are not all there.
    """
    now = datetime.now(UTC)
    until = until or now + BLOCK_FOR
    if until.tzinfo is None or until <= now:
        msg = (
            f"publishing is blocked until later than now, with a timezone; got {until}"
        )
        raise SnapshotError(msg)
    with lock_pointers(_there(snapshots)):
        seen = read_seen(snapshots / CURRENT)
        current = _current(snapshots, seen, required=to is None)
        if current is None and to is None:
            msg = f"nothing is served at {snapshots}, so there is nothing to take back"
            raise NotServedError(msg)
        target = to or _before(snapshots, str(current))
        if target == current:
            msg = f"{current} is the current version already; nothing was changed"
            raise SnapshotError(msg)
        _must_be_there(snapshots, target)
        act = new_entry("rollback", target, why=why, by=by, before=current, until=until)
        block = Block(at=act.at, until=until, by=act.by, why=act.why, version=current)
        record(snapshots, act)
        # First the block: a night must not come between.
        point(snapshots / BLOCKED, block.model_dump_json())
        if not point(snapshots / CURRENT, target, seen):
            msg = (
                f"{CURRENT} was changed by another machine just now. Publishing is "
                "blocked, nothing was rolled back: look again, and say it again"
            )
            raise SnapshotError(msg)
        return _done(snapshots, act)


def pin(
    snapshots: StoragePath, version: str, *, why: str, by: str | None = None
) -> Done:
    """Let readers take one version, whatever is published, until it is unpinned.

    Raises:
        SnapshotError: there is no such version, or its files are not all there.
    """
    with lock_pointers(_there(snapshots)):
        _must_be_there(snapshots, version)
        before = pinned_version(snapshots)
        act = new_entry("pin", version, why=why, by=by, before=before)
        record(snapshots, act)
        point(snapshots / PIN, version)
        return _done(snapshots, act)


def unpin(snapshots: StoragePath, *, why: str, by: str | None = None) -> Done:
    """Let readers take the current version again.

    Raises:
        SnapshotError: nothing is pinned.
    """
    with lock_pointers(_there(snapshots)):
        if not (snapshots / PIN).exists():
            msg = f"nothing is pinned at {snapshots}; nothing was changed"
            raise SnapshotError(msg)
        try:
            before = pinned_version(snapshots)
        except SnapshotError:  # A PIN that names nothing is there to be removed.
            before = None
        current = current_version(snapshots)
        act = new_entry("unpin", current, why=why, by=by, before=before)
        record(snapshots, act)
        (snapshots / PIN).unlink()
        return _done(snapshots, act)


def unblock(snapshots: StoragePath, *, why: str, by: str | None = None) -> Done:
    """Let the nights publish again, what was taken back among it.

    Raises:
        SnapshotError: nothing is blocked.
    """
    with lock_pointers(_there(snapshots)):
        if not (snapshots / BLOCKED).exists() and not _taken_back(snapshots):
            msg = f"publishing is not blocked at {snapshots}; nothing was changed"
            raise SnapshotError(msg)
        block = block_of(snapshots)
        version = block.version if block else None
        act = new_entry("unblock", version, why=why, by=by)
        record(snapshots, act)
        (snapshots / BLOCKED).unlink(missing_ok=True)
        return _done(snapshots, act)


def verify(snapshots: StoragePath, version: str | None = None) -> list[Verified]:
    """Hash every file of one version, or of all, and what is wrong with each.

    What CURRENT and PIN name is among them, if it is there or not.
    """
    names = [version] if version else _names(_there(snapshots))
    return [Verified(name, _problem(snapshots, name)) for name in names]


def _current(snapshots: StoragePath, seen: Seen, *, required: bool) -> str | None:
    """The current version; none where CURRENT names nothing and need not."""
    try:
        return named(snapshots / CURRENT, seen)
    except SnapshotError:
        if required:
            raise
        return None


def _taken_back(snapshots: StoragePath) -> bool:
    """Whether the nights leave a version out; if that is not certain, they do."""
    try:
        return bool(withdrawn(snapshots))
    except SnapshotError:
        return True


def _names(snapshots: StoragePath) -> list[str]:
    said = [current_version(snapshots), pinned_version(snapshots)]
    there = version_names(snapshots)
    return [*there, *(n for n in dict.fromkeys(said) if n and n not in there)]


def _problem(snapshots: StoragePath, version: str) -> str | None:
    try:
        folder = version_folder(snapshots, version)
        for file in read_manifest(folder, version).files:
            must_be_whole(folder / file.name, file)
    except (SnapshotError, OSError) as error:
        return str(error)
    return None


def _before(snapshots: StoragePath, current: str) -> str:
    """The version that was served before the current one."""
    try:
        parent = read_manifest(version_folder(snapshots, current), current).parent
    except SnapshotError:
        # It is no reason to leave readers without a version; the history knows too.
        acts = [act for act in entries_of(snapshots)[0] if act.version == current]
        parent = next((act.before for act in reversed(acts) if act.before), None)
    if parent is None:
        msg = (
            f"nothing is known to have been served before {current}. Name a version "
            f"with --to: {_known(snapshots)}"
        )
        raise SnapshotError(msg)
    return parent


def _must_be_there(snapshots: StoragePath, version: str) -> SnapshotManifest:
    """Refuse a version whose manifest is not whole, or whose files are not all there."""
    folder = version_folder(snapshots, version)
    if not folder.is_dir():
        msg = f"there is no version {version}; there: {_known(snapshots)}"
        raise SnapshotError(msg)
    manifest = read_manifest(folder, version)

    def size_of(file: ShardFile) -> int | None:
        try:
            return (folder / file.name).stat().st_size
        except FileNotFoundError:
            return None

    sizes = each(folder, size_of, manifest.files)
    for file, size in zip(manifest.files, sizes, strict=True):
        if size != file.size:
            found = "is missing" if size is None else f"has {size} bytes"
            msg = (
                f"{folder / file.name} {found}, its manifest says {file.size} bytes: "
                f"{version} can't be served, and nothing was changed. There: "
                f"{_known(snapshots)}"
            )
            raise SnapshotError(msg)
    return manifest


def _there(snapshots: StoragePath) -> StoragePath:
    if not snapshots.is_dir():
        msg = f"nothing is served at {snapshots}: there is no such folder"
        raise NotServedError(msg)
    return snapshots


def _known(snapshots: StoragePath) -> str:
    return ", ".join(m.version for m in versions(snapshots)) or "none"


def _done(snapshots: StoragePath, act: HistoryEntry) -> Done:
    pinned = pinned_version(snapshots)
    return Done(act, pinned or current_version(snapshots), block_of(snapshots))
