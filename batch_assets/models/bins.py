"""What a column is counted in, night by night, and its counts where the model was approved.

The bins are frozen in the release, so that counts of chunks, shards and days add up. It
holds no limits and reads no file.
"""

from collections.abc import Mapping
from typing import Self

import numpy as np
from pydantic import NonNegativeInt, model_validator

from batch_assets.models.reference import QUANTILES
from batch_assets.strict import StrictModel

# So many kinds of value have a bin each; what is rarer shares one.
KINDS = 64


class Bins(StrictModel):
    """The bins of one column.

    Between `edges` lie numbers: below the first and from the last on is what the release
    has never seen. `values` are kinds, such as the positions of categories: a bin each,
    and one for all others. The last bin is of what is missing. `counts` are those of the
    rows that the release was written with.
    """

    edges: tuple[float, ...] = ()
    values: tuple[float, ...] = ()
    counts: tuple[NonNegativeInt, ...]

    @model_validator(mode="after")
    def _counts_fit(self) -> Self:
        if bool(self.edges) == bool(self.values):
            msg = "a column has either edges or values"
            raise ValueError(msg)
        inner = np.asarray(self.edges or self.values)
        if not np.isfinite(inner).all() or not (np.diff(inner) > 0).all():
            msg = f"edges and values must be finite and ascend, got {inner.tolist()}"
            raise ValueError(msg)
        if len(self.counts) != self.size:
            msg = f"expected {self.size} counts, got {len(self.counts)}"
            raise ValueError(msg)
        return self

    @property
    def size(self) -> int:
        """How many bins there are, that of the missing included."""
        return len(self.edges or self.values) + 2

    @property
    def ordered(self) -> bool:
        """Whether a later bin holds larger numbers."""
        return bool(self.edges)

    def codes(self, values: np.ndarray) -> np.ndarray:
        """Return the bin of each value, uint8 (rows,); NaN is missing."""
        if values.dtype.kind != "f":
            values = values.astype(np.float64)
        if self.values:
            known = np.asarray(self.values, values.dtype)
            at = np.searchsorted(known, values).clip(max=len(known) - 1)
            codes = np.where(known[at] == values, at, len(known)).astype(np.uint8)
        else:
            # So few edges are compared with every value faster than each is looked up.
            codes = np.zeros(len(values), np.uint8)
            for edge in np.asarray(self.edges, values.dtype):
                codes += values >= edge
        codes[np.isnan(values)] = self.size - 1
        return codes


def codes_of(
    bins: Mapping[str, Bins], numbers: Mapping[str, np.ndarray]
) -> dict[str, np.ndarray]:
    """Return the bin of each value of many columns, uint8, by name; as `Bins.codes`.

    Args:
        bins: of each column.
        numbers: of each, (rows,), or (rows, width) where a row has several.
    """
    codes, alike = {}, []
    for name, own in bins.items():
        values = numbers[name]
        if own.edges and values.ndim == 1 and values.dtype == np.float32:
            alike.append(name)
        else:
            codes[name] = own.codes(values.reshape(-1))
    if alike:
        codes |= dict(zip(alike, _codes_of_matrix(bins, numbers, alike), strict=True))
    return codes


def _codes_of_matrix(
    bins: Mapping[str, Bins], numbers: Mapping[str, np.ndarray], names: list[str]
) -> np.ndarray:
    """Return codes, (columns, rows), of all columns in as many steps as of one.

    Of a sample of a thousand rows a step takes as long to call as to compute.
    """
    values = np.stack([numbers[name] for name in names])
    most = max(len(bins[name].edges) for name in names)
    # No number is at least NaN: a column with fewer edges is not changed by what it lacks.
    edges = np.full((most, len(names), 1), np.nan, values.dtype)
    for at, name in enumerate(names):
        edges[: len(bins[name].edges), at, 0] = bins[name].edges
    codes = np.zeros(values.shape, np.uint8)
    for edge in edges:
        codes += values >= edge
    missing = np.array([[bins[name].size - 1] for name in names], np.uint8)
    return np.where(np.isnan(values), missing, codes)


def bins_of(values: np.ndarray, kinds: int | None = None) -> Bins | None:
    """Freeze the bins of a column.

    Numbers are cut at their quantiles, and at their least and largest. A number that many
    rows share has a bin to itself.

    Args:
        values: of usual rows, (rows,), NaN where one is missing.
        kinds: how many kinds there are, if the values are positions of such.

    Returns:
        None where no row has a value: there is nothing to compare with.
    """
    known = values[np.isfinite(values)] if values.dtype.kind == "f" else values
    if not len(known):
        return None
    if kinds is not None:
        found, counts = np.unique(known, return_counts=True)
        common = (
            np.arange(kinds) if kinds <= KINDS else found[counts.argsort()[-KINDS:]]
        )
        inner = {"values": tuple(np.sort(common).astype(float).tolist())}
    else:
        inner = {"edges": _edges(known)}
    size = len(next(iter(inner.values()))) + 2
    empty = Bins(**inner, counts=(0,) * size)
    counts = np.bincount(empty.codes(values), minlength=size)
    return Bins(**inner, counts=tuple(counts.tolist()))


def _edges(known: np.ndarray) -> tuple[float, ...]:
    """Ascending, each a number that the values' own type can hold."""
    own = known.dtype if known.dtype.kind == "f" else np.dtype(np.float64)
    known = known.astype(own)
    steps = np.linspace(0, 1, QUANTILES + 1)[1:-1]
    quantiles = np.quantile(known, steps, method="higher")
    shared = quantiles[1:][np.diff(quantiles) == 0]
    with np.errstate(over="ignore"):
        # Above the largest number there is none, and no edge.
        above = np.nextafter(np.append(shared, known.max()), own.type(np.inf))
    edges = np.unique([known.min(), *quantiles, *above])
    return tuple(edges[np.isfinite(edges)].astype(float).tolist())
