"""What was done to what is served: who, when, why. Append-only, an entry a line.

    <root>/snapshots/<pipeline>/history.jsonl
    <root>/snapshots/<pipeline>/BLOCKED

It knows nothing of where they are kept.
"""

import operator
from datetime import UTC, datetime
from typing import Annotated, Literal

from pydantic import AfterValidator, AwareDatetime, Field

from batch_assets.errors import SnapshotError
from batch_assets.formats import FIRST, HISTORY, is_first
from batch_assets.storage import this_user
from batch_assets.strict import StrictModel

Act = Literal[
    "publish",
    "held",
    "rollback",
    "pin",
    "unpin",
    "unblock",
    "collect",
    "deny",
    "allow",
]


class HistoryEntry(StrictModel):
    """One line: what was done.

    `version` is what it was done with, `before` what was served (of a pin, pinned)
    before it. A night that was not let publish is `held`. `items` were denied, or are
    allowed again.
    """

    format: Annotated[int, AfterValidator(HISTORY.checked)] = Field(
        default=FIRST, exclude_if=is_first
    )
    at: AwareDatetime
    act: Act
    version: str | None = None
    before: str | None = None
    by: str
    why: str
    until: AwareDatetime | None = None
    items: tuple[str, ...] = Field(default=(), exclude_if=operator.not_)


class Block(StrictModel):
    """Why nothing is published for now: `version` was taken back."""

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


def new_entry(
    act: Act,
    version: str | None,
    *,
    why: str,
    by: str | None = None,
    before: str | None = None,
    until: datetime | None = None,
    items: tuple[str, ...] = (),
) -> HistoryEntry:
    """Return an entry of now, by this machine's user if nobody else is named.

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
        by=by or this_user(),
        why=why.strip(),
        until=until,
        items=items,
    )


def withdrawn_in(entries: list[HistoryEntry]) -> dict[str, HistoryEntry]:
    """Return which versions were rolled back from since the last unblock, and by whom."""
    withdrawn: dict[str, HistoryEntry] = {}
    for entry in entries:
        if entry.act == "rollback":
            if entry.before:
                withdrawn[entry.before] = entry
            withdrawn.pop(entry.version or "", None)
        elif entry.act == "unblock":
            withdrawn.clear()
    return withdrawn
