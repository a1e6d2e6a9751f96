"""Rows that somebody hands in, as a frame or a table, instead of naming where they lie.

They are looked at twice: their digest says whether they were taken before, and then they
are taken. So what can be read once is written into a file first.
"""

import hashlib
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb
import polars as pl
import pyarrow as pa
import pyarrow.dataset as ds

from batch_assets.errors import SourceError

# Rows are hashed in batches of so many, however they were cut before.
HASHED_ROWS = 65_536
TAKEN = (
    "a DataFrame or LazyFrame of Polars, a pandas DataFrame, a Table, RecordBatchReader "
    "or Dataset of Arrow, a DuckDB relation"
)


@dataclass(frozen=True)
class HandedRows:
    """Rows that were handed in, and a digest of them all, in their order."""

    table: pa.Table
    digest: str

    @property
    def schema(self) -> pa.Schema:
        return self.table.schema

    def reader(self) -> pa.RecordBatchReader:
        """Stream the rows."""
        batches = self.table.to_batches(max_chunksize=HASHED_ROWS)
        return pa.RecordBatchReader.from_batches(self.schema, batches)


def handed_rows(values: Sequence[Any], what: str, folder: Path) -> HandedRows:
    """Return the rows of some values, one after the other.

    Args:
        values: frames or tables with the same columns.
        what: who gave them, for an error.
        folder: where those that are streamed are kept meanwhile; not in memory.

    Raises:
        SourceError: a value is none of rows, can't be read, or has other columns than the
            first.
    """
    try:
        tables = [
            _table_of(value, what, folder / f"{number}.arrow")
            for number, value in enumerate(values)
        ]
    except (
        pa.ArrowException,
        pl.exceptions.PolarsError,
        duckdb.Error,
        OSError,
    ) as error:
        msg = f"{what} can't be read as a table: {error}. Nothing was committed"
        raise SourceError(msg) from error
    schema = tables[0].schema.remove_metadata()
    for table in tables[1:]:
        if table.schema.remove_metadata() != schema:
            msg = (
                f"{what} gives values with other columns or types for one day: "
                f"{_columns(schema)}, and {_columns(table.schema)}"
            )
            raise SourceError(msg)
    whole = pa.concat_tables([one.replace_schema_metadata() for one in tables])
    return HandedRows(whole, _digest(whole))


def _table_of(value: Any, what: str, spool: Path) -> pa.Table:
    """Return a value as a table: as it lies in memory, or mapped from a file."""
    pandas = sys.modules.get("pandas")  # Who has a frame of it has imported it.
    if isinstance(value, pl.DataFrame):
        return value.to_arrow(compat_level=pl.CompatLevel.oldest())
    if isinstance(value, pl.LazyFrame):
        value.sink_ipc(spool, compat_level=pl.CompatLevel.oldest())
        return _mapped(spool)
    if pandas and isinstance(value, pandas.DataFrame):
        # An index that has a name is a column; one without is but the number of a row.
        named = any(name is not None for name in value.index.names)
        frame = value.reset_index() if named else value
        return pa.Table.from_pandas(frame, preserve_index=False)
    if isinstance(value, pa.Table):
        return value
    if isinstance(value, pa.RecordBatch):
        return pa.Table.from_batches([value])
    reader = _reader_of(value)
    if reader is None:
        msg = (
            f"{what} gives a value of type {type(value).__name__}, which is none of "
            f"rows. Expected {TAKEN}. Nothing was committed; return one of these there"
        )
        raise SourceError(msg)
    return _spooled(reader, spool)


def _reader_of(value: Any) -> pa.RecordBatchReader | None:
    """Return what streams a value's rows; None of what has no rows, or is a class."""
    if isinstance(value, ds.Dataset):
        return value.scanner().to_reader()
    if isinstance(value, type) or not hasattr(value, "__arrow_c_stream__"):
        return None
    try:
        return pa.RecordBatchReader.from_stream(value)
    except pa.ArrowInvalid:  # A single column has such a stream, too.
        return None


def _spooled(reader: pa.RecordBatchReader, spool: Path) -> pa.Table:
    with (
        pa.OSFile(str(spool), "wb") as file,
        pa.ipc.new_file(file, reader.schema) as to,
    ):
        for batch in reader:
            to.write_batch(batch)
    return _mapped(spool)


def _mapped(spool: Path) -> pa.Table:
    with pa.memory_map(str(spool)) as file:
        return pa.ipc.open_file(file).read_all()


def _digest(table: pa.Table) -> str:
    digest = hashlib.sha256(table.schema.serialize())
    for batch in _recut(table.to_batches(), HASHED_ROWS):
        digest.update(batch.serialize())
    return digest.hexdigest()


def _recut(batches: Iterable[pa.RecordBatch], rows: int) -> Iterator[pa.RecordBatch]:
    """Cut rows into batches of a size, so that they are the same however they came."""
    kept: list[pa.RecordBatch] = []
    for batch in batches:
        while len(batch):
            room = rows - sum(map(len, kept))
            kept.append(batch.slice(0, room))
            batch = batch.slice(room)
            if sum(map(len, kept)) == rows:
                yield pa.concat_batches(kept)
                kept = []
    if kept:
        yield pa.concat_batches(kept)


def _columns(schema: pa.Schema) -> str:
    return ", ".join(f"{one.name} {one.type}" for one in schema)
