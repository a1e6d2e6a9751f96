"""A gate, what it says of a day, and the refusal to go on where one is shut."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Generic, TypeVar

from batch_assets.errors import GateError
from batch_assets.spec import PipelineSpec

EvidenceT = TypeVar("EvidenceT")
# The counts of a day say in which shard, and before or after scoring, it went wrong.
BOOKS = "books {pipeline} --day {day}"


def every_pipeline(_: PipelineSpec) -> bool:
    """Return True: a gate is every pipeline's unless it says otherwise."""
    return True


@dataclass(frozen=True)
class Verdict:
    """What a gate says of a day; `numbers` are those that it judged by.

    A judge fills in what it saw. The rest is its gate's: the name, whether a day that
    does not pass is stopped, and what moves the gate.
    """

    passed: bool
    why: str
    numbers: dict[str, float] = field(default_factory=dict)
    facts: dict[str, str] = field(default_factory=dict)
    blocks: bool = True
    gate: str = ""
    moved_by: str = ""

    @property
    def message(self) -> str:
        """Say why; of a gate that is shut, also what moves it."""
        return self.why if self.passed else f"{self.why.rstrip('.')}. {self.moved_by}"


@dataclass(frozen=True)
class Gate(Generic[EvidenceT]):
    """One thing that must hold of a day.

    Attributes:
        name: of the check.
        asset: the asset that is judged.
        judge: what looks at the evidence.
        description: what must hold.
        moved_by: what opens the gate: the field of the YAML that is its limit, or that
            there is none, and what to do instead.
        blocking: whether a day that does not pass is stopped.
        may_only_warn: whether the judge decides, of a day that does not pass, if it is
            stopped (`Verdict.blocks`).
        when: the pipelines that have the gate.
        look: the command of `batch-assets` that shows what is wrong, or makes it well.
    """

    name: str
    asset: str
    judge: Callable[[EvidenceT], Verdict]
    description: str
    moved_by: str
    blocking: bool = True
    may_only_warn: bool = False
    when: Callable[[PipelineSpec], bool] = every_pipeline
    look: str = BOOKS

    def __post_init__(self) -> None:
        """Refuse what scorer and publisher, who ask every gate that blocks, can't hold."""
        if self.blocking and self.when is not every_pipeline:
            msg = f"gate '{self.name}' blocks, and is not every pipeline's: let it warn"
            raise ValueError(msg)

    @property
    def effect(self) -> str:
        """Say what the gate does to a day that does not pass."""
        if self.may_only_warn:
            return "blocks or warns"
        return "blocks" if self.blocking else "warns"

    def verdict(self, evidence: EvidenceT) -> Verdict:
        """Judge the evidence."""
        verdict = self.judge(evidence)
        return replace(
            verdict,
            gate=self.name,
            moved_by=self.moved_by,
            blocks=verdict.blocks if self.may_only_warn else self.blocking,
        )


def must_be_open(day: str, verdicts: list[Verdict], *, then: str) -> None:
    """Refuse to go on where a gate is shut.

    Raises:
        GateError: with each shut gate, and what was not done.
    """
    shut = [v for v in verdicts if v.blocks and not v.passed]
    if not shut:
        return
    lines = [f"{len(shut)} of {len(verdicts)} gates of {day} are shut; {then}."]
    lines += [f"- {verdict.gate}: {verdict.message}" for verdict in shut]
    raise GateError("\n".join(lines))
