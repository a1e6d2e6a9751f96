"""What is served: CURRENT, PIN and BLOCKED, one small file each beside the versions.

    CURRENT   the version that was published, or rolled back to, last
    PIN       the version that readers take instead, as long as the file is there
    BLOCKED   until when the nights publish nothing, and who wanted that

Each is replaced whole or not at all, under one lock that nobody holds for long. It
knows nothing of what a version holds.
"""

import os
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import filelock
from pydantic import AwareDatetime, BaseModel, ConfigDict, ValidationError

from batch_assets.errors import SnapshotError

CURRENT = "CURRENT"
PIN = "PIN"
BLOCKED = "BLOCKED"

# Gives the bytes of a file beside the versions, by its name; None if it is not there.
Read = Callable[[str], bytes | None]


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


def held(snapshots: Path) -> filelock.BaseFileLock:
    """The lock under which what is served is looked at and changed, for milliseconds."""
    return filelock.FileLock(snapshots / ".lock")


def current_version(snapshots: Path) -> str | None:
    """The version that CURRENT names, or None.

    Raises:
        SnapshotError: CURRENT is there but names no version.
    """
    return _named(CURRENT, _reading(snapshots))


def pinned_version(snapshots: Path) -> str | None:
    """The version that PIN names, or None.

    Raises:
        SnapshotError: PIN is there but names no version.
    """
    return _named(PIN, _reading(snapshots))


def served_version(snapshots: Path) -> str | None:
    """The version that readers take: the pinned one, or else the current one."""
    return wanted(_reading(snapshots))


def wanted(read: Read) -> str | None:
    """The same, wherever the files lie."""
    return _named(PIN, read) or _named(CURRENT, read)


def block_of(snapshots: Path) -> Block | None:
    """What keeps the nights from publishing, if anything does now."""
    data = _reading(snapshots)(BLOCKED)
    if data is None:
        return None
    try:
        block = Block.model_validate_json(data)
    except ValidationError:
        # Somebody blocked it. Which is enough to know, and no reason to fail a night.
        now = datetime.now(UTC)
        ever = now.replace(year=9999)
        why = f"{snapshots / BLOCKED} can't be read"
        return Block(at=now, until=ever, by="somebody", why=why, version=None)
    return block if block.until > datetime.now(UTC) else None


def point(snapshots: Path, name: str, text: str | None) -> None:
    """Replace one of the files, or remove it, so that it outlasts a power cut."""
    path = snapshots / name
    if text is None:
        path.unlink(missing_ok=True)
    else:
        beside = snapshots / f"{name}.tmp"
        with beside.open("w", encoding="utf-8") as file:
            file.write(text + "\n")
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
    folder = os.open(snapshots, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _reading(snapshots: Path) -> Read:
    def read(name: str) -> bytes | None:
        try:
            return (snapshots / name).read_bytes()
        except FileNotFoundError:
            return None

    return read


def _named(name: str, read: Read) -> str | None:
    data = read(name)
    if data is None:
        return None
    text = data.decode("utf-8", "replace").strip()
    if not text:
        msg = f"{name} is empty, so it names no version"
        raise SnapshotError(msg)
    return text
