"""Delta tables of what was measured of each day, for gates and for any dashboard.

A day's rows are replaced as one. It knows no model, and not what is measured.
"""

import random
import time

import pyarrow as pa
import pyarrow.dataset as ds
from deltalake import DeltaTable, write_deltalake
from deltalake.exceptions import CommitFailedError, TableNotFoundError

from batch_assets.errors import CommitError
from batch_assets.lake.delta_table import one_line, open_delta
from batch_assets.storage import StoragePath, delta_options

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


class MetricTable:
    """One table of metrics, partitioned by day."""

    def __init__(self, path: StoragePath, schema: pa.Schema) -> None:
        """Name a table; nothing is opened yet."""
        self.path, self.schema = path, schema

    def write(self, day: str, rows: pa.Table) -> None:
        """Replace the rows of a day; if they are there already, write nothing.

        Raises:
            CommitError: other days are written all the time, and none of 20 tries came
                through, or the storage does not answer.
        """
        rows = rows.cast(self.schema)
        if self.read(day, day).equals(rows):
            return
        for attempt in range(ATTEMPTS):
            try:
                write_deltalake(
                    str(self.path),
                    rows,
                    mode="overwrite",
                    predicate=f"day = '{day}'" if self._open() else None,
                    partition_by=["day"],
                    storage_options=delta_options(self.path),
                )
            except OSError as error:
                msg = f"the metrics of {day} can't be written: {one_line(error)}"
                raise CommitError(msg) from error
            except CommitFailedError as error:
                last = error
                time.sleep(random.uniform(0, 0.05 * (attempt + 1)))
            else:
                return
        msg = f"{self.path}: the metrics of {day} were not written: {last}"
        raise CommitError(msg)

    def read(self, first: str, last: str) -> pa.Table:
        """Return the rows of the days from the first to the last."""
        table = self._open()
        if table is None:
            return self.schema.empty_table()
        day = ds.field("day")
        rows = table.to_pyarrow_dataset().to_table(
            filter=(day >= first) & (day <= last), columns=self.schema.names
        )
        return rows.cast(self.schema)

    def _open(self) -> DeltaTable | None:
        try:
            return open_delta(self.path)
        except TableNotFoundError:
            return None
