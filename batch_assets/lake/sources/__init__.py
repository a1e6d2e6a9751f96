"""Where a day's raw rows come from. Each kind of source is its own type of the YAML."""

from typing import Annotated

from pydantic import Field

from batch_assets.lake.sources.adbc import AdbcSource
from batch_assets.lake.sources.asset import AssetSource
from batch_assets.lake.sources.base import BaseSource, ReadContext
from batch_assets.lake.sources.csv import CsvSource
from batch_assets.lake.sources.delta import DeltaSource
from batch_assets.lake.sources.iceberg import IcebergSource
from batch_assets.lake.sources.json import JsonSource
from batch_assets.lake.sources.kafka import KafkaSource
from batch_assets.lake.sources.parquet import ParquetSource
from batch_assets.lake.sources.postgres import PostgresSource
from batch_assets.lake.sources.python import PythonSource, SourceDay
from batch_assets.lake.sources.sql import SqlSource
from batch_assets.strict import kinds_of, kinds_schema

# A kind of source is its module here, and its type in this line.
AnySource = (
    SqlSource
    | ParquetSource
    | DeltaSource
    | CsvSource
    | JsonSource
    | PostgresSource
    | AdbcSource
    | PythonSource
    | IcebergSource
    | KafkaSource
    | AssetSource
)
SOURCES: dict[str, type[AnySource]] = kinds_of(AnySource)
Source = Annotated[AnySource, Field(discriminator="kind"), kinds_schema(SOURCES)]

__all__ = [
    "SOURCES",
    "AdbcSource",
    "AssetSource",
    "BaseSource",
    "CsvSource",
    "DeltaSource",
    "IcebergSource",
    "KafkaSource",
    "JsonSource",
    "ParquetSource",
    "PostgresSource",
    "PythonSource",
    "ReadContext",
    "Source",
    "SourceDay",
    "SqlSource",
]
