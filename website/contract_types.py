"""`types.md`: every type that a contract can have, as the code itself has it.

Of all there are one contract and three rows are made, and the tensors that a night would
give a model of them are looked at. Sizes are numbers that tell what they are of.
"""

import json
from collections.abc import Iterator
from dataclasses import replace
from typing import Any, get_args

import numpy as np
import pyarrow as pa
import torch
from pyarrow import types

from batch_assets.models.columns import SQL_TYPES, word
from batch_assets.models.contract import (
    FEATURE_TYPES,
    FEATURES,
    KEY_TYPES,
    Contract,
    Feature,
    KeySpec,
)
from batch_assets.models.input_rows import Lists
from batch_assets.models.input_specs import (
    Column,
    Ids,
    Input,
    Sequence,
    Text,
    Values,
    Vector,
    Words,
)
from batch_assets.models.output_specs import (
    OUTPUT_TYPES,
    AnyOutput,
    Label,
    Output,
    OutputColumn,
    Ranking,
    VectorOutput,
)
from batch_assets.models.tensors import tensors_of
from batch_assets.strict import StrictModel
from batch_assets.training.packing import packed_rows
from website.markdown import table

WORDS: dict[str, Words] = {"string": ("red", "green"), "int64": (70, 80)}
LENGTHS = (5, 3, 1)
ROWS, LONGEST, ELEMENTS = len(LENGTHS), max(LENGTHS), sum(LENGTHS)
SIZE, K = 7, 2
# What a number in a shape is the number of.
DIMENSIONS = {
    ROWS: "rows",
    ROWS + 1: "rows + 1",
    LONGEST: "longest",
    ELEMENTS: "elements",
    SIZE: "size",
    len(FEATURE_TYPES): "features",
}
HEAD = (
    *("part", "declared as", "column", "in SQL"),
    *("tensor", "served as, for example"),
)


def contract_types() -> str:
    """Return the page of the types of a contract."""
    contract = _contract()
    tensors = _tensors(contract)
    rows = [*_keys(), *_given(contract, tensors), *_outputs(contract)]
    return (
        "# Types of a contract\n\nEverything that a contract can ask of a source, give a "
        "model, and have from it. The column is that of the source, or, of an output, "
        "that of the predictions; a source may also have a column that "
        "[fits](../contract.md#other-types-in-the-source). The tensor is what a night "
        "gives the model, or, of an output, what the model and its stages give. `longest` "
        "is that of a batch. What each declaration means is in "
        "[contract.md](../contract.md), with an example of all in "
        "[models.md](../models.md).\n\n" + table(HEAD, rows)
    )


def _contract() -> Contract:
    features = tuple(
        Feature.model_validate(
            {"name": f"f_{dtype}", "dtype": dtype}
            | ({"categories": WORDS[dtype]} if dtype == "string" else {})
        )
        for dtype in FEATURE_TYPES
    )
    return Contract(
        key=KeySpec(name="id", dtype="int64"),
        features=features,
        inputs=tuple(_inputs()),
        vocabularies={f"{dtype}s": words for dtype, words in WORDS.items()},
        outputs=tuple(_declared_outputs()),
    )


def _inputs() -> Iterator[Input]:
    kinds = get_args(Values.model_fields["dtype"].annotation)
    ids: list[dict[str, Any]] = [
        {"dtype": "int64", "size": SIZE},
        *(
            {"dtype": dtype, "vocabulary": f"{dtype}s"}
            for dtype in kinds
            if dtype in WORDS
        ),
    ]
    for at, fields in enumerate(ids):
        yield Ids.model_validate({"name": f"ids_{at}"} | fields)
    yield Vector(name="vector", size=SIZE)
    for form in get_args(Sequence.model_fields["form"].annotation):
        for at, fields in enumerate([*ids, {"dtype": "float32"}]):
            column = Column.model_validate({"name": f"{form}_{at}"} | fields)
            yield Sequence(
                name=f"of_{form}_{at}", columns=(column,), max_length=LONGEST, form=form
            )
    hidden = Column(name="hidden", dtype="string", vocabulary="strings")
    yield Sequence(name="of_hidden", columns=(hidden,), given=False)
    for dtype in get_args(Text.model_fields["dtype"].annotation):
        yield Text(name=f"text_{dtype}", dtype=dtype, max_length=LONGEST)


def _declared_outputs() -> Iterator[AnyOutput]:
    for dtype in OUTPUT_TYPES:
        yield Output.model_validate({"name": f"o_{dtype}", "dtype": dtype})
    yield Label(name="label", classes=("stays", "goes"))
    for dtype in get_args(VectorOutput.model_fields["dtype"].annotation):
        yield VectorOutput(name=f"v_{dtype}", dtype=dtype, size=SIZE)
    for dtype in WORDS:
        yield Ranking(name=f"r_{dtype}", vocabulary=f"{dtype}s", k=K)


def _tensors(contract: Contract) -> dict[str, torch.Tensor]:
    """What the model of such a contract is given, by name."""
    columns = {
        field.name: [_value(field.type, LENGTHS[row]) for row in range(ROWS)]
        for field in contract.raw_schema()
    }
    for one in contract.inputs:
        if isinstance(one, Vector):
            columns[one.name] = [[0.0] * SIZE] * ROWS
        for column in one.columns:
            if column.vocabulary:
                word_of_it = WORDS[column.dtype][0]
                columns[column.name] = [
                    [word_of_it] * length if isinstance(one, Sequence) else word_of_it
                    for length in LENGTHS
                ]
    found = packed_rows(contract, pa.table(columns, contract.raw_schema()))
    if found.broken:
        msg = f"rows of the page of types break a rule: {found.broken}"
        raise ValueError(msg)
    # As if tokenised: a tokenizer is a file of the release.
    tokens = Lists.of([[0] * length for length in LENGTHS], "int64")
    texts = {one.name: tokens for one in contract.inputs if isinstance(one, Text)}
    # In memory of their own, which torch may write into.
    own = found.rows.take(np.arange(ROWS))
    rows = replace(own, columns={**own.columns, **texts})
    return tensors_of(rows, contract)


def _value(dtype: pa.DataType, length: int) -> Any:
    if types.is_list(dtype):
        return [_value(dtype.value_type, length)] * length
    if types.is_boolean(dtype):
        return False
    if types.is_binary(dtype):
        return str(WORDS["string"][0]).encode()
    return WORDS["string"][0] if types.is_string(dtype) else 0


def _keys() -> Iterator[list[str]]:
    for dtype, of in KEY_TYPES.items():
        key = KeySpec.model_validate({"name": "id", "dtype": dtype})
        shown = json.dumps(WORDS[dtype][0])
        yield ["key", _as_code(key), *_column([of]), "none", f"`{shown}`"]


def _given(contract: Contract, tensors: dict[str, torch.Tensor]) -> Iterator[list[str]]:
    for feature in contract.features:
        column = _column([FEATURE_TYPES[feature.dtype]])
        tensor = _shape(FEATURES, tensors[FEATURES])
        yield ["feature", _as_code(feature), *column, tensor, ""]
    for one in contract.inputs:
        column = _column([field.type for field in one.raw_fields()])
        # A column's tensor has its name, and what comes with it the name of the input.
        names = {column.name: "<column>" for column in one.columns}
        names |= {one.name: "<name>"} if isinstance(one, Text) else {}
        shapes = [
            _shape(names.get(name, name.replace(one.name, "<name>")), tensors[name])
            for name in tensors
            if name in names or name.startswith(f"{one.name}_")
        ]
        yield ["input", _as_code(one), *column, ", ".join(shapes) or "none", ""]


def _outputs(contract: Contract) -> Iterator[list[str]]:
    for one in contract.outputs:
        column = _column([field.type for field in one.fields(contract.vocabularies)])
        shapes = [_computed(each, one) for each in one.columns]
        served = one.plain(_example(one), contract.vocabularies)[0]
        shown = f"`{json.dumps(served)}`"
        yield ["output", _as_code(one), *column, ", ".join(shapes), shown]


def _example(one: AnyOutput) -> dict[str, np.ndarray]:
    """An output of one row: zeros, or the items of a ranking in their order."""
    found = {column.name: column.empty(1) for column in one.columns}
    for values in found.values():
        values.fill(0)
    if isinstance(one, Ranking):
        found[one.name][0] = range(one.width)
    return found


def _computed(column: OutputColumn, one: AnyOutput) -> str:
    width = "" if column.width is None else " size"
    if isinstance(one, Ranking):
        width = " k + spare"
    name = column.name.replace(one.name, "<name>")
    return f"`{name}` {column.dtype} (rows,{width})"


def _shape(name: str, tensor: torch.Tensor) -> str:
    dimensions = ", ".join(DIMENSIONS[n] for n in tensor.shape)
    comma = "," * (tensor.ndim == 1)
    dtype = str(tensor.dtype).removeprefix("torch.")
    return f"`{name}` {dtype} ({dimensions}{comma})"


def _column(of: list[pa.DataType]) -> tuple[str, str]:
    """The words for columns of these types, and SQL's."""
    return (
        ", ".join(f"`{word(dtype)}`" for dtype in of),
        ", ".join(f"`{_in_sql(dtype)}`" for dtype in of),
    )


def _in_sql(dtype: pa.DataType) -> str:
    if types.is_list(dtype):
        return f"{_in_sql(dtype.value_type)}[]"
    return SQL_TYPES[word(dtype)]


def _as_code(one: StrictModel) -> str:
    """A declaration without its name, and with sizes as words."""
    return f"`{_code(one)}`"


def _code(one: StrictModel) -> str:
    told = []
    for name in type(one).model_fields:
        value = getattr(one, name)
        if name in ("name", "kind") or name not in one.model_fields_set:
            continue
        if isinstance(value, tuple) and isinstance(value[0], StrictModel):
            value = "[" + ", ".join(_code(each) for each in value) + "]"
        elif name in ("size", "max_length", "k", "classes", "categories", "vocabulary"):
            value = "..."
        else:
            value = repr(value)
        told.append(f"{name}={value}")
    return f"{type(one).__name__}({', '.join(told)})"
