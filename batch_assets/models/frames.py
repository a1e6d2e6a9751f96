"""A training frame of any library as an Arrow table. It knows no contract.

What a library means by NaN differs: of a pandas column it is a null, and so it is here of
every float, because no contract allows a NaN.
"""

from collections.abc import Mapping
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from batch_assets.errors import ContractError
from batch_assets.models.columns import plain_type


def table_of(frame: Any) -> pa.Table:
    """Return a frame as a table whose floats have nulls where they had NaN.

    Args:
        frame: of polars, pandas or Arrow, a mapping of columns, or anything that hands
            over a stream of Arrow's.

    Raises:
        ContractError: it is none of these, or has columns that Arrow can't hold.
    """
    try:
        table = _arrow(frame)
    except (pa.ArrowException, TypeError, ValueError) as error:
        msg = f"the frame can't be turned into Arrow: {error}"
        raise ContractError(msg) from error
    twice = sorted(
        {name for name in table.column_names if table.column_names.count(name) > 1}
    )
    if twice:
        msg = f"the frame has two columns named '{twice[0]}': rename one"
        raise ContractError(msg)
    columns = {name: _without_nan(table[name]) for name in table.column_names}
    return pa.table(columns)


def _arrow(frame: Any) -> pa.Table:
    if isinstance(frame, pa.Table):
        return frame
    if isinstance(frame, pa.RecordBatch):
        return pa.table(frame)
    library = type(frame).__module__.partition(".")[0]
    if library == "pandas":
        return _of_pandas(frame)
    if library == "polars" and hasattr(frame, "collect"):
        return frame.collect().to_arrow()
    if library == "polars" and hasattr(frame, "to_arrow"):
        return frame.to_arrow()
    if isinstance(frame, Mapping):
        return pa.table(
            {
                name: one.to_arrow() if hasattr(one, "to_arrow") else one
                for name, one in frame.items()
            }
        )
    if hasattr(frame, "__arrow_c_stream__"):
        return pa.table(frame)
    msg = (
        f"got {type(frame).__name__}, expected a polars or pandas DataFrame, an Arrow "
        "table, or a dict of columns"
    )
    raise TypeError(msg)


def _of_pandas(frame: Any) -> pa.Table:
    names = getattr(frame, "columns", None)
    if names is None:
        msg = f"got a pandas {type(frame).__name__}, expected a DataFrame"
        raise TypeError(msg)
    if odd := [name for name in names if not isinstance(name, str)]:
        msg = f"the columns {odd[:5]} are not named by text: name them"
        raise TypeError(msg)
    if index := [name for name in frame.index.names if name is not None]:
        msg = f"the frame's index is {index}: make it a column with reset_index()"
        raise ValueError(msg)
    return pa.Table.from_pandas(frame, preserve_index=False)


def _without_nan(column: pa.ChunkedArray) -> pa.ChunkedArray:
    dtype = plain_type(column.type)
    if not pa.types.is_floating(dtype):
        return column
    if pa.types.is_float16(dtype):
        column = column.cast(pa.float32())
    return pc.if_else(pc.is_nan(column), pa.scalar(None, column.type), column)
