"""Rows from what a user has, such as golden rows: checked, and in memory of their own.

It knows no file and no tokenizer.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from batch_assets.errors import ReleaseError
from batch_assets.models.contract import FEATURES, Contract
from batch_assets.models.input_rows import InputRows, Lists, Values
from batch_assets.models.input_specs import Sequence as SequenceSpec
from batch_assets.models.input_specs import Text, Vector


def rows_of(given: Any, contract: Contract, what: str) -> InputRows:
    """Take rows from what a user has: a matrix of features, or tensors and lists by name.

    Args:
        given: float32 (rows, features); or a mapping with `features` and each column of
            the inputs: positions (rows,), numbers (rows, size), a list for each row.
        contract: which columns there must be; of a text strings.
        what: how an error names it.

    Raises:
        ReleaseError: it is something else, or has another number of rows.
    """
    if not isinstance(given, Mapping):
        given = {FEATURES: given}
    expected = [FEATURES] if contract.features else []
    expected += [field.name for one in contract.inputs for field in one.fields()]
    if set(given) != set(expected):
        msg = f"{what} has {sorted(given)}, expected {expected}"
        raise ReleaseError(msg)
    columns: dict[str, Values] = {}
    try:
        for one in contract.inputs:
            if isinstance(one, Text):
                columns[one.name] = Lists.of_texts(_strings(one, given[one.name]))
            for column in one.columns:
                dtype = "float32" if column.is_float else "int64"
                values = given[column.name]
                if isinstance(one, SequenceSpec):
                    columns[column.name] = Lists.of(values, dtype)
                else:
                    columns[column.name] = np.array(values, dtype)
        matrix = _matrix(given[FEATURES]) if contract.features else None
    # numpy and torch have an error of their own for each thing that is no tensor.
    except Exception as error:
        msg = f"{what} is no tensor: {type(error).__name__}: {error}"
        raise ReleaseError(msg) from error
    return _checked(matrix, columns, contract, what)


def _strings(one: Text, given: Any) -> list[str]:
    """The texts of rows; a single string is not as many as it has characters."""
    texts = [] if isinstance(given, str | bytes) else list(given)
    # Arrow's own values of strings are no strings.
    texts = [text.as_py() if isinstance(text, pa.Scalar) else text for text in texts]
    if not texts or not all(isinstance(text, str) for text in texts):
        msg = f"of the text '{one.name}', expected a string for each row"
        raise TypeError(msg)
    return texts


def _matrix(given: Any) -> np.ndarray:
    """Features in memory that holds nothing else."""
    values: np.ndarray = (
        torch.as_tensor(given).detach().to("cpu", torch.float32).clone().numpy()
    )
    return values


def _checked(
    matrix: np.ndarray | None,
    columns: dict[str, Values],
    contract: Contract,
    what: str,
) -> InputRows:
    """The rows, whose shapes are those of the contract."""
    features = len(contract.features)
    if matrix is not None and (matrix.ndim != 2 or matrix.shape[1] != features):
        msg = (
            f"{what} has the shape {matrix.shape}, expected (rows, {features}), a column "
            "for each feature of the contract"
        )
        raise ReleaseError(msg)
    for one in contract.inputs:
        values = columns.get(one.name)
        size = f", {one.size}" if isinstance(one, Vector) else ""
        shape = (one.size,) if isinstance(one, Vector) else ()
        if isinstance(values, np.ndarray) and values.shape[1:] != shape:
            msg = (
                f"{what}: '{one.name}' has the shape {values.shape}, expected "
                f"(rows{size})"
            )
            raise ReleaseError(msg)
    counts = {name: len(values) for name, values in columns.items()}
    if matrix is not None:
        counts[FEATURES] = len(matrix)
    if len(set(counts.values())) > 1:
        msg = f"{what} has rows {counts}, expected as many of each"
        raise ReleaseError(msg)
    rows = next(iter(counts.values()))
    if matrix is None:
        matrix = np.empty((rows, 0), np.float32)
    return InputRows(np.ascontiguousarray(matrix.T), columns)
