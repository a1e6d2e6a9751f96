"""Rows as a model gets them: one matrix of features, and a column for each other input.

They are cut and put in another order without a look at what is in them. A text is a list
of its bytes until it is tokenised, and one of ids after that. It knows no file, no
tokenizer and no device, and needs no torch: who only counts rows does not wait for it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import pyarrow as pa

from batch_assets.models.contract import Contract
from batch_assets.models.input_specs import Sequence as SequenceSpec
from batch_assets.models.input_specs import Text, Vector

if TYPE_CHECKING:
    import torch


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

    features: "np.ndarray | torch.Tensor"
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
