"""How unlike the nights before a night is, column by column and segment by segment.

What is usual is learned from these nights: each is compared with the others as tonight is
with all of them, so that a column that is different every night may be. It reads no file
and decides nothing.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date

import numpy as np

from batch_assets.lake.profiles import Segment
from batch_assets.models.reference import psi
from batch_assets.quality.distances import rank_shift

# Fewer nights say nothing of what is usual: a cold start.
ENOUGH_NIGHTS = 14
# So many nights back, and of one weekday so many weeks.
NIGHTS, WEEKS = 28, 8
ENOUGH_WEEKS = 4
# A segment of fewer rows is not judged, nor what is nearly always as it was.
FEWEST_ROWS = 30
SMALLEST_SPREAD = 0.1
SMALLEST_SHIFT = 0.01
# Rows that lie in so few bins on a night, such as a weather that all share, are one
# observation, and no distribution: of those a PSI says that no night is like another.
FEW_BINS = 5


@dataclass(frozen=True)
class Nights:
    """The profiles of the nights before, in the order of their days.

    `counts` is int64 (nights, 1 + segments, bins) of each column, and `coverage` which
    share of its catalogue each ranking had, (nights,).
    """

    days: tuple[str, ...]
    counts: Mapping[str, np.ndarray]
    coverage: Mapping[str, np.ndarray] = field(default_factory=dict)


@dataclass(frozen=True)
class Change:
    """How unlike one column is, of all rows or of a segment.

    Attributes:
        column: a feature, an input or an output.
        segment: whose rows they are; None of all.
        measure: what was measured, in words.
        value: of tonight.
        usual: of the nights before.
        deviations: how many standard deviations tonight is above what is usual (of a
            shift, from it).
        nights: how many nights it is compared with.
    """

    column: str
    segment: Segment | None
    measure: str
    value: float
    usual: float
    deviations: float
    nights: int

    def __str__(self) -> str:
        where = (
            f" where {self.segment.column} is {self.segment.value}"
            if self.segment
            else ""
        )
        return (
            f"{self.measure} of '{self.column}'{where} is {self.value:.3f}, usually "
            f"{self.usual:.3f}: {self.deviations:.1f} standard deviations off in "
            f"{self.nights} nights"
        )


PSI_NIGHTS = "PSI against the last nights"
PSI_WEEKDAY = "PSI against the same weekday"
SHIFT = "rank among all rows"
ONE_BIN = "share of the largest bin"
COVERAGE = "coverage of the catalogue"


def whole_changes(
    day: str, tonight: Mapping[str, np.ndarray], nights: Nights, ordered: set[str]
) -> Iterator[Change]:
    """Yield how unlike each column of a night is, of all rows.

    Args:
        day: the night's, as `2026-01-05`.
        tonight: counts (1 + segments, bins) of each column.
        nights: before it.
        ordered: the columns of which a later bin holds larger numbers.
    """
    weekdays = np.array([weekday_of(one) for one in nights.days])
    same = weekdays == weekday_of(day)
    for column in [name for name in tonight if name in nights.counts]:
        lines = tonight[column]
        before, counts = nights.counts[column][:, 0], lines[0]
        if not counts.sum():
            continue
        if column in ordered and _is_shared(before):
            continue
        recent = before[-NIGHTS:]
        if len(recent) >= ENOUGH_NIGHTS:
            usual = psi(recent.sum(axis=0) - recent, recent)
            value = float(psi(recent.sum(axis=0), counts))
            yield _above(column, PSI_NIGHTS, value, usual, counts)
            yield from _in_one_bin(column, counts, recent)
        if same.sum() >= ENOUGH_WEEKS:
            usual = np.concatenate(
                [_among_themselves(before[weekdays == one]) for one in range(7)]
            )
            value = float(psi(before[same].sum(axis=0), counts))
            if len(usual) >= ENOUGH_NIGHTS:
                yield _above(column, PSI_WEEKDAY, value, usual, counts)


def coverage_of(items: np.ndarray, catalogue: int) -> float:
    """Return the share of a catalogue that was ranked at all.

    Args:
        items: how often each place of the catalogue was, (places,).
        catalogue: how many items there are; if more than places, several share one, and
            the share is an estimate.
    """
    # A place is empty if none of the items that share it is there.
    empty = float((items == 0).mean())
    return float(1 - empty ** (len(items) / catalogue))


def coverage_changes(tonight: Mapping[str, float], nights: Nights) -> Iterator[Change]:
    """Yield how far the coverage of each ranking's catalogue is off what is usual."""
    for name, value in tonight.items():
        before = nights.coverage.get(name, np.empty(0))[-NIGHTS:]
        if len(before) < ENOUGH_NIGHTS:
            continue
        usual = float(before.mean())
        spread = max(float(before.std(ddof=1)), 0.01 * usual, 1e-9)
        deviations = abs(value - usual) / (spread * (1 + 1 / len(before)) ** 0.5)
        yield Change(name, None, COVERAGE, value, usual, deviations, len(before))


def segment_changes(
    tonight: Mapping[str, np.ndarray],
    nights: Nights,
    segments: Sequence[Segment],
    ordered: set[str],
) -> Iterator[Change]:
    """Yield how far each segment has moved among the rows of its day.

    The level of a whole day falls out of it: what moves all segments moves none.

    Args:
        tonight: counts (1 + segments, bins) of each column.
        nights: before it.
        segments: in the order of their counts.
        ordered: the columns of which a later bin holds larger numbers.
    """
    for column in [name for name in tonight if name in ordered & nights.counts.keys()]:
        lines, before = tonight[column][:, :-1], nights.counts[column][-NIGHTS:, :, :-1]
        rows, rows_before = lines[1:].sum(axis=1), before[:, 1:].sum(axis=2)
        shift, usual = rank_shift(lines), rank_shift(before)
        for at, segment in enumerate(segments):
            # Of its own column a segment says nothing.
            known = usual[rows_before[:, at] >= FEWEST_ROWS, at]
            if rows[at] < FEWEST_ROWS or len(known) < ENOUGH_NIGHTS:
                continue
            by_chance = 1 / (12 * rows[at])
            spread = max(float(known.var(ddof=1)), by_chance) * (1 + 1 / len(known))
            off = float(shift[at] - known.mean())
            deviations = abs(off) / max(spread**0.5, SMALLEST_SHIFT)
            yield Change(
                column,
                segment,
                SHIFT,
                float(shift[at]),
                float(known.mean()),
                deviations,
                len(known),
            )


def weekday_of(day: str) -> int:
    """Return the weekday of a day, 0 for a Monday."""
    return date.fromisoformat(day).weekday()


def _is_shared(nights: np.ndarray) -> bool:
    """Whether the rows of most nights lie in few bins."""
    return len(nights) > 0 and np.median((nights > 0).sum(axis=1)) <= FEW_BINS


def _among_themselves(nights: np.ndarray) -> np.ndarray:
    """The distance of each of some nights from the others, (nights,); of few, none."""
    if len(nights) < ENOUGH_WEEKS:
        return np.empty(0)
    return psi(nights.sum(axis=0) - nights, nights)


def _above(
    column: str, measure: str, value: float, usual: np.ndarray, counts: np.ndarray
) -> Change:
    """How far a distance is above those of the nights, in the logarithm: it is skewed."""
    by_chance = len(counts) / counts.sum()
    logs = np.log(usual + by_chance)
    spread = max(float(logs.std(ddof=1)), SMALLEST_SPREAD) * (1 + 1 / len(logs)) ** 0.5
    deviations = (np.log(value + by_chance) - logs.mean()) / spread
    return Change(
        column,
        None,
        measure,
        value,
        float(np.median(usual)),
        float(deviations),
        len(usual),
    )


def _in_one_bin(
    column: str, counts: np.ndarray, nights: np.ndarray
) -> Iterator[Change]:
    """A column that is the same for every row, and never nearly was."""
    rows = nights.sum(axis=1)
    shares = nights.max(axis=1)[rows > 0] / rows[rows > 0]
    fewest = int((nights[rows > 0] > 0).sum(axis=1).min())
    largest = float(counts.max() / counts.sum())
    if largest == 1 and counts.sum() >= FEWEST_ROWS and fewest > FEW_BINS:
        yield Change(
            column,
            None,
            ONE_BIN,
            largest,
            float(np.median(shares)),
            np.inf,
            len(shares),
        )
