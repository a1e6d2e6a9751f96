"""Where a day's raw rows come from: a query, Parquet files, a Delta table.

Each source is declared in the YAML and does two things for a day: it names what it
would read (`identity`), and it reads it as a stream of Arrow batches (`read`). It
knows nothing of contracts, shards or tables of the lake.
"""

import glob
import hashlib
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from datetime import date
from pathlib import Path
from typing import Annotated, Any, Literal

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import BaseModel, ConfigDict, Field, WithJsonSchema

from batch_assets.errors import SourceError
from batch_assets.lake.pins import BATCH_ROWS, PinnedRows

DAY = re.compile(r"\{\{\s*day\s*\}\}")


class Declared(BaseModel):
    """Part of the YAML: frozen, without room for misspelt fields."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class SqlSource(Declared):
    """A DuckDB query with the day bound as `$day`, a DATE.

    `query` is a file beside the YAML. `tables` names the views that it reads, each over
    one Parquet file or glob, relative to the project.
    """

    kind: Literal["sql"]
    query: str
    tables: dict[str, str] = Field(default_factory=dict)
    memory_limit: str = "2GB"

    def identity(self, day: str, base: Path, project: Path) -> dict[str, Any]:
        """The query's sha256, and each input file with its size and time."""
        text = self._text(base)
        files = {
            name: [file_identity(path) for path in matching(pattern, project)]
            for name, pattern in self.tables.items()
        }
        digest = hashlib.sha256(text.encode()).hexdigest()
        return {"kind": "sql", "day": day, "query": digest, "files": files}

    @contextmanager
    def read(
        self, day: str, base: Path, project: Path
    ) -> Iterator[pa.RecordBatchReader]:
        """The query's rows as a stream.

        Raises:
            SourceError: the query or one of its files can't be read.
        """
        text = self._text(base)
        with duckdb.connect() as connection:
            try:
                connection.execute("SET memory_limit = ?", [self.memory_limit])
                # Rows may come in any order: the books and the chunks don't mind.
                connection.execute("SET preserve_insertion_order = false")
                for name, pattern in self.tables.items():
                    files = [str(path) for path in matching(pattern, project)]
                    connection.read_parquet(files).create_view(name)
                # A relation streams; the result of `execute` would be copied whole.
                bound = {"day": date.fromisoformat(day)} if "$day" in text else None
                relation = connection.sql(text, params=bound)
                yield relation.to_arrow_reader(BATCH_ROWS)
            except duckdb.Error as error:
                msg = f"the query {base / self.query} failed for {day}: {error}"
                raise SourceError(msg) from error

    def _text(self, base: Path) -> str:
        path = base / self.query
        if not path.is_file():
            msg = f"the query '{self.query}' is not there: looked for {path}"
            raise SourceError(msg)
        return path.read_text(encoding="utf-8")


class ParquetSource(Declared):
    """Parquet files whose glob may hold `{{ day }}`, relative to the project."""

    kind: Literal["parquet"]
    glob: str

    def identity(self, day: str, base: Path, project: Path) -> dict[str, Any]:
        """Each file with its size and time."""
        return {
            "kind": "parquet",
            "day": day,
            "files": [file_identity(path) for path in self._files(day, project)],
        }

    @contextmanager
    def read(
        self, day: str, base: Path, project: Path
    ) -> Iterator[pa.RecordBatchReader]:
        """The files' rows as a stream, one row group at a time.

        Raises:
            SourceError: a file is not Parquet, or has other columns than the first.
        """
        paths = self._files(day, project)
        schema = _parquet_schema(paths[0])
        for path in paths[1:]:
            other = _parquet_schema(path)
            if not other.equals(schema):
                msg = (
                    f"{path} has other columns than {paths[0]}: "
                    f"{_difference(other, schema)}"
                )
                raise SourceError(msg)
        yield pa.RecordBatchReader.from_batches(schema, _parquet_batches(paths))

    def _files(self, day: str, project: Path) -> list[Path]:
        return matching(DAY.sub(day, self.glob), project)


class DeltaSource(Declared):
    """A Delta table; the day's rows are those where `day_column` equals the day.

    `version` pins a version of the table; the newest is read if it is left out.
    """

    kind: Literal["delta"]
    table: str
    day_column: str | None = "day"
    version: int | None = Field(default=None, ge=0)

    def identity(self, day: str, base: Path, project: Path) -> dict[str, Any]:
        """The table, its version, and the files that hold the day."""
        return asdict(self.pinned(day, project).pin)

    @contextmanager
    def read(
        self, day: str, base: Path, project: Path
    ) -> Iterator[pa.RecordBatchReader]:
        """The day's rows as a stream, without the day column.

        Raises:
            SourceError: there is no such table or column, or a file can't be read.
        """
        rows = self.pinned(day, project)
        batches = rows.batches(rows.schema.names)
        yield pa.RecordBatchReader.from_batches(rows.schema, batches)

    def pinned(self, day: str, project: Path) -> PinnedRows:
        """The day's rows of the version, which stay where they are.

        Raises:
            SourceError: there is no such table, version or column, or it can't be read.
        """
        uri = self.table if "://" in self.table else str(project / self.table)
        return PinnedRows(uri, self.version, day, self.day_column)


KINDS = {"sql": SqlSource, "parquet": ParquetSource, "delta": DeltaSource}


def kinds_schema(kinds: Mapping[str, type[BaseModel]]) -> WithJsonSchema:
    """The schema of one of several kinds, told by its `kind`.

    As a plain union, a validator of the YAML could only say that none fits.
    """
    return WithJsonSchema(
        {
            "type": "object",
            "properties": {"kind": {"enum": list(kinds)}},
            "required": ["kind"],
            "allOf": [
                {
                    "if": {"properties": {"kind": {"const": kind}}},
                    "then": model.model_json_schema(),
                }
                for kind, model in kinds.items()
            ],
        }
    )


Source = Annotated[
    SqlSource | ParquetSource | DeltaSource,
    Field(discriminator="kind"),
    kinds_schema(KINDS),
]


def matching(pattern: str, project: Path) -> list[Path]:
    """The files of a path or glob, sorted.

    Raises:
        SourceError: there is none.
    """
    paths = sorted(Path(p) for p in glob.glob(str(project / pattern), recursive=True))
    if not paths:
        msg = f"no file matches {project / pattern}"
        raise SourceError(msg)
    return paths


def file_identity(path: Path) -> list[Any]:
    """What tells a file from the one that may replace it: path, bytes, time in ns."""
    stat = path.stat()
    return [str(path), stat.st_size, stat.st_mtime_ns]


def _parquet_schema(path: Path) -> pa.Schema:
    try:
        return pq.read_schema(path).remove_metadata()
    except (OSError, pa.ArrowException) as error:
        raise _unreadable(path, error) from error


def _parquet_batches(paths: list[Path]) -> Iterator[pa.RecordBatch]:
    for path in paths:
        try:
            # Buffered ahead, a file would be held whole until its last row.
            with pq.ParquetFile(
                path, page_checksum_verification=True, pre_buffer=False
            ) as file:
                yield from file.iter_batches(batch_size=BATCH_ROWS)
        except (OSError, pa.ArrowException) as error:
            raise _unreadable(path, error) from error


def _unreadable(path: Path, error: Exception) -> SourceError:
    return SourceError(
        f"{path} can't be read as Parquet: {str(error).rstrip('.')}. Nothing was committed; replace the "
        "file and run the day again."
    )


def _difference(one: pa.Schema, other: pa.Schema) -> str:
    def only(mine: pa.Schema, theirs: pa.Schema) -> str:
        fields = [f"'{f.name}' {f.type}" for f in mine if f not in list(theirs)]
        return ", ".join(fields) or "nothing more"

    return f"got {only(one, other)}; expected {only(other, one)}"
