"""Where a day's raw rows come from: a query, Parquet files, a Delta table.

Each source is declared in the YAML and does two things for a day: it names what it
would read (`identity`), and it reads it as a stream of Arrow batches (`read`). It also
says whether it keeps history: what it tells of a day that is long over. It knows nothing
of contracts, shards or tables of the lake.
"""

import hashlib
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import duckdb
import pyarrow as pa
from pydantic import BaseModel, ConfigDict, Field, WithJsonSchema, model_validator

from batch_assets.errors import SourceError
from batch_assets.lake.pins import BATCH_ROWS, PinnedRows
from batch_assets.lake.source_files import (
    Signature,
    digests,
    matching,
    one_schema,
    parquet_batches,
    parquet_schemas,
    signature,
)
from batch_assets.lake.sources.query import Query, parsed, rows_of, undeclared

DAY = re.compile(r"\{\{\s*day\s*\}\}")
HISTORY = Field(
    default=None,
    description="`none` where the source tells only what holds now, so that nothing but "
    "the newest day can be read; `days` where it tells of every day. Taken from the "
    "source if left out.",
)
History = Literal["days", "none"]


class Declared(BaseModel):
    """Part of the YAML: frozen, without room for misspelt fields."""

    model_config = ConfigDict(extra="forbid", frozen=True)


@dataclass(frozen=True)
class ReadContext:
    """What a source is read for, and from where.

    Attributes:
        day: the day, as `2026-01-05`.
        timezone: of the pipeline, in which that day begins and ends.
        key: the column that names a row.
        base: the folder of the YAML, which a query's file is relative to.
        project: the folder of the project, which data files are relative to.
    """

    day: str
    timezone: str
    key: str
    base: Path
    project: Path


class SqlSource(Declared):
    """A DuckDB query with the day bound as `$day`, a DATE.

    `query` is a file beside the YAML. `tables` names the views that it reads, each over
    one file or glob of Parquet, CSV or JSON, relative to the project; it reads nothing
    else. On more than one of `threads`, rows are sorted by their key.
    """

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

    def keeps_history(self, base: Path) -> bool:
        """Whether it tells of a day what held then: `$day` is bound in the query.

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
        """The query's sha256, the zone of its day, and each input file's sha256."""
        text = self._text(context.base)
        files = {
            name: digests(paths, context.project)
            for name, paths in self._files(context).items()
        }
        return {
            "kind": "sql",
            "day": context.day,
            "timezone": context.timezone,
            "query": hashlib.sha256(text.encode()).hexdigest(),
            "files": files,
        }

    def signature(self, context: ReadContext) -> Signature:
        """What changes when an input file is written to."""
        return [s for paths in self._files(context).values() for s in signature(paths)]

    @contextmanager
    def read(self, context: ReadContext) -> Iterator[pa.RecordBatchReader]:
        """The query's rows as a stream.

        Raises:
            SourceError: the query or one of its files can't be read.
        """
        query = self._parsed(context.base)
        try:
            with rows_of(
                query,
                context.day,
                self._files(context),
                timezone=context.timezone,
                memory_limit=self.memory_limit,
                threads=self.threads,
                key=context.key,
                batch_rows=BATCH_ROWS,
            ) as reader:
                yield reader
        except duckdb.PermissionException as error:
            what = undeclared(f"wants what is shut ({str(error).splitlines()[0]})")
            raise self._failed(context.base, what) from error
        except duckdb.Error as error:
            what = f"it failed for {context.day}: {error}"
            raise self._failed(context.base, what) from error

    def _files(self, context: ReadContext) -> dict[str, list[Path]]:
        return {n: matching(glob, context.project) for n, glob in self.tables.items()}

    def _parsed(self, base: Path) -> Query:
        text = self._text(base)
        try:
            return parsed(text)
        except SourceError as error:
            raise self._failed(base, str(error)) from error

    def _failed(self, base: Path, what: str) -> SourceError:
        return SourceError(f"the query {base / self.query} can't be run: {what}")

    def _text(self, base: Path) -> str:
        path = base / self.query
        if not path.is_file():
            msg = f"the query '{self.query}' is not there: looked for {path}"
            raise SourceError(msg)
        try:
            return path.read_text(encoding="utf-8")
        except UnicodeDecodeError as error:
            raise self._failed(base, f"its text is not UTF-8: {error}") from error


class ParquetSource(Declared):
    """Parquet files whose glob may hold `{{ day }}`, relative to the project."""

    kind: Literal["parquet"]
    glob: str
    history: History | None = HISTORY

    @model_validator(mode="after")
    def _history_is_of_days(self) -> Self:
        if self.history == "days" and not DAY.search(self.glob):
            msg = (
                f"the glob '{self.glob}' has no {{{{ day }}}}, so it gives every day "
                "the same rows: declare `history: none`, or leave it out"
            )
            raise ValueError(msg)
        return self

    def keeps_history(self, base: Path) -> bool:
        """Whether it tells of a day what held then: it has files for each."""
        return self.history != "none" and bool(DAY.search(self.glob))

    def identity(self, context: ReadContext) -> dict[str, Any]:
        """Each file's sha256."""
        return {
            "kind": "parquet",
            "day": context.day,
            "files": digests(self._files(context), context.project),
        }

    def signature(self, context: ReadContext) -> Signature:
        """What changes when a file is written to."""
        return signature(self._files(context))

    @contextmanager
    def read(self, context: ReadContext) -> Iterator[pa.RecordBatchReader]:
        """The files' rows as a stream, one row group at a time.

        Raises:
            SourceError: a file is not Parquet, or has other columns than the first.
        """
        paths = self._files(context)
        schema = one_schema(paths, parquet_schemas(paths))
        batches = parquet_batches(paths, schema, BATCH_ROWS)
        yield pa.RecordBatchReader.from_batches(schema, batches)

    def _files(self, context: ReadContext) -> list[Path]:
        return matching(DAY.sub(context.day, self.glob), context.project)


class DeltaSource(Declared):
    """A Delta table; the day's rows are those where `day_column` is of the day.

    `version` pins a version of the table; the newest is read if it is left out.
    """

    kind: Literal["delta"]
    table: str
    day_column: str | None = "day"
    version: int | None = Field(default=None, ge=0)
    history: History | None = HISTORY

    @model_validator(mode="after")
    def _history_is_of_days(self) -> Self:
        if self.history == "days" and self.day_column is None:
            msg = (
                "without a `day_column` every day has the same rows: declare `history: "
                "none`, or leave it out"
            )
            raise ValueError(msg)
        return self

    def keeps_history(self, base: Path) -> bool:
        """Whether it tells of a day what held then: its rows bear their day."""
        return self.history != "none" and self.day_column is not None

    def identity(self, context: ReadContext) -> dict[str, Any]:
        """The table, its version, and the files that hold the day."""
        return asdict(self.pinned(context).pin)

    def signature(self, context: ReadContext) -> Signature:
        """Nothing: the files of a version don't change."""
        return []

    @contextmanager
    def read(self, context: ReadContext) -> Iterator[pa.RecordBatchReader]:
        """The day's rows as a stream, without the day column.

        Raises:
            SourceError: there is no such table or column, or a file can't be read.
        """
        rows = self.pinned(context)
        batches = rows.batches(rows.schema.names)
        yield pa.RecordBatchReader.from_batches(rows.schema, batches)

    def pinned(self, context: ReadContext) -> PinnedRows:
        """The day's rows of the version, which stay where they are.

        Raises:
            SourceError: there is no such table, version or column, or it can't be read.
        """
        local = "://" not in self.table
        uri = str(context.project / self.table) if local else self.table
        return PinnedRows(
            uri, self.version, context.day, self.day_column, context.timezone
        )


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
