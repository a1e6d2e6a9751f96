"""Probabilities against what happened, and what they promise of themselves.

An estimate takes each probability at its word: of rows that are given 0.2, a fifth will
happen. For calibrated scores it is what will come out, before anything has
(confidence-based performance estimation). It reads no file.
"""

from typing import NamedTuple

import numpy as np
import polars as pl

from batch_assets.models.score_bins import MIDDLES
from batch_assets.quality.performance.tallies import (
    HAPPENED,
    PREDICTED,
    Lines,
    Mean,
    Measure,
    Tally,
)

# Of more distinct scores than this, of all lines, those that are alike are taken for one.
MOST_SCORES = 8_000_000
# A certain error would have an infinite loss; no float32 is nearer to 1 than this.
SMALLEST = 2.0**-24
# Of the calibration curve, of about as many rows each.
GROUPS = 10


class Group(NamedTuple):
    """Rows of about one score: what was predicted of them, and what happened."""

    predicted: float
    happened: float
    rows: int


class BinaryTally(Tally):
    """Probabilities against 1 and 0."""

    def __init__(self, lines: int) -> None:
        super().__init__(lines)
        self._loss, self._brier, self._off, self._rate = (Mean(lines) for _ in range(4))
        # Line and score in one number, how many rows have it, and of how many it happened.
        self._pairs, self._rows, self._happened = (np.zeros(0, np.int64),) * 3
        self._cut = 0

    def _add(self, rows: pl.DataFrame, lines: Lines) -> None:
        scores = rows[PREDICTED].to_numpy().astype(np.float64)
        happened = rows[HAPPENED].to_numpy().astype(np.float64)
        kept = np.clip(scores, SMALLEST, 1 - SMALLEST)
        loss = -np.where(happened == 1, np.log(kept), np.log1p(-kept))
        self._loss.add(loss, lines)
        self._brier.add((scores - happened) ** 2, lines)
        self._off.add(scores - happened, lines)
        self._rate.add(happened, lines)
        codes = np.abs(scores).astype(np.float32).view(np.int32).astype(np.int64)
        one = np.ones(len(codes), np.int64)
        found = [(self._pairs, self._rows, self._happened)]
        found += [
            (pairs, one[there], happened[there].astype(np.int64))
            for pairs, there in lines.pairs(codes)
        ]
        pairs, counts, events = (
            np.concatenate(each) for each in zip(*found, strict=True)
        )
        self._merge(pairs, counts, events)
        while len(self._pairs) > MOST_SCORES:
            self._cut += 1
            self._merge(self._pairs, self._rows, self._happened)

    def _merge(self, pairs: np.ndarray, rows: np.ndarray, happened: np.ndarray) -> None:
        pairs = pairs >> self._cut << self._cut
        self._pairs, at = np.unique(pairs, return_inverse=True)
        # Counts below 2 ** 53 add up exactly as floats.
        self._rows = np.bincount(at, rows, len(self._pairs)).astype(np.int64)
        self._happened = np.bincount(at, happened, len(self._pairs)).astype(np.int64)

    def measures(self, line: int) -> list[Measure]:
        _, rows, happened = self._scores(line)
        found = [
            self._loss.measure("log_loss", line),
            self._brier.measure("brier", line),
            Measure("calibration_error", calibration_error(self.curve(line))),
            self._off.measure("bias", line),
            self._rate.measure("rate", line),
        ]
        ranked = auc(happened, rows - happened)
        return found if ranked is None else [ranked, *found]

    def curve(self, line: int) -> list[Group]:
        """Return what happened by what was predicted, the lowest scores first."""
        codes, rows, happened = self._scores(line)
        ends = np.cumsum(rows)
        group = np.minimum((ends - rows / 2) * GROUPS // max(ends[-1], 1), GROUPS - 1)
        # The middle of the scores that are taken for one.
        middles = codes + (1 << self._cut) // 2
        scores = middles.astype(np.int32).view(np.float32).astype(np.float64)
        return [
            Group(
                min(float(scores[at] @ rows[at] / rows[at].sum()), 1.0),
                float(happened[at].sum() / rows[at].sum()),
                int(rows[at].sum()),
            )
            for at in (np.flatnonzero(group == one) for one in np.unique(group))
        ]

    def _scores(self, line: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        of = self._pairs >> 32 == line
        return self._pairs[of] & 0xFFFFFFFF, self._rows[of], self._happened[of]


def auc(happened: np.ndarray, not_happened: np.ndarray) -> Measure | None:
    """Return how often what happened has the higher score, ties counting half.

    Its standard error is that of Hanley & McNeil (1982).

    Args:
        happened: rows by score, the lowest first, (scores,); an expectation may be.
        not_happened: the others, (scores,).
    """
    yes, no = float(happened.sum()), float(not_happened.sum())
    if not yes or not no:
        return None
    under = np.cumsum(not_happened) - not_happened / 2
    area = float(happened @ under / (yes * no))
    both = area / (2 - area) - area**2, 2 * area**2 / (1 + area) - area**2
    variance = area * (1 - area) + (yes - 1) * both[0] + (no - 1) * both[1]
    return Measure("auc", area, float(np.sqrt(max(variance, 0) / (yes * no))))


def calibration_error(curve: list[Group]) -> float:
    """Return how far off the groups of a curve are, on average over their rows."""
    rows = sum(group.rows for group in curve)
    off = sum(group.rows * abs(group.predicted - group.happened) for group in curve)
    return off / rows


def estimated(counts: np.ndarray) -> list[Measure]:
    """Return the metrics that calibrated scores promise; the error is that of chance.

    Args:
        counts: rows by the bins of `score_bins`, (bins,), one or more.
    """
    rows, p = counts.sum(), MIDDLES
    entropy = -(p * np.log(p) + (1 - p) * np.log1p(-p))
    mean = counts / rows
    loss, brier = float(mean @ entropy), float(mean @ (p * (1 - p)))
    # Of each row what happens is drawn: so far the mean will be off.
    drawn = p * (1 - p)
    off_loss = np.sqrt(mean @ (drawn * np.log(p / (1 - p)) ** 2) / rows)
    off_brier = np.sqrt(mean @ (drawn * (1 - 2 * p) ** 2) / rows)
    found = [
        Measure("log_loss", loss, float(off_loss)),
        Measure("brier", brier, float(off_brier)),
        Measure("rate", float(mean @ p), float(np.sqrt(mean @ drawn / rows))),
    ]
    ranked = auc(counts * p, counts * (1 - p))
    return found if ranked is None else [ranked, *found]
