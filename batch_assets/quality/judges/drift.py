"""Whether what the model says today is unlike what it was approved on.

What is unlike is learned from the release: its reference holds how far each of its own
days was from the whole, and a night is judged by that. The limits of the YAML are the
least that it takes. It reads no file.
"""

import math
import statistics
from dataclasses import dataclass

from batch_assets.lake.receipts import OutputSummary
from batch_assets.models.columns import quoted
from batch_assets.models.reference import Reference, add_counts, ks, psi, psi_noise
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
    distances = []
    for name, reference in manifest.reference.items():
        summaries = [part.receipt.outputs[name] for part in parts]
        if any(summary.rows for summary in summaries):
            distance = _distance(name, reference, summaries, evidence.limits)
            distances.append(distance)
    # Not `>`: an index that is NaN is within no limit.
    shut = [d for d in distances if not d.index <= d.block]
    warned = [d for d in distances if not d.index <= d.warn]
    unjudged = [
        n for n in manifest.contract.output_names if n not in manifest.reference
    ]
    usual = "no output is further off than usual" if distances else "nothing to compare"
    if manifest.reference and not distances:
        usual += ": the day has no rows"
    why = "; ".join(map(str, shut or warned)) or usual
    if unjudged:
        why += (
            f"; not judged, as the release has no reference for it: {quoted(unjudged)}"
        )
    numbers: dict[str, float] = {}
    for distance in distances:
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


def _distance(
    name: str, reference: Reference, summaries: list[OutputSummary], gates: GateLimits
) -> _Distance:
    counts = add_counts([summary.counts for summary in summaries])
    index = psi(reference.counts, counts)
    chance = psi_noise(reference.counts, counts)
    warn, block = (max(limit, chance) for limit in limits(reference, gates))
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
    usual = [max(one, SMALLEST) for one in reference.daily_psi]
    if len(usual) < 2:
        return gates.warn_psi, gates.max_psi
    logs = [math.log(one) for one in usual]
    mean, spread = statistics.fmean(logs), statistics.stdev(logs)
    high, far = math.exp(mean + 2 * spread), math.exp(mean + 3 * spread)
    return max(gates.warn_psi, high), max(gates.max_psi, far)
