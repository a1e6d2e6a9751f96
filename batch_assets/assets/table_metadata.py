"""What the catalog shows of a day of a table: where it lies, its rows, its columns."""

from collections.abc import Mapping
from typing import Any

import dagster as dg
import pyarrow as pa

from batch_assets.assets.column_lineage import lineage_metadata
from batch_assets.assets.columns import Notes, column_schema
from batch_assets.assets.source_tables import Upstream
from batch_assets.lake.delta_table import Table

# What compares runs, and says little by itself.
OF_A_RUN = {"contract", "digest", "job", "engine", "unchanged", "resumed_chunks"}
CHECKSUM = "_keys"
IN_SHORT = "in_short"


def table_metadata(
    table: Table[Any, Any],
    rows: int,
    schema: pa.Schema,
    notes: Notes,
    upstream: Upstream,
) -> dict[str, Any]:
    """Return what is shown of a day, and of the table after it.

    Args:
        table: of the lake.
        rows: of the day.
        schema: of the day's files.
        notes: what each column is.
        upstream: which columns of other assets each is computed from.
    """
    all_rows, size = table.size()
    return {
        "dagster/uri": str(table.path),
        "dagster/partition_row_count": rows,
        "dagster/row_count": all_rows,
        "dagster/size_bytes": size,
        "dagster/column_schema": column_schema(schema, notes),
        **lineage_metadata(upstream),
    }


def in_order(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """Return metadata as a partition's page lists it.

    A sentence and pictures come first, then what is read; then what only tells one run
    from another; what Dagster itself asks for, and shows elsewhere, comes last.
    """

    def rank(name: str) -> int:
        if name.startswith("dagster/"):
            return 4
        if name in OF_A_RUN or name.endswith(CHECKSUM):
            return 3
        if name == IN_SHORT:
            return 0
        return 1 if isinstance(metadata[name], dg.MarkdownMetadataValue) else 2

    return {name: metadata[name] for name in sorted(metadata, key=rank)}
