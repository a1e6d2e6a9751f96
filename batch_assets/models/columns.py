"""A source's columns against a contract's: which fit, and what to do about the others.

A column fits if each value that its type can hold is the same value in the contract's
type; it is cast then. Of any other the error prints the query that turns it, in which no
value changes unnoticed: what does not fit stops the query. It knows no contract, only
schemas.
"""

from collections import Counter

import pyarrow as pa
from pyarrow import types

from batch_assets.errors import ContractError

# The contract's word for a type, and SQL's.
SQL_TYPES = {
    "float32": "FLOAT",
    "float64": "DOUBLE",
    "int8": "TINYINT",
    "int16": "SMALLINT",
    "int32": "INTEGER",
    "int64": "BIGINT",
    "bool": "BOOLEAN",
    "string": "VARCHAR",
    "binary": "BLOB",
}
# Arrow's words for types that have another name in a contract or in SQL.
WORDS = {
    "float": "float32",
    "double": "float64",
    "halffloat": "float16",
    "date32[day]": "date",
    "date64[ms]": "date",
}
# Whole numbers up to 2 to this power are themselves as a float.
WHOLE_BITS = {"float32": 24, "float64": 53}
MOST_DIGITS = {"int8": 2, "int16": 4, "int32": 9, "int64": 18}


def check_columns(got: pa.Schema, expected: pa.Schema, what: str) -> None:
    """Compare columns with those that a contract asks for; their order is free.

    Raises:
        ContractError: a column is missing, extra or retyped; all are listed.
    """
    wanted = {field.name: field.type for field in expected}
    columns = {field.name: field.type for field in got}
    missing = [name for name in wanted if name not in columns]
    extra = [name for name in columns if name not in wanted]
    retyped = [
        name
        for name, dtype in columns.items()
        if name in wanted and not fits(dtype, wanted[name])
    ]
    twice = sorted(name for name, times in Counter(got.names).items() if times > 1)
    if not (missing or extra or retyped or twice):
        return
    lines = [f"{what} does not keep the contract; nothing was read or written."]
    if missing:
        lines.append(f"- {len(missing)} missing: {quoted(missing)}")
    if extra:
        lines.append(f"- {len(extra)} extra: {quoted(extra)}")
    if twice:
        lines.append(f"- {len(twice)} there twice: {quoted(twice)}")
    lines += [
        f"- retyped: '{name}', got: {word(columns[name])}, expected: {word(wanted[name])}"
        for name in retyped
    ]
    if (extra or retyped) and not twice:
        lines += _mending(columns, wanted)
    lines.append(
        "Mend the source, or approve a release whose contract has these columns."
    )
    raise ContractError("\n".join(lines))


def fits(got: pa.DataType, expected: pa.DataType) -> bool:
    """Return whether each value of one type is the same value in the other."""
    got, name = plain_type(got), word(expected)
    if got == expected or types.is_null(got):
        return True
    if name == "binary":
        # Each text is its own bytes.
        return bool(types.is_string(got))
    if types.is_list(got) or types.is_list(expected):
        return bool(
            types.is_list(got)
            and types.is_list(expected)
            and fits(got.value_type, expected.value_type)
        )
    if types.is_integer(got) and name in MOST_DIGITS:
        signed = types.is_signed_integer(got)
        return bool(got.bit_width < expected.bit_width + int(signed))
    if types.is_integer(got) and name in WHOLE_BITS:
        return bool(got.bit_width < WHOLE_BITS[name])
    if types.is_floating(got) and name in WHOLE_BITS:
        return bool(got.bit_width < expected.bit_width)
    if types.is_decimal(got) and got.scale == 0:
        if name in MOST_DIGITS:
            return bool(got.precision <= MOST_DIGITS[name])
        return name in WHOLE_BITS and 10**got.precision <= 2 ** WHOLE_BITS[name]
    return False


def word(dtype: pa.DataType) -> str:
    """Return a type's name as contracts and SQL have it, not as Arrow prints it."""
    dtype = plain_type(dtype)
    if types.is_decimal(dtype):
        return f"decimal({dtype.precision}, {dtype.scale})"
    if types.is_list(dtype):
        return f"list of {word(dtype.value_type)}"
    return WORDS.get(str(dtype), str(dtype))


def plain_type(dtype: pa.DataType) -> pa.DataType:
    """Return the type without its encoding: every kind of string column is a string.

    And every kind of list is a list, and of bytes binary.
    """
    if types.is_dictionary(dtype):
        return plain_type(dtype.value_type)
    if types.is_large_string(dtype) or types.is_string_view(dtype):
        return pa.string()
    if (
        types.is_large_binary(dtype)
        or types.is_binary_view(dtype)
        or types.is_fixed_size_binary(dtype)
    ):
        return pa.binary()
    if _is_any_list(dtype):
        return pa.list_(plain_type(dtype.value_type))
    return dtype


def _is_any_list(dtype: pa.DataType) -> bool:
    return bool(
        types.is_list(dtype)
        or types.is_large_list(dtype)
        or types.is_fixed_size_list(dtype)
        or types.is_list_view(dtype)
        or types.is_large_list_view(dtype)
    )


def quoted(names: list[str]) -> str:
    """Names for an error message: 'a', 'b'."""
    return ", ".join(f"'{name}'" for name in names)


def _mending(
    given: dict[str, pa.DataType], wanted: dict[str, pa.DataType]
) -> list[str]:
    """The query that turns what is there into what is wanted, as far as SQL can."""
    columns = {
        name: _turned(f'"{name}"', given[name], dtype)
        for name, dtype in wanted.items()
        if name in given
    }
    hopeless = [name for name, sql in columns.items() if sql is None]
    left_out = [name for name in wanted if columns.get(name) is None]
    if len(left_out) == len(wanted):
        return []
    lines = [
        f"- SQL has no cast from {word(given[name])} to {word(wanted[name])} for "
        f"'{name}': compute it"
        for name in hopeless
    ]
    but = f", but {quoted(left_out)}" if left_out else ""
    selected = [
        f'"{name}"' if sql == f'"{name}"' else f'{sql} AS "{name}"'
        for name, sql in columns.items()
        if sql is not None
    ]
    return [
        *lines,
        f"This query gives the contract's columns{but}; put your own in its brackets, "
        "or, of a source of the kind parquet or delta, let what writes it cast so:",
        "",
        "SELECT",
        ",\n".join(f"    {column}" for column in selected),
        "FROM (",
        "    -- your query",
        ")",
        "",
    ]


def _turned(column: str, got: pa.DataType, expected: pa.DataType) -> str | None:
    """The SQL that turns a column, or stops at a value that would change; if any."""
    got, name = plain_type(got), word(expected)
    if fits(got, expected):
        return column
    if types.is_list(expected):
        if not types.is_list(got):
            return None
        # What does not fit stops the query, element by element.
        one = _turned("x", got.value_type, expected.value_type)
        return one and f"list_transform({column}, lambda x: {one})"
    cast = f"CAST({column} AS {SQL_TYPES[name]})"
    number = types.is_integer(got) or types.is_floating(got) or types.is_decimal(got)
    turned: str | None = None
    if name == "binary":
        return None
    if name == "string" and types.is_binary(got):
        turned = f"decode({column})"
    elif name == "string":
        turned = None if types.is_nested(got) else cast
    elif name == "bool":
        if number:
            turned = _unless(f"{column} NOT IN (0, 1)", "neither 0 nor 1", column, cast)
        elif types.is_string(got):
            turned = cast
    elif types.is_date(got):
        days = f"date_diff('day', DATE '1970-01-01', {column})"
        turned = f"CAST({days} AS {SQL_TYPES[name]})"
    elif name in WHOLE_BITS:
        turned = (
            cast if number or types.is_string(got) or types.is_boolean(got) else None
        )
    elif types.is_floating(got) or (types.is_decimal(got) and got.scale > 0):
        # A bare cast would round.
        turned = _unless(
            f"{column} <> trunc({column})", "no whole number", column, cast
        )
    elif types.is_string(got):
        back = f"CAST({cast} AS VARCHAR)"
        turned = _unless(f"{back} <> {column}", "no whole number", column, cast)
    elif number or types.is_boolean(got):
        turned = cast
    return turned


def _unless(wrong: str, why: str, column: str, cast: str) -> str:
    told = f"{column.strip(chr(34))} is {why}"
    return f"CASE WHEN {wrong} THEN error('{told}') ELSE {cast} END"
