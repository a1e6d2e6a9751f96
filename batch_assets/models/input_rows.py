"""Rows as a model gets them: one matrix of features, and a column for each other input.

They are cut and put in another order without a look at what is in them, and become
tensors at the last moment: only then is a sequence padded, to the longest of its batch.
A text is a list of its bytes until it is tokenised, and one of ids after that. It knows
no file, no tokenizer and no device.
"""

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np
import pyarrow as pa
import torch

from batch_assets.models.contract import FEATURES, Contract
from batch_assets.models.input_specs import Ids, Text, Vector
from batch_assets.models.input_specs import Sequence as SequenceSpec
from batch_assets.models.release import Takes


@dataclass(frozen=True)
class Lists:
    """A list for each row: the values of all, and where each begins and ends.

    `values` is (elements,), `offsets` int64 (rows + 1,), from 0 to as many elements.
    """

    values: np.ndarray
    offsets: np.ndarray

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def lengths(self) -> np.ndarray:
        """Of each list, int64 (rows,)."""
        return np.diff(self.offsets)

    def slice(self, start: int, stop: int) -> "Lists":
        """Return the lists of some rows, one after the other."""
        offsets = self.offsets[start : stop + 1]
        return Lists(self.values[offsets[0] : offsets[-1]], offsets - offsets[0])

    def take(self, places: np.ndarray) -> "Lists":
        """Return the lists at these places, in their order."""
        lengths = self.lengths[places]
        offsets = np.concatenate([[0], np.cumsum(lengths)])
        moved = np.repeat(self.offsets[places] - offsets[:-1], lengths)
        return Lists(self.values[np.arange(offsets[-1]) + moved], offsets)

    @classmethod
    def of_arrow(cls, column: pa.ChunkedArray | pa.Array) -> Self:
        """Take them from a column of lists without nulls."""
        if isinstance(column, pa.ChunkedArray):
            column = column.combine_chunks()
        offsets = column.offsets.to_numpy().astype(np.int64)
        values = column.flatten().to_numpy(zero_copy_only=False)
        return cls(values, offsets - offsets[0])

    @classmethod
    def of(cls, lists: Sequence[Any], dtype: str) -> Self:
        """Take them from lists, arrays or tensors."""
        arrays = [np.asarray(one, dtype) for one in lists]
        offsets = np.concatenate([[0], np.cumsum([len(one) for one in arrays])])
        values = np.concatenate(arrays) if arrays else np.empty(0, dtype)
        return cls(values.astype(dtype), offsets.astype(np.int64))

    @classmethod
    def of_texts(cls, texts: pa.ChunkedArray | pa.Array | Sequence[str]) -> Self:
        """Take the bytes of texts, uint8, from a column without nulls, or from strings."""
        if isinstance(texts, pa.ChunkedArray):
            texts = texts.cast(pa.large_string()).combine_chunks()
        column = pa.array(texts, pa.large_string())
        _, ends, data = column.buffers()
        if not len(column):
            return cls(np.empty(0, np.uint8), np.zeros(1, np.int64))
        offsets = np.frombuffer(ends, np.int64)[column.offset :][: len(column) + 1]
        values = np.frombuffer(data or b"", np.uint8)[offsets[0] : offsets[-1]]
        return cls(values, offsets - offsets[0])

    def to_texts(self) -> pa.Array:
        """Return them as a column of the texts that they are the bytes of."""
        data = np.ascontiguousarray(self.values)
        buffers = [None, *map(pa.py_buffer, (self.offsets, data))]
        return pa.Array.from_buffers(pa.large_string(), len(self), buffers)

    def to_arrow(self) -> pa.Array:
        """Return them as a column of lists."""
        offsets = pa.array(self.offsets.astype(np.int32))
        return pa.ListArray.from_arrays(offsets, pa.array(self.values))

    def padded(self, fill: int = 0) -> tuple[np.ndarray, np.ndarray]:
        """Return the values (rows, longest), filled at the end, and where there is one."""
        lengths = self.lengths
        longest = max(int(lengths.max(initial=0)), 1)
        there = np.arange(longest) < lengths[:, None]
        room = np.full(there.shape, fill, self.values.dtype)
        room[there] = self.values
        return room, there


Values = np.ndarray | Lists


@dataclass(frozen=True)
class SideItems:
    """Items that a side table lists, and for which rows: positions in a vocabulary.

    `lists` are of groups of rows, `group` is that of each row, (rows,); None where the
    first list is of every row.
    """

    lists: Lists
    group: np.ndarray | None = None

    def take(self, places: np.ndarray | slice) -> "SideItems":
        """Return the same for some rows."""
        return self if self.group is None else SideItems(self.lists, self.group[places])


@dataclass(frozen=True)
class InputRows:
    """Rows as the model gets them.

    Attributes:
        features: float32 (features, rows), row-major: one run of memory per feature;
            or the same on a device that they were sent to.
        columns: of the other inputs, by name: int64 (rows,) of ids, float32 (rows, size)
            of a vector, lists of a sequence; of a text its bytes or the ids of its tokens.
        side: what side tables list for them, by the table's name.
    """

    features: np.ndarray | torch.Tensor
    columns: Mapping[str, Values] = field(default_factory=dict)
    side: Mapping[str, SideItems] = field(default_factory=dict)

    @classmethod
    def of(cls, rows: "np.ndarray | InputRows") -> "InputRows":
        """Take rows that are features alone as they are."""
        return rows if isinstance(rows, InputRows) else cls(rows)

    def __len__(self) -> int:
        return int(self.features.shape[1])

    def slice(self, start: int, stop: int) -> "InputRows":
        """Return some rows, without a copy of them."""
        columns = {
            name: values.slice(start, stop)
            if isinstance(values, Lists)
            else values[start:stop]
            for name, values in self.columns.items()
        }
        side = {name: one.take(slice(start, stop)) for name, one in self.side.items()}
        return InputRows(self.features[:, start:stop], columns, side)

    def take(self, places: np.ndarray) -> "InputRows":
        """Return the rows at these places, in their order."""
        columns = {
            name: values.take(places) if isinstance(values, Lists) else values[places]
            for name, values in self.columns.items()
        }
        side = {name: one.take(places) for name, one in self.side.items()}
        features = self.features
        if isinstance(features, np.ndarray):
            # An index would leave one run of memory per row: 40 times as slow to count.
            return InputRows(np.take(features, places, axis=1), columns, side)
        return InputRows(features[:, places], columns, side)


def input_columns(table: pa.Table, contract: Contract) -> dict[str, Values]:
    """Take the inputs beside the features from validated rows."""
    columns: dict[str, Values] = {}
    for one in contract.inputs:
        for column in one.fields():
            values = table[column.name]
            if isinstance(one, SequenceSpec):
                columns[column.name] = Lists.of_arrow(values)
            elif isinstance(one, Text):
                columns[column.name] = Lists.of_texts(values)
            elif isinstance(one, Vector):
                flat = Lists.of_arrow(values).values
                columns[column.name] = flat.reshape(len(table), one.size)
            else:
                columns[column.name] = values.to_numpy()
    return columns


def to_arrow(rows: InputRows, contract: Contract) -> list[pa.Array]:
    """Return validated columns, in the contract's order, without the key."""
    arrays = [pa.array(feature) for feature in rows.features]
    for one in contract.inputs:
        for column in one.fields():
            values = rows.columns[column.name]
            if isinstance(values, np.ndarray) and values.ndim == 2:
                ends = np.arange(len(values) + 1, dtype=np.int32) * values.shape[1]
                flat = pa.array(np.ascontiguousarray(values).reshape(-1))
                arrays.append(pa.ListArray.from_arrays(ends, flat))
            elif isinstance(values, Lists):
                text = isinstance(one, Text)
                arrays.append(
                    values.to_texts().cast(column.type) if text else values.to_arrow()
                )
            else:
                arrays.append(pa.array(values))
    return arrays


def longest_of(rows: InputRows, contract: Contract) -> np.ndarray | None:
    """Return how long each row's longest sequence is that the model gets; None if none.

    A text is as long as it has tokens.
    """
    given = [
        one.name if isinstance(one, Text) else one.columns[0].name
        for one in contract.inputs
        if isinstance(one, Text) or (isinstance(one, SequenceSpec) and one.given)
    ]
    lengths = [rows.columns[name].lengths for name in given]  # type: ignore[union-attr]
    return np.maximum.reduce(lengths) if lengths else None


def longest_allowed(contract: Contract) -> int:
    """Return the most positions of a sequence or text that the model gets; 0 if none."""
    lengths = [
        one.max_length
        for one in contract.inputs
        if isinstance(one, SequenceSpec | Text) and one.max_length
    ]
    return max(lengths, default=0)


def not_too_few(rows: InputRows, contract: Contract) -> InputRows:
    """Return rows with one more at the end where ragged sequences hold next to nothing.

    torch.export takes for granted that there are two rows, and two elements.
    """
    ragged = [
        column.name
        for one in contract.inputs
        if isinstance(one, SequenceSpec) and one.form == "ragged"
        for column in one.columns
    ]
    few = [name for name in ragged if len(rows.columns[name].values) < 2]  # type: ignore[union-attr]
    if not ragged or (len(rows) > 1 and not few):
        return rows
    more = rows.take(np.append(np.arange(len(rows)), len(rows) - 1))
    columns = dict(more.columns)
    for name in ragged:
        lists = columns[name]
        assert isinstance(lists, Lists)
        values = np.append(lists.values, np.zeros(2, lists.values.dtype))
        offsets = lists.offsets.copy()
        offsets[-1] = len(values)
        columns[name] = Lists(values, offsets)
    return InputRows(more.features, columns, more.side)


def padded_names(contract: Contract) -> set[str]:
    """Return the tensors (rows, longest) that are as wide as the longest of their batch."""
    return {
        name
        for one in contract.inputs
        if isinstance(one, Text)
        or (isinstance(one, SequenceSpec) and one.form == "padded")
        for name in (
            one.tensors
            if isinstance(one, Text)
            else (*(column.name for column in one.columns), one.mask)
        )
    }


def tensors_of(rows: InputRows, contract: Contract) -> dict[str, torch.Tensor]:
    """Return what the model is called with: tensors by name, in the contract's order.

    `features` (rows, features), a transposed view; ids int64 (rows,); a vector float32
    (rows, size); of a sequence each column padded (rows, longest) with `<name>_mask`,
    or its values (elements,) with `<name>_offsets` (rows + 1,); of a text, which must be
    tokenised, the ids int64 (rows, longest) and their mask.
    """
    tensors: dict[str, torch.Tensor] = {}
    if contract.features:
        # The transposed view costs nothing; the matrix product takes it.
        tensors[FEATURES] = torch.from_numpy(rows.features).T
    for one in contract.inputs:
        if isinstance(one, SequenceSpec):
            if one.given:
                tensors |= _of_sequence(one, rows)
        elif isinstance(one, Text):
            tensors |= _of_text(one, rows)
        else:
            values = rows.columns[one.name]
            tensors[one.name] = torch.from_numpy(np.ascontiguousarray(values))
    return tensors


def _of_sequence(one: SequenceSpec, rows: InputRows) -> dict[str, torch.Tensor]:
    tensors: dict[str, torch.Tensor] = {}
    for column in one.columns:
        lists = rows.columns[column.name]
        assert isinstance(lists, Lists)
        if one.form == "ragged":
            tensors[column.name] = torch.from_numpy(np.ascontiguousarray(lists.values))
            extra = one.offsets, lists.offsets
        else:
            values, there = lists.padded()
            tensors[column.name] = torch.from_numpy(values)
            extra = one.mask, there
    tensors[extra[0]] = torch.from_numpy(np.ascontiguousarray(extra[1]))
    return tensors


def _of_text(one: Text, rows: InputRows) -> dict[str, torch.Tensor]:
    tokens = rows.columns[one.name]
    if not isinstance(tokens, Lists) or tokens.values.dtype == np.uint8:
        msg = f"text '{one.name}' was not tokenised before the model was asked"
        raise TypeError(msg)
    ids, there = tokens.padded(one.pad or 0)
    given = torch.from_numpy(ids.astype(np.int64)), torch.from_numpy(there)
    return dict(zip(one.tensors, given, strict=True))


def call(
    module: Callable[..., Any], tensors: Mapping[str, torch.Tensor], takes: Takes
) -> Any:
    """Ask a module, which takes its tensors in their order, by name, or in one dict."""
    if takes == "position":
        return module(*tensors.values())
    if takes == "dict":
        return module(dict(tensors))
    return module(**tensors)


def usual_takes(module: Any, contract: Contract) -> Takes:
    """Return how a module takes its tensors where nobody says: by position or by name.

    One matrix of features has no name to go by. Neither need a single tensor have one
    that the module knows; of several a mistake in the order would not be seen.
    """
    if not contract.inputs:
        return "position"
    alone = not contract.features and len(contract.inputs) == 1
    if not alone or not isinstance(contract.inputs[0], Ids | Vector):
        return "name"
    takes = inspect.signature(getattr(module, "forward", module)).parameters.values()
    needed = [one.name for one in takes if one.default is one.empty]
    return "name" if contract.inputs[0].name in needed else "position"
