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
from batch_assets.lake.delta_features import Layout, OpenTable, layout_of
from batch_assets.lake.delta_log import one_line
from batch_assets.lake.receipts import Pin

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
            table = OpenTable(uri, version=version)
            layout = layout_of(table, _local(table))
        self._schema, self._names = layout.dataset.schema, layout.in_files
        self._kept, self._keep = layout.kept, None
        if day_column is not None:
            self._keep = _rows_of_day(uri, layout, day_column, day, timezone)
        self.schema = pa.schema([f for f in layout.schema if f.name != day_column])
        self._uri, self._version = uri, table.version()
        self._day_column = day_column
        # Whether the files of the day hold no other: their footers tell its rows.
        self._whole = day_column in (None, *table.metadata().partition_columns)
        with _explained(uri, self._version, "read"):
            files = sorted(
                layout.dataset.get_fragments(self._keep), key=lambda f: f.path
            )
            self._groups = list(self._with_rows(files))
        self.rows = sum(rows for _, rows in self._groups)
        with _explained(uri, self._version, "read"):
            self._must_be_days(layout, day)
        paths = {file.path for file in files}
        # Of other files they are not sent to where the rows are read.
        self._kept = {p: rows for p, rows in layout.kept.items() if p in paths}
        self.pin = Pin(
            table.table_uri,
            str(table.metadata().id),
            self._version,
            day,
            day_column,
            self._digest(table, layout, paths),
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

        Texts come as they lie there, and may not be UTF-8: see `texts`.

        Raises:
            SourceError: a file is gone, or can't be read.
        """
        groups = [group for group, _ in self._groups] if piece is None else piece
        with _explained(self._uri, self._version, "read"):
            for group in groups:
                yield from self._scan(group, columns, self._keep)

    def _scan(
        self,
        group: ds.ParquetFileFragment,
        columns: list[str],
        keep: pc.Expression | None,
    ) -> Iterator[pa.RecordBatch]:
        """Read the rows of row groups that are there still, by the table's names."""
        names = [self._names[name] for name in columns]
        still = self._still(group)
        if still is None:
            for batch in group.scanner(
                self._schema, columns=names, filter=keep, **READING
            ).to_batches():
                yield batch.rename_columns(columns)
            return
        # A deleted row is known by its place in the file: all are read, in order.
        day = self._names.get(self._day_column or "")
        needed = list(dict.fromkeys([*names, *([day] if day else [])]))
        at = 0
        for batch in group.scanner(
            self._schema, columns=needed, **READING
        ).to_batches():
            rows = pa.Table.from_batches([batch.filter(still.slice(at, len(batch)))])
            at += len(batch)
            rows = rows if keep is None else rows.filter(keep)
            for some in rows.select(names).to_batches():
                yield some.rename_columns(columns)

    def _still(self, group: ds.ParquetFileFragment) -> pa.BooleanArray | None:
        """Return which rows of row groups are there still; None if none is deleted.

        Raises:
            SourceError: what the log tells of is not the file that is there.
        """
        kept = self._kept.get(group.path)
        if kept is None:
            return None
        if len(kept) != group.metadata.num_rows:
            msg = (
                f"{group.path} of the Delta table {self._uri} has "
                f"{group.metadata.num_rows:,} rows, its deletion vector tells of "
                f"{len(kept):,}. Nothing was committed; mend the table"
            )
            raise SourceError(msg)
        first = min(info.id for info in group.row_groups)
        before = sum(group.metadata.row_group(at).num_rows for at in range(first))
        rows = sum(info.num_rows for info in group.row_groups)
        return kept.slice(before, rows)

    def _with_rows(
        self, files: list[ds.ParquetFileFragment]
    ) -> Iterator[tuple[ds.ParquetFileFragment, int]]:
        """Yield the row groups that have rows of the day, and how many of them.

        Not `count_rows`: Arrow counts the whole file where the filter is always true.
        """
        for file in files:
            for info in file.row_groups:
                group = file.subset(row_group_ids=[info.id])
                rows = self._rows(group) if self._whole else self._count(group)
                if rows:
                    yield group, rows

    def _must_be_days(self, layout: Layout, day: str) -> None:
        """Refuse text that is no day: its rows would be left out without a word.

        Text of another form is looked for only where the day has no rows: it takes the
        whole column.

        Raises:
            SourceError: with what the column holds.
        """
        name = self._day_column
        if name is None or not is_text(layout.schema.field(name).type):
            return
        there = self._names[name]
        strays = nearly_of_day(there, day) if self.rows else of_no_day(there)
        for file in layout.dataset.get_fragments(strays):
            stray = next((b for b in self._scan(file, [name], strays) if len(b)), None)
            if stray is not None:
                held = stray[name][:1].cast(pa.binary())[0].as_py()
                msg = (
                    f"column '{name}' of the Delta table {self._uri} holds "
                    f"{held.decode(errors='replace')!r}, which is not the day that '{day}' is, and "
                    "would be left out without a word. Nothing was committed; make it a "
                    "date, a timestamp, or text of that form"
                )
                raise SourceError(msg)

    def _rows(self, group: ds.ParquetFileFragment) -> int:
        """Return how many rows of row groups are there still, by the footer."""
        still = self._still(group)
        if still is None:
            return sum(info.num_rows for info in group.row_groups)
        return int(still.true_count)

    def _count(self, group: ds.ParquetFileFragment) -> int:
        assert self._day_column is not None
        batches = self._scan(group, [self._day_column], self._keep)
        return sum(len(batch) for batch in batches)

    def _digest(self, table: OpenTable, layout: Layout, paths: set[str]) -> str:
        """Hash the names of the files, and refuse other rows than their log counts."""
        actions = pa.table(table.get_add_actions(flatten=True))
        # The log quotes a path as a URL does; Arrow, on this machine, takes it as it is.
        names = [n for n in ADDED if n in actions.column_names]
        added = actions.select(names).to_pylist()
        wanted = [action for action in added if unquote(action["path"]) in paths]
        counts = [action.get("num_records") for action in wanted]
        if self._whole and None not in counts:
            told = sum(counts) - sum(layout.deleted(path) for path in paths)
            if told != self.rows:
                msg = (
                    f"the Delta table {self._uri} has {self.rows:,} rows in the files of "
                    f"its version {self._version}, its log tells of {told:,}. Nothing "
                    "was committed; mend the table, and run the day again."
                )
                raise SourceError(msg)
        files = sorted(
            (
                action["path"],
                action["size_bytes"],
                *layout.digest_of(unquote(action["path"])),
            )
            for action in wanted
        )
        return hashlib.sha256(json.dumps(files).encode()).hexdigest()


def _local(table: deltalake.DeltaTable) -> fs.FileSystem | None:
    """Return Arrow's own way to files on this machine: Delta's takes twice the time."""
    uri = urlsplit(table.table_uri)
    if uri.scheme != "file":
        return None
    return fs.SubTreeFileSystem(unquote(uri.path), fs.LocalFileSystem())


def _place(group: ds.ParquetFileFragment) -> tuple[int, int]:
    """Return the first row of row groups in their file, and the one after the last."""
    ids = [info.id for info in group.row_groups]
    rows = [group.metadata.row_group(at).num_rows for at in range(max(ids) + 1)]
    return sum(rows[: min(ids)]), sum(rows)


def _rows_of_day(
    uri: str, layout: Layout, day_column: str, day: str, timezone: str
) -> pc.Expression:
    """Return what tells the rows of a day.

    Raises:
        SourceError: there is no such column, or it tells no day.
    """
    schema = layout.schema
    if day_column not in schema.names:
        msg = (
            f"the Delta table {uri} has no column '{day_column}' to take the day from; "
            f"it has: {', '.join(schema.names)}"
        )
        raise SourceError(msg)
    try:
        column = schema.field(day_column).with_name(layout.in_files[day_column])
        return of_day(column, day, timezone)
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
