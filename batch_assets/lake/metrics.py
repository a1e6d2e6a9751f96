"""Delta tables of what was measured of each day, for gates and for any dashboard.

A day's rows are replaced as one. It knows no model, and not what is measured.
"""

import logging
import random
import time
from collections.abc import Mapping
from contextlib import suppress
from functools import reduce

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from deltalake import DeltaTable, write_deltalake
from deltalake.exceptions import CommitFailedError, DeltaError, TableNotFoundError

from batch_assets.errors import CommitError, LostRowsError, StorageError
from batch_assets.lake.delta_log import one_line, open_delta
from batch_assets.storage import StoragePath, advice, delta_options, each, looks

ATTEMPTS = 20
# Features of a Delta table with which its files are still what the table shows.
SAME_FILES = {"timestampNtz", "vacuumProtocolCheck", "v2Checkpoint"}

log = logging.getLogger(__name__)

OF_A_COLUMN = [
    ("day", pa.string()),
    ("job", pa.string()),
    ("column", pa.string()),
    ("segment_column", pa.string()),
    ("segment", pa.string()),
]
PROFILE = pa.schema(
    [
        *OF_A_COLUMN,
        ("layout", pa.string()),
        ("is_partial", pa.bool_()),
        ("rows", pa.int64()),
        ("counts", pa.list_(pa.int64())),
    ]
)
DRIFT = pa.schema(
    [
        *OF_A_COLUMN,
        ("psi_reference", pa.float64()),
        ("jensen_shannon_reference", pa.float64()),
        ("wasserstein_reference", pa.float64()),
        ("measure", pa.string()),
        ("value", pa.float64()),
        ("usual", pa.float64()),
        ("deviations", pa.float64()),
        ("nights", pa.int64()),
        ("verdict", pa.string()),
    ]
)
# What came of predictions: `kind` is `realised`, or `estimated` from them alone.
OUTCOME = pa.schema(
    [
        *OF_A_COLUMN,
        ("model", pa.string()),
        ("release", pa.string()),
        ("kind", pa.string()),
        ("metric", pa.string()),
        ("value", pa.float64()),
        ("standard_error", pa.float64()),
        ("rows", pa.int64()),
    ]
)
# How long each stage of a night took; `rows` are those that it went through in that time.
STAGE = pa.schema(
    [
        ("day", pa.string()),
        ("job", pa.string()),
        ("stage", pa.string()),
        ("started_at", pa.timestamp("us", "UTC")),
        ("seconds", pa.float64()),
        ("rows", pa.int64()),
        ("device_share", pa.float64()),
    ]
)
# When a night was expected to be served, as each of its stages began, and when it was.
ESTIMATE = pa.schema(
    [
        ("day", pa.string()),
        ("stage", pa.string()),
        *(
            (name, pa.timestamp("us", "UTC"))
            for name in ("made_at", "expected_ready_at", "low", "high", "ready_at")
        ),
        ("error_seconds", pa.float64()),
    ]
)
# How long a night would have been planned to take, from the nights before it, and took.
PLAN = pa.schema(
    [
        ("day", pa.string()),
        ("rows", pa.int64()),
        ("predicted_seconds", pa.float64()),
        ("actual_seconds", pa.float64()),
        ("error_share", pa.float64()),
        ("nights", pa.int64()),
    ]
)

# What each gate said of a day when somebody wanted to publish it, and by which limits.
VERDICT = pa.schema(
    [
        ("day", pa.string()),
        ("predictions", pa.string()),
        ("judged_at", pa.timestamp("us", "UTC")),
        ("gate", pa.string()),
        ("passed", pa.bool_()),
        ("blocks", pa.bool_()),
        ("why", pa.string()),
        ("moved_by", pa.string()),
        ("overridable", pa.bool_()),
        ("numbers", pa.map_(pa.string(), pa.float64())),
        ("facts", pa.map_(pa.string(), pa.string())),
        ("limits", pa.string()),
        ("overridden_at", pa.timestamp("us", "UTC")),
        ("overridden_by", pa.string()),
        ("override_why", pa.string()),
        ("override_until", pa.timestamp("us", "UTC")),
    ]
)


class MetricTable:
    """One table of metrics, partitioned by day."""

    def __init__(self, path: StoragePath, schema: pa.Schema) -> None:
        """Name a table; nothing is opened yet."""
        self.path, self.schema = path, schema

    def write(self, day: str, rows: pa.Table, **only: str) -> None:
        """Replace the rows of a day; if they are there already, write nothing.

        Where some of the day are lost, all of it is written anew, with what is left.

        Args:
            day: the day.
            rows: with these metrics.
            only: columns with a value each: only such rows are replaced, all of the
                day's if left out.

        Raises:
            CommitError: other days are written all the time, and none of 20 tries came
                through, or the storage does not answer.
            StorageError: what is there can't be read, as its storage does not answer.
        """
        # In one piece: of several Delta's threads write the rows in an order of theirs.
        rows = rows.cast(self.schema).combine_chunks()
        try:
            if self.read(day, day, **only).equals(rows):
                return
        except LostRowsError as error:
            log.warning("%s. All that is left of %s is written anew", error, day)
            left = self.left(day)
            others = left.filter(pc.invert(_is(left, only))) if only else left[:0]
            rows, only = pa.concat_tables([others, rows]).combine_chunks(), {}
        where = " AND ".join(f"{n} = '{v}'" for n, v in {"day": day, **only}.items())
        for attempt in range(ATTEMPTS):
            try:
                write_deltalake(
                    str(self.path),
                    rows,
                    mode="overwrite",
                    predicate=where if self._open() else None,
                    partition_by=["day"],
                    storage_options=delta_options(self.path),
                )
            except CommitFailedError as error:
                last = error
                time.sleep(random.uniform(0, 0.05 * (attempt + 1)))
            except (OSError, DeltaError) as error:  # A full disk is either.
                msg = f"the metrics of {day} can't be written: {one_line(error)}"
                raise CommitError(msg) from error
            else:
                self._must_hold(day, rows, **only)
                return
        msg = f"{self.path}: the metrics of {day} were not written: {last}"
        raise CommitError(msg)

    def _must_hold(self, day: str, rows: pa.Table, **only: str) -> None:
        """Refuse to go on from rows that are not there, though they were written."""
        for _ in looks():
            with suppress(LostRowsError):
                if self.read(day, day, **only).equals(rows):
                    return
        msg = (
            f"{self.path}: the metrics of {day} were said to be written, and are not "
            "there. Run the day again"
        )
        raise CommitError(msg)

    def read(self, first: str, last: str, **only: str) -> pa.Table:
        """Return the rows of the days from the first to the last, or `only` some, by day.

        Raises:
            LostRowsError: a file of theirs is gone or damaged.
            StorageError: its storage does not answer.
        """
        found = [self.schema.empty_table()]
        for (day, path), rows in self._each_file(first, last, only):
            if rows is None:
                msg = (
                    f"{path} is gone or damaged. Bring a copy of it back, or run {day} "
                    "again, which writes it anew. To go on without it, move what is "
                    "there away, and let repair() of deltalake's DeltaTable take it off "
                    "the log"
                )
                raise LostRowsError(msg)
            found.append(rows.filter(_is(rows, only)) if only else rows)
        rows = pa.concat_tables(found).combine_chunks()
        # Stable: the rows of a day stay in their order.
        return rows.take(pc.sort_indices(rows, sort_keys=[("day", "ascending")]))

    def left(self, day: str) -> pa.Table:
        """Return the rows of a day that can be read: all, but of files that are lost.

        Raises:
            StorageError: its storage does not answer.
        """
        files = self._each_file(day, day, {})
        there = [rows for _, rows in files if rows is not None]
        return pa.concat_tables([self.schema.empty_table(), *there])

    def _open(self) -> DeltaTable | None:
        try:
            table = open_delta(self.path)
        except TableNotFoundError:
            return None
        told = table.protocol()
        needed = set(told.reader_features or ()) - SAME_FILES
        if told.min_reader_version == 2 or needed:
            what = ", ".join(sorted(needed)) or "reader version 2"
            msg = (
                f"{self.path} can't be read: another program has given it what its files "
                f"alone don't tell ({what}). Drop that feature where it was given, with "
                "the table rewritten, or move the table away: each day's next run writes "
                "its own anew"
            )
            raise StorageError(msg)
        return table

    def _each_file(
        self, first: str, last: str, only: Mapping[str, str]
    ) -> list[tuple[tuple[str, StoragePath], pa.Table | None]]:
        """Return the day and path of each committed file that may have such rows, with its rows.

        They are None of one that is gone or damaged.
        """
        table = self._open()
        if table is None:
            return []
        # Of a year most files are of other days. Nothing, as the first day, is null to Delta.
        asked = [("day", ">=", first or "0"), ("day", "<=", last)]
        asked += [(name, "=", value) for name, value in only.items()]
        uris = table.file_uris(file_pruning_predicate=asked)
        parts = [uri.rsplit("/", 2)[1:] for uri in uris]
        files = [(day.partition("=")[2], self.path / day / name) for day, name in parts]
        return list(zip(files, each(self.path, self._rows, files), strict=True))

    def _rows(self, file: tuple[str, StoragePath]) -> pa.Table | None:
        """Return the rows of a day's file; None if it is gone or damaged.

        It is read from memory, on this thread alone: a process that ends while a thread
        of Arrow's still holds a file of Python's is aborted.
        """
        day, path = file
        data = self._bytes(path)
        if data is None:
            return None
        try:
            rows = pq.read_table(pa.BufferReader(data), use_threads=False)
        except (OSError, pa.ArrowException):
            return None
        days = pa.array([day] * len(rows), pa.string())
        return (
            rows.add_column(0, "day", days).select(self.schema.names).cast(self.schema)
        )

    def _bytes(self, path: StoragePath) -> bytes | None:
        """Return the bytes of a file; None if it is gone."""
        for _ in looks():
            try:
                return path.read_bytes()
            except FileNotFoundError:
                continue
            except OSError as error:
                msg = f"{path} can't be read: {one_line(error)}. {advice(path)}"
                raise StorageError(msg) from error
        return None


def _is(rows: pa.Table, only: Mapping[str, str]) -> pa.ChunkedArray:
    """Return which rows have these values."""
    each_column = [pc.equal(rows[name], value) for name, value in only.items()]
    return pc.fill_null(reduce(pc.and_, each_column), False)
