"""Whether what the model says today is unlike what it was approved on.

What is unlike is learned from the release: its reference holds how far each of its own
days was from the whole, and a night is judged by that. The limits of the YAML are the
least that it takes. It reads no file.
"""

import statistics

from batch_assets.models.contract import quoted
from batch_assets.models.reference import Reference, add_counts, ks, psi, psi_noise
from batch_assets.quality.evidence import DayEvidence
from batch_assets.quality.verdict import Verdict
from batch_assets.spec import Gates


def prediction_drift(evidence: DayEvidence) -> Verdict:
    """Judge how far the outputs are from those that the release was approved on.

    Warns above the 95th percentile of the reference's own days, blocks above their mean
    and three standard deviations; neither below the pipeline's limits, nor below what
    chance explains. An output without a reference is not judged, and the verdict says so.
    """
    parts, manifest = evidence.parts(), evidence.manifest()
    numbers: dict[str, float] = {}
    shut: list[str] = []
    warned: list[str] = []
    for name, reference in manifest.reference.items():
        chunks = [part.receipt.outputs[name] for part in parts]
        rows = sum(chunk.rows for chunk in chunks)
        if not rows:
            continue
        counts = add_counts([chunk.counts for chunk in chunks])
        index = psi(reference.counts, counts)
        chance = psi_noise(reference.counts, counts)
        warn, block = limits(reference, evidence.limits)
        warn, block = max(warn, chance), max(block, chance)
        numbers |= {
            f"{name}_psi": index,
            f"{name}_ks": ks(reference.counts, counts),
            f"{name}_mean": sum(chunk.sum for chunk in chunks) / rows,
            f"{name}_warns_above": warn,
            f"{name}_blocks_above": block,
        }
        line = f"PSI of '{name}' is {index:.3f}, warns above {warn:.3f}, blocks above {block:.3f}"
        # Said the other way round: an index that is no number is in no limit.
        if not index <= block:
            shut.append(line)
        elif not index <= warn:
            warned.append(line)
    unjudged = [
        n for n in manifest.contract.output_names if n not in manifest.reference
    ]
    usual = "no output is further off than usual" if numbers else "nothing to compare"
    if manifest.reference and not numbers:
        usual += ": the day has no rows"
    why = "; ".join(shut or warned) or usual
    if unjudged:
        why += (
            f"; not judged, as the release has no reference for it: {quoted(unjudged)}"
        )
    return Verdict(
        not (shut or warned),
        why,
        numbers,
        {"without_reference": ", ".join(unjudged) or "none"},
        blocks=bool(shut),
    )


def limits(reference: Reference, gates: Gates) -> tuple[float, float]:
    """Return from which index a night warns, and from which it blocks."""
    usual = reference.daily_psi
    if len(usual) < 2:
        return gates.warn_psi, gates.max_psi
    high = statistics.quantiles(usual, n=20)[-1]
    far = statistics.fmean(usual) + 3 * statistics.stdev(usual)
    return max(gates.warn_psi, high), max(gates.max_psi, far)
