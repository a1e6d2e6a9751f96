"""Delta tables of what was measured of each day, for gates and for any dashboard.

A day's rows are replaced as one. It knows no model, and not what is measured.
"""

import random
import time

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
from deltalake import DeltaTable, write_deltalake
from deltalake.exceptions import CommitFailedError, DeltaError, TableNotFoundError

from batch_assets.errors import CommitError
from batch_assets.lake.delta_log import one_line, open_delta
from batch_assets.storage import StoragePath, delta_options, looks

ATTEMPTS = 20

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

        Args:
            day: the day.
            rows: with these metrics.
            only: columns with a value each: only such rows are replaced, all of the
                day's if left out.

        Raises:
            CommitError: other days are written all the time, and none of 20 tries came
                through, or the storage does not answer.
        """
        rows = rows.cast(self.schema)
        if self.read(day, day, **only).equals(rows):
            return
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
            if self.read(day, day, **only).equals(rows):
                return
        msg = (
            f"{self.path}: the metrics of {day} were said to be written, and are not "
            "there. Run the day again"
        )
        raise CommitError(msg)

    def read(self, first: str, last: str, **only: str) -> pa.Table:
        """Return the rows of the days from the first to the last, or `only` some, by day."""
        table = self._open()
        if table is None:
            return self.schema.empty_table()
        asked = (ds.field("day") >= first) & (ds.field("day") <= last)
        for name, value in only.items():
            asked &= ds.field(name) == value
        # Of a year most files are of other days, and to name each of them to Arrow costs
        # more than to read those asked for. Nothing, as the first day, is null to Delta.
        ends = [("day", ">=", first or "0"), ("day", "<=", last)]
        files = table.to_pyarrow_dataset(file_pruning_predicate=ends)
        # On this thread alone: a process that ends soon after is aborted while others of
        # Arrow's still read, one in three times.
        rows = files.to_table(
            filter=asked, columns=self.schema.names, use_threads=False
        )
        # Stable: the rows of a day stay in their order.
        order = pc.sort_indices(rows, sort_keys=[("day", "ascending")])
        return rows.take(order).cast(self.schema)

    def _open(self) -> DeltaTable | None:
        try:
            return open_delta(self.path)
        except TableNotFoundError:
            return None
