"""Whom a shut gate was opened by: who, why, for which day, and until when.

    <root>/lake/<pipeline>/overrides.jsonl    append-only, one override a line

An override is of one gate and one day, and ends by itself. It knows no gate.
"""

import logging
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Annotated

from pydantic import AfterValidator, AwareDatetime, Field

from batch_assets.errors import OverrideError
from batch_assets.formats import FIRST, OVERRIDE, is_first
from batch_assets.storage import JsonLog, StoragePath, exclusive, this_user
from batch_assets.strict import StrictModel

log = logging.getLogger(__name__)

OVERRIDES = "overrides.jsonl"


class Override(StrictModel):
    """One line: a day passes a gate that is shut, until then."""

    format: Annotated[int, AfterValidator(OVERRIDE.checked)] = Field(
        default=FIRST, exclude_if=is_first
    )
    at: AwareDatetime
    day: str
    gate: str
    by: str
    why: str
    until: AwareDatetime

    def __str__(self) -> str:
        return (
            f"overridden by {self.by} until {self.until:%Y-%m-%d %H:%M} UTC: {self.why}"
        )


class Overrides:
    """The overrides of one pipeline."""

    def __init__(self, folder: StoragePath) -> None:
        """Name them by the pipeline's folder in the lake; nothing is read yet."""
        self._folder = folder
        self._log = JsonLog(folder / OVERRIDES, Override)

    def record(
        self, day: str, gate: str, *, why: str, until: datetime, by: str | None = None
    ) -> Override:
        """Let a day pass a gate from now on, until then.

        Args:
            day: the day.
            gate: the gate's name.
            why: the reason.
            until: when it ends, with a timezone.
            by: who says so; the user of this machine if left out.

        Raises:
            OverrideError: it has no reason, or would have ended by now.
        """
        now = datetime.now(UTC)
        if not why.strip():
            msg = f"to override '{gate}' takes a reason: say why. Nothing was changed"
            raise OverrideError(msg)
        if until.tzinfo is None or until <= now:
            msg = (
                "an override ends later than now, by a time with a timezone; got "
                f"{until}. Nothing was changed"
            )
            raise OverrideError(msg)
        entry = Override(
            at=now,
            day=day,
            gate=gate,
            by=by or this_user(),
            why=why.strip(),
            until=until.astimezone(UTC),
        )
        with exclusive(self._folder):
            self._log.append(entry.model_dump_json().encode())
        return entry

    def entries(self) -> list[Override]:
        """Return every override that was ever given, the oldest first.

        A line that can't be read is left out: its gate stays shut.
        """
        entries, unreadable = self._log.read()
        for number in unreadable:
            log.warning(
                "%s line %s can't be read, and opens nothing", OVERRIDES, number
            )
        return entries

    def in_force(self, day: str) -> Mapping[str, Override]:
        """Return those of a day that have not ended, by gate; of two, the later one."""
        now = datetime.now(UTC)
        return {
            entry.gate: entry
            for entry in self.entries()
            if entry.day == day and entry.until > now
        }
