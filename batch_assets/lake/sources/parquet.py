"""Rows of Parquet files."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

import pyarrow as pa
from pydantic import model_validator

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
    DAY,
    HISTORY,
    BaseSource,
    History,
    ReadContext,
    SourceTable,
)


class ParquetSource(BaseSource):
    """Parquet files whose glob may hold `{{ day }}`, relative to the project."""

    shown_as: ClassVar[str] = "parquet"
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

    def read_from(self) -> list[SourceTable]:
        """Return the files of all days as one table."""
        return [SourceTable("", self.glob, self.shown_as)]

    def keeps_history(self, base: Path) -> bool:
        """Return whether there are files for each day."""
        return self.history != "none" and bool(DAY.search(self.glob))

    def identity(self, context: ReadContext) -> dict[str, Any]:
        """Return each file's sha256."""
        return {
            "kind": self.kind,
            "day": context.day,
            "files": digests(self._files(context), context.project),
        }

    def signature(self, context: ReadContext) -> Signature:
        return signature(self._files(context))

    @contextmanager
    def read(self, context: ReadContext) -> Iterator[pa.RecordBatchReader]:
        """Stream the files' rows, one row group at a time.

        Raises:
            SourceError: a file is not Parquet, or has other columns than the first.
        """
        paths = self._files(context)
        schema = one_schema(paths, parquet_schemas(paths))
        batches = parquet_batches(paths, schema, BATCH_ROWS)
        yield pa.RecordBatchReader.from_batches(schema, batches)

    def _files(self, context: ReadContext) -> list[Path]:
        return matching(DAY.sub(context.day, self.glob), context.project)
