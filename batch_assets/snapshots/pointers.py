"""What is served: CURRENT, PIN and BLOCKED, one small file each beside the versions.

    CURRENT   the version that was published, or rolled back to, last
    PIN       the version that readers take instead, as long as the file is there
    BLOCKED   until when the nights publish nothing, and who wanted that

Each is replaced whole or not at all. On this machine that is done under one lock, which
nobody holds for long; in an object store, only if it is still the one that was seen. It
knows nothing of what a version holds.
"""

from contextlib import AbstractContextManager
from datetime import UTC, datetime

from pydantic import AwareDatetime, BaseModel, ConfigDict, ValidationError

from batch_assets.errors import SnapshotError
from batch_assets.storage import Seen, StoragePath, exclusive, read_seen, replace

CURRENT = "CURRENT"
PIN = "PIN"
BLOCKED = "BLOCKED"


class Block(BaseModel):
    """Why nothing is published for now: `version` was taken back."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    at: AwareDatetime
    until: AwareDatetime
    by: str
    why: str
    version: str | None

    def __str__(self) -> str:
        return (
            f"publishing is blocked until {self.until:%Y-%m-%d %H:%M} UTC by {self.by}: "
            f"{self.why}"
        )


def lock_pointers(snapshots: StoragePath) -> AbstractContextManager[None]:
    """The lock under which what is served is looked at and changed, for milliseconds."""
    return exclusive(snapshots)


def current_version(snapshots: StoragePath) -> str | None:
    """The version that CURRENT names, or None.

    Raises:
        SnapshotError: CURRENT is there but names no version.
    """
    return named(snapshots / CURRENT, read_seen(snapshots / CURRENT))


def pinned_version(snapshots: StoragePath) -> str | None:
    """The version that PIN names, or None.

    Raises:
        SnapshotError: PIN is there but names no version.
    """
    return named(snapshots / PIN, read_seen(snapshots / PIN))


def served_version(snapshots: StoragePath) -> str | None:
    """The version that readers take: the pinned one, or else the current one."""
    return pinned_version(snapshots) or current_version(snapshots)


def named(place: StoragePath, seen: Seen) -> str | None:
    """The version that a pointer named when it was seen, or None.

    Raises:
        SnapshotError: it was there but named no version.
    """
    if seen.data is None:
        return None
    text = seen.data.decode("utf-8", "replace").strip()
    if not text:
        msg = f"{place} is empty, so it names no version"
        raise SnapshotError(msg)
    return text


def block_of(snapshots: StoragePath) -> Block | None:
    """What keeps the nights from publishing, if anything does now."""
    data = read_seen(snapshots / BLOCKED).data
    if data is None:
        return None
    try:
        block = Block.model_validate_json(data)
    except ValidationError:
        # Somebody blocked it. Which is enough to know, and no reason to fail a night.
        now = datetime.now(UTC)
        why = f"{snapshots / BLOCKED} can't be read"
        ever = now.replace(year=9999)
        return Block(at=now, until=ever, by="somebody", why=why, version=None)
    return block if block.until > datetime.now(UTC) else None


def point(place: StoragePath, text: str, seen: Seen | None = None) -> bool:
    """Let a pointer name something else; whether it still was what was seen.

    If nothing is said to have been seen, it is replaced whatever it is.
    """
    data = text.encode() + b"\n"
    if seen is not None:
        return replace(place, data, seen=seen) is not None
    while replace(place, data, seen=read_seen(place)) is None:
        continue
    return True
