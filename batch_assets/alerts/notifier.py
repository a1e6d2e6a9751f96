"""Tell each receiver once what was noticed, and that it is over. It knows no Dagster.

It never raises: a receiver that is down stops neither a night nor the other receivers.
What did not arrive is in the log and in the record, and is tried again at the next look.
"""

import logging
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

from batch_assets.alerts.alert import Alert, Identity, Message, Served
from batch_assets.alerts.receivers.base import OpenReceiver
from batch_assets.alerts.receivers.factory import open_receiver
from batch_assets.alerts.record import (
    GIVEN_UP,
    AlertEntry,
    AlertRecord,
    AlertState,
    Delivery,
    new_id,
)
from batch_assets.errors import BatchAssetsError, RefusedAlertError
from batch_assets.snapshots.store import SnapshotStore
from batch_assets.spec.alerts import AlertsSpec, Receiver
from batch_assets.storage import StoragePath

log = logging.getLogger(__name__)

# What was sent without a record, because that can't be written: once for a process.
_unrecorded: set[Identity] = set()


def utc_now() -> datetime:
    """Return this moment."""
    return datetime.now(UTC)


@dataclass(frozen=True)
class Outcome:
    """What came of sending a message to a receiver; `why` also if it was taken."""

    receiver: str
    arrived: bool
    why: str | None = None
    refused: bool = False


@dataclass(frozen=True)
class Notifier:
    """The receivers of one pipeline, and the record of what they were told."""

    root: StoragePath
    pipeline: str
    spec: AlertsSpec
    now: Callable[[], datetime] = utc_now

    @property
    def record(self) -> AlertRecord:
        return AlertRecord(self.root, self.pipeline)

    def tell(
        self, raised: Iterable[Alert], over: Iterable[Identity] = ()
    ) -> list[Outcome]:
        """Send what is news, and what did not arrive before.

        Args:
            raised: what was noticed; what is open already is not sent again.
            over: what is well; if it was open, that is sent, too.
        """
        alerts, well = list(raised), frozenset(over)
        try:
            self._note(alerts, well)
        except (BatchAssetsError, OSError):
            log.exception("%s: the record of alerts can't be written", self.pipeline)
            return list(self._send_unrecorded(alerts))
        return self.deliver()

    def deliver(self) -> list[Outcome]:
        """Send what is due, and return what came of each."""
        outcomes: list[Outcome] = []
        down: set[str] = set()
        tried: set[tuple[str, str]] = set()
        try:
            self._give_up()
            while claimed := self._claim(down, tried):
                tried.add(claimed.key)
                receiver = self._receiver(claimed.receiver)
                outcome = self._sent(receiver, claimed.entry.message)
                self._note_outcome(claimed, outcome)
                outcomes.append(outcome)
                if not outcome.arrived:
                    # Whatever else is for it waits; what it refuses is about one message.
                    down |= set() if outcome.refused else {outcome.receiver}
        except (BatchAssetsError, OSError):
            log.exception("%s: the record of alerts can't be written", self.pipeline)
        return outcomes

    def test(self) -> list[Outcome]:
        """Send a message that says that nothing happened; nothing is recorded."""
        served = Served.of(SnapshotStore(self.root, self.pipeline), self.now())
        alert = Alert(
            kind="run_failed",
            pipeline=self.pipeline,
            day=None,
            subject="test",
            summary="Somebody tests whether alerts arrive here: nothing happened.",
            served=served,
            next_command=f"batch-assets alerts list {self.pipeline}",
            at=self.now(),
        )
        return [
            self._sent(receiver, Message(new_id(), "test", alert))
            for receiver in self.spec.receivers
        ]

    # What is news.

    def _note(self, alerts: list[Alert], over: frozenset[Identity]) -> None:
        """Record what was not known before, with whom it is for."""
        at = self.now()
        state, _ = self.record.read()
        # Most looks bring nothing new, and take no lock.
        if self._news(state, alerts, over, at):
            self.record.decide(lambda state: self._news(state, alerts, over, at))

    def _news(
        self,
        state: AlertState,
        alerts: list[Alert],
        over: frozenset[Identity],
        at: datetime,
    ) -> list[AlertEntry]:
        raised = {alert.identity: alert for alert in alerts}
        news = [
            AlertEntry(
                at=at, act="raise", id=new_id(), alert=alert, receivers=self._for(alert)
            )
            for identity, alert in raised.items()
            if self._is_news(state.open.get(identity), at)
        ]
        served = None
        for identity in over - raised.keys():
            if (entry := state.open.get(identity)) is None or entry.alert is None:
                continue
            served = served or Served.of(SnapshotStore(self.root, self.pipeline), at)
            news.append(
                AlertEntry(
                    at=at,
                    act="resolve",
                    id=new_id(),
                    alert=replace(entry.alert, served=served, at=at),
                    receivers=entry.receivers,
                    raised=entry.id,
                )
            )
        return news

    def _is_news(self, before: AlertEntry | None, at: datetime) -> bool:
        if before is None:
            return True
        repeat = self.spec.repeat_hours
        return repeat is not None and at - before.at >= timedelta(hours=repeat)

    def _for(self, alert: Alert) -> tuple[str, ...]:
        return tuple(
            receiver.name
            for receiver in self.spec.receivers
            if alert.kind in receiver.only
        )

    # Sending.

    def _claim(
        self, down: Collection[str], tried: Collection[tuple[str, str]]
    ) -> Delivery | None:
        """Take the next message that is due, so that no other process sends it."""
        names = [r.name for r in self.spec.receivers if r.name not in down]
        taken: list[Delivery] = []

        def decide(state: AlertState) -> list[AlertEntry]:
            due = (d for d in state.due(self.now(), names) if d.key not in tried)
            taken[:] = [delivery for delivery in [next(due, None)] if delivery]
            return [self._of(delivery, "try") for delivery in taken]

        # Most looks find nothing to send, and take no lock.
        if decide(self.record.read()[0]):
            self.record.decide(decide)
        return taken[0] if taken else None

    def _note_outcome(self, delivery: Delivery, outcome: Outcome) -> None:
        act = "deliver" if outcome.arrived else "fail"
        entry = self._of(delivery, act)
        self.record.add(entry.model_copy(update={"why": outcome.why}))

    def _give_up(self) -> None:
        def decide(state: AlertState) -> list[AlertEntry]:
            return [self._of(one, "give_up") for one in state.stuck(self.now())]

        if not (stuck := self.record.read()[0].stuck(self.now())):
            return
        self.record.decide(decide)
        for delivery in stuck:
            log.error(
                "%s: for %s, '%s' is given up: %s",
                self.pipeline,
                delivery.receiver,
                delivery.entry.message.headline,
                delivery.why or f"it did not arrive within {GIVEN_UP}",
            )

    def _of(self, delivery: Delivery, act: str) -> AlertEntry:
        return AlertEntry.model_validate(
            {
                "at": self.now(),
                "act": act,
                "id": delivery.entry.id,
                "receiver": delivery.receiver,
            }
        )

    def _receiver(self, name: str) -> Receiver:
        (receiver,) = (one for one in self.spec.receivers if one.name == name)
        return receiver

    def _sent(self, receiver: Receiver, message: Message) -> Outcome:
        try:
            opened: OpenReceiver = open_receiver(receiver)
            why = opened.send(message)
        except RefusedAlertError as error:
            outcome = Outcome(receiver.name, False, str(error), refused=True)
        except BatchAssetsError as error:
            outcome = Outcome(receiver.name, False, str(error))
        # A library may raise anything, and its text may hold a secret.
        except Exception as error:  # noqa: BLE001
            outcome = Outcome(
                receiver.name, False, f"{type(error).__name__} was raised"
            )
        else:
            return Outcome(receiver.name, True, why)
        log.error(
            "%s: '%s' did not reach %s: %s",
            self.pipeline,
            message.headline,
            receiver.name,
            outcome.why,
        )
        return outcome

    def _send_unrecorded(self, alerts: list[Alert]) -> Iterator[Outcome]:
        """Send without a record: a full disk is what somebody must hear of."""
        for alert in alerts:
            if alert.identity in _unrecorded:
                continue
            _unrecorded.add(alert.identity)
            message = Message(new_id(), "raised", alert)
            for receiver in self.spec.receivers:
                if alert.kind in receiver.only:
                    yield self._sent(receiver, message)
