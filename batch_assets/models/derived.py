"""A contract from the frame that a model was trained on: names, types, ranges, words.

What a frame can't tell is asked for in one error that names each column. It knows no
model: which outputs there are, whoever asks says.
"""

import math
from collections.abc import Iterable, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import types
from pydantic import ValidationError

from batch_assets.errors import ContractError
from batch_assets.models.columns import SQL_TYPES, plain_type, word
from batch_assets.models.contract import KEY_TYPES, Contract, Feature, KeySpec
from batch_assets.models.frames import table_of
from batch_assets.models.input_specs import Column, Input, Vector, Words
from batch_assets.models.input_specs import Sequence as SequenceSpec
from batch_assets.models.output_specs import AnyOutput, Output
from batch_assets.strict import StrictModel

# More different words are ids, which a model embeds, and no category.
MOST_CATEGORIES = 1_000
# Ids up to here may be the rows of an embedding table.
MOST_IDS = 10_000_000
# A range is what was seen, and as much again on either side: a night may see more.
MARGIN = 1.0
# Every whole number up to here is itself as float32.
EXACT = 2**24


def contract_from_frame(
    frame: Any,
    *,
    key: str | KeySpec,
    outputs: str | AnyOutput | Sequence[str | AnyOutput],
    without: Iterable[str] = (),
    features: Iterable[Feature] = (),
    inputs: Iterable[Input] = (),
    vocabularies: dict[str, Words] | None = None,
) -> Contract:
    """Derive a contract from a frame; see `Contract.from_frame`."""
    table = table_of(frame)
    given = {one.name: one for one in features}
    taken = [field.name for one in inputs for field in one.raw_fields()]
    spec = _key_of(table, key)
    left_out = {spec.name, *without, *taken}
    _must_be_there(table, {*without, *taken, *given})
    derived: list[Feature] = []
    others: list[Input] = list(inputs)
    words: dict[str, Words] = dict(vocabularies or {})
    problems: list[str] = []
    for name in table.column_names:
        if name in left_out:
            continue
        try:
            found = given.get(name) or _derived(name, table[name], words)
        except ValueError as error:
            problems.append(f"- '{name}': {reason_of(error)}")
            continue
        if isinstance(found, Feature):
            derived.append(found)
        else:
            others.append(found)
    if problems:
        lines = "\n".join(problems)
        msg = (
            "no contract can be derived of these columns:\n"
            f"{lines}\nLeave them out (without=[...]), cast them, or say what they are."
        )
        raise ContractError(msg)
    declared = outputs_of(outputs)
    try:
        return Contract(
            key=spec,
            features=tuple(derived),
            inputs=tuple(others),
            vocabularies=words,
            outputs=declared,
        )
    except ValidationError as error:
        msg = f"no contract can be derived: {reason_of(error)}"
        raise ContractError(msg) from error


def reason_of(error: ValueError) -> str:
    """Return what is wrong in one line; of a type's own rules the first that is broken."""
    if not isinstance(error, ValidationError):
        return str(error)
    first = error.errors(include_url=False)[0]
    if first["type"] == "string_pattern_mismatch":
        return (
            f"{first['input']!r} is no name: letters, digits and _, and no digit first; "
            "rename it"
        )
    return str(first["msg"]).removeprefix("Value error, ")


def outputs_of(
    outputs: str | AnyOutput | Sequence[str | AnyOutput],
) -> tuple[AnyOutput, ...]:
    """Return outputs as they are declared; of a name alone, a float32."""
    asked: list[Any] = (
        [outputs] if isinstance(outputs, str | StrictModel) else list(outputs)
    )
    return tuple(Output(name=one) if isinstance(one, str) else one for one in asked)


def to_sql(contract: Contract, table: str) -> str:
    """Return the query that casts a table's columns; see `Contract.to_sql`."""
    lines = [
        f'    {_cast(_name(field.name), field.type, field.name)} AS "{field.name}"'
        for field in contract.raw_schema()
    ]
    return "SELECT\n" + ",\n".join(lines) + f"\nFROM {table}\n"


def _key_of(table: pa.Table, key: str | KeySpec) -> KeySpec:
    if isinstance(key, KeySpec):
        return key
    if key not in table.column_names:
        msg = (
            f"the frame has no column '{key}', so the key's type is not known: give "
            f"key=KeySpec(name='{key}', dtype='int64'), or 'string'"
        )
        raise ContractError(msg)
    dtype = plain_type(table[key].type)
    if types.is_integer(dtype):
        return KeySpec(name=key, dtype="int64")
    if dtype == KEY_TYPES["string"]:
        return KeySpec(name=key, dtype="string")
    msg = f"the key '{key}' is {word(dtype)}, expected whole numbers or text"
    raise ContractError(msg)


def _must_be_there(table: pa.Table, names: set[str]) -> None:
    if lacking := sorted(names - set(table.column_names)):
        msg = f"the frame has no {lacking}; there are {table.column_names}"
        raise ContractError(msg)


def _derived(
    name: str, column: pa.ChunkedArray, words: dict[str, Words]
) -> Feature | Input:
    """What a column is; vocabularies that it needs are added to the words.

    Raises:
        ValueError: why it can be nothing.
    """
    dtype = plain_type(column.type)
    if column.null_count == len(column):
        msg = "has no value in the frame"
        raise ValueError(msg)
    if types.is_list(dtype):
        return _listed(name, column, words)
    nullable = column.null_count > 0
    if dtype == pa.string():
        return Feature(
            name=name,
            dtype="string",
            nullable=nullable,
            categories=_categories(column),
        )
    if types.is_boolean(dtype):
        return Feature(name=name, dtype="bool", nullable=nullable)
    if not (types.is_integer(dtype) or types.is_floating(dtype)):
        msg = f"is {word(dtype)}, expected numbers, booleans, text or lists of these"
        raise ValueError(msg)
    low, high = pc.min_max(column).as_py().values()
    if types.is_integer(dtype):
        return _whole(name, dtype, low, high, nullable=nullable)
    if not (math.isfinite(low) and math.isfinite(high)):
        msg = "holds infinity"
        raise ValueError(msg)
    least, most = _range(low, high)
    kind: Any = word(dtype)
    return Feature(name=name, dtype=kind, nullable=nullable, min=least, max=most)


def _whole(
    name: str, dtype: pa.DataType, low: int, high: int, *, nullable: bool
) -> Feature:
    if max(-low, high) > EXACT:
        msg = (
            f"has {high if high > EXACT else low}, which float32 does not hold: is it an "
            "id? Give it as Ids(...) among the inputs"
        )
        raise ValueError(msg)
    # Of an unsigned one the next signed type holds every value.
    signed = types.is_signed_integer(dtype)
    bits = dtype.bit_width if signed else min(2 * dtype.bit_width, 64)
    kind: Any = f"int{bits}"
    least, most = _range(low, high)
    limit = 2 ** (bits - 1)
    return Feature(
        name=name,
        dtype=kind,
        nullable=nullable,
        min=None if least is None else max(math.floor(least), -limit),
        max=None if most is None else min(math.ceil(most), limit - 1),
    )


def _range(low: float, high: float) -> tuple[float | None, float | None]:
    """What a night may hold: as much again on either side, and no sign that was not seen.

    A column of one value tells no range.
    """
    span = MARGIN * (high - low)
    if span == 0 or not math.isfinite(span):
        return None, None
    least = max(low - span, 0.0) if low >= 0 else low - span
    most = min(high + span, 0.0) if high <= 0 else high + span
    return least, most


def _categories(column: pa.ChunkedArray) -> tuple[str, ...]:
    """The words of a column: in the order of its type, if that has one, else sorted."""
    if types.is_dictionary(column.type):
        parts = [chunk.dictionary for chunk in column.chunks]
        found = pc.unique(pa.chunked_array(parts)).to_pylist()
    else:
        found = sorted(pc.unique(column.drop_null()).to_pylist())
    if len(found) > MOST_CATEGORIES:
        msg = (
            f"has {len(found):,} different words, which are no categories: give it as "
            "Ids(...) with a vocabulary among the inputs, or texts as Text(...)"
        )
        raise ValueError(msg)
    return tuple(found)


def _listed(name: str, column: pa.ChunkedArray, words: dict[str, Words]) -> Input:
    """A list: of one length and of numbers a vector, else a sequence."""
    inside = plain_type(column.type).value_type
    lengths = pc.list_value_length(column)
    shortest, longest = pc.min_max(lengths).as_py().values()
    values = pc.list_flatten(column)
    if not longest:
        msg = "has nothing in its lists"
        raise ValueError(msg)
    if types.is_floating(inside):
        if shortest == longest and not column.null_count:
            return Vector(name=name, size=longest)
        part = Column(name=name, dtype="float32")
    elif inside == pa.string():
        words[name] = tuple(sorted(pc.unique(values.drop_null()).to_pylist()))
        part = Column(name=name, dtype="string", vocabulary=name)
    elif types.is_integer(inside):
        low, high = pc.min_max(values).as_py().values()
        if low < 0 or high >= MOST_IDS:
            msg = (
                f"holds ids from {low} to {high}: give it as a Sequence(...) with a "
                "vocabulary among the inputs"
            )
            raise ValueError(msg)
        part = Column(name=name, size=high + 1)
    else:
        msg = f"is a list of {word(inside)}, expected numbers or text"
        raise ValueError(msg)
    return SequenceSpec(name=name, columns=(part,), max_length=longest)


def _name(column: str) -> str:
    return f'"{column}"'


def _cast(column: str, dtype: pa.DataType, name: str) -> str:
    """The cast of a column of any type, which stops at a value that it would change."""
    if types.is_list(dtype):
        inside = _cast("x", dtype.value_type, name)
        return f"list_transform({column}, lambda x: {inside})"
    kind = word(dtype)
    cast = f"CAST({column} AS {SQL_TYPES[kind]})"
    number = f"CAST({column} AS DOUBLE)"
    if types.is_integer(dtype):
        wrong = f"{number} <> trunc({number})"
        return (
            f"CASE WHEN {wrong} THEN error('{name} is no whole number') ELSE {cast} END"
        )
    if types.is_boolean(dtype):
        wrong = f"CAST({column} AS VARCHAR) NOT IN ('0', '1', 'true', 'false')"
        return f"CASE WHEN {wrong} THEN error('{name} is no boolean') ELSE {cast} END"
    return cast
