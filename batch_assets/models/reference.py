"""How a model's outputs are distributed, and how far one distribution is from another.

Distances are taken on counts over frozen edges, so that a day is the sum of its chunks,
exact and in any order. It holds no limits and reads no file.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import Self, TypeAlias

import numpy as np
from pydantic import NonNegativeFloat, NonNegativeInt, model_validator

from batch_assets.errors import ReleaseError
from batch_assets.strict import StrictModel

Counts: TypeAlias = Sequence[int] | np.ndarray

QUANTILES = 20
# A bin without rows would make the index infinite; half a row is the usual floor.
EMPTY_BIN = 0.5


class Reference(StrictModel):
    """How one output is distributed where the model was approved.

    `edges` are the inner edges of the bins; `counts` has one bin more, below the first
    edge and above the last included. `daily_psi` is how far each single day of it was
    from the whole: what is usual for this model, and no drift.
    """

    edges: tuple[float, ...]
    counts: tuple[NonNegativeInt, ...]
    daily_psi: tuple[NonNegativeFloat, ...] = ()

    @model_validator(mode="after")
    def _can_be_compared_with(self) -> Self:
        # Against what is none of this every night would look like any other.
        if not np.isfinite([*self.edges, *self.daily_psi]).all():
            msg = f"edges and daily_psi must be finite, got {self.edges}, {self.daily_psi}"
            raise ValueError(msg)
        if any(low >= high for low, high in pairwise(self.edges)):
            msg = f"each edge must be above the one before, got {self.edges}"
            raise ValueError(msg)
        if len(self.counts) != len(self.edges) + 1 or not sum(self.counts):
            msg = (
                f"{len(self.edges)} edges take {len(self.edges) + 1} counts, of one row "
                f"or more; got {self.counts}"
            )
            raise ValueError(msg)
        return self


def reference_of(name: str, values: np.ndarray, days: object = None) -> Reference:
    """Freeze a distribution: inner edges at the quantiles, and the counts between.

    A value that many rows share has a bin to itself: what is above it is another value.

    Args:
        name: of the output.
        values: finite values, (rows,), at least as many as there are bins.
        days: the day of each value, (rows,).

    Raises:
        ReleaseError: there are too few values, some are not finite, or the days are of
            other rows.
    """
    values = _checked(name, values)
    steps = np.linspace(0, 1, QUANTILES + 1)[1:-1]
    quantiles = np.quantile(values, steps)
    shared = quantiles[1:][np.diff(quantiles) == 0]
    edges = np.unique([*quantiles, *_just_above(shared)]).tolist()
    counts = histogram(values, edges)
    daily: tuple[float, ...] = ()
    if days is not None:
        of = np.asarray(days)
        if of.shape != values.shape:
            msg = (
                f"reference_days has the shape {of.shape}, and the reference of output "
                f"'{name}' {len(values):,} rows: give the day of each of them, or none. "
                "Nothing was written."
            )
            raise ReleaseError(msg)
        # A day that is not known equals no day, and would be one without rows.
        if unknown := sum(day is None or day != day for day in of.tolist()):
            msg = (
                f"the day of {unknown:,} of {len(of):,} reference values is not known: "
                "leave these values out. Nothing was written."
            )
            raise ReleaseError(msg)
        daily = tuple(
            float(psi(counts, histogram(values[of == day], edges)))
            for day in np.unique(of)
        )
    return Reference(edges=tuple(edges), counts=tuple(counts), daily_psi=daily)


def _checked(name: str, values: np.ndarray) -> np.ndarray:
    """Return the values of a reference as float64 (rows,), or refuse them."""
    numbers = np.asarray(values)
    if numbers.ndim == 2 and numbers.shape[1] == 1:
        numbers = numbers[:, 0]
    if numbers.ndim != 1 or numbers.dtype.kind not in "fiub":
        msg = (
            f"the reference of output '{name}' is {numbers.dtype} of the shape "
            f"{numbers.shape}, expected a number for each row, (rows,). Nothing was written."
        )
        raise ReleaseError(msg)
    numbers = numbers.astype(np.float64)
    if not np.isfinite(numbers).all():
        nan, infinite = int(np.isnan(numbers).sum()), int(np.isinf(numbers).sum())
        msg = (
            f"the reference of output '{name}' holds {nan:,} NaN and {infinite:,} "
            f"infinite of {len(numbers):,} values: no night could be compared with it. "
            "Give the outputs of rows that can be scored. Nothing was written."
        )
        raise ReleaseError(msg)
    if len(numbers) < QUANTILES:
        msg = (
            f"the reference of output '{name}' has {len(numbers)} values, expected at "
            f"least {QUANTILES}, one a bin. Give the outputs of more rows, or no "
            "reference: then drift is not judged. Nothing was written."
        )
        raise ReleaseError(msg)
    return numbers


def _just_above(values: np.ndarray) -> np.ndarray:
    """The least numbers above others; above zero, one that no fast mode takes for it."""
    real = np.finfo(np.float64)
    values = values[values < real.max]
    return np.where(values == 0, real.tiny, np.nextafter(values, np.inf))


def histogram(values: np.ndarray, edges: Sequence[float]) -> list[int]:
    """Count finite values between inner edges: one bin more than edges."""
    # So few edges are each compared with every value in 5 ns a value; to look up each
    # value's bin takes 32.
    at_or_above = [int(np.count_nonzero(values >= edge)) for edge in edges]
    return [a - b for a, b in pairwise([len(values), *at_or_above, 0])]


def add_counts(counts: Sequence[Sequence[int]]) -> list[int]:
    """Add up the counts of several chunks."""
    total: list[int] = np.sum(np.asarray(counts, dtype=np.int64), axis=0).tolist()
    return total


def psi(reference: Counts, counts: Counts) -> np.ndarray:
    """Return the population stability index of counts (..., bins); 0 is equal."""
    expected, actual = shares(reference), shares(counts)
    return np.asarray(((actual - expected) * np.log(actual / expected)).sum(axis=-1))


def psi_noise(reference: Sequence[int], counts: Sequence[int]) -> float:
    """Return the index that equal distributions may reach by chance alone.

    Mean and three standard deviations of its null distribution, which is
    (1/n + 1/m) times chi-squared with one degree of freedom less than bins
    (Yurdakul & Naranjo, 2020).
    """
    freedom = len(reference) - 1
    scale = 1 / max(sum(reference), 1) + 1 / max(sum(counts), 1)
    return float(scale * (freedom + 3 * np.sqrt(2 * freedom)))


def ks(reference: Sequence[int], counts: Sequence[int]) -> float:
    """Return the largest distance of the cumulative shares, over the edges; 0 .. 1."""
    expected, actual = np.asarray(reference, float), np.asarray(counts, float)
    gap = np.cumsum(expected) / expected.sum() - np.cumsum(actual) / actual.sum()
    return float(np.abs(gap).max())


def shares(counts: Counts) -> np.ndarray:
    """Return the share of each bin (..., bins), none of which is empty."""
    filled = np.maximum(np.asarray(counts, dtype=np.float64), EMPTY_BIN)
    return np.asarray(filled / filled.sum(axis=-1, keepdims=True))
