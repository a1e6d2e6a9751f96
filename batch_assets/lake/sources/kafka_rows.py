"""Rows of messages: the last value of each key, a JSON object, as columns with types.

A message that is no row ends in one error that names all such, each by partition and
offset. It knows no broker.
"""

import json
import re
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.compute as pc

from batch_assets.errors import SourceError
from batch_assets.lake.sources.kafka_log import BATCH_MESSAGES, Message

TYPES = {
    "int8": pa.int8(),
    "int16": pa.int16(),
    "int32": pa.int32(),
    "int64": pa.int64(),
    "float32": pa.float32(),
    "float64": pa.float64(),
    "bool": pa.bool_(),
    "string": pa.string(),
}
# The largest number of each width, as IEEE 754 has it.
LARGEST = {32: 3.4028234663852886e38, 64: 1.7976931348623157e308}
LIST = re.compile(r"^list\[(\w+)\]$")
WHOLE = re.compile(r"^(0|-?[1-9]\d*)$")
# How many of the messages that are no rows an error names.
NAMED = 10
SPOOLED = pa.schema(
    [
        pa.field("key", pa.string()),
        pa.field("part", pa.int32()),
        pa.field("made", pa.int64()),
        pa.field("place", pa.int64()),
        pa.field("value", pa.binary()),
    ]
)
# The last message of each key: of a partition by its offset, of several by their times.
LAST = """
    CREATE TABLE last AS
    WITH ends AS (
        SELECT key, part, max(place) AS place FROM messages GROUP BY key, part
    ), timed AS (
        SELECT ends.*, messages.made FROM ends JOIN messages USING (part, place)
    )
    SELECT key, part, place, count(*) OVER (PARTITION BY key, made) AS ties FROM timed
    QUALIFY rank() OVER (PARTITION BY key ORDER BY made DESC) = 1
"""


class NoRowError(ValueError):
    """A message is no row, and why."""


class RowsOfMessages:
    """Which columns a message has, where its key is, and how rows are made of them."""

    def __init__(
        self, topic: str, types: Mapping[str, pa.DataType], key: str, *, in_value: bool
    ) -> None:
        """Take note of the columns.

        Args:
            topic: its name, for the errors.
            types: of each column, by its name.
            key: which of them is the key.
            in_value: whether the key is taken from the value, or is the message's own.
        """
        self.topic, self.key, self.in_value = topic, key, in_value
        self.schema = pa.schema([pa.field(name, t) for name, t in types.items()])

    @contextmanager
    def spooled(self, memory_limit: str) -> Iterator["Spool"]:
        """Open a place on disk for the messages, which goes with the context.

        Args:
            memory_limit: in DuckDB's words.
        """
        with tempfile.TemporaryDirectory(prefix="batch-assets-topic-") as folder:
            path = str(Path(folder) / "messages.duckdb")
            try:
                with duckdb.connect(path) as connection:
                    connection.execute("SET memory_limit = ?", [memory_limit])
                    connection.execute("SET temp_directory = ?", [folder])
                    # On one, rows come in the order in which they were put there.
                    connection.execute("SET threads = 1")
                    yield Spool(self, connection)
            except duckdb.Error as error:
                msg = (
                    f"messages of the topic '{self.topic}' can't be compacted: {error}"
                )
                raise SourceError(msg) from error

    def key_of(self, message: Message) -> str:
        """Return the key of a message as text.

        Raises:
            NoRowError: it has none.
        """
        if self.in_value:
            if message.value is None:
                msg = f"it has no value, and with it no '{self.key}'"
                raise NoRowError(msg)
            found = _object(message.value).get(self.key)
            if found is None:
                msg = f"its value has no '{self.key}'"
                raise NoRowError(msg)
            return str(_checked(found, self.schema.field(self.key).type, self.key))
        if message.key is None:
            msg = "it has no key"
            raise NoRowError(msg)
        try:
            text = message.key.decode()
        except UnicodeDecodeError:
            msg = f"its key is no UTF-8: {message.key[:40]!r}"
            raise NoRowError(msg) from None
        if pa.types.is_integer(self.schema.field(self.key).type) and not WHOLE.match(
            text
        ):
            msg = f"its key is {text[:40]!r}, expected a whole number"
            raise NoRowError(msg)
        return text

    def row_of(self, key: str, value: bytes) -> dict[str, Any]:
        """Return a message as a row.

        A field that the value has not is null; one that is no column is left out.

        Raises:
            NoRowError: the value is no object of JSON, or a field is of another type.
        """
        found = _object(value)
        if not self.in_value:
            dtype, said = self.schema.field(self.key).type, found.get(self.key)
            if said is not None and str(_checked(said, dtype, self.key)) != key:
                msg = f"its key is {key[:40]!r}, and its value says {said!r}"
                raise NoRowError(msg)
            found[self.key] = int(key) if pa.types.is_integer(dtype) else key
        return {
            field.name: _checked(found.get(field.name), field.type, field.name)
            for field in self.schema
        }


class Spool:
    """Messages on disk, until it is known which of them are the last of their keys."""

    def __init__(
        self, rows: RowsOfMessages, connection: "duckdb.DuckDBPyConnection"
    ) -> None:
        self._rows, self._connection = rows, connection
        self._refused = _Refused(rows.topic)
        connection.execute(
            "CREATE TABLE messages "
            "(key VARCHAR, part INTEGER, made BIGINT, place BIGINT, value BLOB)"
        )

    def add(self, messages: Iterable[Message]) -> None:
        """Put messages beside those that are there; one without a key is noted."""
        kept = []
        for m in messages:
            try:
                key = self._rows.key_of(m)
            except NoRowError as why:
                self._refused.note(m.name, why)
                continue
            kept.append((key, m.partition, m.at, m.offset, m.value))
        if not kept:
            return
        columns = [
            pa.array(column, field.type)
            for column, field in zip(zip(*kept, strict=True), SPOOLED, strict=True)
        ]
        batch = pa.table(columns, schema=SPOOLED)
        self._connection.register("batch", batch)
        self._connection.execute("INSERT INTO messages SELECT * FROM batch")
        self._connection.unregister("batch")

    def batches(self) -> Iterator[pa.RecordBatch]:
        """Yield the rows, in the order of partitions and offsets.

        A key whose last message has no value is left out.

        Raises:
            SourceError: messages are no rows; all are named.
        """
        self._connection.execute(LAST)
        self._refuse_ties()
        parts = self._connection.execute("SELECT DISTINCT part FROM last ORDER BY part")
        for (part,) in parts.fetchall():
            yield from self._of_partition(part)
        self._refused.must_be_none()

    def _of_partition(self, part: int) -> Iterator[pa.RecordBatch]:
        """Yield rows as they were put there: to sort them would take their values along."""
        there = self._connection.sql(
            "SELECT key, place, value FROM messages WHERE part = ?", params=[part]
        )
        lasts = self._connection.cursor()
        for batch in there.to_arrow_reader(BATCH_MESSAGES):
            ends = pc.min_max(batch["place"]).as_py()
            last = lasts.sql(
                "SELECT place FROM last WHERE part = ? AND place BETWEEN ? AND ?",
                params=[part, ends["min"], ends["max"]],
            ).to_arrow_table()
            kept = batch.filter(
                pc.is_in(batch["place"], last["place"].combine_chunks())
            )
            rows = []
            for key, place, value in zip(*kept.to_pydict().values(), strict=True):
                try:
                    if value is not None:
                        rows.append(self._rows.row_of(key, value))
                except NoRowError as why:
                    self._refused.note(f"{part}:{place}", why)
            yield pa.RecordBatch.from_pylist(rows, self._rows.schema)

    def _refuse_ties(self) -> None:
        """Note keys that have two last messages of one time, in two partitions."""
        ties = self._connection.execute(
            "SELECT key, part, place FROM last WHERE ties > 1 ORDER BY key, part"
        )
        for key, part, place in ties.fetchall():
            msg = (
                f"the key {key[:40]!r} has a message of the same time in another "
                "partition, and nothing tells which came last"
            )
            self._refused.note(f"{part}:{place}", NoRowError(msg))


class _Refused:
    """The messages that are no rows: the first few by name, and how many there are."""

    def __init__(self, topic: str) -> None:
        self._topic, self._count = topic, 0
        self._named: dict[str, str] = {}

    def note(self, message: str, why: NoRowError) -> None:
        self._count += 1
        if len(self._named) < NAMED:
            self._named[message] = str(why)

    def must_be_none(self) -> None:
        if not self._count:
            return
        named = "; ".join(f"{name} ({why})" for name, why in self._named.items())
        more = self._count - len(self._named)
        skip = ", ".join(f'"{name}"' for name in self._named)
        msg = (
            f"{self._count:,} message{'s' * (self._count > 1)} of the topic '{self._topic}' are no rows, by "
            f"partition:offset: {named}{f' and {more:,} more' if more else ''}. Nothing "
            "was committed; write the keys again before the day ends, or leave the "
            f"messages out by name: `skip: [{skip}]`"
        )
        raise SourceError(msg)


def types_of(columns: Mapping[str, str]) -> dict[str, pa.DataType]:
    """Return the types of columns by their words.

    Raises:
        ValueError: a word is no type.
    """
    found = {}
    for name, word in columns.items():
        items = LIST.match(word)
        dtype = TYPES.get(items[1] if items else word)
        if dtype is None:
            msg = (
                f"the column '{name}' is '{word}', which is no type; expected one of "
                f"{', '.join(TYPES)}, or a list as 'list[int64]'"
            )
            raise ValueError(msg)
        found[name] = pa.list_(dtype) if items else dtype
    return found


def _object(value: bytes) -> dict[str, Any]:
    try:
        found = json.loads(value, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        msg = f"its value is no JSON: {error}"
        raise NoRowError(msg) from None
    if not isinstance(found, dict):
        msg = f"its value is JSON of another kind than an object: {str(found)[:40]}"
        raise NoRowError(msg)
    return found


def _no_constant(name: str) -> None:
    msg = f"{name} is no number of JSON"
    raise ValueError(msg)


def _checked(value: Any, dtype: pa.DataType, name: str) -> Any:
    """Return a value as Arrow takes it without a change.

    Arrow alone would cut 1.5 to 1, and take a very large number for infinity.

    Raises:
        NoRowError: it is of another type, or too large.
    """
    if value is None:
        return None
    if pa.types.is_list(dtype) and isinstance(value, list):
        return [_checked(one, dtype.value_type, name) for one in value]
    if pa.types.is_integer(dtype) and isinstance(value, float) and value.is_integer():
        value = int(value)
    if not _fits(value, dtype):
        msg = f"its '{name}' is {str(value)[:40]!r}, expected {dtype}"
        raise NoRowError(msg)
    return float(value) if pa.types.is_floating(dtype) else value


def _fits(value: Any, dtype: pa.DataType) -> bool:
    if pa.types.is_boolean(dtype) or isinstance(value, bool):
        return pa.types.is_boolean(dtype) and isinstance(value, bool)
    if pa.types.is_integer(dtype):
        most = 2 ** (dtype.bit_width - 1)
        return isinstance(value, int) and -most <= value < most
    if pa.types.is_floating(dtype):
        most = LARGEST[dtype.bit_width]
        return isinstance(value, int | float) and -most <= value <= most
    # Half a character, which JSON can write and UTF-8 can't.
    return isinstance(value, str) and _is_utf8(value)


def _is_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
