"""What was noticed, who was to be told, and what came of it. Append-only, an entry a line.

    <root>/alerts/<pipeline>/alerts.jsonl

An alert that is open is not sent again. Of several processes that notice the same thing,
or would send the same message, one does: each looks and writes in one step. It knows
neither receivers nor how a message looks.
"""

import uuid
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Annotated, Literal

from pydantic import AfterValidator, AwareDatetime, Field, ValidationError

from batch_assets.alerts.alert import Alert, Identity, Message
from batch_assets.formats import ALERT, FIRST, is_first
from batch_assets.storage import JsonLog, StoragePath, exclusive
from batch_assets.strict import StrictModel

ALERTS = "alerts.jsonl"
# A sender that has said nothing for so long is dead: its sending is over in two minutes.
LEASE = timedelta(minutes=10)
# Tried again at once when somebody looks, so often; then after a minute, two, four, …
AT_ONCE = 3
MINUTE, LONGEST_WAIT = timedelta(minutes=1), timedelta(hours=1)
GIVEN_UP = timedelta(days=1)

Act = Literal["raise", "resolve", "try", "deliver", "fail", "give_up"]

OUTCOMES: dict[Act | None, str] = {
    None: "waits",
    "try": "is tried",
    "fail": "failed",
    "deliver": "arrived",
    "give_up": "given up",
}


class AlertEntry(StrictModel):
    """One line.

    A message is raised or resolved, for `receivers`, with the alert that it is about;
    `raised` is the message that a resolution ends. What follows is of one `receiver`:
    somebody tries to deliver it, and it is delivered, fails, or is given up; `why` says
    why it failed, or what a receiver had to say.
    """

    format: Annotated[int, AfterValidator(ALERT.checked)] = Field(
        default=FIRST, exclude_if=is_first
    )
    at: AwareDatetime
    act: Act
    id: str
    alert: Alert | None = None
    receivers: tuple[str, ...] = ()
    raised: str | None = None
    receiver: str | None = None
    why: str | None = None

    @property
    def message(self) -> Message:
        """The message that was raised or resolved."""
        assert self.alert is not None
        state: Literal["raised", "resolved"] = (
            "raised" if self.act == "raise" else "resolved"
        )
        return Message(self.id, state, self.alert)


@dataclass
class Delivery:
    """A message on its way to one receiver."""

    entry: AlertEntry
    receiver: str
    state: Act | None = None
    since: datetime | None = None
    why: str | None = None
    tries: int = 0

    @property
    def key(self) -> tuple[str, str]:
        """The message and its receiver."""
        return self.entry.id, self.receiver

    @property
    def is_over(self) -> bool:
        """Whether nobody tries any more."""
        return self.state in ("deliver", "give_up")

    @property
    def outcome(self) -> str:
        """What came of it, in a word or two."""
        return OUTCOMES[self.state]

    def is_due(self, now: datetime) -> bool:
        """Tell whether somebody should try now."""
        if self.is_over:
            return False
        if self.state is None or self.since is None:
            return True
        if self.state == "try":
            return now - self.since >= LEASE
        late = self.tries - AT_ONCE
        wait = (
            timedelta() if late < 0 else min(LONGEST_WAIT, MINUTE * 2 ** min(late, 9))
        )
        return now - self.since >= wait


@dataclass
class AlertState:
    """What the entries come to: alerts that are open, and every message's deliveries."""

    open: dict[Identity, AlertEntry] = field(default_factory=dict)
    deliveries: dict[tuple[str, str], Delivery] = field(default_factory=dict)
    messages: list[AlertEntry] = field(default_factory=list)

    @classmethod
    def of(cls, entries: Iterable[AlertEntry]) -> "AlertState":
        """Go through the entries, oldest first."""
        state = cls()
        for entry in entries:
            state._add(entry)
        return state

    def _add(self, entry: AlertEntry) -> None:
        if entry.alert is not None:
            self.messages.append(entry)
            for receiver in entry.receivers:
                self.deliveries[entry.id, receiver] = Delivery(entry, receiver)
            if entry.act == "raise":
                self.open[entry.alert.identity] = entry
            else:
                self.open.pop(entry.alert.identity, None)
        elif delivery := self.deliveries.get((entry.id, entry.receiver or "")):
            delivery.state, delivery.since, delivery.why = (
                entry.act,
                entry.at,
                entry.why,
            )
            delivery.tries += entry.act == "try"

    def due(self, now: datetime, receivers: Iterable[str]) -> list[Delivery]:
        """Return what should be sent to some receivers now, oldest first.

        Nobody is told that something is over who was not told of it.
        """
        wanted = set(receivers)
        return [
            delivery
            for delivery in self.deliveries.values()
            if delivery.receiver in wanted
            and delivery.is_due(now)
            and self._was_told(delivery)
        ]

    def stuck(self, now: datetime) -> list[Delivery]:
        """Return what was tried for a day, or nobody is there to get any more."""
        return [
            delivery
            for delivery in self.deliveries.values()
            if not delivery.is_over and now - delivery.entry.at >= GIVEN_UP
        ]

    def _was_told(self, delivery: Delivery) -> bool:
        raised = delivery.entry.raised
        if raised is None:
            return True
        first = self.deliveries.get((raised, delivery.receiver))
        return first is not None and first.state == "deliver"


class AlertRecord:
    """The entries of one pipeline under a root."""

    def __init__(self, root: StoragePath, pipeline: str) -> None:
        self.folder = root / "alerts" / pipeline
        self._log = JsonLog(self.folder / ALERTS, AlertEntry)

    def read(self) -> tuple[AlertState, dict[int, ValidationError]]:
        """Return what the entries come to, and the numbers of unreadable lines."""
        entries, unreadable = self._log.read()
        return AlertState.of(entries), unreadable

    def decide(self, decide: Callable[[AlertState], Sequence[AlertEntry]]) -> None:
        """Add what is decided on after a look at all entries, in one step.

        Args:
            decide: may be asked more than once; the last time counts.
        """
        with exclusive(self.folder):
            self._log.extend(
                lambda entries: [
                    entry.model_dump_json(exclude_defaults=True).encode()
                    for entry in decide(AlertState.of(entries))
                ]
            )

    def add(self, entry: AlertEntry) -> None:
        """Add an entry, whatever there is."""
        self.decide(lambda _: [entry])


def new_id() -> str:
    """Return a name for a message that no other has."""
    return f"msg_{uuid.uuid4().hex}"
