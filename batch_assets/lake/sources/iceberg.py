"""Rows of a snapshot of an Iceberg table, which are copied.

It knows the YAML and the identity of a day; `iceberg_scan` knows the library.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

import pyarrow as pa
from pydantic import Field, model_validator

from batch_assets.lake.source_files import Signature
from batch_assets.lake.sources.base import (
    HISTORY,
    BaseSource,
    History,
    ReadContext,
    SourceTable,
)
from batch_assets.lake.sources.iceberg_scan import Address, IcebergTable, RowsWanted


class IcebergSource(BaseSource):
    """An Iceberg table; the day's rows are those where `day_column` is of the day."""

    shown_as: ClassVar[str] = "iceberg"
    kind: Literal["iceberg"]
    table: str = Field(pattern=r"^[^.]+(\.[^.]+)+$", description="As `namespace.name`.")
    catalog: str = Field(default="default", description="The name of the catalog.")
    properties: dict[str, str] = Field(
        default_factory=dict,
        description="Of the catalog and of its files, by PyIceberg's names; no secrets.",
    )
    properties_env: dict[str, str] = Field(
        default_factory=dict,
        description="More properties, each with the environment variable that holds it.",
    )
    day_column: str | None = "day"
    columns: list[str] | None = Field(
        default=None,
        min_length=1,
        description="Which columns are taken; all but the day's if left out.",
    )
    where: str | None = Field(
        default=None,
        description="Which rows are taken, as an Iceberg row filter; all if left out.",
    )
    snapshot: int | Literal["newest", "day_end"] = Field(
        default="newest",
        description="`newest`, the one that was current at the end of the day "
        "(`day_end`), or its id.",
    )
    history: History | None = HISTORY

    @model_validator(mode="after")
    def _history_is_of_days(self) -> Self:
        if self.history == "days" and not self._tells_of_days():
            msg = (
                "without a `day_column` every day has the same rows: declare `history: "
                "none`, leave it out, or take `snapshot: day_end`"
            )
            raise ValueError(msg)
        return self

    @model_validator(mode="after")
    def _secrets_are_in_the_environment(self) -> Self:
        if twice := sorted(self.properties.keys() & self.properties_env.keys()):
            msg = (
                f"'{twice[0]}' is in `properties` and in `properties_env`: say it once"
            )
            raise ValueError(msg)
        return self

    def read_from(self) -> list[SourceTable]:
        """Return the table."""
        address = f"iceberg://{self.catalog}/{self.table}"
        return [SourceTable("", address, self.shown_as)]

    def keeps_history(self, base: Path) -> bool:
        """Return whether the rows bear their day, or the snapshot is of the day."""
        return self.history != "none" and self._tells_of_days()

    def identity(self, context: ReadContext) -> dict[str, Any]:
        """Return the table's own id, the snapshot, its columns, and what is taken of it.

        Raises:
            ConfigError: a variable of the environment is not set.
            SourceError: there is no such catalog, table, snapshot or column.
        """
        table = self._open(context)
        snapshot = table.snapshot(self.snapshot, context.day, context.timezone)
        schema = table.schema_id(snapshot, newest=self.snapshot == "newest")
        wanted = self._wanted(context, snapshot, schema)
        return {
            "kind": self.kind,
            "table": self.table,
            "uuid": table.uuid,
            "snapshot": snapshot,
            "schema": schema,
            "columns": [str(field) for field in table.schema_of(wanted)],
            "day": context.day,
            "day_column": self.day_column,
            "timezone": context.timezone,
            "where": self.where,
        }

    def signature(self, context: ReadContext) -> Signature:
        """Return nothing: the files of a snapshot don't change."""
        return []

    @contextmanager
    def read(self, context: ReadContext) -> Iterator[pa.RecordBatchReader]:
        """Stream the day's rows, a data file of the table at a time.

        Raises:
            ConfigError: a variable of the environment is not set.
            SourceError: the snapshot is gone, a file can't be read, or it has equality
                deletes.
        """
        named = context.identity or self.identity(context)
        table = self._open(context)
        table.must_be(named["uuid"])
        wanted = self._wanted(context, named["snapshot"], named["schema"])
        schema = table.schema_of(wanted)
        yield pa.RecordBatchReader.from_batches(schema, table.batches(wanted))

    def _tells_of_days(self) -> bool:
        return self.day_column is not None or self.snapshot == "day_end"

    def _open(self, context: ReadContext) -> IcebergTable:
        return IcebergTable(
            Address(self.table, self.catalog, self.properties, self.properties_env),
            context.project,
        )

    def _wanted(
        self, context: ReadContext, snapshot: int | None, schema: int
    ) -> RowsWanted:
        return RowsWanted(
            snapshot,
            schema,
            tuple(self.columns) if self.columns else None,
            self.where,
            self.day_column,
            context.day,
            context.timezone,
        )
