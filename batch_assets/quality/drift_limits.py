"""From which change on a night warns, and from which it stops.

The distances of many columns are asked at once, so that by chance alone some are far out:
of the warnings at most one in a hundred is to be one of these (Benjamini & Hochberg, 1995).
A stop needs more: a change that hardly any night has, and one that is large, too.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Literal

from batch_assets.quality.changes import COVERAGE, ONE_BIN, PSI_NIGHTS, SHIFT, Change
from batch_assets.spec import GateLimits

Effect = Literal["fine", "warn", "block"]

FALSE_WARNINGS = 0.01
# In standard deviations of what is usual; distances have longer tails than the normal
# distribution that the odds are of.
WARNS = {"output": 3.5, "feature": 3.5}
STOPS = {"output": 4.5, "feature": 6.0}
# The same of segments, of which there are many.
SEGMENT_WARNS = {"output": 4.0, "feature": 5.0}
SEGMENT_STOPS = 4.7
# A smaller shift of a segment is none, however unusual.
LARGE_SHIFT = 0.05
# The cap of what may be learned: hardly a row lies where rows lay.
MOST_PSI = 8.0
# Of what a ranking usually has of its catalogue, what warns, and what stops the night.
LARGE_LOSS, STOPPING_LOSS = 0.1, 0.5
# A feature of which every night is unlike the others tells nothing by a PSI.
CALM = 0.25


@dataclass(frozen=True)
class Judged:
    """A change, and what it does to the night."""

    change: Change
    effect: Effect


def judged(
    changes: Iterable[Change], outputs: Sequence[str], limits: GateLimits
) -> list[Judged]:
    """Judge the changes of a night, the worst first.

    Args:
        changes: of every column that is asked.
        outputs: which columns are outputs, and may stop a night.
        limits: of the pipeline.
    """
    asked = [one for one in changes if limits.drift.get(one.column) != "off"]
    told = _not_by_chance(asked)
    found = [
        Judged(one, _effect(one, one.column in outputs, limits, told=telling))
        for one, telling in zip(asked, told, strict=True)
    ]
    order = {"block": 0, "warn": 1, "fine": 2}
    return sorted(found, key=lambda one: (order[one.effect], -one.change.deviations))


def _effect(
    change: Change, is_output: bool, limits: GateLimits, *, told: bool
) -> Effect:
    set_to = limits.drift.get(change.column)
    # However much an output moves from night to night, this is another one.
    if is_output and change.measure == PSI_NIGHTS and change.value > MOST_PSI:
        return set_to if set_to == "warn" else "block"
    large = change.measure in (SHIFT, ONE_BIN) or change.value > limits.warn_psi
    if change.measure == SHIFT:
        large = abs(change.value - change.usual) > LARGE_SHIFT
    if change.measure == COVERAGE:
        large = abs(change.value - change.usual) > LARGE_LOSS * change.usual
    warns = SEGMENT_WARNS if change.segment else WARNS
    least = warns["output" if is_output else "feature"]
    if not told or not large or change.deviations < least:
        return "fine"
    if set_to == "warn":
        return "warn"
    if set_to == "block":
        return "block"
    return "block" if _stops(change, limits, is_output=is_output) else "warn"


def _stops(change: Change, limits: GateLimits, *, is_output: bool) -> bool:
    if change.measure == ONE_BIN:
        return True
    if change.measure == COVERAGE:
        lost = change.value < (1 - STOPPING_LOSS) * change.usual
        return lost and change.deviations > STOPS["output"]
    if change.measure == SHIFT:
        return is_output and change.deviations > SEGMENT_STOPS
    if is_output:
        return change.deviations > STOPS["output"] and change.value > limits.max_psi
    return change.deviations > STOPS["feature"] and change.usual < CALM


def _not_by_chance(changes: Sequence[Change]) -> list[bool]:
    """Which changes chance does not explain, all of them taken together."""
    normal = NormalDist()
    odds = [
        (1 - normal.cdf(one.deviations))
        * (2 if one.measure in (SHIFT, COVERAGE) else 1)
        for one in changes
    ]
    order = sorted(range(len(odds)), key=odds.__getitem__)
    last = 0
    for place, at in enumerate(order, 1):
        if odds[at] <= FALSE_WARNINGS * place / len(odds):
            last = place
    told = [False] * len(odds)
    for at in order[:last]:
        told[at] = True
    return told
