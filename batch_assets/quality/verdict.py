"""What a gate says of a day, and the refusal to go on where one is shut."""

from dataclasses import dataclass, field

from batch_assets.errors import GateError


@dataclass(frozen=True)
class Verdict:
    """What a gate says of a day; `numbers` are those that it judged by.

    `moved_by` names what opens the gate: the field of the YAML that is its limit, or that
    there is none, and what to do instead.
    """

    gate: str
    passed: bool
    why: str
    numbers: dict[str, float] = field(default_factory=dict)
    facts: dict[str, str] = field(default_factory=dict)
    blocks: bool = True
    moved_by: str = field(kw_only=True)

    @property
    def told(self) -> str:
        """What it says to whoever finds it shut: also what moves it."""
        return self.why if self.passed else f"{self.why.rstrip('.')}. {self.moved_by}"


def must_be_open(day: str, verdicts: list[Verdict], *, then: str) -> None:
    """Refuse to go on where a gate is shut.

    Raises:
        GateError: with each shut gate, and what was not done.
    """
    shut = [v for v in verdicts if v.blocks and not v.passed]
    if not shut:
        return
    lines = [f"{len(shut)} of {len(verdicts)} gates of {day} are shut; {then}."]
    lines += [f"- {verdict.gate}: {verdict.told}" for verdict in shut]
    raise GateError("\n".join(lines))
