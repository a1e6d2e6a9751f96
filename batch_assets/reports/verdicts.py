"""What each gate says of a night, in the order in which a person wants to read it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date, timedelta
from typing import Any, Literal, TypeVar

import pyarrow as pa
from deltalake.exceptions import DeltaError

from batch_assets.errors import BatchAssetsError
from batch_assets.lake.overrides import Override, Overrides
from batch_assets.lake.tables import Lake
from batch_assets.quality.changes import WEEKS
from batch_assets.quality.evidence import DayEvidence
from batch_assets.quality.gates import BEFORE_SCORING, GATES
from batch_assets.quality.judges.performance import OutcomeEvidence, outcome_gates
from batch_assets.quality.performance.history import KNOWN, read_history
from batch_assets.quality.verdict import Gate
from batch_assets.quality.verdict_record import read_verdicts
from batch_assets.reports.wording import plain
from batch_assets.snapshots.gates import SNAPSHOT_GATES, SnapshotEvidence
from batch_assets.snapshots.store import SnapshotStore
from batch_assets.spec import PipelineSpec

State = Literal[
    "shut", "warned", "not judged", "open", "not asked again", "not reached"
]
# The worst first.
ORDER: tuple[State, ...] = (
    "shut", "warned", "not judged", "open", "not asked again", "not reached",
)  # fmt: skip
# What reading what a night has left may raise.
UNREADABLE = (BatchAssetsError, OSError, DeltaError, pa.ArrowException)

NO_OVERRIDES: Mapping[str, Override] = {}

EvidenceT = TypeVar("EvidenceT")


@dataclass(frozen=True)
class GateLine:
    """A gate, and what it says of the night."""

    gate: str
    asset: str
    state: State
    words: str
    description: str
    moved_by: str
    numbers: Mapping[str, float] = field(default_factory=dict)
    facts: Mapping[str, str] = field(default_factory=dict)


def gate_lines(
    evidence: DayEvidence,
    lake: Lake,
    store: SnapshotStore,
    spec: PipelineSpec,
    *,
    validated: bool,
    scored: bool,
) -> list[GateLine]:
    """Judge every gate of a night that it came to, the worst first.

    Whether each row of a version is the one that was predicted is not asked again: it
    takes reading all of them, and a night that is served was asked.

    Args:
        evidence: of the day.
        lake: the pipeline's tables.
        store: of what is served.
        spec: the pipeline.
        validated: whether the night came so far.
        scored: the same.
    """
    overrides = _overrides(lake, evidence.day)
    found = [
        _line(gate, evidence, overrides)
        if scored or (gate.asset in BEFORE_SCORING and (validated or not gate.blocking))
        else _not_reached(gate)
        for gate in GATES
        if gate.when(spec)
    ]
    snapshot = SnapshotEvidence(lake, store, evidence.day)
    for of_served in SNAPSHOT_GATES:
        if not scored:
            found.append(_not_reached(of_served))
        elif of_served.blocking:
            found.append(_reads_every_row(of_served, lake.pipeline))
        else:
            found.append(_line(of_served, snapshot))
    found += _of_outcomes(lake, spec, evidence.day)
    return sorted(found, key=lambda line: ORDER.index(line.state))


def _of_outcomes(lake: Lake, spec: PipelineSpec, day: str) -> list[GateLine]:
    """The gates of outcomes, of a day whose outcomes were taken."""
    if spec.outcomes is None:
        return []
    first = str(date.fromisoformat(day) - timedelta(weeks=WEEKS))
    try:
        history = read_history(lake, spec.outcomes, first, day)
    except UNREADABLE:  # Told where the outcomes are shown.
        return []
    if day not in history.realised.get(KNOWN, {}):
        return []
    evidence = OutcomeEvidence(day, spec.outcomes, history)
    return [_line(gate, evidence) for gate in outcome_gates(spec.outcomes)]


def _overrides(lake: Lake, day: str) -> dict[str, Override]:
    """The overrides that the day passes by, or passed when it was to be published."""
    try:
        judged = read_verdicts(lake, day)
        in_force = Overrides(lake.folder).in_force(day)
    except UNREADABLE:  # Then the gate is shown as it is.
        return {}
    kept = judged.verdicts if judged else ()
    return {v.gate: v.override for v in kept if v.override} | dict(in_force)


def _line(
    gate: Gate[EvidenceT],
    evidence: EvidenceT,
    overrides: Mapping[str, Override] = NO_OVERRIDES,
) -> GateLine:
    try:
        verdict = gate.verdict(evidence).overridden(overrides)
    except UNREADABLE as error:
        return _said(gate, "not judged", f"It can't be judged: {error}")
    state: State = "open" if verdict.passed else "shut" if verdict.blocks else "warned"
    return GateLine(
        gate.name,
        gate.asset,
        state,
        plain(verdict.message if verdict.override else verdict.why),
        gate.description,
        gate.moved_by,
        verdict.numbers,
        verdict.facts,
    )


def _not_reached(gate: Gate[Any]) -> GateLine:
    return _said(gate, "not reached", "The night did not come so far.")


def _reads_every_row(gate: Gate[Any], pipeline: str) -> GateLine:
    why = (
        "It reads every row, so it is not judged again for this page. The night judges it "
        "in Dagster; that the files are whole, `batch-assets snapshot verify "
        f"{pipeline}` tells."
    )
    return _said(gate, "not asked again", why)


def _said(gate: Gate[Any], state: State, words: str) -> GateLine:
    return GateLine(
        gate.name, gate.asset, state, plain(words), gate.description, gate.moved_by
    )
