"""Whether what the model says today is unlike what it was approved on.

What is unlike is learned from the release: its reference holds how far each of its own
days was from the whole, and a night is judged by that. The limits of the YAML are the
least that it takes. It reads no file.
"""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from batch_assets.lake.receipts import OutputSummary
from batch_assets.models.columns import quoted
from batch_assets.models.reference import Reference, add_counts, ks, psi, psi_noise
from batch_assets.models.release import Manifest
from batch_assets.quality.changes import ENOUGH_NIGHTS, NIGHTS
from batch_assets.quality.evidence import DayEvidence
from batch_assets.quality.verdict import Verdict
from batch_assets.spec import GateLimits

# A day that equals the whole has an index of 0, and no logarithm.
SMALLEST = 1e-6


def prediction_drift(evidence: DayEvidence) -> Verdict:
    """Judge how far the outputs are from those that the release was approved on.

    Warns two standard deviations above the mean of the reference's own days, blocks
    three above it, both in the logarithm; neither below the pipeline's limits, nor below what
    chance explains. An output without a reference is not judged, and the verdict says so.
    """
    parts, manifest = evidence.parts(), evidence.manifest()
    found = []
    for name, reference in manifest.reference.items():
        summaries = [part.receipt.outputs[name] for part in parts]
        if any(summary.rows for summary in summaries):
            learned = _learned(name, manifest, evidence)
            distance = _distance(name, reference, summaries, evidence.limits, learned)
            found.append(distance)
    # Not `>`: an index that is NaN is within no limit.
    shut = [d for d in found if not d.index <= d.block]
    warned = [d for d in found if not d.index <= d.warn]
    unjudged = [
        n for n in manifest.contract.output_names if n not in manifest.reference
    ]
    usual = "no output is further off than usual" if found else "nothing to compare"
    if manifest.reference and not found:
        usual += ": the day has no rows"
    why = "; ".join(map(str, shut or warned)) or usual
    if unjudged:
        why += (
            f"; not judged, as the release has no reference for it: {quoted(unjudged)}"
        )
    numbers: dict[str, float] = {}
    for distance in found:
        numbers |= distance.numbers
    facts = {"without_reference": ", ".join(unjudged) or "none"}
    return Verdict(not warned and not shut, why, numbers, facts, blocks=bool(shut))


@dataclass(frozen=True)
class _Distance:
    """How far an output is from its reference, and from where on that matters."""

    output: str
    index: float
    warn: float
    block: float
    numbers: dict[str, float]

    def __str__(self) -> str:
        return (
            f"PSI of '{self.output}' is {self.index:.3f}, warns above {self.warn:.3f}, "
            f"blocks above {self.block:.3f}"
        )


def _learned(name: str, manifest: Manifest, evidence: DayEvidence) -> float:
    """From which index a night is unlike the others of the last weeks; 0 of too few.

    A level that moves with the season is told of once, and not every night.
    """
    nights, bins = evidence.nights(), manifest.profile.get(name)
    if bins is None or len(nights.days) < ENOUGH_NIGHTS:
        return 0.0
    before = nights.counts[name][-NIGHTS:, 0]
    return _far(psi(bins.counts, before).tolist(), 2)


def _distance(
    name: str,
    reference: Reference,
    summaries: list[OutputSummary],
    gates: GateLimits,
    usual: float,
) -> _Distance:
    counts = add_counts([summary.counts for summary in summaries])
    index = float(psi(reference.counts, counts))
    chance = psi_noise(reference.counts, counts)
    warn, block = (max(limit, chance) for limit in limits(reference, gates))
    warn = min(max(warn, usual), block)
    rows = sum(summary.rows for summary in summaries)
    numbers = {
        f"{name}_psi": index,
        f"{name}_ks": ks(reference.counts, counts),
        f"{name}_mean": sum(summary.sum for summary in summaries) / rows,
        f"{name}_warns_above": warn,
        f"{name}_blocks_above": block,
    }
    return _Distance(name, index, warn, block, numbers)


def limits(reference: Reference, gates: GateLimits) -> tuple[float, float]:
    """Return from which index a night warns, and from which it blocks.

    An index is never below 0 and sometimes far above the others: its logarithm has the
    standard deviations that are meant.
    """
    usual = reference.daily_psi
    if len(usual) < 2:
        return gates.warn_psi, gates.max_psi
    return max(gates.warn_psi, _far(usual, 2)), max(gates.max_psi, _far(usual, 3))


def _far(usual: Sequence[float], deviations: float) -> float:
    logs = [math.log(max(one, SMALLEST)) for one in usual]
    return math.exp(statistics.fmean(logs) + deviations * statistics.stdev(logs))
