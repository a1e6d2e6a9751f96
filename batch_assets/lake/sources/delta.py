"""Rows of a version of a Delta table, which stay where they are."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, ClassVar, Literal, Self
from urllib.parse import unquote

import pyarrow as pa
from pydantic import Field, model_validator

from batch_assets.lake.pins import PinnedRows
from batch_assets.lake.places import within
from batch_assets.lake.source_files import Signature
from batch_assets.lake.sources.base import (
    HISTORY,
    BaseSource,
    History,
    ReadContext,
    SourceTable,
)


class DeltaSource(BaseSource):
    """A Delta table; the day's rows are those where `day_column` is of the day.

    `version` pins a version of the table; the newest is read if it is left out.
    """

    shown_as: ClassVar[str] = "deltalake"
    pins: ClassVar[bool] = True
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

    def read_from(self) -> list[SourceTable]:
        """Return the table."""
        return [SourceTable("", self.table, self.shown_as)]

    def keeps_history(self, base: Path) -> bool:
        """Return whether the rows bear their day."""
        return self.history != "none" and self.day_column is not None

    def identity(self, context: ReadContext) -> dict[str, Any]:
        """Return the table, its version, and a digest of the files that hold the day."""
        return asdict(self.pinned(context).pin)

    def signature(self, context: ReadContext) -> Signature:
        """Return nothing: the files of a version don't change."""
        return []

    @contextmanager
    def read(self, context: ReadContext) -> Iterator[pa.RecordBatchReader]:
        """Stream the day's rows, without the day column.

        Raises:
            SourceError: there is no such table or column, or a file can't be read.
        """
        rows = self.pinned(context)
        batches = rows.batches(rows.schema.names)
        yield pa.RecordBatchReader.from_batches(rows.schema, batches)

    def pinned(self, context: ReadContext) -> PinnedRows:
        """Return the day's rows of the version.

        Raises:
            SourceError: there is no such table, version or column, it can't be read, or
                it lies out of the project.
        """
        scheme, is_url, rest = self.table.partition("://")
        uri = self.table
        if not is_url or scheme.lower() == "file":
            named = unquote(rest) if is_url else self.table
            uri = str(within(context.project / named, context.project, self.table))
        return PinnedRows(
            uri, self.version, context.day, self.day_column, context.timezone
        )
