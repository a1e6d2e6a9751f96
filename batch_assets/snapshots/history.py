"""What was done to what is served: who, when, why. Append-only, one act a line.

    <root>/snapshots/<pipeline>/history.jsonl

It decides nothing but which versions were taken back, and knows nothing of files of
versions.
"""

import getpass
import os
from datetime import UTC, datetime
from typing import Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, ValidationError

from batch_assets.errors import SnapshotError
from batch_assets.storage import StoragePath, read_seen, replace

HISTORY = "history.jsonl"


class HistoryEntry(BaseModel):
    """One line: what was done.

    `version` is what it was done with, `before` what was served (of a pin, pinned)
    before it. A night that was not let publish is `held`.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    at: AwareDatetime
    act: Literal["publish", "held", "rollback", "pin", "unpin", "unblock", "collect"]
    version: str | None = None
    before: str | None = None
    by: str
    why: str
    until: AwareDatetime | None = None


def new_entry(
    act: Literal["publish", "held", "rollback", "pin", "unpin", "unblock", "collect"],
    version: str | None,
    *,
    why: str,
    by: str | None = None,
    before: str | None = None,
    until: datetime | None = None,
) -> HistoryEntry:
    """An act of now, by this machine's user if nobody else is named.

    Raises:
        SnapshotError: it has no reason.
    """
    if not why.strip():
        msg = f"to {act} takes a reason: say why. Nothing was changed"
        raise SnapshotError(msg)
    return HistoryEntry(
        at=datetime.now(UTC),
        act=act,
        version=version,
        before=before,
        by=by or _user(),
        why=why.strip(),
        until=until,
    )


def record(snapshots: StoragePath, act: HistoryEntry) -> None:
    """Add an act, before it is done; only for whoever holds the lock of `pointers`."""
    place = snapshots / HISTORY
    line = act.model_dump_json(exclude_none=True).encode() + b"\n"
    while True:
        seen = read_seen(place)
        there = seen.data or b""
        if there and not there.endswith(b"\n"):
            there += b"\n"
        # Replaced as a whole, so that no line is ever torn.
        if replace(place, there + line, seen=seen):
            return


def entries_of(snapshots: StoragePath) -> tuple[list[HistoryEntry], list[int]]:
    """Every act, oldest first, and the numbers of the lines that can't be read."""
    acts, unreadable = [], []
    lines = (read_seen(snapshots / HISTORY).data or b"").splitlines()
    for number, line in enumerate(lines, 1):
        try:
            acts.append(HistoryEntry.model_validate_json(line))
        except ValidationError:
            unreadable.append(number)
    return acts, unreadable


def withdrawn(snapshots: StoragePath) -> dict[str, HistoryEntry]:
    """The versions that were rolled back from since anybody last unblocked, and by whom.

    Raises:
        SnapshotError: a line can't be read, so that a rollback may be missing.
    """
    acts, unreadable = entries_of(snapshots)
    if unreadable:
        msg = (
            f"{snapshots / HISTORY}: lines {unreadable} can't be read, so what was "
            "rolled back is not certain, and nothing is published. Mend or remove them"
        )
        raise SnapshotError(msg)
    found: dict[str, HistoryEntry] = {}
    for act in acts:
        if act.act == "rollback":
            if act.before:
                found[act.before] = act
            found.pop(act.version or "", None)
        elif act.act == "unblock":
            found.clear()
    return found


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # A container may know the number alone.
        return f"uid {os.getuid()}"
