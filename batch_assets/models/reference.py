"""How a model's outputs are distributed, and how far one distribution is from another.

Distances are taken on counts over frozen edges, so that a day is the sum of its chunks,
exact and in any order. It holds no limits and reads no file.
"""

from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from batch_assets.models.contract import Strict

QUANTILES = 20
# A bin without rows would make the index infinite; half a row is the usual floor.
EMPTY_BIN = 0.5


class Reference(Strict):
    """How one output is distributed where the model was approved.

    `edges` are the inner edges of the bins; `counts` has one bin more, below the first
    edge and above the last included. `daily_psi` is how far each single day of it was
    from the whole: what is usual for this model, and no drift.
    """

    edges: tuple[float, ...]
    counts: tuple[int, ...]
    daily_psi: tuple[float, ...] = ()


def reference_of(values: np.ndarray, days: np.ndarray | None = None) -> Reference:
    """Freeze a distribution: inner edges at the quantiles, and the counts between.

    Args:
        values: finite values, (rows,).
        days: the day of each value, (rows,).
    """
    values = np.asarray(values, dtype=np.float64).ravel()
    steps = np.linspace(0, 1, QUANTILES + 1)[1:-1]
    edges = np.unique(np.quantile(values, steps)).tolist()
    counts = histogram(values, edges)
    daily: tuple[float, ...] = ()
    if days is not None:
        daily = tuple(
            psi(counts, histogram(values[days == day], edges))
            for day in np.unique(days)
        )
    return Reference(edges=tuple(edges), counts=tuple(counts), daily_psi=daily)


def histogram(values: np.ndarray, edges: Sequence[float]) -> list[int]:
    """Counts of finite values between inner edges: one bin more than edges."""
    # So few edges are each compared with every value in 5 ns a value; to look up each
    # value's bin takes 32.
    at_or_above = [int(np.count_nonzero(values >= edge)) for edge in edges]
    return [a - b for a, b in pairwise([len(values), *at_or_above, 0])]


def add_counts(counts: Sequence[Sequence[int]]) -> list[int]:
    """The counts of several chunks together."""
    return np.sum(np.asarray(counts, dtype=np.int64), axis=0).tolist()


def psi(reference: Sequence[int], counts: Sequence[int]) -> float:
    """The population stability index of counts against a reference; 0 is equal."""
    expected, found = _shares(reference), _shares(counts)
    return float(np.sum((found - expected) * np.log(found / expected)))


def psi_noise(reference: Sequence[int], counts: Sequence[int]) -> float:
    """The index that equal distributions may reach by chance alone.

    Mean and three standard deviations of its null distribution, which is
    (1/n + 1/m) times chi-squared with one degree of freedom less than bins
    (Yurdakul & Naranjo, 2020).
    """
    freedom = len(reference) - 1
    scale = 1 / max(sum(reference), 1) + 1 / max(sum(counts), 1)
    return float(scale * (freedom + 3 * np.sqrt(2 * freedom)))


def ks(reference: Sequence[int], counts: Sequence[int]) -> float:
    """The largest distance of the cumulative shares, over the edges; 0 .. 1."""
    expected, found = np.asarray(reference, float), np.asarray(counts, float)
    gap = np.cumsum(expected) / expected.sum() - np.cumsum(found) / found.sum()
    return float(np.abs(gap).max())


def _shares(counts: Sequence[int]) -> np.ndarray:
    filled = np.maximum(np.asarray(counts, dtype=np.float64), EMPTY_BIN)
    return filled / filled.sum()
