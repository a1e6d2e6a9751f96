"""How the columns of a part lie in its pages: what Arrow's Parquet writer is told.

It writes no file, and knows no table.
"""

from dataclasses import dataclass
from typing import Any, Literal

import pyarrow as pa

from batch_assets.storage import StoragePath, is_local

FeatureLayout = Literal["fast", "compact"]


@dataclass(frozen=True)
class PageLayout:
    """One way to lay out pages.

    Attributes:
        compression: of the pages of numbers.
        numbers: most columns are numbers: split the bytes of floats, write integers as
            differences, try no dictionary on either.
        as_in_memory: numbers lie as they do in an array: neither encoded nor
            compressed, and all values of a row group in one page.
    """

    compression: str
    numbers: bool = False
    as_in_memory: bool = False

    def schema(self, schema: pa.Schema) -> pa.Schema:
        """Return the columns as they are declared in the file.

        A page of a column that may hold nulls begins with which of them do.
        """
        if not self.as_in_memory:
            return schema
        return pa.schema([field.with_nullable(False) for field in schema])

    def options(self, schema: pa.Schema, row_group_rows: int) -> dict[str, Any]:
        """Return the options of `pyarrow.parquet.ParquetWriter` for these columns."""
        # No key is there twice.
        columns = list(schema)[1:]
        text = [f.name for f in columns if not pa.types.is_primitive(f.type)]
        if self.as_in_memory:
            return {
                "compression": {
                    f.name: self.compression if pa.types.is_primitive(f.type) else TEXT
                    for f in schema
                },
                "use_dictionary": text,
                "data_page_size": PAGE_BYTES,
                "max_rows_per_page": row_group_rows,
                "write_batch_size": row_group_rows,
                # The least and the most of each feature take a fifth of the writing, and
                # nobody looks for rows by them.
                "write_statistics": schema.names[:1],
            }
        if not self.numbers:
            return {
                "compression": self.compression,
                "use_dictionary": [f.name for f in columns],
            }
        # Numbers hardly repeat: to try a dictionary on them costs more than all else,
        # 0.08 of 0.26 us a row of predictions for the key.
        return {
            "compression": self.compression,
            "use_dictionary": text,
            "column_encoding": {f.name: e for f in schema if (e := _encoding(f.type))},
        }


def _encoding(numbers: pa.DataType) -> str | None:
    """How a column of numbers is encoded, if not as it is."""
    if pa.types.is_floating(numbers):
        return "BYTE_STREAM_SPLIT"
    # As differences, keys take a fifth less room and half the time, to write and to read.
    # Fingerprints have none to speak of, and take 10 ns more to write.
    return "DELTA_BINARY_PACKED" if pa.types.is_integer(numbers) else None


# More than Arrow can hold of a column: a page ends with its row group alone.
PAGE_BYTES = (1 << 31) - 1
TEXT = "lz4"
RECORDS = PageLayout("zstd")
NUMBERS = PageLayout("zstd", numbers=True)
# Many rows are decoded each night: LZ4 takes half the time of zstd, and three tenths more
# bytes.
COMPACT = PageLayout("lz4", numbers=True)
FAST = PageLayout("none", as_in_memory=True)
FEATURE_LAYOUTS: dict[FeatureLayout, PageLayout] = {"fast": FAST, "compact": COMPACT}


def layout_for(folder: StoragePath, named: FeatureLayout | None = None) -> PageLayout:
    """Return how features lie in a folder: as named, or as is faster to read there.

    From a disk, `fast`: nothing is decoded. A bucket is read through a network, for which
    fewer bytes are faster.
    """
    return FEATURE_LAYOUTS[named or ("fast" if is_local(folder) else "compact")]
