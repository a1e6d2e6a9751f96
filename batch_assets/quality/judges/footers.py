"""What the footers of committed predictions tell, and their rows where those don't."""

from typing import Any

import duckdb

from batch_assets.errors import LakeError
from batch_assets.lake.parts import Part, open_part, read_columns
from batch_assets.lake.receipts import PredictionsReceipt


def column_spans(
    part: Part[PredictionsReceipt], column: str
) -> list[tuple[Any, Any]] | None:
    """Return least and most of a column in each row group, if its footer tells them all.

    A column with a null doesn't tell: the null is in no statistics but the count.
    """
    _, file = open_part(part.path)
    with file:
        index = file.schema_arrow.get_field_index(column)
        groups = [file.metadata.row_group(i) for i in range(file.num_row_groups)]
    spans = []
    for group in groups:
        statistics = group.column(index).statistics
        if (
            statistics is None
            or not statistics.has_min_max
            or statistics.null_count != 0
        ):
            return None
        spans.append((statistics.min, statistics.max))
    return spans


def query(
    part: Part[PredictionsReceipt], columns: list[str], sql: str
) -> list[tuple[Any, ...]]:
    """Run a query over some columns of a part, as the view `rows`.

    Raises:
        LakeError: they can't be read.
    """
    with duckdb.connect() as connection:
        try:
            connection.register("rows", read_columns(part.path, columns))
            return connection.execute(sql).fetchall()
        except duckdb.Error as error:
            msg = f"the committed predictions can't be read: {error}"
            raise LakeError(msg) from error
