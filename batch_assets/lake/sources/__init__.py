"""Where a day's raw rows come from. Each kind of source is its own type of the YAML."""

from typing import Annotated

from pydantic import Field

from batch_assets.lake.sources.asset import AssetSource
from batch_assets.lake.sources.base import BaseSource, ReadContext
from batch_assets.lake.sources.delta import DeltaSource
from batch_assets.lake.sources.parquet import ParquetSource
from batch_assets.lake.sources.sql import SqlSource
from batch_assets.strict import kinds_of, kinds_schema

# A kind of source is its module here, and its type in this line.
AnySource = SqlSource | ParquetSource | DeltaSource | AssetSource
SOURCES: dict[str, type[AnySource]] = kinds_of(AnySource)
Source = Annotated[AnySource, Field(discriminator="kind"), kinds_schema(SOURCES)]

__all__ = [
    "SOURCES",
    "AssetSource",
    "BaseSource",
    "DeltaSource",
    "ParquetSource",
    "ReadContext",
    "Source",
    "SqlSource",
]
