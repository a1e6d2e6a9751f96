"""What a person does to what is served: roll back, pin, unpin, unblock, verify.

Each is recorded with who and why before it is done, and takes the same time whatever
the size: no row is read. Readers hash a version before they take it, and `verify` does
so beforehand. It knows nothing of how versions are made.
"""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from batch_assets.errors import NotServedError, SnapshotError
from batch_assets.snapshots.fetch import must_be_whole
from batch_assets.snapshots.history import Block, HistoryEntry, new_entry
from batch_assets.snapshots.manifest import ShardFile, SnapshotManifest
from batch_assets.snapshots.store import BLOCKED, CURRENT, PIN, SnapshotStore
from batch_assets.storage import each

# Until when a rollback keeps the nights from publishing, if nobody says: one night, and
# a working day to find out why.
BLOCK_FOR = timedelta(hours=24)


@dataclass(frozen=True)
class Done:
    """What was done, and what readers take now."""

    entry: HistoryEntry
    served: str | None
    block: Block | None


@dataclass(frozen=True)
class Verified:
    """A version, and what is wrong with it, if anything."""

    version: str
    problem: str | None


def rollback(
    store: SnapshotStore,
    *,
    why: str,
    to: str | None = None,
    by: str | None = None,
    until: datetime | None = None,
) -> Done:
    """Serve an earlier version again, and keep the nights from publishing for a while.

    Args:
        store: of the pipeline's versions.
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
    _must_exist(store)
    with store.lock():
        pointer = store.pointer(CURRENT)
        current = pointer.version_or_none() if to else pointer.version
        if current is None and to is None:
            msg = f"nothing is served at {store}, so there is nothing to take back"
            raise NotServedError(msg)
        target = to or _before(store, str(current))
        if target == current:
            msg = f"{current} is the current version already; nothing was changed"
            raise SnapshotError(msg)
        _must_be_there(store, target)
        entry = new_entry(
            "rollback", target, why=why, by=by, before=current, until=until
        )
        block = Block(
            at=entry.at, until=until, by=entry.by, why=entry.why, version=current
        )
        store.record(entry)
        # First the block: a night must not come between.
        store.overwrite(BLOCKED, block.model_dump_json())
        if not pointer.move(target):
            msg = (
                f"{CURRENT} was changed by another machine just now. Publishing is "
                "blocked, nothing was rolled back: look again, and say it again"
            )
            raise SnapshotError(msg)
        return _done(store, entry)


def pin(store: SnapshotStore, version: str, *, why: str, by: str | None = None) -> Done:
    """Let readers take one version, whatever is published, until it is unpinned.

    Raises:
        SnapshotError: there is no such version, or its files are not all there.
    """
    _must_exist(store)
    with store.lock():
        _must_be_there(store, version)
        entry = new_entry("pin", version, why=why, by=by, before=store.pinned())
        store.record(entry)
        store.overwrite(PIN, version)
        return _done(store, entry)


def unpin(store: SnapshotStore, *, why: str, by: str | None = None) -> Done:
    """Let readers take the current version again.

    Raises:
        SnapshotError: nothing is pinned.
    """
    _must_exist(store)
    with store.lock():
        if not (store.folder / PIN).exists():
            msg = f"nothing is pinned at {store}; nothing was changed"
            raise SnapshotError(msg)
        try:
            before = store.pinned()
        except SnapshotError:  # A PIN that names nothing is there to be removed.
            before = None
        entry = new_entry("unpin", store.current(), why=why, by=by, before=before)
        store.record(entry)
        (store.folder / PIN).unlink()
        return _done(store, entry)


def unblock(store: SnapshotStore, *, why: str, by: str | None = None) -> Done:
    """Let the nights publish again, what was taken back among it.

    Raises:
        SnapshotError: nothing is blocked.
    """
    _must_exist(store)
    with store.lock():
        if not (store.folder / BLOCKED).exists() and not _holds_any_back(store):
            msg = f"publishing is not blocked at {store}; nothing was changed"
            raise SnapshotError(msg)
        block = store.block()
        version = block.version if block else None
        entry = new_entry("unblock", version, why=why, by=by)
        store.record(entry)
        (store.folder / BLOCKED).unlink(missing_ok=True)
        return _done(store, entry)


def verify(store: SnapshotStore, version: str | None = None) -> list[Verified]:
    """Hash every file of one version, or of all; return what is wrong with each.

    What CURRENT and PIN name is among them, if it is there or not.

    Raises:
        NotServedError: there is no such folder.
    """
    names = [version] if version else _names(store)
    return [Verified(name, _problem(store, name)) for name in names]


def _holds_any_back(store: SnapshotStore) -> bool:
    """Tell whether the nights leave a version out; if that is not certain, they do."""
    try:
        return bool(store.withdrawn())
    except SnapshotError:
        return True


def _names(store: SnapshotStore) -> list[str]:
    _must_exist(store)
    pointed = [store.current(), store.pinned()]
    names = store.version_names()
    return [*names, *(n for n in dict.fromkeys(pointed) if n and n not in names)]


def _problem(store: SnapshotStore, version: str) -> str | None:
    try:
        folder = store.version_folder(version)
        for file in store.manifest(version).files:
            must_be_whole(folder / file.name, file)
    except (SnapshotError, OSError) as error:
        return str(error)
    return None


def _before(store: SnapshotStore, current: str) -> str:
    """Return the version that was served before the current one."""
    try:
        parent = store.manifest(current).parent
    except SnapshotError:
        # It is no reason to leave readers without a version; the history knows too.
        entries, _ = store.history()
        parents = [e.before for e in entries if e.version == current and e.before]
        parent = parents[-1] if parents else None
    if parent is None:
        msg = (
            f"nothing is known to have been served before {current}. Name a version "
            f"with --to: {_known(store)}"
        )
        raise SnapshotError(msg)
    return parent


def _must_be_there(store: SnapshotStore, version: str) -> SnapshotManifest:
    """Refuse a version whose manifest is not whole, or whose files are not all there."""
    folder = store.version_folder(version)
    if not folder.is_dir():
        msg = f"there is no version {version}; there: {_known(store)}"
        raise SnapshotError(msg)
    manifest = store.manifest(version)

    def size_of(file: ShardFile) -> int | None:
        try:
            return (folder / file.name).stat().st_size
        except FileNotFoundError:
            return None

    sizes = each(folder, size_of, manifest.files)
    for file, size in zip(manifest.files, sizes, strict=True):
        if size != file.size:
            problem = "is missing" if size is None else f"has {size} bytes"
            msg = (
                f"{folder / file.name} {problem}, its manifest says {file.size} bytes: "
                f"{version} can't be served, and nothing was changed. There: "
                f"{_known(store)}"
            )
            raise SnapshotError(msg)
    return manifest


def _must_exist(store: SnapshotStore) -> None:
    if not store.exists():
        msg = f"nothing is served at {store}: there is no such folder"
        raise NotServedError(msg)


def _known(store: SnapshotStore) -> str:
    return ", ".join(manifest.version for manifest in store.versions()) or "none"


def _done(store: SnapshotStore, entry: HistoryEntry) -> Done:
    return Done(entry, store.served(), store.block())
