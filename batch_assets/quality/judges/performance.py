"""Whether predictions were as good as usual, and as good as they were estimated to be.

What is usual is learned from the days before. It reads no file.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from statistics import fmean, stdev

from batch_assets.quality.changes import ENOUGH_NIGHTS, NIGHTS
from batch_assets.quality.performance.history import (
    BETTER,
    KNOWN,
    History,
    Series,
    Value,
)
from batch_assets.quality.verdict import Gate, Verdict
from batch_assets.spec import OutcomesSpec

ASSET = "outcomes"
# In standard deviations of the days before. Of segments there are many.
DEVIATIONS, SEGMENT_DEVIATIONS = 3.0, 4.0
# So many segments are named, the worst first.
NAMED = 5
LEARNED = (
    "What is usual is learned from the 28 days before; no field of the YAML moves it"
)


@dataclass(frozen=True)
class OutcomeEvidence:
    """What the gates of outcomes judge a day by."""

    day: str
    spec: OutcomesSpec
    history: History


def outcome_gates(spec: OutcomesSpec) -> list[Gate[OutcomeEvidence]]:
    """Return the gates of a pipeline's outcomes; all of them warn: the day was served."""
    gates = [
        Gate(
            name="enough_outcomes_are_known",
            asset=ASSET,
            judge=enough_known,
            description="Of enough of the predictions it is known what happened.",
            moved_by="The limit is outcomes.min_known in the pipeline's YAML",
            blocking=False,
        ),
        *(
            Gate(
                name=f"{metric}_is_like_the_days_before",
                asset=ASSET,
                judge=partial(as_good_as_usual, metric=metric),
                description=f"The {metric} of the day is not worse than it usually is.",
                moved_by=LEARNED,
                blocking=False,
            )
            for metric in BETTER[spec.task]
        ),
        Gate(
            name="segments_are_as_good_as_the_days_before",
            asset=ASSET,
            judge=segments_as_good_as_usual,
            description="No segment's predictions are worse than they usually are.",
            moved_by=LEARNED + "; `segments` in it says what they are",
            blocking=False,
        ),
    ]
    if spec.task == "binary" or spec.probability:
        gates.append(
            Gate(
                name="the_estimate_was_right",
                asset=ASSET,
                judge=estimate_was_right,
                description="What the scores promised of themselves is what came, as "
                "nearly as on other days.",
                moved_by=LEARNED + ". Scores that promise too much are not calibrated",
                blocking=False,
            )
        )
    return gates


def enough_known(evidence: OutcomeEvidence) -> Verdict:
    """Judge of how many of the predictions the outcome is known."""
    least = evidence.spec.min_known
    known = evidence.history.realised.get(KNOWN, {}).get(evidence.day)
    if known is None:
        return _not_judged("no outcomes were taken for the day")
    why = (
        f"the outcomes of {known.value:.1%} of {known.rows:,} predictions are known, at "
        f"least {least:.1%} must be"
    )
    numbers = {"known_share": known.value, "limit": least}
    return Verdict(known.value >= least, why, numbers)


def as_good_as_usual(evidence: OutcomeEvidence, *, metric: str) -> Verdict:
    """Judge a metric of all rows against the days before."""
    tonight = evidence.history.realised.get(metric, {}).get(evidence.day)
    if tonight is None:
        return _not_judged(f"no {metric} without outcomes of more than one kind")
    numbers = {metric: tonight.value}
    if estimate := evidence.history.estimated.get(metric, {}).get(evidence.day):
        numbers[f"estimated_{metric}"] = estimate.value
    before = _before(evidence.history.realised[metric], evidence.day)
    if len(before) < ENOUGH_NIGHTS:
        return _cold_start(f"{metric} is {tonight.value:.4f}", len(before), numbers)
    more_is_better = BETTER[evidence.spec.task][metric]
    usual, spread = _usual(tonight, before)
    limit = usual + (-1 if more_is_better else 1) * DEVIATIONS * spread
    fine = tonight.value >= limit if more_is_better else tonight.value <= limit
    least = "least" if more_is_better else "most"
    why = (
        f"{metric} is {tonight.value:.4f}, usually {usual:.4f} in {len(before)} days; at "
        f"{least} {limit:.4f} is usual"
    )
    return Verdict(fine, why, numbers | {"usual": usual, "limit": limit})


def segments_as_good_as_usual(evidence: OutcomeEvidence) -> Verdict:
    """Judge the first metric of each segment against the days before; name the worst."""
    metric, more_is_better = next(iter(BETTER[evidence.spec.task].items()))
    judged, worse = 0, []
    for (segment, name), series in evidence.history.segments.items():
        tonight, before = series.get(evidence.day), _before(series, evidence.day)
        if name != metric or tonight is None or len(before) < ENOUGH_NIGHTS:
            continue
        judged += 1
        usual, spread = _usual(tonight, before)
        off = (usual - tonight.value) * (1 if more_is_better else -1)
        if off > SEGMENT_DEVIATIONS * spread:
            why = (
                f"{metric} where {segment.column} is {segment.value} is "
                f"{tonight.value:.4f}, usually {usual:.4f}"
            )
            worse.append((off / spread, why))
    numbers = {"judged": float(judged), "worse": float(len(worse))}
    if not judged:
        return _not_judged("no segment was judged on enough days before")
    if not worse:
        why = f"none of {judged} segments is worse than usual"
        return Verdict(passed=True, why=why, numbers=numbers)
    named = [why for _, why in sorted(worse, reverse=True)[:NAMED]]
    more = f"; and {len(worse) - NAMED} more" if len(worse) > NAMED else ""
    return Verdict(False, "; ".join(named) + more, numbers)


def estimate_was_right(evidence: OutcomeEvidence) -> Verdict:
    """Judge how far what came is from what was estimated, beside the days before."""
    numbers: dict[str, float] = {}
    wrong, said, days = [], [], 0
    for metric, off, before in _errors(evidence):
        numbers[f"{metric}_off"] = off.value
        said.append(f"{metric} is {off.value:+.4f} off its estimate")
        days = max(days, len(before))
        if len(before) < ENOUGH_NIGHTS:
            continue
        usual, spread = _usual(off, before)
        if abs(off.value - usual) > DEVIATIONS * spread:
            wrong.append(f"{said[-1]}, usually {usual:+.4f}")
    if not said:
        return _not_judged("there is no estimate of the day, or no outcome")
    if days < ENOUGH_NIGHTS:
        return _cold_start("; ".join(said), days, numbers)
    return Verdict(not wrong, "; ".join(wrong or said), numbers)


def _errors(
    evidence: OutcomeEvidence,
) -> Iterator[tuple[str, Value, list[float]]]:
    """How far each metric is off its estimate on the day, and was before it."""
    history, day = evidence.history, evidence.day
    for metric in BETTER[evidence.spec.task]:
        promised = history.estimated.get(metric, {})
        off = {
            one: Value(value.value - promised[one].value, value.error, value.rows, "")
            for one, value in history.realised.get(metric, {}).items()
            if one in promised
        }
        if day in off:
            yield metric, off[day], _before(off, day)


def _before(series: Series, day: str) -> list[float]:
    """The last values before a day."""
    return [series[one].value for one in sorted(series) if one < day][-NIGHTS:]


def _usual(tonight: Value, before: list[float]) -> tuple[float, float]:
    """What is usual, and how far off it a day may be by chance."""
    return fmean(before), max(stdev(before), tonight.error or 0.0, 1e-9)


def _cold_start(said: str, days: int, numbers: dict[str, float]) -> Verdict:
    why = f"{said}; cold start: {days} of {ENOUGH_NIGHTS} days to learn from"
    return Verdict(passed=True, why=why, numbers=numbers)


def _not_judged(why: str) -> Verdict:
    return Verdict(passed=True, why=f"not judged: {why}")
