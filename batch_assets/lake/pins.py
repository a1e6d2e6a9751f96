"""A day of one version of a Delta table, pinned where it lies.

The files that a version names never change, so they need not be copied: to name the
version is enough. It knows nothing of contracts, shards or tables of the lake.
"""

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import unquote, urlsplit

import deltalake
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pyarrow.fs as fs

from batch_assets.errors import SourceError
from batch_assets.lake.day_filter import is_text, nearly_of_day, of_day, of_no_day
from batch_assets.lake.delta_log import one_line
from batch_assets.lake.receipts import Pin
from batch_assets.lake.source_files import must_be_text

BATCH_ROWS = 65_536
# The defaults read 16 batches and 4 files ahead: memory follows the row group.
READING = {
    "batch_size": BATCH_ROWS,
    "batch_readahead": 1,
    "fragment_readahead": 1,
    "use_threads": False,
    "fragment_scan_options": ds.ParquetFragmentScanOptions(
        pre_buffer=False, use_buffered_stream=True, page_checksum_verification=True
    ),
}

# What a log says of a file, beside the statistics of its columns.
ADDED = ("path", "size_bytes", "num_records")

RowGroups = list[ds.ParquetFileFragment]


class PinnedRows:
    """The rows of a pin, opened: their columns and number are known, none is read."""

    def __init__(
        self,
        uri: str,
        version: int | None,
        day: str,
        day_column: str | None,
        timezone: str = "UTC",
    ) -> None:
        """Open a version of a table, the newest if it is left out.

        Raises:
            SourceError: there is no such table, version or column, the column tells no
                day, the table has a feature that can't be read, or its files are not
                those of its log.
        """
        with _explained(uri, version, "opened"):
            table = deltalake.DeltaTable(uri, version=version)
            dataset = table.to_pyarrow_dataset(filesystem=_local(table))
        self._schema, self._keep = dataset.schema, None
        if day_column is not None:
            self._keep = _rows_of_day(uri, self._schema, day_column, day, timezone)
        self.schema = pa.schema([f for f in self._schema if f.name != day_column])
        self._uri, self._version = uri, table.version()
        self._day_column = day_column
        # Whether the files of the day hold no other: their footers tell its rows.
        self._whole = day_column in (None, *table.metadata().partition_columns)
        with _explained(uri, self._version, "read"):
            files = sorted(dataset.get_fragments(self._keep), key=lambda f: f.path)
            self._groups = list(self._with_rows(files))
        self.rows = sum(rows for _, rows in self._groups)
        with _explained(uri, self._version, "read"):
            self._must_be_days(dataset, day)
        self.pin = Pin(
            table.table_uri,
            str(table.metadata().id),
            self._version,
            day,
            day_column,
            self._digest(table, {file.path for file in files}),
            timezone,
        )

    @classmethod
    def of(cls, pin: Pin) -> "PinnedRows":
        """Open what was pinned, however far the table has moved on.

        Raises:
            SourceError: it is not there any more.
        """
        rows = cls(pin.table, pin.version, pin.day, pin.day_column, pin.timezone)
        if rows.pin != pin:
            msg = (
                f"the Delta table {pin.table} was made anew since its version "
                f"{pin.version} was pinned for {pin.day}. Materialise raw_features of "
                "that day again."
            )
            raise SourceError(msg)
        return rows

    def __getstate__(self) -> dict[str, Any]:
        # On its way to another machine: a piece has its own row groups with it.
        return {**self.__dict__, "_groups": []}

    def pieces(self, rows: int) -> list[RowGroups]:
        """Cut into runs of row groups of about so many rows, at most, in a fixed order.

        The same pin gives the same pieces on every machine; a day without rows is one.
        """
        pieces: list[RowGroups] = [[]]
        in_piece = 0
        for group, count in self._groups:
            if in_piece and in_piece + count > rows:
                pieces.append([])
                in_piece = 0
            pieces[-1].append(group)
            in_piece += count
        return pieces

    def batches(
        self, columns: list[str], piece: RowGroups | None = None
    ) -> Iterator[pa.RecordBatch]:
        """Read the rows of a piece, or all, one row group of the source at a time.

        Raises:
            SourceError: a file is gone, or can't be read.
        """
        groups = [group for group, _ in self._groups] if piece is None else piece
        with _explained(self._uri, self._version, "read"):
            for group in groups:
                for batch in group.scanner(
                    self._schema, columns=columns, filter=self._keep, **READING
                ).to_batches():
                    must_be_text(batch, f"the Delta table {self._uri}")
                    yield batch

    def _with_rows(
        self, files: list[ds.ParquetFileFragment]
    ) -> Iterator[tuple[ds.ParquetFileFragment, int]]:
        """Yield the row groups that have rows of the day, and how many of them.

        Not `count_rows`: Arrow counts the whole file where the filter is always true.
        """
        for file in files:
            for info in file.row_groups:
                group = file.subset(row_group_ids=[info.id])
                rows = info.num_rows if self._whole else self._count(group)
                if rows:
                    yield group, rows

    def _must_be_days(self, dataset: ds.Dataset, day: str) -> None:
        """Refuse text that is no day: its rows would be left out without a word.

        Text of another form is looked for only where the day has no rows: it takes the
        whole column.

        Raises:
            SourceError: with what the column holds.
        """
        name = self._day_column
        if name is None or not is_text(self._schema.field(name).type):
            return
        strays = nearly_of_day(name, day) if self.rows else of_no_day(name)
        for file in dataset.get_fragments(strays):
            stray = file.scanner(
                self._schema, columns=[name], filter=strays, **READING
            ).head(1)
            if len(stray):
                msg = (
                    f"column '{name}' of the Delta table {self._uri} holds "
                    f"{stray[name][0].as_py()!r}, which is not the day that '{day}' is, and "
                    "would be left out without a word. Nothing was committed; make it a "
                    "date, a timestamp, or text of that form"
                )
                raise SourceError(msg)

    def _count(self, group: ds.ParquetFileFragment) -> int:
        scanner = group.scanner(
            self._schema, columns=[self._day_column], filter=self._keep, **READING
        )
        return sum(len(batch) for batch in scanner.to_batches())

    def _digest(self, table: deltalake.DeltaTable, paths: set[str]) -> str:
        """Hash the names of the files, and refuse other rows than their log counts."""
        actions = pa.table(table.get_add_actions(flatten=True))
        # The log quotes a path as a URL does; Arrow, on this machine, takes it as it is.
        names = [n for n in ADDED if n in actions.column_names]
        added = actions.select(names).to_pylist()
        wanted = [action for action in added if unquote(action["path"]) in paths]
        counts = [action.get("num_records") for action in wanted]
        if self._whole and None not in counts and sum(counts) != self.rows:
            msg = (
                f"the Delta table {self._uri} has {self.rows:,} rows in the files of "
                f"its version {self._version}, its log tells of {sum(counts):,}. Nothing "
                "was committed; mend the table, and run the day again."
            )
            raise SourceError(msg)
        files = sorted((action["path"], action["size_bytes"]) for action in wanted)
        return hashlib.sha256(json.dumps(files).encode()).hexdigest()


def _local(table: deltalake.DeltaTable) -> fs.FileSystem | None:
    """Return Arrow's own way to files on this machine: Delta's takes twice the time."""
    uri = urlsplit(table.table_uri)
    if uri.scheme != "file":
        return None
    return fs.SubTreeFileSystem(unquote(uri.path), fs.LocalFileSystem())


def _rows_of_day(
    uri: str, schema: pa.Schema, day_column: str, day: str, timezone: str
) -> pc.Expression:
    """Return what tells the rows of a day.

    Raises:
        SourceError: there is no such column, or it tells no day.
    """
    if day_column not in schema.names:
        msg = (
            f"the Delta table {uri} has no column '{day_column}' to take the day from; "
            f"it has: {', '.join(schema.names)}"
        )
        raise SourceError(msg)
    try:
        return of_day(schema.field(day_column), day, timezone)
    except SourceError as error:
        msg = f"of the Delta table {uri}, {error}"
        raise SourceError(msg) from error


@contextmanager
def _explained(uri: str, version: int | None, what: str) -> Iterator[None]:
    """Raise what Delta and Arrow raise as `SourceError`, with what to do next."""
    at = "" if version is None else f" at version {version}"
    try:
        yield
    except FileNotFoundError as error:
        msg = (
            f"the Delta table {uri} has lost a file{at}; was it vacuumed? {one_line(error)}. "
            "Materialise raw_features of the day again, which pins the newest version, "
            "and let the table keep its files for as long as a night may be repeated."
        )
        raise SourceError(msg) from error
    except (deltalake.exceptions.DeltaError, OSError, pa.ArrowException) as error:
        msg = f"the Delta table {uri} can't be {what}{at}: {one_line(error)}"
        raise SourceError(msg) from error
