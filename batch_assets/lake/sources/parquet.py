"""Rows of Parquet files."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import ClassVar, Literal

import pyarrow as pa

from batch_assets.lake.pins import BATCH_ROWS
from batch_assets.lake.source_files import one_schema, parquet_batches, parquet_schemas
from batch_assets.lake.sources.base import ReadContext
from batch_assets.lake.sources.files import FilesSource


class ParquetSource(FilesSource):
    """Parquet files whose glob may hold `{{ day }}`, relative to the project."""

    shown_as: ClassVar[str] = "parquet"
    kind: Literal["parquet"]

    @contextmanager
    def read(self, context: ReadContext) -> Iterator[pa.RecordBatchReader]:
        """Stream the files' rows, one row group at a time.

        Raises:
            SourceError: a file is not Parquet, or has other columns than the first.
        """
        paths = self.files(context)
        schema = one_schema(paths, parquet_schemas(paths))
        batches = parquet_batches(paths, schema, BATCH_ROWS)
        yield pa.RecordBatchReader.from_batches(schema, batches)
