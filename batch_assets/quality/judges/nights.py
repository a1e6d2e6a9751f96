"""Whether a night is like the nights before: its outputs, its features, its segments.

It reads no file.
"""

from collections.abc import Sequence

from batch_assets.quality.changes import (
    COVERAGE,
    ENOUGH_NIGHTS,
    ONE_BIN,
    PSI_NIGHTS,
    PSI_WEEKDAY,
    Nights,
)
from batch_assets.quality.drift_limits import Judged, judged
from batch_assets.quality.evidence import DayEvidence
from batch_assets.quality.verdict import Verdict

# So many of what is off are named, the worst first.
NAMED = 5
# What of a column is plotted over the nights.
NUMBERS = {
    PSI_NIGHTS: "psi",
    PSI_WEEKDAY: "psi_weekday",
    ONE_BIN: "largest_bin",
    COVERAGE: "coverage",
}


def outputs_like_before(evidence: DayEvidence) -> Verdict:
    """Judge whether the outputs of all rows are as they are on other nights."""
    return _judge(evidence, outputs=True, segments=False)


def features_like_before(evidence: DayEvidence) -> Verdict:
    """Judge whether features and inputs of all rows are as they are on other nights."""
    return _judge(evidence, outputs=False, segments=False)


def segments_like_before(evidence: DayEvidence) -> Verdict:
    """Judge whether each segment lies among the day's rows where it usually does."""
    return _judge(evidence, outputs=None, segments=True)


def not_a_night_again(evidence: DayEvidence) -> Verdict:
    """Judge whether all features are distributed exactly as on a night before."""
    effect, profile = evidence.limits.repeated_day, evidence.profile()
    if effect == "off":
        return _not_judged("gates.repeated_day is off")
    if profile is None:
        return _not_judged(_no_profile(evidence))
    nights, tonight = evidence.nights(), profile.counts()
    outputs = evidence.manifest().contract.written_names
    features = [name for name in tonight if name not in outputs]
    varied = any((tonight[name][0] > 0).sum() > 1 for name in features)
    again = [
        day
        for at, day in enumerate(nights.days)
        if all((nights.counts[n][at, 0] == tonight[n][0]).all() for n in features)
    ]
    numbers = {"nights": float(len(nights.days))}
    if not again or not varied:
        why = f"distributed exactly as none of {len(nights.days)} nights before"
        return Verdict(passed=True, why=why, numbers=numbers)
    why = f"every feature is distributed exactly as on {again[-1]}: was that day read again?"
    facts = {"again": again[-1]}
    return Verdict(False, why, numbers, facts, blocks=effect == "block")


def _judge(evidence: DayEvidence, *, outputs: bool | None, segments: bool) -> Verdict:
    profile = evidence.profile()
    if profile is None:
        return _not_judged(_no_profile(evidence))
    if profile.partial:
        return _not_judged("rows took over the prediction of the night before")
    if segments and not profile.segments:
        return _not_judged("the pipeline's YAML names no segments")
    written = evidence.manifest().contract.written_names
    asked = [
        change
        for change in evidence.changes
        if (change.segment is not None) == segments
        and outputs in (None, change.column in written)
    ]
    return _verdict(judged(asked, written, evidence.limits), evidence.nights())


def _verdict(found: Sequence[Judged], nights: Nights) -> Verdict:
    numbers = {"nights": float(len(nights.days))}
    if len(nights.days) < ENOUGH_NIGHTS:
        why = (
            f"cold start: {len(nights.days)} of {ENOUGH_NIGHTS} nights to learn from, and "
            "judged by the release's reference alone until then"
        )
        return Verdict(passed=True, why=why, numbers=numbers)
    numbers |= {
        f"{one.change.column}_{NUMBERS[one.change.measure]}": one.change.value
        for one in found
        if one.change.segment is None
    }
    off = [one for one in found if one.effect != "fine"]
    if not off:
        worst = f"; the furthest: {found[0].change}" if found else ""
        why = f"nothing is further off than usual{worst}"
        return Verdict(passed=True, why=why, numbers=numbers)
    why = "; ".join(str(one.change) for one in off[:NAMED])
    if len(off) > NAMED:
        why += f"; and {len(off) - NAMED} more"
    blocks = any(one.effect == "block" for one in off)
    return Verdict(passed=False, why=why, numbers=numbers, blocks=blocks)


def _not_judged(why: str) -> Verdict:
    return Verdict(passed=True, why=f"not judged: {why}", numbers={"nights": 0.0})


def _no_profile(evidence: DayEvidence) -> str:
    if not evidence.manifest().profile:
        return "the release was written without usual rows, and has no bins"
    return "the day was scored before its columns were counted; score it again"
