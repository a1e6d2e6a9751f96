"""Rows that an asset of the user's gives, as a frame or a table."""

import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self

import pyarrow as pa
from pydantic import AfterValidator, Field

from batch_assets.errors import SourceError
from batch_assets.lake.handed_rows import HandedRows
from batch_assets.lake.source_files import Signature
from batch_assets.lake.sources.base import (
    HISTORY,
    BaseSource,
    History,
    ReadContext,
    SourceTable,
    asset_key,
)

Type = Literal[
    "polars.DataFrame",
    "polars.LazyFrame",
    "pandas.DataFrame",
    "pyarrow.Table",
    "pyarrow.RecordBatchReader",
    "duckdb.DuckDBPyRelation",
]


class AssetSource(BaseSource):
    """What an asset of the project returns for the day, as its IO manager loads it."""

    shown_as: ClassVar[str] = "dagster"
    kind: Literal["asset"]
    asset: Annotated[str, AfterValidator(asset_key)]
    load_as: Type | None = Field(
        default=None,
        description="The type that the asset's IO manager is asked for; what it gives of "
        "itself, if left out.",
    )
    history: History | None = HISTORY

    @property
    def handed_as(self) -> type | None:
        """The type of `load_as`."""
        if self.load_as is None:
            return None
        module, _, name = self.load_as.rpartition(".")
        found: type = getattr(importlib.import_module(module), name)
        return found

    def handed_by_day(self, *, by_day: bool) -> Self:
        """Return the source; without history, if the asset has no value for each day."""
        if by_day or self.history:
            return self
        return self.model_copy(update={"history": "none"})

    def read_from(self) -> list[SourceTable]:
        """Return the asset."""
        return [SourceTable("", self.asset, self.shown_as, by_name=True)]

    def keeps_history(self, base: Path) -> bool:
        """Return whether the asset has a value for each day."""
        return self.history != "none"

    def identity(self, context: ReadContext) -> dict[str, Any]:
        """Return the asset, and the digest of its rows in their order."""
        return {
            "kind": self.kind,
            "day": context.day,
            "asset": self.asset,
            "rows": self._given(context).digest,
        }

    def signature(self, context: ReadContext) -> Signature:
        """Return nothing: the value is here already."""
        return []

    @contextmanager
    def read(self, context: ReadContext) -> Iterator[pa.RecordBatchReader]:
        """Stream the value's rows."""
        yield self._given(context).reader()

    def _given(self, context: ReadContext) -> HandedRows:
        if self.asset not in context.handed:
            msg = (
                f"the rows of '{self.asset}' are handed over by Dagster, and nobody has "
                "handed them over: materialise the pipeline's own asset"
            )
            raise SourceError(msg)
        return context.handed[self.asset]
