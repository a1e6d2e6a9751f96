"""Which columns of its tables each column of a query is computed from.

It reads the query and the names of the tables' columns; it runs nothing, and no row
depends on it. Columns that a query only joins, filters or groups by are not among them.
"""

import logging
from functools import lru_cache

from batch_assets.lake.sources.base import Origin, Origins

log = logging.getLogger(__name__)

# Of each table, the names of its columns; none if they are not known.
KnownTables = tuple[tuple[str, tuple[str, ...]], ...]


@lru_cache(maxsize=32)
def origins_of(text: str, tables: KnownTables) -> Origins:
    """Return the origins of those columns of a query that can be told, in small letters.

    Args:
        text: one SELECT, in DuckDB's words.
        tables: what it may read.
    """
    # Half a second to import, for what the catalog shows alone.
    from sqlglot import exp
    from sqlglot.lineage import Node, lineage

    names = {table.lower(): table for table, _ in tables}
    columns = {
        (table.lower(), column.lower()): column
        for table, known in tables
        for column in known
    }

    def origin(leaf: Node) -> Origin | None:
        """Return the column that a leaf of the lineage is; None if it is none."""
        table = names.get(leaf.expression.name.lower())
        if not isinstance(leaf.expression, exp.Table) or table is None:
            return None
        column = leaf.name.rpartition(".")[2].strip('"')
        return Origin(table, columns.get((table.lower(), column.lower()), column))

    schema = {t: dict.fromkeys(known, "") for t, known in tables if known}
    try:
        found = lineage(None, text, schema, dialect="duckdb")
        leaves = {
            name: {origin(leaf) for leaf in node.walk() if not leaf.downstream}
            for name, node in found.items()
        }
    # It knows less of the language than DuckDB, which has run the query by now.
    except Exception as error:  # noqa: BLE001
        log.info("where the columns of the query are from can't be told: %s", error)
        return {}
    told = {name.lower(): {o for o in some if o} for name, some in leaves.items()}
    return {
        name: tuple(sorted(of_column))
        for name, of_column in told.items()
        # Of a table whose columns are not known, `*` is whatever there is.
        if of_column and "*" not in {one.column for one in of_column}
    }
