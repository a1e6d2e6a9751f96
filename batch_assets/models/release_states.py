"""In which state each release is, by channel: added, approved, revoked or expired."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal

from batch_assets.models.registry import ApprovalEvent, Channel, Registry

State = Literal["added", "approved", "revoked", "expired"]


@dataclass(frozen=True)
class ReleaseState:
    """A release in a channel, with the last event on it.

    Of the approved releases of a channel, the one approved last is `in_use`. A release
    that nobody has judged has neither a channel nor an event.
    """

    name: str
    digest: str
    channel: Channel | None
    state: State
    in_use: bool
    at: datetime | None
    by: str | None
    why: str | None


def release_states(registry: Registry, names: Iterable[str]) -> Iterator[ReleaseState]:
    """Yield the state of each release of some models, in each channel that judged it.

    Raises:
        UnknownReleaseError: there is no such model.
    """
    for name in names:
        events = registry.events(name)
        newest = {e.channel: e.digest for e in events if e.act == "approve"}
        for digest in registry.digests(name):
            # The last event of each channel.
            last = {e.channel: e for e in events if e.digest == digest}
            if not last:
                yield ReleaseState(name, digest, None, "added", False, None, None, None)
            for channel, event in sorted(last.items()):
                state = _state_after(event)
                in_use = state == "approved" and newest[channel] == digest
                yield ReleaseState(
                    name, digest, channel, state, in_use, event.at, event.by, event.why
                )


def _state_after(event: ApprovalEvent) -> State:
    if event.act == "revoke":
        return "revoked"
    expired = event.until is not None and event.until <= datetime.now(UTC)
    return "expired" if expired else "approved"
