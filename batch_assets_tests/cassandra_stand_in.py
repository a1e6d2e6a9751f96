"""A stand-in for a Cassandra at the driver's `Session`: no server is to be had.

Statements are prepared and bound by the driver itself, so that values pass through its
types; what they mean is decided here, for the few forms of CQL that the sink has. It
refuses what a server refuses (a partition key that is not whole) and what a cluster
suffers from (a batch over partitions), and counts what is on its way.
"""

import re
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from cassandra import InvalidRequest, WriteTimeout, WriteType
from cassandra.cluster import ResultSet
from cassandra.cqltypes import BytesType, DateType, Int32Type, LongType, UTF8Type
from cassandra.protocol import ColumnMetadata
from cassandra.query import (
    BatchStatement,
    BatchType,
    BoundStatement,
    PreparedStatement,
    SimpleStatement,
    tuple_factory,
)

PROTOCOL = 5
TYPES = {
    "text": UTF8Type,
    "int": Int32Type,
    "bigint": LongType,
    "blob": BytesType,
    "timestamp": DateType,
}
FORMS = {
    "insert": r"INSERT INTO (?P<table>\S+) \((?P<set>.+?)\) VALUES \([?, ]+\)",
    "update": r"UPDATE (?P<table>\S+) SET (?P<set>\w+) = \? WHERE (?P<where>.+?)"
    r"( IF (?P<if>\w+) = \?)?",
    "delete": r"DELETE( (?P<set>\w+))? FROM (?P<table>\S+) WHERE (?P<where>.+)",
    "select": r"SELECT (?P<set>.+?) FROM (?P<table>\S+)( WHERE (?P<where>.+))?",
}


class Table:
    """Columns with their types, the partition key, the whole key, and the rows."""

    def __init__(self, columns: str) -> None:
        plain, _, key = columns.partition("PRIMARY KEY (")
        inline = re.search(r"(\w+) text PRIMARY KEY", columns)
        if inline:
            plain, self.partition, self.key = columns, [inline[1]], [inline[1]]
        else:
            several = re.match(r"\((.+?)\), (.+)\)", key)
            first, rest = several.groups() if several else key[:-1].split(", ", 1)
            self.partition = first.split(", ")
            self.key = [*self.partition, *rest.split(", ")]
        self.types = {
            name: TYPES[kind] for name, kind in re.findall(r"(\w+) ([a-z]+)", plain)
        }
        self.rows: dict[tuple[Any, ...], dict[str, Any]] = {}


class StandIn:
    """A Session whose rows are in `tables`, by table and primary key."""

    def __init__(self) -> None:
        self.tables: dict[str, Table] = {}
        self.batches: list[
            tuple[tuple[Any, ...], int, int]
        ] = []  # partition, rows, bytes
        self.most_in_flight = 0
        self.writes_left: int | None = None
        self.before_swap = lambda: None
        self.cluster = self
        self._in_flight = 0
        self._lock = threading.RLock()
        self._pool = ThreadPoolExecutor(4)

    def shutdown(self) -> None:
        self._pool.shutdown()

    def prepare(self, query: str) -> PreparedStatement:
        form, match = _form(query)
        table = self.tables[match["table"]]
        names = _bound(form, match)
        columns = [ColumnMetadata("ks", "t", name, table.types[name]) for name in names]
        where = [name for name in names if name in table.partition]
        if form != "select" or match["where"]:
            missing = set(table.partition) - set(where)
            if missing:
                msg = f"{query} names no {missing} of the partition key"
                raise InvalidRequest(msg)
        indexes = [names.index(name) for name in table.partition if name in names]
        return PreparedStatement(
            columns, query.encode(), indexes, query, "ks", PROTOCOL, None, None
        )

    def execute(self, statement: Any, values: Any = ()) -> ResultSet:
        return self.execute_async(statement, values).result()

    def execute_async(
        self, statement: Any, values: Any = (), execution_profile: Any = None
    ) -> "Future":
        with self._lock:
            self._in_flight += 1
            self.most_in_flight = max(self.most_in_flight, self._in_flight)
        if isinstance(statement, PreparedStatement):
            statement = statement.bind(values)
        future = Future(statement)
        self._pool.submit(self._answer, future, statement, values)
        return future

    def _answer(self, future: "Future", statement: Any, values: Any) -> None:
        try:
            with self._lock:
                rows = self._run(statement, values)
        except Exception as error:  # noqa: BLE001 - the driver hands on all of them
            future.fail(error, self._landed)
        else:
            future.succeed(rows, self._landed)

    def _landed(self) -> None:
        with self._lock:
            self._in_flight -= 1

    def _run(self, statement: Any, values: Any) -> list[tuple[Any, ...]]:
        if isinstance(statement, BatchStatement):
            return self._batch(statement)
        if isinstance(statement, BoundStatement):
            return self._bound(statement)
        text = getattr(statement, "query_string", statement)
        created = re.fullmatch(r"CREATE TABLE IF NOT EXISTS (\S+) \((.+)\)", text)
        if created:
            self.tables.setdefault(created[1], Table(created[2]))
            return []
        if "system_schema.tables" in text:
            return [(values[1],)] if ".".join(values) in self.tables else []
        assert isinstance(statement, SimpleStatement), text
        form, match = _form(text.replace("'current'", "?"))
        return self._do(form, match, {"name": "current"})

    def _batch(self, batch: BatchStatement) -> list[tuple[Any, ...]]:
        assert batch.batch_type is BatchType.UNLOGGED
        self._count_write()
        size, partitions = 0, set()
        statements = batch._statements_and_parameters
        for _, query, parameters in statements:
            form, match = _form(query.decode())
            table = self.tables[match["table"]]
            values = {
                name: table.types[name].deserialize(value, PROTOCOL)
                for name, value in zip(_bound(form, match), parameters, strict=True)
            }
            size += sum(len(value) for value in parameters)
            partitions.add(tuple(values[name] for name in table.partition))
            self._do(form, match, values)
        (partition,) = partitions  # A batch over several is what hurts a cluster.
        self.batches.append((partition, len(statements), size))
        return []

    def _bound(self, statement: BoundStatement) -> list[tuple[Any, ...]]:
        prepared = statement.prepared_statement
        form, match = _form(prepared.query_string)
        if form != "select":
            self._count_write()
        values = [
            None if value is None else column.type.deserialize(value, PROTOCOL)
            for column, value in zip(
                prepared.column_metadata, statement.values, strict=True
            )
        ]
        names = [column.name for column in prepared.column_metadata]
        if match.groupdict().get("if"):
            self.before_swap()
            *values, expected = values
            values = dict(zip(names, values, strict=False))
            row = self._row(match, values)
            if (row or {}).get(match["if"]) != expected:
                return [(False, (row or {}).get(match["if"]))]
            self._do(form, match, values)
            return [(True,)]
        return self._do(form, match, dict(zip(names, values, strict=True)))

    def _row(self, match: re.Match[str], values: dict[str, Any]) -> Any:
        table = self.tables[match["table"]]
        return table.rows.get(tuple(values[name] for name in table.key))

    def _do(
        self, form: str, match: re.Match[str], values: dict[str, Any]
    ) -> list[tuple[Any, ...]]:
        table = self.tables[match["table"]]
        if form in ("insert", "update"):
            key = tuple(values[name] for name in table.key)
            table.rows[key] = table.rows.get(key, {}) | values
            return []
        wanted = {n: v for n, v in values.items() if n in _where(match)}
        matching = [
            (key, row)
            for key, row in table.rows.items()
            if all(row[name] == value for name, value in wanted.items())
        ]
        if form == "select":
            names = match["set"].split(", ")
            return [tuple(row.get(name) for name in names) for _, row in matching]
        for key, _ in matching:
            if match["set"]:
                table.rows[key].pop(match["set"], None)
            else:
                del table.rows[key]
        return []

    def _count_write(self) -> None:
        if self.writes_left is not None:
            if not self.writes_left:
                msg = "the test lets no more writes pass"
                raise WriteTimeout(msg, write_type=WriteType.UNLOGGED_BATCH)
            self.writes_left -= 1


class Future:
    """What `execute_async` gives: the driver's ResultSet asks the same of it."""

    _col_names = _col_types = None
    has_more_pages = False
    row_factory = staticmethod(tuple_factory)

    def __init__(self, statement: Any) -> None:
        self.query = statement
        self._done = threading.Event()
        self._lock = threading.Lock()
        self._rows: list[tuple[Any, ...]] = []
        self._error: Exception | None = None
        self._callbacks: tuple[Any, ...] | None = None

    def add_callbacks(
        self, callback: Any, errback: Any, callback_args: Any, errback_args: Any
    ) -> None:
        with self._lock:
            self._callbacks = callback, callback_args, errback, errback_args
            done = self._done.is_set()
        if done:
            self._call()

    def clear_callbacks(self) -> None:
        self._callbacks = None

    def result(self) -> ResultSet:
        self._done.wait()
        if self._error:
            raise self._error
        return ResultSet(self, self._rows)

    def succeed(self, rows: list[tuple[Any, ...]], landed: Any) -> None:
        self._rows = rows
        self._end(landed)

    def fail(self, error: Exception, landed: Any) -> None:
        self._error = error
        self._end(landed)

    def _end(self, landed: Any) -> None:
        landed()
        with self._lock:
            self._done.set()
            asked = self._callbacks is not None
        if asked:
            self._call()

    def _call(self) -> None:
        assert self._callbacks
        callback, callback_args, errback, errback_args = self._callbacks
        if self._error:
            errback(self._error, *errback_args)
        else:
            callback(self._rows, *callback_args)


def _form(query: str) -> tuple[str, re.Match[str]]:
    for form, pattern in FORMS.items():
        if match := re.fullmatch(pattern, query):
            return form, match
    msg = f"no form of CQL that the stand-in knows: {query}"
    raise InvalidRequest(msg)


def _where(match: re.Match[str]) -> list[str]:
    return re.findall(r"(\w+) = \?", match.groupdict().get("where") or "")


def _bound(form: str, match: re.Match[str]) -> list[str]:
    """The columns that values are bound to, in the order of the question marks."""
    if form == "insert":
        return match["set"].split(", ")
    if form == "update":
        condition = [match["if"]] if match["if"] else []
        return [match["set"], *_where(match), *condition]
    return _where(match)
