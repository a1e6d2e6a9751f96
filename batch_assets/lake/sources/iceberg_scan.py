"""A snapshot of an Iceberg table, opened and read by PyIceberg.

Rows that are deleted by their position are left out; equality deletes, which PyIceberg
can't apply, are refused. It alone imports the library, which is an extra.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo

import pyarrow as pa

from batch_assets.environment import secrets_in, without_secrets
from batch_assets.errors import BatchAssetsError, ConfigError, SourceError
from batch_assets.lake.places import within
from batch_assets.lake.source_files import plain
from batch_assets.lake.sources.settings import with_secrets

if TYPE_CHECKING:
    from pyiceberg.expressions import BooleanExpression
    from pyiceberg.schema import Schema
    from pyiceberg.table import DataScan

# SQLAlchemy's way to SQLite: a path of the YAML is relative to the project.
SQLITE = "sqlite:///"
# Who reads makes no tables in the catalog's database.
READING = {"init_catalog_tables": "false"}


@dataclass(frozen=True)
class Address:
    """Where a table is: its name, and the catalog with its properties.

    `properties_env` names for each further property the variable that holds it.
    """

    table: str
    catalog: str
    properties: Mapping[str, str]
    properties_env: Mapping[str, str]


@dataclass(frozen=True)
class RowsWanted:
    """Which rows of a table are asked for, and which of their columns.

    Attributes:
        snapshot: its id; None of a table that has none yet.
        schema: the id of the table's schema, by whose names all is told.
        columns: the names; all but the day's if None.
        where: a row filter in Iceberg's words.
        day_column: the column that tells the day; None takes all rows.
        day, timezone: which day, and where it begins and ends.
    """

    snapshot: int | None
    schema: int
    columns: tuple[str, ...] | None
    where: str | None
    day_column: str | None
    day: str
    timezone: str


class IcebergTable:
    """A table as its catalog tells of it now."""

    def __init__(self, address: Address, project: Path) -> None:
        """Load the table's metadata.

        Raises:
            ConfigError: a variable is not set, or the library is not installed.
            SourceError: there is no such catalog or table, or it does not answer.
        """
        self._address = address
        what = f"the Iceberg table {address.table}"
        properties = with_secrets(address.properties, address.properties_env, what)
        with self._explained("opened"):
            from pyiceberg.catalog import load_catalog

            settings = READING | _local(properties, project)
            # Closed at once: a database would wait for its connection to end.
            with load_catalog(address.catalog, **settings) as catalog:
                self._table = catalog.load_table(address.table)
        self.uuid = str(self._table.metadata.table_uuid)

    def must_be(self, uuid: str) -> None:
        """Refuse another table of the same name.

        Raises:
            SourceError: it was made anew.
        """
        if self.uuid != uuid:
            msg = (
                f"the Iceberg table {self._address.table} was made anew while it was "
                "read. Nothing was committed; run the day again."
            )
            raise SourceError(msg)

    def snapshot(self, which: int | str, day: str, timezone: str) -> int | None:
        """Return the id of a snapshot; None of a table that has none yet.

        Args:
            which: `newest`, `day_end`, or an id.
            day, timezone: whose end is meant by `day_end`.

        Raises:
            SourceError: there is no such snapshot, or it has expired.
        """
        metadata = self._table.metadata
        if which == "newest":
            newest: int | None = metadata.current_snapshot_id
            return newest
        if which != "day_end":
            self._must_be_there(int(which))
            return int(which)
        after = date.fromisoformat(day) + timedelta(days=1)
        end = datetime.combine(after, time(), ZoneInfo(timezone))
        before = [
            entry
            for entry in metadata.snapshot_log
            if entry.timestamp_ms < end.timestamp() * 1000
        ]
        # The log is in the order in which snapshots became current.
        if not before:
            msg = (
                f"the Iceberg table {self._address.table} tells of no snapshot that was "
                f"current at the end of {day} in {timezone}: it was made later, or its "
                "snapshots have expired. Nothing was committed; take a later day, or "
                "keep snapshots for as long as a night may be run."
            )
            raise SourceError(msg)
        self._must_tell_all_of(end)
        return int(before[-1].snapshot_id)

    def schema_id(self, snapshot: int | None, *, newest: bool) -> int:
        """Return the id of the schema that a snapshot is read by.

        The newest is read by the table's own, whose columns may have been renamed since;
        an older one by the schema of its time.
        """
        metadata = self._table.metadata
        found = metadata.snapshot_by_id(snapshot) if snapshot is not None else None
        if newest or found is None or found.schema_id is None:
            return int(metadata.current_schema_id)
        return int(found.schema_id)

    def schema_of(self, wanted: RowsWanted) -> pa.Schema:
        """Return the columns of the rows that are asked for.

        Raises:
            SourceError: there is no such column, or the filter can't be read.
        """
        with self._explained("read"):
            from pyiceberg.io.pyarrow import schema_to_pyarrow

            scan = self._scan(wanted)
            schema = schema_to_pyarrow(scan.projection(), include_field_ids=False)
        return pa.schema([pa.field(f.name, _plain(f.type)) for f in schema])

    def batches(self, wanted: RowsWanted) -> Iterator[pa.RecordBatch]:
        """Read the rows, a data file at a time, in the order of the files' names.

        Raises:
            SourceError: a file is gone or can't be read, or the snapshot has equality
                deletes.
        """
        schema = self.schema_of(wanted)
        with self._explained("read"):
            from pyiceberg.io.pyarrow import ArrowScan

            scan = self._scan(wanted)
            self._must_be_days(wanted)
            rows = ArrowScan(
                scan.table_metadata, scan.io, scan.projection(), scan.row_filter
            )
            # All at once, PyIceberg would hold every file that it has read ahead.
            for task in sorted(scan.plan_files(), key=lambda task: task.file.file_path):
                for batch in rows.to_record_batches([task]):
                    table = pa.Table.from_batches([batch]).cast(schema)
                    yield from table.combine_chunks().to_batches()

    def _scan(self, wanted: RowsWanted) -> "DataScan":
        from pyiceberg.expressions import And

        schema = self._schema(wanted.schema)
        names = wanted.columns or tuple(
            field.name for field in schema.fields if field.name != wanted.day_column
        )
        for name in names:
            self._must_have(schema, name)
        keep = _parsed(wanted.where)
        if wanted.day_column is not None:
            self._must_have(schema, wanted.day_column)
            keep = And(keep, self._of_day(schema, wanted))
        return self._scan_of(wanted, keep, names)

    def _scan_of(
        self, wanted: RowsWanted, keep: "BooleanExpression", names: tuple[str, ...]
    ) -> "DataScan":
        """A scan by the schema that was named: PyIceberg's own takes the snapshot's."""
        from pyiceberg.table import DataScan

        if wanted.snapshot is not None:
            self._must_be_there(wanted.snapshot)
        metadata = self._table.metadata.model_copy(
            update={
                "current_snapshot_id": wanted.snapshot,
                "current_schema_id": wanted.schema,
            }
        )
        return DataScan(metadata, self._table.io, keep, names)

    def _must_be_days(self, wanted: RowsWanted) -> None:
        """Refuse text that goes on after the day, which would be left out without a word.

        Raises:
            SourceError: with what the column holds.
        """
        from pyiceberg.expressions import And, NotEqualTo, StartsWith
        from pyiceberg.types import StringType

        name = wanted.day_column
        if name is None:
            return
        if not isinstance(
            self._schema(wanted.schema).find_field(name).field_type, StringType
        ):
            return
        strays = And(StartsWith(name, wanted.day), NotEqualTo(name, wanted.day))
        found = self._scan_of(wanted, strays, (name,)).update(limit=1).to_arrow()
        if len(found):
            msg = (
                f"column '{name}' of the Iceberg table {self._address.table} holds "
                f"{found[name][0].as_py()!r}, which is not the day that '{wanted.day}' is, "
                "and would be left out without a word. Nothing was committed; make it a "
                "date, a timestamp, or text of that form"
            )
            raise SourceError(msg)

    def _of_day(self, schema: "Schema", wanted: RowsWanted) -> "BooleanExpression":
        from pyiceberg.expressions import And, EqualTo, GreaterThanOrEqual, LessThan
        from pyiceberg.types import (
            DateType,
            StringType,
            TimestampNanoType,
            TimestampType,
            TimestamptzNanoType,
            TimestamptzType,
        )

        name = str(wanted.day_column)
        dtype = schema.find_field(name).field_type
        if isinstance(dtype, DateType | StringType):
            return EqualTo(name, wanted.day)
        zoned = isinstance(dtype, TimestamptzType | TimestamptzNanoType)
        if not zoned and not isinstance(dtype, TimestampType | TimestampNanoType):
            msg = (
                f"the day_column '{name}' of the Iceberg table {self._address.table} is "
                f"{dtype}, which tells no day: expected a date, a timestamp, or text as "
                "'2026-01-05'"
            )
            raise SourceError(msg)
        first = date.fromisoformat(wanted.day)
        begin, end = (
            _midnight(day, wanted.timezone if zoned else None)
            for day in (first, first + timedelta(days=1))
        )
        return And(GreaterThanOrEqual(name, begin), LessThan(name, end))

    def _schema(self, schema_id: int) -> "Schema":
        return self._table.schemas()[schema_id]

    def _must_have(self, schema: "Schema", name: str) -> None:
        names = [field.name for field in schema.fields]
        if name not in names:
            msg = (
                f"the Iceberg table {self._address.table} has no column '{name}'; it has: "
                f"{', '.join(names)}"
            )
            raise SourceError(msg)

    def _must_be_there(self, snapshot: int) -> None:
        if self._table.metadata.snapshot_by_id(snapshot) is None:
            known = [str(one.snapshot_id) for one in self._table.metadata.snapshots]
            msg = (
                f"the Iceberg table {self._address.table} has no snapshot {snapshot}; "
                f"has it expired? There are: {', '.join(known[-10:]) or 'none'}. Nothing "
                "was committed; name another, or keep snapshots for as long as a night "
                "may be run."
            )
            raise SourceError(msg)

    def _must_tell_all_of(self, end: datetime) -> None:
        """Refuse a log with a hole before the end of the day.

        Some writers expire a snapshot in the middle of the log: the one before it would
        be taken for the one that was current. What tells it, is a snapshot whose parent
        is gone and whose number does not follow.
        """
        metadata = self._table.metadata
        known = {one.snapshot_id for one in metadata.snapshots}
        log = metadata.snapshot_log
        for before, after in zip(log, log[1:], strict=False):
            earlier = metadata.snapshot_by_id(before.snapshot_id)
            later = metadata.snapshot_by_id(after.snapshot_id)
            if (
                before.timestamp_ms < end.timestamp() * 1000 <= after.timestamp_ms
                and earlier is not None
                and later is not None
                and later.parent_snapshot_id not in known
                and (later.sequence_number or 0) != (earlier.sequence_number or 0) + 1
            ):
                msg = (
                    f"the Iceberg table {self._address.table} does not tell which "
                    f"snapshot was current at {end.isoformat()}: one between "
                    f"{before.snapshot_id} and {after.snapshot_id} has expired. Nothing "
                    "was committed; name a snapshot by its id, or keep them for longer."
                )
                raise SourceError(msg)

    @contextmanager
    def _explained(self, what: str) -> Iterator[None]:
        """Raise whatever the library and its clients raise as `SourceError`.

        Without its cause: that one's text, or its driver's, may hold an address with a
        password.
        """
        try:
            yield
        except BatchAssetsError:
            raise
        except ImportError as error:
            msg = (
                f"the Iceberg table {self._address.table} needs a client library: "
                f"{error}. pip install 'batch-assets[iceberg]'"
            )
            raise ConfigError(msg) from None
        # Catalogs, object stores and databases have errors of their own, without a base.
        except Exception as error:  # noqa: BLE001
            said = without_secrets(
                str(error), secrets_in(self._address.properties_env.values())
            )
            msg = (
                f"the Iceberg table {self._address.table} of the catalog "
                f"'{self._address.catalog}' can't be {what}: {type(error).__name__}: "
                f"{said}. Nothing was committed."
            )
            raise SourceError(msg) from None


def _local(properties: Mapping[str, str], project: Path) -> dict[str, str]:
    """Return the properties, with a path of SQLite's relative to the project.

    Raises:
        SourceError: it is not there: SQLite would make an empty one. Or it lies out of
            the project.
    """
    found, uri = dict(properties), properties.get("uri", "")
    if not uri.startswith(SQLITE):
        return found
    path = within(project / uri.removeprefix(SQLITE), project, uri)
    if not path.is_file():
        msg = f"the catalog {path} is not there. Nothing was committed."
        raise SourceError(msg)
    return found | {"uri": f"{SQLITE}{path}"}


def _parsed(where: str | None) -> "BooleanExpression":
    from pyiceberg.expressions import AlwaysTrue
    from pyiceberg.expressions.parser import parse

    return AlwaysTrue() if where is None else parse(where)


def _plain(dtype: pa.DataType) -> Any:
    """Return a type without the ways in which it is laid out, in lists, too."""
    if pa.types.is_list(dtype) or pa.types.is_large_list(dtype):
        return pa.list_(_plain(dtype.value_type))
    return plain(dtype)


def _midnight(day: date, timezone: str | None) -> str:
    if timezone is None:
        return datetime.combine(day, time()).isoformat()
    # In UTC: where there was no midnight, this is the moment that the clocks went on.
    return datetime.combine(day, time(), ZoneInfo(timezone)).astimezone(UTC).isoformat()
