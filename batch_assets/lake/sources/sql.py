"""Rows that a DuckDB query gives."""

import hashlib
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar, Literal

import duckdb
import pyarrow as pa
from pydantic import Field

from batch_assets.errors import SourceError
from batch_assets.lake.pins import BATCH_ROWS
from batch_assets.lake.source_files import (
    Signature,
    digests,
    matching,
    one_schema,
    parquet_batches,
    parquet_schemas,
    signature,
)
from batch_assets.lake.sources.base import (
    HISTORY,
    BaseSource,
    History,
    Origins,
    ReadContext,
    SourceTable,
)
from batch_assets.lake.sources.origins import origins_of
from batch_assets.lake.sources.query import (
    Query,
    format_of,
    known_columns,
    parsed,
    rows_of,
    undeclared,
)
from batch_assets.lake.sources.query_file import query_failed, query_text
from batch_assets.lake.texts import broken_columns

# What DuckDB says of text that is not UTF-8, and of the file that holds it.
NOT_UTF8 = re.compile(r"not valid UTF8|not utf-8 encoded|invalid UTF-8", re.IGNORECASE)
FILE = re.compile(r'Parquet file "(?P<broken>.+?)"|file "(.+?)"|\bfile = (.+)')


class SqlSource(BaseSource):
    """A DuckDB query with the day bound as `$day`, a DATE.

    `query` is a file beside the YAML. `tables` names the views that it reads, each over
    one file or glob of Parquet, CSV or JSON, relative to the project; it reads nothing
    else. On more than one of `threads`, rows are sorted by their key.
    """

    shown_as: ClassVar[str] = "sql"
    kind: Literal["sql"]
    query: str
    tables: dict[str, str] = Field(default_factory=dict)
    memory_limit: str = "2GB"
    threads: int = Field(
        default=1,
        ge=1,
        description="How many cores the query may use. On one, the same rows give the "
        "same bits; on more, a sum of floats may differ in its last.",
    )
    history: History | None = HISTORY

    def read_from(self) -> list[SourceTable]:
        """Return the views that the query may read."""
        return [
            SourceTable(name, glob, format_of(Path(glob)))
            for name, glob in self.tables.items()
        ]

    def code(self, base: Path) -> list[Path]:
        """Return the query's file."""
        return [base / self.query]

    def origins(self, context: ReadContext, columns: Sequence[str]) -> Origins:
        """Return which columns of its tables the query computes each column from.

        Those that it only joins or filters by are not among them.
        """
        known = {n: known_columns(paths) for n, paths in self._files(context).items()}
        found = origins_of(self._text(context.base), tuple(known.items()))
        by_name = {column.lower(): column for column in columns}
        return {by_name[name]: found[name] for name in by_name.keys() & found.keys()}

    def keeps_history(self, base: Path) -> bool:
        """Return whether `$day` is bound in the query.

        Raises:
            SourceError: `history: days` is declared, and no day is asked for.
        """
        asked = self._parsed(base).day
        if self.history == "days" and not asked:
            msg = (
                f"the query {base / self.query} never uses $day, so it gives every day "
                "the same rows, and `history: days` can't be. Bind $day in it, or "
                "declare `history: none`"
            )
            raise SourceError(msg)
        return asked and self.history != "none"

    def identity(self, context: ReadContext) -> dict[str, Any]:
        """Return the query's sha256, the zone of its day, and each file's sha256."""
        text = self._text(context.base)
        files = {
            name: digests(paths, context.project)
            for name, paths in self._files(context).items()
        }
        return {
            "kind": self.kind,
            "day": context.day,
            "timezone": context.timezone,
            "query": hashlib.sha256(text.encode()).hexdigest(),
            "files": files,
        }

    def signature(self, context: ReadContext) -> Signature:
        return [s for paths in self._files(context).values() for s in signature(paths)]

    @contextmanager
    def read(self, context: ReadContext) -> Iterator[pa.RecordBatchReader]:
        """Stream the query's rows.

        Raises:
            SourceError: the query or one of its files can't be read.
        """
        query = self._parsed(context.base)
        try:
            with rows_of(
                query,
                context,
                self._files(context),
                memory_limit=self.memory_limit,
                threads=self.threads,
            ) as reader:
                rows = self._streamed(reader, context)
                yield pa.RecordBatchReader.from_batches(reader.schema, rows)
        except duckdb.PermissionException as error:
            what = undeclared(f"wants what is shut ({str(error).splitlines()[0]})")
            raise self._failed(context.base, what) from error
        except duckdb.Error as error:
            what = _not_utf8(error) or f"{error}"
            what = f"it failed for {context.day}: {what}"
            raise self._failed(context.base, what) from error

    def _streamed(
        self, reader: pa.RecordBatchReader, context: ReadContext
    ) -> Iterator[pa.RecordBatch]:
        try:
            yield from reader
        except (OSError, pa.ArrowException) as error:
            if what := _not_utf8(error):
                what = f"it failed for {context.day}: {what}"
                raise self._failed(context.base, what) from error
            raise

    def _files(self, context: ReadContext) -> dict[str, list[Path]]:
        return {n: matching(glob, context.project) for n, glob in self.tables.items()}

    def _parsed(self, base: Path) -> Query:
        text = self._text(base)
        try:
            return parsed(text)
        except SourceError as error:
            raise self._failed(base, str(error)) from error

    def _failed(self, base: Path, what: str) -> SourceError:
        return query_failed(base / self.query, what)

    def _text(self, base: Path) -> str:
        return query_text(base, self.query)


def _not_utf8(error: Exception) -> str | None:
    """Say of an error, if it is of text that is not UTF-8, where that is, and what to do."""
    if not NOT_UTF8.search(str(error)):
        return None
    found = FILE.search(str(error))
    path = Path(next(filter(None, found.groups()))) if found else None
    column = _broken_column(path) if found and path and found["broken"] else None
    where = f"column '{column}' of {path}" if column else f"{path or 'a file'}"
    instead = (
        "let what writes it declare the column as binary, and take `decode(x, 'replace')` "
        "or the bytes as they are"
        if found and found["broken"]
        else "write the file again as UTF-8"
    )
    return (
        f"{where} holds text that is not UTF-8, and DuckDB gives no row of it. Nothing "
        "was committed; read the file by a source of its own kind, which quarantines such "
        f"rows one by one, or {instead}"
    )


def _broken_column(path: Path) -> str | None:
    """Return the first column of a Parquet file with such text."""
    schema = one_schema([path], parquet_schemas([path]))
    for batch in parquet_batches([path], schema, BATCH_ROWS):
        for name in broken_columns(batch, str(path)):
            return name
    return None
