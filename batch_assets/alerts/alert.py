"""What somebody on call is told, as text and as JSON. It knows not whom, nor how."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Literal, NamedTuple, Self

from pydantic_core import to_json

from batch_assets.alerts.words import Number, spoken, told_numbers
from batch_assets.errors import BatchAssetsError
from batch_assets.snapshots.store import SnapshotStore
from batch_assets.spec.alerts import AlertKind

State = Literal["raised", "resolved", "test"]

WORDS: dict[AlertKind, str] = {
    "run_failed": "run failed",
    "gate_shut": "gate shut",
    "check_warned": "check warns",
    "deadline_at_risk": "deadline at risk",
    "deadline_missed": "deadline missed",
    "snapshot_stale": "snapshot stale",
    "sink_lags": "sink lags",
}
# A step's error may hold a whole query; receivers such as Slack take some 4,000 characters.
DETAILS = 3_000


class Identity(NamedTuple):
    """What makes two alerts one: they are sent once."""

    kind: AlertKind
    pipeline: str
    day: str | None
    subject: str


@dataclass(frozen=True)
class Served:
    """What readers get now: a version, its day and its age, or why that is not known."""

    version: str | None = None
    day: str | None = None
    age_seconds: float | None = None
    problem: str | None = None

    @classmethod
    def of(cls, store: SnapshotStore, now: datetime) -> Self:
        """Look at what is served; it never raises, because an alert is told all the same."""
        try:
            version = store.served()
            if version is None:
                return cls()
            manifest = store.manifest(version)
        except (BatchAssetsError, OSError) as error:
            return cls(problem=str(error))
        age = (now - manifest.created_at).total_seconds()
        return cls(version, manifest.day, age)

    def __str__(self) -> str:
        if self.problem:
            return f"not known: {self.problem}"
        if self.version is None:
            return "nothing"
        age = "" if self.age_seconds is None else f", {spoken(self.age_seconds)} old"
        return f"{self.version}, of {self.day}{age}"


@dataclass(frozen=True)
class Alert:
    """What happened, what is served all the same, and what to do next.

    Attributes:
        kind: of what happened.
        pipeline: to which.
        day: of which day, if it is of one.
        subject: the gate, the sink or the step.
        summary: what happened, in a line.
        details: all that is known of it.
        numbers: what it was judged by, by name.
        served: what readers get now.
        next_command: what to type.
        at: when it was noticed, with a timezone.
    """

    kind: AlertKind
    pipeline: str
    day: str | None
    subject: str
    summary: str
    details: str = ""
    numbers: Mapping[str, Number] = field(default_factory=dict)
    served: Served = field(default_factory=Served)
    next_command: str = ""
    at: datetime = field(default_factory=lambda: datetime.now(UTC))

    def __post_init__(self) -> None:
        """Keep the summary to a line and the details to what receivers take."""
        if self.at.tzinfo is None:
            msg = f"an alert is noticed at a time with a timezone, got {self.at}"
            raise ValueError(msg)
        details = _clean(self.details)
        if len(details) > DETAILS:
            details = f"{details[:DETAILS]} … (shortened)"
        object.__setattr__(self, "summary", " ".join(_clean(self.summary).split()))
        object.__setattr__(self, "details", details)
        numbers = {
            name: _clean(number) if isinstance(number, str) else number
            for name, number in self.numbers.items()
        }
        object.__setattr__(self, "numbers", numbers)

    @property
    def identity(self) -> Identity:
        """What two alerts of the same thing have in common."""
        return Identity(self.kind, self.pipeline, self.day, self.subject)


@dataclass(frozen=True)
class Message:
    """An alert on its way: raised, resolved, or sent to see whether it arrives.

    `id` stays the same however often it is sent, so that a receiver can tell.
    """

    id: str
    state: State
    alert: Alert

    @property
    def headline(self) -> str:
        """Which pipeline, which day and what, in a line."""
        alert = self.alert
        what = f"{WORDS[alert.kind]}: {alert.subject}"
        if self.state == "test":
            what = "a test, nothing happened"
        elif self.state == "resolved":
            what = f"resolved: {what}"
        day = f" {alert.day}" if alert.day else ""
        return f"[{alert.pipeline}]{day} {what}"

    @property
    def text(self) -> str:
        """All of it, for a person."""
        alert = self.alert
        resolved = self.state == "resolved"
        said = f"It was: {alert.summary}" if resolved else alert.summary
        lines = [said]
        if alert.details and alert.details != alert.summary and not resolved:
            lines += ["", alert.details]
        if numbers := told_numbers(alert.numbers):
            width = max(map(len, numbers))
            lines += ["", *(f"  {n:<{width}}  {said}" for n, said in numbers.items())]
        lines += ["", f"served now: {alert.served}"]
        if alert.next_command and not resolved:
            lines += [f"next: {alert.next_command}"]
        lines += [f"noticed: {alert.at.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"]
        return "\n".join(lines)

    @property
    def json(self) -> bytes:
        """All of it, for a program; a number that is none is null. These bytes are signed."""
        alert = self.alert
        about = {
            "id": self.id,
            "kind": alert.kind,
            "pipeline": alert.pipeline,
            "day": alert.day,
            "subject": alert.subject,
            "headline": self.headline,
            "summary": alert.summary,
            "details": alert.details,
            "numbers": dict(alert.numbers),
            "served": alert.served,
            "next_command": alert.next_command,
        }
        body = {
            "type": f"alert.{self.state}",
            "timestamp": alert.at.astimezone(UTC),
            "data": about,
        }
        return to_json(body, inf_nan_mode="null")


def _clean(text: str) -> str:
    """Leave out what UTF-8 and e-mail have no place for."""
    whole = text.encode("utf-8", "replace").decode()
    return "".join(c for c in whole if c in "\n\t" or c.isprintable()).strip()
