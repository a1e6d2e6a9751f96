"""The same rows, held by a source of each kind."""

import json
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb
import psycopg
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
from deltalake import write_deltalake

from batch_assets_tests.delta_by_hand import delete_in_place, rename_column
from batch_assets_tests.servers import Server
from batch_assets_tests.toys import DAY

# What the variable of a test's PostgreSQL is called.
DSN = "ROWS_OF_THE_TESTS_DSN"
MODULE = "rows_of_the_tests"
FUNCTION = """\
from collections.abc import Iterator

import pyarrow as pa
import pyarrow.parquet as pq

from batch_assets.lake.sources import SourceDay


def rows(asked: SourceDay) -> Iterator[pa.RecordBatch]:
    path = asked.project / asked.arguments["folder"] / f"{asked.day}.parquet"
    yield from pq.ParquetFile(path).iter_batches(batch_size=200)
"""
TYPES = {
    "int8": "smallint",
    "int16": "smallint",
    "int32": "integer",
    "int64": "bigint",
    "float": "real",
    "double": "double precision",
    "bool": "boolean",
    "string": "text",
}


@dataclass(frozen=True)
class Holder:
    """How rows of a day are put where a source of a kind finds them.

    Attributes:
        put: writes them into a project, in place of what is there, and returns the source.
        by_content: whether other rows are seen without being asked for.
    """

    put: Callable[[Path, pa.Table], dict[str, Any]]
    by_content: bool = True


def put_csv(project: Path, rows: pa.Table) -> dict[str, Any]:
    """Two files of a day, one of them packed."""
    folder = project / f"day={DAY}"
    folder.mkdir(parents=True, exist_ok=True)
    half = len(rows) // 2
    with pa.output_stream(str(folder / "a.csv.gz"), compression="gzip") as packed:
        pyarrow.csv.write_csv(rows.slice(0, half), packed)
    pyarrow.csv.write_csv(rows.slice(half), folder / "b.csv")
    return {"kind": "csv", "glob": "day={{ day }}/*.csv*"}


def put_json(project: Path, rows: pa.Table) -> dict[str, Any]:
    """One file; what is null is left out."""
    project.mkdir(parents=True, exist_ok=True)
    lines = [
        json.dumps({name: value for name, value in row.items() if value is not None})
        for row in rows.to_pylist()
    ]
    (project / f"{DAY}.ndjson").write_text("\n".join(lines), encoding="utf-8")
    return {"kind": "json", "glob": "{{ day }}.ndjson"}


def put_python(project: Path, rows: pa.Table) -> dict[str, Any]:
    """A function of a module that lies in the project."""
    folder = project / "yielded"
    folder.mkdir(parents=True, exist_ok=True)
    pq.write_table(rows, folder / f"{DAY}.parquet")
    (project / f"{MODULE}.py").write_text(FUNCTION, encoding="utf-8")
    called = {"callable": f"{MODULE}:rows", "arguments": {"folder": folder.name}}
    return {"kind": "python", **called}


def put_delta(project: Path, rows: pa.Table) -> dict[str, Any]:
    """A table that has had other rows, deleted in place, and a column of another name."""
    more = pa.concat_tables([rows.slice(0, 7), rows]).combine_chunks()
    more = more.append_column("day", pa.array([DAY] * len(more)))
    old = more.rename_columns({"age": "years"})
    table = project / "mapped"
    shutil.rmtree(table, ignore_errors=True)
    mapped = {"delta.columnMapping.mode": "name"}
    write_deltalake(table, old, partition_by=["day"], configuration=mapped)
    rename_column(table, "years", "age")
    delete_in_place(table, range(7), features=["columnMapping"])
    return {"kind": "delta", "table": "mapped"}


def put_adbc(project: Path, rows: pa.Table) -> dict[str, Any]:
    """A database in a file, of another engine than PostgreSQL."""
    project.mkdir(parents=True, exist_ok=True)
    path = project / "warehouse.duckdb"
    with duckdb.connect(str(path)) as connection:
        connection.register("given", rows)
        connection.execute("CREATE OR REPLACE TABLE users AS FROM given")
    (project / "adbc.sql").write_text(
        "SELECT * FROM users WHERE $day < DATE '2030-01-01'", encoding="utf-8"
    )
    driver = {"driver": "adbc_driver_duckdb", "entrypoint": "duckdb_adbc_init"}
    options = {"options": {"path": str(path), "access_mode": "READ_ONLY"}}
    return {"kind": "adbc", "query": "adbc.sql", **driver, **options}


def put_postgres(server: Server, project: Path, rows: pa.Table) -> dict[str, Any]:
    """A table of a real PostgreSQL, whose name is that of the project."""
    project.mkdir(parents=True, exist_ok=True)
    table = "rows_" + re.sub(r"\W", "_", project.name)
    with psycopg.connect(server.url, autocommit=True) as connection:
        fill(connection, table, rows)
    (project / "postgres.sql").write_text(
        f"SELECT * FROM {table} WHERE $day <= DATE '{DAY}' -- of the day",
        encoding="utf-8",
    )
    return {"kind": "postgres", "query": "postgres.sql", "dsn_env": DSN}


def fill(connection: psycopg.Connection, table: str, rows: pa.Table) -> None:
    """Put rows into a table of PostgreSQL, in place of what is there."""
    columns = ", ".join(f"{f.name} {TYPES[str(f.type)]}" for f in rows.schema)
    connection.execute(f"DROP TABLE IF EXISTS {table}")
    connection.execute(f"CREATE TABLE {table} ({columns})")
    with connection.cursor().copy(f"COPY {table} FROM STDIN") as copy:
        for row in rows.to_pylist():
            copy.write_row(list(row.values()))


HOLDERS = {
    "csv": Holder(put_csv),
    "json": Holder(put_json),
    "delta": Holder(put_delta),
    "python": Holder(put_python, by_content=False),
    "adbc": Holder(put_adbc, by_content=False),
}
# What holds rows in a PostgreSQL is a fixture; the kinds that are left have tests of their own.
KINDS = sorted({*HOLDERS, "postgres"})
OTHER_KINDS = {"sql", "parquet", "asset", "iceberg", "kafka"}
