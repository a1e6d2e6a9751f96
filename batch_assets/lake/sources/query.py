"""A DuckDB query that is a function of its day and its tables, and of nothing else.

What could make one night's answer another's is shut: the clock and the dice, files and
functions that no table declares, the network, extensions, variables of Python, the
zone and the cores of the machine. It knows nothing of contracts or of the lake.
"""

import json
import re
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date
from itertools import groupby
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa

from batch_assets.errors import SourceError
from batch_assets.lake.pins import BATCH_ROWS
from batch_assets.lake.source_files import one_schema, parquet_schemas
from batch_assets.lake.sources.base import ReadContext

# Functions that read the clock, the session or dice, but are not told apart as such.
UNSTABLE = {
    "ago",
    "pg_postmaster_start_time",
    "pg_conf_load_time",
    "parse_duckdb_log_message",
}
# Written without parentheses they look like columns.
CLOCK = {
    "current_date",
    "current_time",
    "current_timestamp",
    "localtime",
    "localtimestamp",
}
# Of the functions that DuckDB calls volatile, the one that only ever ends a query.
STABLE = {"error"}
# Functions that stand in FROM, and read nothing but their arguments.
ROWS_OF_ARGUMENTS = {
    "generate_series",
    "json_each",
    "json_tree",
    "range",
    "repeat",
    "repeat_row",
    "unnest",
}
COMPRESSED = {".gz", ".zst"}
# Which files are no Parquet. Every row is looked at before a column is given a type.
READERS = {
    ".csv": "read_csv({}, sample_size = -1)",
    ".tsv": "read_csv({}, sample_size = -1)",
    ".json": "read_json({}, sample_size = -1)",
    ".jsonl": "read_json({}, sample_size = -1)",
    ".ndjson": "read_json({}, sample_size = -1)",
}
SEALED = """
    SET autoinstall_known_extensions = false;
    SET autoload_known_extensions = false;
    SET python_enable_replacements = false;
    SET enable_external_access = false;
    SET lock_configuration = true;
"""


@dataclass(frozen=True)
class Query:
    """A query that was read and found to be one SELECT.

    `day` tells whether the day is bound in it, as `$day`.
    """

    text: str
    day: bool


def parsed(text: str) -> Query:
    """Read a query, and refuse what could answer otherwise the next time.

    Raises:
        SourceError: it is no single SELECT, has other parameters than `$day`, or asks
            for the time, for random numbers or for a file.
    """
    with duckdb.connect() as connection:
        try:
            statements = connection.extract_statements(text)
            tree = _tree(connection, statements)
            unstable = _unstable(connection)
        except duckdb.Error as error:
            raise SourceError(str(error)) from error
    (statement,) = statements
    if other := statement.named_parameters - {"day"}:
        named = ", ".join(f"${name}" for name in sorted(other))
        msg = f"its parameters are {named}; the only one there is, is $day"
        raise SourceError(msg)
    _must_repeat(tree, unstable)
    return Query(statement.query.rstrip().rstrip(";"), bool(statement.named_parameters))


@contextmanager
def rows_of(
    query: Query,
    context: ReadContext,
    tables: Mapping[str, list[Path]],
    *,
    memory_limit: str,
    threads: int,
) -> Iterator[pa.RecordBatchReader]:
    """Run a query, and stream its rows.

    On one thread DuckDB does the same in the same order each time: its rows come as
    they come. On several they are sorted by their key; what it sums is then summed in
    another order each time, and the last bits of a float may differ.

    Args:
        query: what to run.
        context: the day, bound as `$day`, a DATE; the zone in which the query takes a
            TIMESTAMPTZ apart; the key to sort by.
        tables: the files of each view that the query may read.
        memory_limit: in DuckDB's words; what is more is written to a folder of its own.
        threads: how many cores the query may use.

    Raises:
        duckdb.Error: it can't be run.
        SourceError: files of a table have different columns.
    """
    with (
        tempfile.TemporaryDirectory(prefix="batch-assets-query-") as spill,
        duckdb.connect() as connection,
    ):
        connection.load_extension("icu")
        connection.execute("SET TimeZone = ?", [context.timezone])
        connection.execute("SET memory_limit = ?", [memory_limit])
        connection.execute("SET threads = ?", [threads])
        connection.execute("SET temp_directory = ?", [spill])
        for name, paths in tables.items():
            connection.execute(
                f"CREATE VIEW {_quoted(name)} AS {_view(connection, paths)}"
            )
        connection.execute("SET allowed_paths = ?", [_allowed(tables)])
        connection.execute(SEALED)
        bound = {"day": date.fromisoformat(context.day)} if query.day else None
        # A relation streams; the result of `execute` would be copied whole.
        relation = connection.sql(query.text, params=bound)
        if threads > 1 and context.key in relation.columns:
            text = f"SELECT * FROM (\n{query.text}\n) ORDER BY {_quoted(context.key)}"
            relation = connection.sql(text, params=bound)
        yield relation.to_arrow_reader(BATCH_ROWS)


def format_of(path: Path) -> str:
    """Return what kind of file a table is of, in one word."""
    return _reader(path).partition("_")[2].partition("(")[0]


def known_columns(paths: list[Path]) -> tuple[str, ...]:
    """Return the columns of a table's files, from the first; none if it has no footer.

    Of a CSV or JSON file DuckDB would have to read every row.
    """
    first = paths[0]
    if _reader(first) in READERS.values():
        return ()
    return tuple(parquet_schemas([first])[0].names)


# Quoted: a type of DuckDB's that a function holds is reported as leaked at the exit.
def _tree(connection: "duckdb.DuckDBPyConnection", statements: list[Any]) -> Any:
    """Parse the one SELECT that there is."""
    if len(statements) != 1:
        msg = f"it holds {len(statements)} statements, expected one SELECT"
        raise SourceError(msg)
    kind = statements[0].type
    if kind == duckdb.StatementType.MULTI:
        msg = (
            "it is a PIVOT whose columns depend on the rows: list them, as in "
            "`PIVOT t ON plan IN ('free', 'pro') USING count(*)`"
        )
        raise SourceError(msg)
    if kind != duckdb.StatementType.SELECT:
        msg = f"it is no SELECT but {kind.name}: a query reads its tables, and does no more"
        raise SourceError(msg)
    result = connection.execute("SELECT json_serialize_sql(?)", [statements[0].query])
    (text,) = result.fetchone() or ("{}",)
    tree = json.loads(text)
    if tree.get("error"):
        msg = str(tree.get("error_message"))
        raise SourceError(msg)
    return tree


def _unstable(connection: "duckdb.DuckDBPyConnection") -> set[str]:
    """List the functions whose answer depends on more than their arguments."""
    result = connection.execute(
        "SELECT DISTINCT function_name FROM duckdb_functions() "
        "WHERE stability IN ('VOLATILE', 'CONSISTENT_WITHIN_QUERY')"
    )
    return {name for (name,) in result.fetchall()} - STABLE | UNSTABLE


def _must_repeat(tree: Any, unstable: set[str]) -> None:
    """Refuse what could answer otherwise the next time.

    Raises:
        SourceError: with what it is, and what to write instead.
    """
    for node in _nodes(tree):
        name = str(node.get("function_name", "")).lower()
        columns = node.get("column_names")
        if columns and len(columns) == 1 and columns[0].lower() in CLOCK:
            name = columns[0].lower()
        if name in unstable | CLOCK:
            msg = (
                f"it asks for {name}, which is another each time, so that the same night "
                "run twice would not be the same. Take the day from $day; a column of "
                "that name is written with its table's"
            )
            raise SourceError(msg)
        if (sample := node.get("sample")) and not sample["repeatable"]:
            msg = (
                "it samples rows, others each time. Give the sample a seed, as in "
                "`TABLESAMPLE bernoulli(10%) REPEATABLE (42)`"
            )
            raise SourceError(msg)
        if node.get("type") != "TABLE_FUNCTION":
            continue
        function = str(node["function"]["function_name"]).lower()
        if function not in ROWS_OF_ARGUMENTS:
            raise SourceError(undeclared(f"calls {function}() in FROM"))


def undeclared(what: str) -> str:
    """Say what to do about a query that reads what no table declares."""
    return (
        f"it {what}; a query reads what `tables` declares, and nothing else. Name the "
        "file there, as in `tables: {users: data/users.csv}`, and read FROM users"
    )


def _nodes(tree: Any) -> Iterator[dict[str, Any]]:
    if isinstance(tree, dict):
        yield tree
        tree = list(tree.values())
    if isinstance(tree, list):
        for child in tree:
            yield from _nodes(child)


def _view(connection: "duckdb.DuckDBPyConnection", paths: list[Path]) -> str:
    """Write the SELECT over the files of a table, which have the same columns.

    DuckDB would take the first file's types, and turn the values of the others.
    """
    readers = {_reader(path) for path in paths}
    if len(readers) > 1:
        msg = f"{paths[0]} and others of its table are not of the same kind of file"
        raise SourceError(msg)
    (reader,) = readers
    if reader in READERS.values():
        schemas = [_described(connection, reader, path) for path in paths]
        one_schema(paths, schemas)
        return f"SELECT * FROM {reader.format(_listed(paths))}"
    schemas = parquet_schemas(paths)
    whole = one_schema(paths, schemas)
    # Columns of nulls without a type are left out, and come as nulls of the others'.
    untyped = [
        tuple(n for n in whole.names if pa.types.is_null(s.field(n).type))
        for s in schemas
    ]
    everywhere = set(untyped[0]).intersection(*untyped[1:])
    selects = []
    by_untyped = groupby(zip(untyped, paths, strict=True), lambda pair: pair[0])
    for left_out, pairs in by_untyped:
        names = [_quoted(name) for name in left_out if name not in everywhere]
        exclude = f" EXCLUDE ({', '.join(names)})" if names else ""
        files = _listed([path for _, path in pairs])
        selects.append(f"SELECT *{exclude} FROM {reader.format(files)}")
    return " UNION ALL BY NAME ".join(selects)


def _reader(path: Path) -> str:
    suffixes = [suffix.lower() for suffix in path.suffixes]
    if suffixes and suffixes[-1] in COMPRESSED:
        suffixes.pop()
    return READERS.get(suffixes[-1] if suffixes else "", "read_parquet({})")


def _described(
    connection: "duckdb.DuckDBPyConnection", reader: str, path: Path
) -> pa.Schema:
    relation = connection.sql(f"SELECT * FROM {reader.format(_listed([path]))} LIMIT 0")
    return relation.to_arrow_table().schema


def _allowed(tables: Mapping[str, list[Path]]) -> list[str]:
    """List the files of all tables, as they are and as they are asked for."""
    paths = [path for paths in tables.values() for path in paths]
    return sorted({str(path) for path in paths} | {_literal(path) for path in paths})


def _listed(paths: list[Path]) -> str:
    """Write files as a list in SQL."""
    texts = [_literal(path).replace("'", "''") for path in paths]
    return "[" + ", ".join(f"'{text}'" for text in texts) + "]"


def _literal(path: Path) -> str:
    """Write a path, which DuckDB takes for a pattern, as a pattern of that one file."""
    return re.sub(r"([\[*?])", r"[\1]", str(path))


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'
