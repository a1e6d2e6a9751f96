"""Columns of a database's result as a contract wants them, or what to write to get them.

A value is carried over only if it is the same value there: a whole number that does not
fit stops the night. It knows types, and no database.
"""

from collections.abc import Iterator

import pyarrow as pa
from pyarrow import types

from batch_assets.errors import ContractError, SourceError
from batch_assets.lake.source_files import plain

# Whole numbers of so many bits are themselves as a float of so many.
WHOLE = {32: 16, 64: 32}
# SQL has no whole number of one byte in most databases: the next one is narrowed here.
SQL = {
    pa.bool_(): "boolean",
    pa.int8(): "smallint",
    pa.int16(): "smallint",
    pa.int32(): "integer",
    pa.int64(): "bigint",
    pa.float32(): "real",
    pa.float64(): "double precision",
    pa.string(): "text",
    pa.binary(): "bytea",
}
# Where Arrow has another word for a type than a contract.
WORDS = {"float": "float32", "double": "float64"}
# What the driver calls the type in the database, if it tells.
TOLD_AS = (b"ADBC:postgresql:typname", b"POSTGRESQL:type")


def as_wanted(
    reader: pa.RecordBatchReader, wanted: pa.Schema | None, query: str
) -> pa.RecordBatchReader:
    """Return the rows with each column of the type that it is wanted with.

    Columns that are missing or extra are left to who compares them with the contract.

    Args:
        reader: the result.
        wanted: the columns, if something says so.
        query: how errors name it.

    Raises:
        ContractError: a column has to be cast in the query; all are listed.
    """
    expected = {field.name: field.type for field in wanted or ()}
    fields = [
        pa.field(f.name, expected.get(f.name, plain(f.type))) for f in reader.schema
    ]
    wrong = [
        _cast(field, expected.get(field.name))
        for field in reader.schema
        if not _carried(field.type, expected.get(field.name, plain(field.type)))
    ]
    if wrong:
        lines = "\n".join(f"- {line}" for line in wrong)
        msg = (
            f"columns of {query} are not of the types that are wanted, and nothing was "
            f"read; cast them there:\n{lines}"
        )
        raise ContractError(msg)
    schema = pa.schema(fields)
    return pa.RecordBatchReader.from_batches(schema, _cast_batches(reader, schema))


def _cast_batches(
    reader: pa.RecordBatchReader, schema: pa.Schema
) -> Iterator[pa.RecordBatch]:
    for batch in reader:
        columns = []
        for column, field in zip(batch.columns, schema, strict=True):
            try:
                columns.append(column.cast(field.type))
            except pa.ArrowInvalid as error:
                msg = (
                    f"column '{field.name}' holds a value that is none of {field.type}: "
                    f"{error}. Nothing was committed"
                )
                raise SourceError(msg) from error
        yield pa.RecordBatch.from_arrays(columns, schema=schema)


def _carried(got: pa.DataType, wanted: pa.DataType) -> bool:
    """Tell whether each value is the same value there, or is refused by Arrow's cast."""
    if isinstance(got, pa.BaseExtensionType):
        return False
    got = plain(got)
    if got == wanted or types.is_null(got):
        return True
    if _is_list(got) and types.is_list(wanted):
        return _carried(got.value_type, wanted.value_type)
    whole = types.is_integer(got) or (types.is_decimal(got) and got.scale == 0)
    if whole and types.is_integer(wanted):
        return True
    if types.is_integer(got) and types.is_floating(wanted):
        return bool(got.bit_width <= WHOLE.get(wanted.bit_width, 0))
    if types.is_floating(got) and types.is_floating(wanted):
        return bool(got.bit_width < wanted.bit_width)
    return bool(types.is_string(got) and types.is_binary(wanted))


def _is_list(dtype: pa.DataType) -> bool:
    return bool(
        types.is_list(dtype)
        or types.is_large_list(dtype)
        or types.is_fixed_size_list(dtype)
    )


def _cast(field: pa.Field, wanted: pa.DataType | None) -> str:
    """Say what a column is, and what to write for it."""
    metadata = field.metadata or {}
    told = next((metadata[name].decode() for name in TOLD_AS if name in metadata), "")
    name, got = field.name, told or str(field.type)
    column = f'"{name}"'
    if wanted is None:
        return f"'{name}' is {got}: CAST({column} AS text) AS {column}"
    if types.is_temporal(field.type) and wanted != pa.string():
        return f"'{name}' is {got}, expected {_word(wanted)}: compute a value from it"
    cast = f"CAST({column} AS {_sql(wanted)}) AS {column}"
    rounds = types.is_integer(wanted) and not types.is_string(plain(field.type))
    note = ", which rounds to the next whole number" if rounds else ""
    return f"'{name}' is {got}, expected {_word(wanted)}: {cast}{note}"


def _word(dtype: pa.DataType) -> str:
    if types.is_list(dtype):
        return f"list of {_word(dtype.value_type)}"
    return WORDS.get(str(dtype), str(dtype))


def _sql(dtype: pa.DataType) -> str:
    if types.is_list(dtype):
        return f"{_sql(dtype.value_type)}[]"
    return SQL.get(dtype, str(dtype))
