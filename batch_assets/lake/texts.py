"""Texts that a source gives, of which some bytes may not be UTF-8.

No column of the lake holds such bytes: Parquet says that a text is UTF-8, and who reads it
takes that for granted. So they are replaced when the row comes, and a column beside the
row says where they were, by which it goes to quarantine. Whole columns are looked at
first; only where one is broken are its texts read one by one. It knows no rules.
"""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from batch_assets.errors import SourceError
from batch_assets.lake.source_files import plain

# Of raw rows: what of each is not UTF-8, null if all is. No contract can name it so.
NOT_UTF8 = "not UTF-8"
FOUND = pa.list_(pa.string())
# So many texts are looked at together before one by one.
BLOCK = 1_024
# A longer key is told from others by the sha256 of its bytes, and not by all of them.
SHOWN_BYTES = 64


@dataclass(frozen=True)
class TakenRows:
    """Rows in the columns that were asked for.

    `found` says of each row what was not UTF-8 in it, as `FOUND`; None if nothing was.
    """

    rows: pa.Table
    found: pa.Array | None

    @property
    def broken(self) -> int:
        """How many rows had text that was not UTF-8."""
        return 0 if self.found is None else len(self.found) - self.found.null_count

    def must_be_whole(self, source: str) -> None:
        """Refuse rows with text that is not UTF-8.

        Raises:
            SourceError: with the column, and the bytes.
        """
        if self.found is not None:
            ((first, *_), *_) = self.found.drop_null().to_pylist()
            raise _refused(source, first)

    def with_found(self) -> pa.Table:
        """Return the rows with one more column, which says what was not UTF-8."""
        found = pa.nulls(len(self.rows), FOUND) if self.found is None else self.found
        return self.rows.append_column(pa.field(NOT_UTF8, FOUND), found)


def has_texts(schema: pa.Schema) -> bool:
    """Tell whether rows have a text, in a column or in a list."""
    return any(_is_text(dtype) for dtype in schema.types)


def taken(batch: pa.RecordBatch, schema: pa.Schema, key: str, source: str) -> TakenRows:
    """Cast rows to the columns that are wanted, and replace what is not UTF-8 in texts.

    Each byte that is none becomes U+FFFD. A key is followed by its bytes: of two that
    differ, no two look alike, nor like one that is whole. What is wanted as bytes stays
    as it is.

    Args:
        batch: rows as a source gives them, with these columns and perhaps others.
        schema: the columns that are wanted, of types in which each value fits.
        key: the column that names a row.
        source: of the rows, for an error.

    Raises:
        SourceError: a list is of a negative length.
    """
    broken = broken_columns(batch, source)
    columns = [_as_list(batch[name]) for name in schema.names]
    rows = pa.table(columns, schema.names).cast(schema)
    found: dict[int, list[str]] = {}
    for name in schema.names:
        if name not in broken or not _is_text(schema.field(name).type):
            continue
        whole, faults = _mended(rows[name].combine_chunks(), is_key=name == key)
        at = rows.schema.get_field_index(name)
        rows = rows.set_column(at, schema.field(name), whole)
        for row, where in faults:
            found.setdefault(row, []).append(f"{name} is {where}")
    if not found:
        return TakenRows(rows, None)
    told = pa.array([found.get(row) for row in range(len(rows))], FOUND)
    return TakenRows(rows, told)


def must_be_readable(batch: pa.RecordBatch, source: str) -> None:
    """Refuse texts that are not UTF-8 and lists of negative lengths, where no row waits.

    Raises:
        SourceError: with the column, and the row within the batch.
    """
    if broken := broken_columns(batch, source):
        name, why = next(iter(broken.items()))
        raise _refused(source, f"column '{name}': {why}")


def _refused(source: str, what: str) -> SourceError:
    return SourceError(
        f"{source} holds text that is not UTF-8: {what}. Nothing was committed; write the "
        "column again as UTF-8, or as binary that the source decodes."
    )


def broken_columns(batch: pa.RecordBatch, source: str) -> dict[str, str]:
    """Return the columns with text that is not UTF-8, each with what Arrow says of it.

    Raises:
        SourceError: a column holds what is no value of its type.
    """
    broken = {}
    for name, column in zip(batch.schema.names, batch.columns, strict=True):
        if not (_is_text(column.type) or pa.types.is_nested(column.type)):
            continue
        try:
            column.validate(full=True)
        except pa.ArrowInvalid as error:
            if "UTF8" in str(error):
                broken[name] = str(error)
                # Arrow looks at texts first, and stops there.
                column = _as_bytes(column)
            try:
                column.validate(full=True)
            except pa.ArrowInvalid as wrong:
                msg = (
                    f"column '{name}' of {source} holds what is no value of its type, "
                    f"such as a list of a negative length: {wrong}. Nothing was "
                    "committed; mend what writes the column, and run the day again."
                )
                raise SourceError(msg) from wrong
    return broken


def _as_list(column: pa.Array) -> pa.Array:
    """A list of views as a list of values: Arrow's cast takes their offsets for others."""
    dtype = column.type
    if not (pa.types.is_list_view(dtype) or pa.types.is_large_list_view(dtype)):
        return column
    lengths = pc.list_value_length(column).fill_null(0).to_numpy()
    offsets = pa.array(np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)]))
    flat = pc.list_flatten(column)
    return pa.LargeListArray.from_arrays(offsets, flat, mask=column.is_null())


def _as_bytes(column: pa.Array) -> pa.Array:
    """The same values, texts as their bytes; none of them is looked at."""
    dtype = column.type
    if pa.types.is_dictionary(dtype):
        words = _as_bytes(column.dictionary)
        return pa.DictionaryArray.from_arrays(column.indices, words)
    if pa.types.is_string(dtype):
        return column.view(pa.binary())
    if pa.types.is_large_string(dtype):
        return column.view(pa.large_binary())
    if pa.types.is_string_view(dtype):
        return column.cast(pa.binary_view())
    # A list, of which the contract knows; no other nested type is one of its columns.
    if not pa.types.is_nested(dtype) or dtype.num_fields != 1:
        return column
    values = _as_bytes(column.values)
    list_type = {
        pa.types.is_list: pa.list_,
        pa.types.is_large_list: pa.large_list,
        pa.types.is_list_view: pa.list_view,
        pa.types.is_large_list_view: pa.large_list_view,
    }
    made = next((make for is_one, make in list_type.items() if is_one(dtype)), None)
    if made is None:
        return values
    views = pa.types.is_list_view(dtype) or pa.types.is_large_list_view(dtype)
    buffers = column.buffers()[: 3 if views else 2]
    return pa.Array.from_buffers(
        made(values.type),
        len(column),
        buffers,
        offset=column.offset,
        children=[values],
    )


def _mended(
    column: pa.Array, *, is_key: bool
) -> tuple[pa.Array, Sequence[tuple[int, str]]]:
    """Return texts, or lists of them, in UTF-8, and of each row that was not, where."""
    if not pa.types.is_list(column.type):
        whole, faults = _whole(column, is_key=is_key)
        return whole, [(row, str(fault)) for row, fault in faults.items()]
    values, faults = _whole(column.values)
    whole = pa.Array.from_buffers(
        column.type,
        len(column),
        column.buffers()[:2],
        offset=column.offset,
        children=[values],
    )
    ends, there = column.offsets.to_numpy(), column.is_valid().to_numpy(False)
    first: dict[int, str] = {}
    for at, fault in faults.items():
        row = int(np.searchsorted(ends, at, side="right")) - 1
        # What lies below a null, or beside a slice, is of no row.
        if 0 <= row < len(column) and there[row]:
            first.setdefault(row, f"{fault} of element {at - ends[row]}")
    return whole, list(first.items())


def _whole(
    texts: pa.Array, *, is_key: bool = False
) -> tuple[pa.Array, dict[int, "_Fault"]]:
    """Return texts in UTF-8, and of each that was not, where."""
    data = texts.view(pa.binary())
    faults = dict(_faults(texts, data))
    if not faults:
        return texts, faults
    broken = np.zeros(len(texts), dtype=bool)
    broken[list(faults)] = True
    mended = [fault.shown(is_key=is_key) for fault in faults.values()]
    whole = pc.replace_with_mask(data, pa.array(broken), pa.array(mended, pa.binary()))
    return whole.cast(pa.string()), faults


@dataclass(frozen=True)
class _Fault:
    """A text that is not UTF-8: its bytes, and which of them is the first that is wrong."""

    data: bytes
    first: int
    past_last: int

    def __str__(self) -> str:
        wrong = self.data[self.first : self.past_last].hex()
        return f"not UTF-8 at byte {self.first} ({wrong})"

    def shown(self, *, is_key: bool) -> bytes:
        text = self.data.decode(errors="replace")
        if is_key:
            text += (
                f" (bytes {self.data.hex()})"
                if len(self.data) <= SHOWN_BYTES
                else f" (sha256 {hashlib.sha256(self.data).hexdigest()})"
            )
        return text.encode()


def _faults(texts: pa.Array, data: pa.Array) -> Iterator[tuple[int, _Fault]]:
    for start in range(0, len(texts), BLOCK):
        try:
            texts.slice(start, BLOCK).validate(full=True)
            continue
        except pa.ArrowInvalid:
            each = data.slice(start, BLOCK).to_pylist()
        for at, one in enumerate(each, start):
            try:
                (one or b"").decode()
            except UnicodeDecodeError as error:
                yield at, _Fault(one, error.start, error.end)


def _is_text(dtype: pa.DataType) -> bool:
    if pa.types.is_nested(dtype):
        return any(_is_text(dtype.field(at).type) for at in range(dtype.num_fields))
    return bool(plain(dtype) == pa.string())
