"""What a module gives, as the columns of the declared outputs: no value is changed on the way.

Whatever can't be the declared type without loss is refused: by its type, where that says
so of all values, or by the value. It knows no file and no device.
"""

from collections.abc import Sequence
from typing import Any

import torch

from batch_assets.errors import ReleaseError, ScoringError
from batch_assets.models.contract import Contract
from batch_assets.models.output_specs import OutputColumn
from batch_assets.models.results import adapter, plain, shape_of

OUTPUT_TYPES = {
    "float32": torch.float32,
    "float64": torch.float64,
    "int32": torch.int32,
    "int64": torch.int64,
}
# Every whole number up to here has a float of its own.
EXACT_UP_TO = {torch.float32: 2**24, torch.float64: 2**53}
FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def columns_of(result: Any, contract: Contract, rows: int) -> dict[str, torch.Tensor]:
    """Return a module's result as the columns of the outputs, each as declared.

    A module gives a tensor (n, outputs) of numbers, a tensor for a single column, a tuple
    of columns in the order of the contract, or them by name, in a dict, a named tuple or a
    dataclass, which may hold more: (n,) or (n, 1) of a number, (n, width) of several. A
    ranking has two columns, items and scores.

    Raises:
        ReleaseError: the result has another shape, or a type that does not fit.
        ScoringError: a value does not fit the declared type.
    """
    return {
        column.name: _as_declared(values, column)
        for column, values in zip(
            contract.output_columns, given_columns(result, contract, rows), strict=True
        )
    }


def given_columns(result: Any, contract: Contract, rows: int) -> list[torch.Tensor]:
    """Return the same, each column in the type in which the module gave it.

    Raises:
        ReleaseError: the result has another shape, or a type that does not fit.
    """
    declared = contract.output_columns
    columns = _columns(result, declared, rows)
    if columns is None:
        what = ", ".join(f"{c.name} {_width(c)}" for c in declared)
        msg = (
            f"the model gave {shape_of(result)} for {rows} rows; its contract declares "
            f"{len(declared)}: {what}. Let it give a tensor (rows, outputs) of numbers, a "
            "tuple of tensors in this order, or them by name, such as in a dict"
            f"{adapter(result, [c.name for c in declared])}"
        )
        raise ReleaseError(msg)
    for column, values in zip(declared, columns, strict=True):
        _check_type(values, column)
    return columns


def _columns(
    result: Any, declared: Sequence[OutputColumn], rows: int
) -> list[torch.Tensor] | None:
    """The columns of a result; None if it is something else."""
    result = plain(result)
    if isinstance(result, torch.Tensor):
        wide = len(declared) == 1 and declared[0].width is not None
        if result.ndim == 2 and result.shape[0] == rows and not wide:
            result = result.unbind(dim=1)
        else:
            result = (result,)
    if isinstance(result, dict) and {c.name for c in declared} <= set(result):
        result = [result[column.name] for column in declared]
    if not isinstance(result, tuple | list) or len(result) != len(declared):
        return None
    columns = []
    for column, values in zip(declared, result, strict=True):
        if not isinstance(values, torch.Tensor):
            return None
        expected = (rows,) if column.width is None else (rows, column.width)
        if column.width is None and values.ndim == 2 and values.shape[1] == 1:
            values = values[:, 0]
        if tuple(values.shape) != expected:
            return None
        columns.append(values)
    return columns


def _width(column: OutputColumn) -> str:
    return "(rows,)" if column.width is None else f"(rows, {column.width})"


def _check_type(values: torch.Tensor, column: OutputColumn) -> None:
    """Refuse what is not of the declared type whatever its values are."""
    declared, given = OUTPUT_TYPES[column.dtype], values.dtype
    if given.is_floating_point:
        fits = (
            given in FLOATS
            and declared.is_floating_point
            and given.itemsize <= declared.itemsize
        )
    else:
        fits = given == torch.bool or _is_whole(given)
    plain = values.layout == torch.strided and not (
        values.is_meta or values.is_quantized
    )
    if fits and plain:
        return
    kind = str(given).removeprefix("torch.")
    if not plain:
        kind += f", {values.layout}, on '{values.device}'"
    msg = (
        f"output '{column.name}' is declared {column.dtype}, the model gave {kind}, "
        "which that type does not hold without loss. Let the model round or convert it, "
        "or declare a type that holds it."
    )
    raise ReleaseError(msg)


def _is_whole(dtype: torch.dtype) -> bool:
    try:
        torch.iinfo(dtype)
    except TypeError:
        return False
    return True


def _as_declared(values: torch.Tensor, column: OutputColumn) -> torch.Tensor:
    """A column in its declared type, every value as the model gave it."""
    declared = OUTPUT_TYPES[column.dtype]
    cast = values.to(declared)
    if _always_fits(values.dtype, declared):
        return cast
    wide = values.to(torch.int64)
    if declared.is_floating_point:
        # Past int64 itself, what comes back is not defined.
        changed = (cast >= 2.0**63) | (cast.to(torch.int64) != wide)
    else:
        changed = cast.to(torch.int64) != wide
    if values.dtype == torch.uint64:
        changed |= wide < 0
    if changed.any():
        at = tuple(changed.nonzero()[0].tolist())
        msg = (
            f"output '{column.name}' is {values[at].item()}, which is no "
            f"{column.dtype}, as it is declared: declare a type that holds it"
        )
        raise ScoringError(msg)
    return cast


def _always_fits(found: torch.dtype, declared: torch.dtype) -> bool:
    if found == declared or found == torch.bool or found.is_floating_point:
        return True
    given = torch.iinfo(found)
    if declared.is_floating_point:
        most = EXACT_UP_TO[declared]
        return -most <= given.min and given.max <= most
    whole = torch.iinfo(declared)
    return whole.min <= given.min and given.max <= whole.max
