"""What a person does to what is served: roll back, pin, unpin, unblock, verify.

Each act is recorded with who and why before it is done, and takes the same time
whatever the size: no row is read. Readers hash a version before they take it, and
`verify` does so beforehand. It knows nothing of how versions are made.
"""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from batch_assets.errors import NotServedError, SnapshotError
from batch_assets.serving.history import Act, make_act, record, withdrawn
from batch_assets.serving.manifest import (
    SnapshotManifest,
    read_manifest,
    version_folder,
    versions,
)
from batch_assets.serving.pointers import (
    BLOCKED,
    CURRENT,
    PIN,
    Block,
    block_of,
    current_version,
    held,
    pinned_version,
    point,
)
from batch_assets.serving.version import Version

# Until when a rollback keeps the nights from publishing, if nobody says: one night, and
# a working day to find out why.
BLOCK_FOR = timedelta(hours=24)


@dataclass(frozen=True)
class Done:
    """What was done, and what readers take now."""

    act: Act
    served: str | None
    block: Block | None


@dataclass(frozen=True)
class Verified:
    """A version, and what is wrong with it, if anything."""

    version: str
    problem: str | None


def rollback(
    snapshots: Path,
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
    with held(_there(snapshots)):
        current = _current(snapshots, required=to is None)
        if current is None and to is None:
            msg = f"nothing is served at {snapshots}, so there is nothing to take back"
            raise NotServedError(msg)
        target = to or _before(snapshots, str(current))
        if target == current:
            msg = f"{current} is the current version already; nothing was changed"
            raise SnapshotError(msg)
        _must_be_there(snapshots, target)
        act = make_act("rollback", target, why=why, by=by, before=current, until=until)
        block = Block(at=act.at, until=until, by=act.by, why=act.why, version=current)
        record(snapshots, act)
        # First the block: a night must not come between.
        point(snapshots, BLOCKED, block.model_dump_json())
        point(snapshots, CURRENT, target)
        return _done(snapshots, act)


def pin(snapshots: Path, version: str, *, why: str, by: str | None = None) -> Done:
    """Let readers take one version, whatever is published, until it is unpinned.

    Raises:
        SnapshotError: there is no such version, or its files are not all there.
    """
    with held(_there(snapshots)):
        _must_be_there(snapshots, version)
        before = pinned_version(snapshots)
        act = make_act("pin", version, why=why, by=by, before=before)
        record(snapshots, act)
        point(snapshots, PIN, version)
        return _done(snapshots, act)


def unpin(snapshots: Path, *, why: str, by: str | None = None) -> Done:
    """Let readers take the current version again.

    Raises:
        SnapshotError: nothing is pinned.
    """
    with held(_there(snapshots)):
        if not (snapshots / PIN).exists():
            msg = f"nothing is pinned at {snapshots}; nothing was changed"
            raise SnapshotError(msg)
        try:
            before = pinned_version(snapshots)
        except SnapshotError:  # A PIN that names nothing is there to be removed.
            before = None
        current = current_version(snapshots)
        act = make_act("unpin", current, why=why, by=by, before=before)
        record(snapshots, act)
        point(snapshots, PIN, None)
        return _done(snapshots, act)


def unblock(snapshots: Path, *, why: str, by: str | None = None) -> Done:
    """Let the nights publish again, what was taken back among it.

    Raises:
        SnapshotError: nothing is blocked.
    """
    with held(_there(snapshots)):
        if not (snapshots / BLOCKED).exists() and not _taken_back(snapshots):
            msg = f"publishing is not blocked at {snapshots}; nothing was changed"
            raise SnapshotError(msg)
        block = block_of(snapshots)
        version = block.version if block else None
        act = make_act("unblock", version, why=why, by=by)
        record(snapshots, act)
        point(snapshots, BLOCKED, None)
        return _done(snapshots, act)


def verify(snapshots: Path, version: str | None = None) -> list[Verified]:
    """Hash every file of one version, or of all, and what is wrong with each.

    What CURRENT and PIN name is among them, if it is there or not.
    """
    names = [version] if version else _names(_there(snapshots))
    return [Verified(name, _problem(snapshots, name)) for name in names]


def _current(snapshots: Path, *, required: bool) -> str | None:
    """The current version; none where CURRENT names nothing and need not."""
    try:
        return current_version(snapshots)
    except SnapshotError:
        if required:
            raise
        return None


def _taken_back(snapshots: Path) -> bool:
    """Whether the nights leave a version out; if that is not certain, they do."""
    try:
        return bool(withdrawn(snapshots))
    except SnapshotError:
        return True


def _names(snapshots: Path) -> list[str]:
    named = [current_version(snapshots), pinned_version(snapshots)]
    there = [m.version for m in versions(snapshots)]
    torn = sorted(f.name[2:] for f in snapshots.glob("v=*") if f.name[2:] not in there)
    return list(dict.fromkeys([*torn, *there, *(n for n in named if n)]))


def _problem(snapshots: Path, version: str) -> str | None:
    try:
        Version.open(snapshots, version).verify()
    except SnapshotError as error:
        return str(error)
    return None


def _before(snapshots: Path, current: str) -> str:
    """The version that was served before the current one."""
    known = f"Name one with --to: {_known(snapshots)}"
    try:
        parent = read_manifest(version_folder(snapshots, current), current).parent
    except SnapshotError as error:
        msg = f"{error}; so what was served before it is not known. {known}"
        raise SnapshotError(msg) from error
    if parent is None:
        msg = f"{current} is the first version, nothing was served before it. {known}"
        raise SnapshotError(msg)
    return parent


def _must_be_there(snapshots: Path, version: str) -> SnapshotManifest:
    """Refuse a version whose manifest is not whole, or whose files are not all there."""
    folder = version_folder(snapshots, version)
    if not folder.is_dir():
        msg = f"there is no version {version}; there: {_known(snapshots)}"
        raise SnapshotError(msg)
    manifest = read_manifest(folder, version)
    for file in manifest.files:
        path = folder / file.name
        size = path.stat().st_size if path.is_file() else None
        if size != file.size:
            found = "is missing" if size is None else f"has {size} bytes"
            msg = (
                f"{path} {found}, its manifest says {file.size} bytes: {version} can't "
                f"be served, and nothing was changed. There: {_known(snapshots)}"
            )
            raise SnapshotError(msg)
    return manifest


def _there(snapshots: Path) -> Path:
    if not snapshots.is_dir():
        msg = f"nothing is served at {snapshots}: there is no such folder"
        raise NotServedError(msg)
    return snapshots


def _known(snapshots: Path) -> str:
    return ", ".join(m.version for m in versions(snapshots)) or "none"


def _done(snapshots: Path, act: Act) -> Done:
    pinned = pinned_version(snapshots)
    return Done(act, pinned or current_version(snapshots), block_of(snapshots))
