"""The columns of outcomes: what a source must have, and how the lake has it."""

import pyarrow as pa

from batch_assets.errors import ContractError
from batch_assets.models.columns import check_columns, quoted, word
from batch_assets.models.contract import KEY_TYPES, Contract
from batch_assets.models.output_specs import Label, Output, Ranking
from batch_assets.spec import OutcomesSpec

# What the output of each task is, in words and as a type.
OUTPUTS: dict[str, tuple[str, type]] = {
    "binary": ("a probability: a number between `min: 0` and `max: 1`", Output),
    "multiclass": ("a label", Label),
    "regression": ("a number", Output),
    "ranking": ("a ranking", Ranking),
}


def outcome_schema(contract: Contract, spec: OutcomesSpec) -> pa.Schema:
    """Return the columns of a pipeline's outcomes as the lake has them.

    Raises:
        ContractError: the release has no such output, or it is none of the task.
    """
    outputs = {one.name: one for one in contract.outputs}
    output = outputs.get(spec.output)
    what, kind = OUTPUTS[spec.task]
    fits = type(output) is kind and (
        spec.task != "binary" or (output.min, output.max) == (0, 1)  # type: ignore[union-attr]
    )
    if output is None or not fits:
        found = f"is {output!r}" if output else "is not there"
        msg = (
            f"outcomes of the task {spec.task} judge {what}, and the release's output "
            f"'{spec.output}' {found}; its outputs are {quoted(list(outputs))}"
        )
        raise ContractError(msg)
    if spec.probability and type(outputs.get(spec.probability)) is not Output:
        msg = (
            f"the outcomes' probability '{spec.probability}' is no number that the release "
            f"gives; its outputs are {quoted(list(outputs))}"
        )
        raise ContractError(msg)
    if spec.value == contract.key.name:
        msg = (
            f"the outcomes' column '{spec.value}' is the key: say in `outcomes.column` which "
            "one tells what happened"
        )
        raise ContractError(msg)
    value = pa.float64()
    if isinstance(output, Label):
        value = pa.string()
    elif isinstance(output, Ranking):
        value = next(output.fields(contract.vocabularies)).type
    key = pa.field(contract.key.name, KEY_TYPES[contract.key.dtype])
    return pa.schema([key, pa.field(spec.value, value)])


def check_outcomes(schema: pa.Schema, expected: pa.Schema, what: str) -> None:
    """Compare a source's columns with those of outcomes; others may be there, too.

    Raises:
        ContractError: a column is missing, or of a type that can't be an outcome.
    """
    key, value = expected.names
    if value not in schema.names:
        msg = (
            f"{what} has no column '{value}'; it has {quoted(schema.names)}. Say which one "
            "tells what happened: `outcomes.column` in the YAML"
        )
        raise ContractError(msg)
    check_columns(
        pa.schema([f for f in schema if f.name == key]),
        pa.schema([expected.field(key)]),
        what,
    )
    got, wanted = schema.field(value).type, expected.field(value).type
    if not _can_be(got, wanted):
        msg = (
            f"{what}: column '{value}' is {word(got)}, expected {word(wanted)}, or what can "
            "be cast to it. Cast it in the query"
        )
        raise ContractError(msg)


def _can_be(got: pa.DataType, wanted: pa.DataType) -> bool:
    if pa.types.is_null(got):
        return True
    if pa.types.is_dictionary(got):
        return _can_be(got.value_type, wanted)
    if pa.types.is_list(wanted):
        lists = (pa.ListType, pa.LargeListType, pa.FixedSizeListType)
        return isinstance(got, lists) and _can_be(got.value_type, wanted.value_type)
    allowed = {
        pa.string(): (pa.types.is_integer, _is_text),
        pa.int64(): (pa.types.is_integer,),
    }.get(
        wanted,
        (
            pa.types.is_integer,
            pa.types.is_floating,
            pa.types.is_decimal,
            pa.types.is_boolean,
        ),
    )
    return any(fits(got) for fits in allowed)


def _is_text(dtype: pa.DataType) -> bool:
    return dtype in (pa.string(), pa.large_string(), pa.string_view())
