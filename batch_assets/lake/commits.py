"""What a commit of a day records beside its files: one frozen type for each act.

It lies in the log of the Delta table, as JSON. It knows neither tables nor parts.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import datetime
from typing import Any, Self

from batch_assets.errors import LakeError
from batch_assets.formats import COMMIT


def must_be_read(facts: Mapping[str, Any], of: str) -> None:
    """Refuse the commit of a table's day if it is of a version that is not read.

    Raises:
        LakeError: it is.
    """
    if why := COMMIT.refusal(facts.get("format")):
        msg = f"the commit of {of} can't be read: {why}"
        raise LakeError(msg)


@dataclass(frozen=True)
class Producer:
    """What commits a day: the run, and the code that it ran."""

    run: str
    code: str


@dataclass(frozen=True)
class CommitFacts:
    """Which job made the day."""

    job: str

    def dumps(self) -> dict[str, Any]:
        """Return the facts as JSON has them."""
        return asdict(self)

    @classmethod
    def loads(cls, facts: Mapping[str, Any]) -> Self:
        """Read the facts of a commit."""
        return cls(job=facts["job"])


@dataclass(frozen=True)
class RawCommit(CommitFacts):
    """Of `raw_features`: what names the rows that the source held.

    `forced_at` is when rows of a source without history were taken for a day that was
    over by then; None if they were taken for their own day.
    """

    source: Any
    forced_at: datetime | None = None

    def dumps(self) -> dict[str, Any]:
        facts: dict[str, Any] = {"job": self.job, "source": self.source}
        if self.forced_at:
            facts["forced_at"] = self.forced_at.isoformat()
        return facts

    @classmethod
    def loads(cls, facts: Mapping[str, Any]) -> Self:
        at = facts.get("forced_at")
        return cls(
            job=facts["job"],
            source=facts["source"],
            forced_at=datetime.fromisoformat(at) if at else None,
        )


@dataclass(frozen=True)
class ValidationCommit(CommitFacts):
    """Of `validated_features` and `quarantined_rows`: the contract's digest."""

    contract: str

    @classmethod
    def loads(cls, facts: Mapping[str, Any]) -> Self:
        return cls(job=facts["job"], contract=facts["contract"])


@dataclass(frozen=True)
class BaselineDecision:
    """Which night a night was built on, and why on that one or on none.

    `refused` says that it was to be built on one whose rows came out differently.
    """

    built_on: str | None = None
    nights_since_full: int = 0
    why: str = ""
    refused: bool = False


@dataclass(frozen=True)
class ScoringCommit(CommitFacts):
    """Of `predictions` and `dead_letters`: the release, and how many rows went where.

    `rescued` are the rows that a replay has scored; None if the day was never replayed.
    `failed` are the shards that could not be scored, and why.
    """

    model: str
    release: str
    scored: int
    dead: int
    carried: int = 0
    rescored: int = 0
    decision: BaselineDecision = field(default_factory=BaselineDecision)
    rescued: int | None = None
    failed: dict[int, str] = field(default_factory=dict)

    def dumps(self) -> dict[str, Any]:
        facts = asdict(self)
        facts["grounds"] = facts.pop("decision")
        if self.rescued is None:
            del facts["rescued"]
        if not self.failed:
            del facts["failed"]
        return facts

    @classmethod
    def loads(cls, facts: Mapping[str, Any]) -> Self:
        return cls(
            job=facts["job"],
            model=facts["model"],
            release=facts["release"],
            scored=facts["scored"],
            dead=facts["dead"],
            carried=facts.get("carried", 0),
            rescored=facts.get("rescored", 0),
            decision=BaselineDecision(**facts.get("grounds", {})),
            rescued=facts.get("rescued"),
            # JSON has no numbers for names.
            failed={int(shard): w for shard, w in facts.get("failed", {}).items()},
        )
