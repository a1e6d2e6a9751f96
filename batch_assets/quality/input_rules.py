"""The row rules of ids, vectors, sequences and texts, and their values as a chunk has them.

Rules are asked of whole columns: of a list all values lie side by side, and what is found
of a value is brought back to its row. It reads no file.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from batch_assets.models.contract import Contract
from batch_assets.models.input_rows import Lists
from batch_assets.models.input_specs import (
    Column,
    Ids,
    Input,
    Sequence,
    Text,
    Values,
    Vector,
)

# The position of a value that has none: a null, or a word that is in no vocabulary.
NOWHERE = -1


class InputRules:
    """The rules of a contract's inputs beside its features."""

    def __init__(self, contract: Contract) -> None:
        self._contract = contract
        self._words = {
            name: pa.array(words) for name, words in contract.vocabularies.items()
        }

    def broken(self, rows: pa.Table) -> Iterator[tuple[str, np.ndarray]]:
        """Yield each rule that a row breaks, and which rows do, bool (rows,)."""
        for one in self._contract.inputs:
            for rule, breaks in self._rules(one, rows):
                if breaks.any():
                    yield rule, breaks

    def prepared(self, rows: pa.Table) -> dict[str, pa.Array | pa.ChunkedArray]:
        """Return the columns of good rows as the model gets them, by name; texts as such."""
        columns: dict[str, pa.Array | pa.ChunkedArray] = {}
        for one in self._contract.inputs:
            if isinstance(one, Ids):
                positions = self._positions(one, rows[one.name])
                columns[one.name] = pa.array(_filled(positions, one))
            elif isinstance(one, Vector):
                columns[one.name] = rows[one.name].combine_chunks()
            elif isinstance(one, Text):
                columns[one.name] = rows[one.name].cast(pa.large_string()).fill_null("")
            else:
                columns |= self._cut(one, rows)
        return columns

    def _rules(self, one: Input, rows: pa.Table) -> Iterator[tuple[str, np.ndarray]]:
        if isinstance(one, Ids):
            yield from self._rules_of_ids(one, rows[one.name])
        elif isinstance(one, Vector):
            yield from _rules_of_vector(one, rows[one.name])
        elif isinstance(one, Text):
            yield from _rules_of_text(one, rows[one.name])
        else:
            yield from self._rules_of_sequence(one, rows)

    def _rules_of_ids(
        self, one: Ids, column: pa.ChunkedArray
    ) -> Iterator[tuple[str, np.ndarray]]:
        null = _nulls(column)
        if not one.nullable:
            yield f"{one.name} is null", null
        if one.vocabulary is None:
            # Whatever is no position, and no null.
            yield _not_below(one, "is"), (self._positions(one, column) < 0) & ~null
        elif one.unknown is None:
            unknown = (self._positions(one, column) < 0) & ~null
            yield f"{one.name} is not in the vocabulary", unknown

    def _rules_of_sequence(
        self, one: Sequence, rows: pa.Table
    ) -> Iterator[tuple[str, np.ndarray]]:
        flat = {column.name: _Flat.of(rows[column.name]) for column in one.columns}
        first = flat[one.columns[0].name]
        for name, other in list(flat.items())[1:]:
            uneven = other.lengths != first.lengths
            yield f"{name} is not as long as {one.columns[0].name}", uneven
            if uneven.any():
                # Element by element they can't be compared any more.
                return
        yield f"{one.name} is longer than {one.longest}", first.lengths > one.longest
        for column in one.columns:
            yield from self._rules_of_elements(column, flat[column.name])
        known = self._known(one, flat)
        count = first.per_row(known)
        yield f"{one.name} is shorter than {one.min_length}", count < one.min_length
        few = count < np.ceil(one.min_known * first.lengths - 1e-9)
        yield f"{one.name} has too few known ids", few

    def _rules_of_elements(
        self, column: Column, flat: "_Flat"
    ) -> Iterator[tuple[str, np.ndarray]]:
        null = _nulls(flat.values)
        yield f"{column.name} holds a null", flat.any_of(null)
        if column.is_float:
            yield from _rules_of_numbers(column, flat)
        elif column.vocabulary is None:
            outside = (self._positions(column, flat.values) < 0) & ~null
            yield _not_below(column, "holds"), flat.any_of(outside)

    def _known(self, one: Sequence, flat: Mapping[str, "_Flat"]) -> np.ndarray:
        """Which elements stay: those whose ids have a position, or that of `unknown`."""
        known = np.ones(len(flat[one.columns[0].name].values), dtype=bool)
        for column in one.columns:
            if column.vocabulary is not None and column.unknown is None:
                known &= self._positions(column, flat[column.name].values) >= 0
        return known

    def _cut(self, one: Sequence, rows: pa.Table) -> dict[str, pa.Array]:
        """The columns of a sequence without unknown elements, and no longer than allowed."""
        flat = {column.name: _Flat.of(rows[column.name]) for column in one.columns}
        first = flat[one.columns[0].name]
        known = self._known(one, flat)
        lengths = first.per_row(known)
        # Each known element's place in its list, from the end that is kept.
        ends = np.cumsum(lengths)
        place = np.arange(len(known))[: int(known.sum())]
        place = (
            np.repeat(ends, lengths) - 1 - place
            if one.keep == "tail"
            else place - np.repeat(ends - lengths, lengths)
        )
        most = one.max_length or one.longest
        kept = place < most
        offsets = np.concatenate([[0], np.cumsum(np.minimum(lengths, most))])
        columns = {}
        for column in one.columns:
            values = flat[column.name].values
            taken = (
                values.to_numpy(zero_copy_only=False)
                if column.is_float
                else _filled(self._positions(column, values), column)
            )
            columns[column.name] = Lists(taken[known][kept], offsets).to_arrow()
        return columns

    def _positions(
        self, column: Values, values: pa.Array | pa.ChunkedArray
    ) -> np.ndarray:
        """The position of each id; `NOWHERE` of what has none."""
        if column.vocabulary is not None:
            words = self._words[column.vocabulary]
            found = pc.index_in(
                values.cast(words.type), value_set=words, skip_nulls=True
            )
            found = found.fill_null(NOWHERE)
            return np.asarray(found.to_numpy(zero_copy_only=False), np.int64)
        ids = values.cast(pa.int64()).fill_null(NOWHERE).to_numpy()
        return np.where((ids >= 0) & (ids < column.size), ids, NOWHERE)


@dataclass(frozen=True)
class _Flat:
    """The values of all lists side by side, and how long each list is, int64 (rows,)."""

    values: pa.Array
    lengths: np.ndarray

    @classmethod
    def of(cls, column: pa.ChunkedArray) -> "_Flat":
        lists = column.combine_chunks()
        lengths = pc.list_value_length(lists).fill_null(0).to_numpy()
        return cls(lists.flatten(), lengths.astype(np.int64))

    def per_row(self, values: np.ndarray) -> np.ndarray:
        """Count in each row the values that are marked."""
        sums = np.concatenate([[0], np.cumsum(values)])
        ends = np.cumsum(self.lengths)
        return np.asarray(sums[ends] - sums[ends - self.lengths])

    def any_of(self, values: np.ndarray) -> np.ndarray:
        """Tell of each row whether a value of it is marked."""
        if not values.any():
            return np.zeros(len(self.lengths), dtype=bool)
        return self.per_row(values) > 0


def _rules_of_vector(
    one: Vector, column: pa.ChunkedArray
) -> Iterator[tuple[str, np.ndarray]]:
    null = _nulls(column)
    yield f"{one.name} is null", null
    flat = _Flat.of(column)
    yield f"{one.name} has not {one.size} numbers", (flat.lengths != one.size) & ~null
    yield f"{one.name} holds a null", flat.any_of(_nulls(flat.values))
    yield from _rules_of_numbers(one.columns[0], flat)


def _rules_of_text(
    one: Text, column: pa.ChunkedArray
) -> Iterator[tuple[str, np.ndarray]]:
    null = _nulls(column)
    if not one.nullable:
        yield f"{one.name} is null", null
    texts, broken = _as_texts(column)
    yield f"{one.name} is not UTF-8", broken
    lengths = pc.utf8_length(texts).fill_null(0).to_numpy()
    told = null | broken
    yield (
        f"{one.name} is shorter than {one.min_length}",
        ((lengths < one.min_length) & ~told),
    )
    yield f"{one.name} is longer than {one.longest}", (lengths > one.longest) & ~told


def _as_texts(column: pa.ChunkedArray) -> tuple[pa.ChunkedArray, np.ndarray]:
    """Texts, null where they are not UTF-8, and which are not, bool (rows,)."""
    try:
        texts = column.cast(pa.large_string())
    except pa.ArrowInvalid:
        # Arrow does not say which: they are tried one by one.
        each = [_decoded(one.as_py()) for one in column]
        texts = pa.chunked_array([pa.array(each, pa.large_string())])
    return texts, _nulls(texts) & ~_nulls(column)


def _decoded(text: bytes | None) -> str | None:
    try:
        return None if text is None else text.decode()
    except UnicodeDecodeError:
        return None


def _rules_of_numbers(column: Column, flat: _Flat) -> Iterator[tuple[str, np.ndarray]]:
    values = flat.values.fill_null(0).to_numpy(zero_copy_only=False)
    name, finite = column.name, np.isfinite(values)
    yield f"{name} holds NaN or infinity", flat.any_of(~finite)
    if column.min is not None:
        low = finite & (values < column.min)
        yield f"{name} holds a value below min", flat.any_of(low)
    if column.max is not None:
        high = finite & (values > column.max)
        yield f"{name} holds a value above max", flat.any_of(high)


def _not_below(column: Values, verb: str) -> str:
    return f"{column.name} {verb} no id from 0 to {(column.size or 0) - 1}"


def _nulls(column: pa.Array | pa.ChunkedArray) -> np.ndarray:
    if not column.null_count:
        return np.zeros(len(column), dtype=bool)
    null = pc.is_null(column)
    if isinstance(null, pa.ChunkedArray):
        null = null.combine_chunks()
    return np.asarray(null.to_numpy(zero_copy_only=False))


def _filled(positions: np.ndarray, column: Values) -> np.ndarray:
    """Positions, with that of `unknown` for what has none."""
    if column.unknown is None:
        return positions
    return np.where(positions == NOWHERE, column.unknown, positions)
