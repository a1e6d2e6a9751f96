"""What a model gives back for each row, as declared. It holds no row and no tensor.

scalar   a number
label    one of several classes: its name is written, its position is computed with
vector   as many numbers, such as an embedding
ranking  the best items of a vocabulary with their scores, the best first
"""

import math
import operator
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal, NamedTuple, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Discriminator, Field, Tag, model_validator

from batch_assets.models.input_specs import Name, Words
from batch_assets.strict import StrictModel

OUTPUT_TYPES = {
    "float32": pa.float32(),
    "float64": pa.float64(),
    "int32": pa.int32(),
    "int64": pa.int64(),
}
# What a ranking has where there is no more item.
NO_ITEM = -1
# The position of what is none of the words, or classes.
NOWHERE = -2


class OutputColumn(NamedTuple):
    """What an output is computed as: an array (rows,), or (rows, width) of several."""

    name: str
    dtype: str
    width: int | None = None

    def empty(self, rows: int) -> np.ndarray:
        """Return room for so many rows, of any content."""
        shape = rows if self.width is None else (rows, self.width)
        return np.empty(shape, self.dtype)


# By the name of its column.
Computed = Mapping[str, np.ndarray]
# By the name of the vocabulary.
Vocabularies = Mapping[str, Words]


class Output(StrictModel):
    """One number for each row, with its inclusive range."""

    name: Name
    dtype: Literal["float32", "float64", "int32", "int64"] = "float32"
    min: float | None = None
    max: float | None = None

    @model_validator(mode="after")
    def _range_holds_a_value(self) -> Self:
        low, high = self.bounds
        if not low <= high:
            msg = (
                f"output '{self.name}': no {self.dtype} lies between min {self.min} "
                f"and max {self.max}"
            )
            raise ValueError(msg)
        return self

    @property
    def bounds(self) -> tuple[float, float]:
        """The least and the most that are in range, as the output's own type has them.

        The nearest float32 to 0.1 is above 0.1, and a model that gives it gives what
        was declared. Infinity is in no range.
        """
        low = -math.inf if self.min is None else self.min
        high = math.inf if self.max is None else self.max
        if math.isnan(low) or math.isnan(high):
            return math.nan, math.nan
        if self.dtype in ("int32", "int64"):
            whole = np.iinfo(self.dtype)
            # Beyond the type before it is rounded: infinity is no whole number.
            least = math.ceil(max(low, float(whole.min)))
            most = math.floor(min(high, float(whole.max)))
            return max(least, whole.min), min(most, whole.max)
        real = np.finfo(self.dtype)
        least, most = np.clip([low, high], float(real.min), float(real.max))
        return float(real.dtype.type(least)), float(real.dtype.type(most))

    def in_range(self, values: np.ndarray) -> np.ndarray:
        """Return which values, in the output's own type, are finite and in its range."""
        low, high = self.bounds
        # NaN compares false.
        return (values >= low) & (values <= high)

    def are_in_range(self, values: np.ndarray) -> bool:
        """Return whether all values are, from the least and the most of them.

        Two passes instead of four, and nothing is written. NaN is the least of any.
        """
        low, high = self.bounds
        return not values.size or bool(low <= values.min() and values.max() <= high)

    @property
    def columns(self) -> tuple[OutputColumn, ...]:
        """What it is computed as."""
        return (OutputColumn(self.name, self.dtype),)

    def at_fault(self, computed: Computed, words: Vocabularies) -> np.ndarray | None:
        """Return which rows are not as declared, bool (rows,); None if all are."""
        values = computed[self.name]
        return None if self.are_in_range(values) else ~self.in_range(values)

    def why(self, computed: Computed, row: int, words: Vocabularies) -> str:
        """Return what is wrong with a row that is at fault."""
        return f"output '{self.name}' is {computed[self.name][row]}"

    def fields(self, words: Vocabularies) -> Iterator[pa.Field]:
        """Yield its columns as they are written."""
        yield pa.field(self.name, OUTPUT_TYPES[self.dtype])

    def written(self, computed: Computed, words: Vocabularies) -> Iterator[pa.Array]:
        """Yield the same columns of rows that are as declared."""
        yield pa.array(computed[self.name])

    def plain(self, computed: Computed, words: Vocabularies) -> list[Any]:
        """Return it for each row that is as declared, as JSON has it."""
        return list(computed[self.name].tolist())

    def read(self, table: pa.Table, words: Vocabularies) -> dict[str, np.ndarray]:
        """Return what was written as it was computed; what was not so is at fault then."""
        return {self.name: table[self.name].to_numpy()}


class Label(StrictModel):
    """One of several classes for each row: int32 positions, written by their names."""

    kind: Literal["label"] = "label"
    name: Name
    classes: tuple[str, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _no_class_twice(self) -> Self:
        if len(set(self.classes)) < len(self.classes):
            msg = f"label '{self.name}': a class is listed twice"
            raise ValueError(msg)
        return self

    @property
    def columns(self) -> tuple[OutputColumn, ...]:
        return (OutputColumn(self.name, "int32"),)

    def at_fault(self, computed: Computed, words: Vocabularies) -> np.ndarray | None:
        values = computed[self.name]
        wrong = (values < 0) | (values >= len(self.classes))
        return wrong if wrong.any() else None

    def why(self, computed: Computed, row: int, words: Vocabularies) -> str:
        return (
            f"label '{self.name}' is {computed[self.name][row]}, expected the position "
            f"of one of {len(self.classes)} classes"
        )

    def fields(self, words: Vocabularies) -> Iterator[pa.Field]:
        yield pa.field(self.name, pa.string())

    def written(self, computed: Computed, words: Vocabularies) -> Iterator[pa.Array]:
        positions = computed[self.name]
        yield pa.DictionaryArray.from_arrays(positions, pa.array(self.classes))

    def plain(self, computed: Computed, words: Vocabularies) -> list[Any]:
        return [self.classes[at] for at in computed[self.name].tolist()]

    def read(self, table: pa.Table, words: Vocabularies) -> dict[str, np.ndarray]:
        names = table[self.name].cast(pa.string())
        positions = pc.index_in(names, value_set=pa.array(self.classes))
        return {self.name: positions.fill_null(NOWHERE).to_numpy()}


class VectorOutput(Output):
    """As many numbers for each row, each in the range: (rows, size)."""

    kind: Literal["vector"] = "vector"
    dtype: Literal["float32", "float64"] = "float32"
    size: int = Field(ge=1)

    @property
    def columns(self) -> tuple[OutputColumn, ...]:
        return (OutputColumn(self.name, self.dtype, self.size),)

    def at_fault(self, computed: Computed, words: Vocabularies) -> np.ndarray | None:
        wrong = super().at_fault(computed, words)
        return None if wrong is None else np.asarray(wrong.any(axis=1))

    def why(self, computed: Computed, row: int, words: Vocabularies) -> str:
        values = computed[self.name][row]
        at = int(np.flatnonzero(~self.in_range(values))[0])
        return f"output '{self.name}' is {values[at]} at position {at}"

    def fields(self, words: Vocabularies) -> Iterator[pa.Field]:
        yield pa.field(self.name, pa.list_(OUTPUT_TYPES[self.dtype]))

    def written(self, computed: Computed, words: Vocabularies) -> Iterator[pa.Array]:
        values = computed[self.name]
        ends = np.arange(len(values) + 1, dtype=np.int32) * self.size
        yield pa.ListArray.from_arrays(ends, pa.array(values.reshape(-1)))

    def read(self, table: pa.Table, words: Vocabularies) -> dict[str, np.ndarray]:
        values, lengths = _flat(table[self.name])
        found = np.full((len(lengths), self.size), np.nan, self.dtype)
        found[lengths == self.size] = values[
            np.repeat(lengths == self.size, lengths)
        ].reshape(-1, self.size)
        return {self.name: found}


class Ranking(StrictModel):
    """The best items for each row, the best first, with a score each.

    They are computed as int64 positions in a vocabulary and float32 scores, (rows, width)
    each, and written as `<name>`, a list of the items' words, and `<name>_scores`. Where
    there are fewer, the rest is `NO_ITEM`.

    Attributes:
        name: of the column of items.
        vocabulary: the contract's, of all items that can be ranked.
        k: the most items of a row that a reader is shown.
        spare: so many more are kept, the next best, for items that are denied later.
        at_least: a row with fewer is at fault; k unless said.
        min: of a score, inclusive.
        max: of a score, inclusive.
    """

    kind: Literal["ranking"] = "ranking"
    name: Name
    vocabulary: Name
    k: int = Field(ge=1)
    spare: int = Field(default=0, ge=0, exclude_if=operator.not_)
    at_least: int | None = Field(default=None, ge=0)
    min: float | None = None
    max: float | None = None

    @property
    def width(self) -> int:
        """How many items of a row are kept, at most."""
        return self.k + self.spare

    @property
    def scores(self) -> str:
        """The column of scores."""
        return f"{self.name}_scores"

    @property
    def columns(self) -> tuple[OutputColumn, ...]:
        return (
            OutputColumn(self.name, "int64", self.width),
            OutputColumn(self.scores, "float32", self.width),
        )

    def must_fit(self, words: Vocabularies) -> None:
        """Refuse a vocabulary that is not there, or has fewer words than are ranked."""
        known = words.get(self.vocabulary)
        if known is None:
            msg = (
                f"ranking '{self.name}' has the vocabulary '{self.vocabulary}', and the "
                f"contract has {sorted(words) or 'none'}"
            )
            raise ValueError(msg)
        if self.width > len(known):
            spare = f" and spare {self.spare}" * bool(self.spare)
            msg = (
                f"ranking '{self.name}': k is {self.k}{spare}, and the vocabulary "
                f"'{self.vocabulary}' has {len(known)} words"
            )
            raise ValueError(msg)
        if self.at_least is not None and self.at_least > self.k:
            msg = f"ranking '{self.name}': at_least {self.at_least} is above k {self.k}"
            raise ValueError(msg)

    def at_fault(self, computed: Computed, words: Vocabularies) -> np.ndarray | None:
        wrong = np.logical_or.reduce([rows for _, rows in self._rules(computed, words)])
        return wrong if wrong.any() else None

    def why(self, computed: Computed, row: int, words: Vocabularies) -> str:
        one = {name: values[row : row + 1] for name, values in computed.items()}
        broken = [why for why, rows in self._rules(one, words) if rows[0]]
        items, scores = one[self.name][0], one[self.scores][0]
        return (
            f"ranking '{self.name}' {broken[0]}: positions {items[:5].tolist()}, "
            f"scores {scores[:5].tolist()}, and so on"
        )

    def _rules(
        self, computed: Computed, words: Vocabularies
    ) -> Iterator[tuple[str, np.ndarray]]:
        """What a ranking may not be, and which rows are that."""
        items, scores = computed[self.name], computed[self.scores]
        there = items != NO_ITEM
        least = self.k if self.at_least is None else self.at_least
        count = there.sum(axis=1)
        yield f"has fewer than {least} items", count < least
        yield "has a gap between its items", _any(there[:, 1:] & ~there[:, :-1])
        most = len(words[self.vocabulary]) - 1
        yield f"has no item from 0 to {most}", _any((items < NO_ITEM) | (items > most))
        ordered = np.sort(items, axis=1)
        twice = (ordered[:, 1:] == ordered[:, :-1]) & (ordered[:, 1:] != NO_ITEM)
        yield "has an item twice", _any(twice)
        low = -np.inf if self.min is None else np.float32(self.min)
        high = np.inf if self.max is None else np.float32(self.max)
        fits = np.isfinite(scores) & (scores >= low) & (scores <= high)
        yield (
            "has a score that is not finite or out of range",
            (there & ~fits).any(axis=1),
        )
        with np.errstate(invalid="ignore"):
            rises = there[:, 1:] & (scores[:, 1:] > scores[:, :-1])
        yield "is not in descending order", _any(rises)

    def fields(self, words: Vocabularies) -> Iterator[pa.Field]:
        text = isinstance(words[self.vocabulary][0], str)
        yield pa.field(self.name, pa.list_(pa.string() if text else pa.int64()))
        yield pa.field(self.scores, pa.list_(pa.float32()))

    def written(self, computed: Computed, words: Vocabularies) -> Iterator[pa.Array]:
        items = computed[self.name]
        there = items != NO_ITEM
        ends = np.concatenate([[0], np.cumsum(there.sum(axis=1))]).astype(np.int32)
        known = pa.array(words[self.vocabulary])
        yield pa.ListArray.from_arrays(ends, known.take(pa.array(items[there])))
        scores = pa.array(computed[self.scores][there])
        yield pa.ListArray.from_arrays(ends, scores)

    def plain(self, computed: Computed, words: Vocabularies) -> list[Any]:
        known = words[self.vocabulary]
        rows = zip(
            computed[self.name].tolist(), computed[self.scores].tolist(), strict=True
        )
        return [
            [
                {"item": known[item], "score": score}
                for item, score in zip(items, scores, strict=True)
                if item != NO_ITEM
            ]
            for items, scores in rows
        ]

    def read(self, table: pa.Table, words: Vocabularies) -> dict[str, np.ndarray]:
        known = pa.array(words[self.vocabulary])
        items, lengths = _flat(table[self.name], known)
        scores, of_scores = _flat(table[self.scores])
        fits = (lengths == of_scores) & (lengths <= self.width)
        there = (np.arange(self.width) < lengths[:, None]) & fits[:, None]
        found = np.full(there.shape, NO_ITEM, np.int64)
        found[~fits] = NOWHERE
        found[there] = items[np.repeat(fits, lengths)]
        found_scores = np.zeros(there.shape, np.float32)
        found_scores[there] = scores[np.repeat(fits, of_scores)]
        return {self.name: found, self.scores: found_scores}


def _flat(
    column: pa.ChunkedArray, words: pa.Array | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """The values of all lists, or their positions among words, and each list's length."""
    lists = column.combine_chunks()
    values = lists.flatten()
    if words is not None:
        values = pc.index_in(values, value_set=words).cast(pa.int64())
        values = values.fill_null(NOWHERE)
    lengths = pc.list_value_length(lists).fill_null(0)
    return values.to_numpy(zero_copy_only=False), lengths.to_numpy()


def _any(values: np.ndarray) -> np.ndarray:
    """Whether any of a row is true, (rows,)."""
    return np.asarray(values.any(axis=1))


def _kind(given: Any) -> str:
    """A scalar has no kind: releases of before there were others don't say it."""
    if isinstance(given, dict):
        return str(given.get("kind", "scalar"))
    return str(getattr(given, "kind", "scalar"))


AnyOutput = Annotated[
    Annotated[Output, Tag("scalar")]
    | Annotated[Label, Tag("label")]
    | Annotated[VectorOutput, Tag("vector")]
    | Annotated[Ranking, Tag("ranking")],
    Discriminator(_kind),
]
