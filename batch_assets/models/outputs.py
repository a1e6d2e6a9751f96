"""What a module gives, as one column per declared output: no value is changed on the way.

Whatever can't be the declared type without loss is refused: by its type, where that says
so of all values, or by the value. It knows no file and no device.
"""

from typing import Any

import torch

from batch_assets.errors import ReleaseError, ScoringError
from batch_assets.models.columns import quoted
from batch_assets.models.contract import Contract, Output

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
    """Return a module's result as a column per output, each (n,) and as declared.

    A module gives a tensor (n, outputs), a tensor (n,) for a single output, or a tuple
    of columns, (n,) or (n, 1), in the order of the contract.

    Raises:
        ReleaseError: the result has another shape, or a type that does not fit.
        ScoringError: a value does not fit the declared type.
    """
    return {
        output.name: _as_declared(column, output)
        for output, column in zip(
            contract.outputs, given_columns(result, contract, rows), strict=True
        )
    }


def given_columns(result: Any, contract: Contract, rows: int) -> list[torch.Tensor]:
    """Return the same, each column in the type in which the module gave it.

    Raises:
        ReleaseError: the result has another shape, or a type that does not fit.
    """
    columns = _columns(result, rows)
    if columns is None or len(columns) != len(contract.outputs):
        msg = (
            f"the model gave {_shape(result)} for {rows} rows; its contract declares "
            f"{len(contract.outputs)}, of a value a row: {', '.join(contract.output_names)}. "
            "Let it give a tensor (rows, outputs), or a tuple of tensors (rows,)."
        )
        raise ReleaseError(msg)
    for output, column in zip(contract.outputs, columns, strict=True):
        _check_type(column, output)
    return columns


def _columns(result: Any, rows: int) -> list[torch.Tensor] | None:
    """The columns of a result, (n,) each; None if it is something else."""
    if isinstance(result, torch.Tensor):
        if result.ndim == 2 and result.shape[0] == rows:
            return list(result.unbind(dim=1))
        result = (result,)
    if not isinstance(result, tuple | list):
        return None
    columns = []
    for column in result:
        if not isinstance(column, torch.Tensor):
            return None
        if column.ndim == 2 and column.shape[1] == 1:
            column = column[:, 0]
        if tuple(column.shape) != (rows,):
            return None
        columns.append(column)
    return columns


def _shape(result: Any) -> str:
    """What a module gave, in an error."""
    if isinstance(result, torch.Tensor):
        return f"a tensor of the shape {tuple(result.shape)}"
    if isinstance(result, dict):
        return f"a dict of {quoted([str(name) for name in result])}"
    if isinstance(result, tuple | list):
        inside = [
            tuple(one.shape) if isinstance(one, torch.Tensor) else type(one).__name__
            for one in result[:10]
        ]
        return f"{len(result)} columns of the shapes {inside}"
    return f"a {type(result).__name__}"


def _check_type(column: torch.Tensor, output: Output) -> None:
    """Refuse what is not of the declared type whatever its values are."""
    declared, given = OUTPUT_TYPES[output.dtype], column.dtype
    if given.is_floating_point:
        fits = (
            given in FLOATS
            and declared.is_floating_point
            and given.itemsize <= declared.itemsize
        )
    else:
        fits = given == torch.bool or _is_whole(given)
    plain = column.layout == torch.strided and not (
        column.is_meta or column.is_quantized
    )
    if fits and plain:
        return
    kind = str(given).removeprefix("torch.")
    if not plain:
        kind += f", {column.layout}, on '{column.device}'"
    msg = (
        f"output '{output.name}' is declared {output.dtype}, the model gave {kind}, "
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


def _as_declared(column: torch.Tensor, output: Output) -> torch.Tensor:
    """A column in its declared type, every value as the model gave it."""
    declared = OUTPUT_TYPES[output.dtype]
    cast = column.to(declared)
    if _always_fits(column.dtype, declared):
        return cast
    wide = column.to(torch.int64)
    if declared.is_floating_point:
        # Past int64 itself, what comes back is not defined.
        changed = (cast >= 2.0**63) | (cast.to(torch.int64) != wide)
    else:
        changed = cast.to(torch.int64) != wide
    if column.dtype == torch.uint64:
        changed |= wide < 0
    if changed.any():
        row = int(changed.nonzero()[0])
        msg = (
            f"output '{output.name}' is {column[row].item()}, which is no "
            f"{output.dtype}, as it is declared: declare a type that holds it"
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
