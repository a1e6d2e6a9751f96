"""A gate, what it says of a day, and the refusal to go on where one is shut."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Generic, TypeVar

from batch_assets.errors import GateError
from batch_assets.lake.overrides import Override
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
    does not pass is stopped, and what moves the gate. A shut gate with an `override`
    stops nothing.
    """

    passed: bool
    why: str
    numbers: dict[str, float] = field(default_factory=dict)
    facts: dict[str, str] = field(default_factory=dict)
    blocks: bool = True
    gate: str = ""
    moved_by: str = ""
    overridable: bool = False
    override: Override | None = None

    @property
    def message(self) -> str:
        """Say why; of a gate that is shut, also what moves it, or who overrode it."""
        if self.passed:
            return self.why
        then = f"It is {self.override}" if self.override else self.moved_by
        return f"{self.why.rstrip('.')}. {then}"

    def overridden(self, overrides: Mapping[str, Override]) -> "Verdict":
        """Return the verdict that stops nothing, if its gate is shut and overridden.

        Args:
            overrides: of the day, by gate.
        """
        override = overrides.get(self.gate)
        if self.passed or not self.blocks or override is None:
            return self
        return replace(self, blocks=False, override=override)


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
        overridable: whether a person may let a day pass though it is shut. What proves
            that no row was lost, or which release scored, is no matter of opinion.
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
    overridable: bool = False
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
            overridable=self.overridable,
            blocks=verdict.blocks if self.may_only_warn else self.blocking,
        )


def must_be_open(
    day: str, verdicts: list[Verdict], *, pipeline: str, then: str
) -> None:
    """Refuse to go on where a gate is shut.

    Args:
        day: the day.
        verdicts: of its gates.
        pipeline: its name.
        then: what was not done.

    Raises:
        GateError: with each shut gate, and what lets the day pass all the same, if
            anything may.
    """
    shut = [v for v in verdicts if v.blocks and not v.passed]
    if not shut:
        return
    lines = [f"{len(shut)} of {len(verdicts)} gates of {day} are shut; {then}."]
    lines += [f"- {verdict.gate}: {verdict.message}" for verdict in shut]
    lines += [way_past(shut, pipeline, day)]
    raise GateError("\n".join(lines).rstrip())


def way_past(verdicts: Sequence[Verdict], pipeline: str, day: str) -> str:
    """Return the command that lets a day pass the gates that are shut, if they may all be.

    Args:
        verdicts: of the day's gates.
        pipeline: its name.
        day: the day.
    """
    shut = [v for v in verdicts if v.blocks and not v.passed]
    if not shut or not all(verdict.overridable for verdict in shut):
        return ""
    named = " ".join(f"--override {verdict.gate}" for verdict in shut)
    return (
        f"To let the day pass all the same: batch-assets publish {pipeline} {day} "
        f"{named} --why … --until …"
    )
