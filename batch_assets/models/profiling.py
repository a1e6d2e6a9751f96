"""What of a row is profiled: one number of each feature, input and output.

A feature is its value and an id its position; a sequence and a text are their length, a
vector its norm; a ranking is each of its items, and the score of the first. It counts
nothing, and reads no file.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from batch_assets.errors import ConfigError
from batch_assets.models.bins import Bins, bins_of
from batch_assets.models.contract import Contract, Feature
from batch_assets.models.input_rows import InputRows, Lists
from batch_assets.models.input_specs import Ids
from batch_assets.models.output_specs import NO_ITEM, Computed, Label, Ranking

# A column that would make more segments than this names no segment.
MOST_SEGMENTS = 200
# So many items of a catalogue are told apart.
MOST_PLACES = 65_536


def numbers_of_inputs(
    rows: InputRows, contract: Contract
) -> Iterator[tuple[str, np.ndarray]]:
    """Yield each feature and input with a number for each row, (rows,)."""
    yield from zip(contract.feature_names, rows.features, strict=True)
    for one in contract.inputs:
        values = rows.columns[one.columns[0].name if one.columns else one.name]
        if isinstance(values, Lists):
            yield one.name, values.lengths.astype(np.float32)
        elif values.ndim == 2:
            yield one.name, np.linalg.norm(values, axis=1)
        else:
            yield one.name, values.astype(np.float64)


def numbers_of_outputs(
    outputs: Computed, contract: Contract
) -> Iterator[tuple[str, np.ndarray]]:
    """Yield each column of the outputs with a number for each row, (rows,).

    Of a ranking it is a number for each item, (rows, items), NaN where there is none.
    """
    rankings = rankings_of(contract)
    scores = {one.scores for one in rankings.values()}
    for column in contract.output_columns:
        values = outputs[column.name]
        if column.width is None:
            yield column.name, values
        elif column.name in rankings:
            yield column.name, np.where(values == NO_ITEM, np.nan, values)
        elif column.name in scores:
            yield column.name, values[:, 0].astype(np.float64)
        else:
            yield column.name, np.linalg.norm(values, axis=1)


def rankings_of(contract: Contract) -> dict[str, Ranking]:
    """Return the rankings among the outputs, by name."""
    return {one.name: one for one in contract.outputs if isinstance(one, Ranking)}


def items_of(
    outputs: Computed, contract: Contract
) -> Iterator[tuple[str, np.ndarray, int]]:
    """Yield each ranking with the place of each item, (items,), and how many there are.

    Of a catalogue of more than 65,536 some share a place.
    """
    for name, one in rankings_of(contract).items():
        places = min(len(contract.vocabularies[one.vocabulary]), MOST_PLACES)
        items = outputs[name].reshape(-1)
        yield name, items[items != NO_ITEM] % places, places


def usual_bins(
    rows: InputRows, outputs: Computed, contract: Contract
) -> dict[str, Bins]:
    """Freeze the bins of every column from usual rows and their outputs."""
    words = contract.vocabularies
    kinds: dict[str, int] = {
        one.name: len(one.categories) for one in contract.features if one.categories
    }
    for output in contract.outputs:
        if isinstance(output, Label):
            kinds[output.name] = len(output.classes)
        elif isinstance(output, Ranking):
            kinds[output.name] = len(words[output.vocabulary])
    found = {
        name: bins_of(values.reshape(-1), kinds.get(name))
        for name, values in (
            *numbers_of_inputs(rows, contract),
            *numbers_of_outputs(outputs, contract),
        )
    }
    return {name: bins for name, bins in found.items() if bins is not None}


@dataclass(frozen=True)
class SegmentColumn:
    """A column whose values are segments: each from `first` on, in the order of `values`."""

    name: str
    first: int
    values: tuple[str, ...]

    def places(self, numbers: np.ndarray) -> np.ndarray:
        """Return the place of each row's value among them; a missing one has none."""
        known: np.ndarray = np.nan_to_num(numbers, nan=self.first - 1.0)
        return known.astype(np.int64) - self.first


@dataclass(frozen=True)
class ProfileLayout:
    """What a night is profiled in: bins by column, and the columns of segments."""

    bins: Mapping[str, Bins]
    segments: tuple[SegmentColumn, ...]

    @cached_property
    def digest(self) -> str:
        """Of the bins without their counts, and the segments."""
        said = {
            "bins": {n: [b.edges, b.values] for n, b in self.bins.items()},
            "segments": [[one.name, one.first, one.values] for one in self.segments],
        }
        return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()


def segment_columns(
    contract: Contract, names: Sequence[str]
) -> tuple[SegmentColumn, ...]:
    """Return what the segments of a pipeline are under a contract.

    Raises:
        ConfigError: a column is not there, or has too many values to be segments.
    """
    return tuple(_segment_column(contract, name) for name in names)


def _segment_column(contract: Contract, name: str) -> SegmentColumn:
    ids = {one.name: one for one in contract.inputs if isinstance(one, Ids)}
    features = {one.name: one for one in contract.features}
    if name in features:
        first, values = _values_of(features[name])
    elif name in ids:
        words = contract.vocabularies.get(ids[name].vocabulary or "", ())
        first, values = 0, tuple(map(str, words))
    else:
        msg = (
            f"segments name '{name}', which is no column of the release's contract; "
            f"those that can be segments are of {sorted(features | ids)}"
        )
        raise ConfigError(msg)
    if not 0 < len(values) <= MOST_SEGMENTS:
        found = f"{len(values):,} values" if values else "no list of values"
        msg = (
            f"segments name '{name}', which has {found} in the contract; expected "
            f"categories, or whole numbers between a `min` and a `max`, {MOST_SEGMENTS} "
            "at most"
        )
        raise ConfigError(msg)
    return SegmentColumn(name, first, values)


def _values_of(feature: Feature) -> tuple[int, tuple[str, ...]]:
    if feature.categories:
        return 0, tuple(feature.categories)
    whole = feature.dtype.startswith(("int", "uint")) or feature.dtype == "bool"
    low, high = (0, 1) if feature.dtype == "bool" else (feature.min, feature.max)
    if not whole or low is None or high is None or high - low >= MOST_SEGMENTS * 10:
        return 0, ()
    return int(low), tuple(str(n) for n in range(int(low), int(high) + 1))
