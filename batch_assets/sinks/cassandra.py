"""Cassandra: the version in the partition key, and a row that names the version.

    <keyspace>.<name>_rows      ((version, bucket), key) -> outputs, packed
    <keyspace>.<name>_loaded    (version, shard) -> evidence, written after its rows
    <keyspace>.<name>_versions  what a version is of, as JSON; its buckets; when it began
                                and was served
    <keyspace>.<name>_pointer   one row: the version that is served
    <keyspace>.<name>_denylist  one row: items that no client shows, as JSON

A bucket is the hash of a key modulo the version's number of buckets, a multiple of its
shards: a partition of some 200 rows, which is written in batches of its own, found by
its number when it is read back, and removed by one tombstone. It knows no other store.
"""

import math
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from datetime import UTC, datetime
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa
from cassandra import ConsistencyLevel, DriverException
from cassandra.auth import PlainTextAuthProvider
from cassandra.cluster import (
    EXEC_PROFILE_DEFAULT,
    Cluster,
    ExecutionProfile,
    NoHostAvailable,
    Session,
)
from cassandra.concurrent import execute_concurrent
from cassandra.policies import DCAwareRoundRobinPolicy, TokenAwarePolicy
from cassandra.query import (
    BatchStatement,
    BatchType,
    PreparedStatement,
    SimpleStatement,
    tuple_factory,
)

from batch_assets.environment import secret
from batch_assets.errors import NotServedError
from batch_assets.lake.shards import hash_key, hash_keys
from batch_assets.sinks.answers import Answers
from batch_assets.sinks.base import (
    RowChecksums,
    SinkVersion,
    StoredVersion,
    must_be_newer,
    must_be_whole,
    must_not_be_served,
    store_errors,
)
from batch_assets.sinks.packing import pack, unpack, unpack_row, width
from batch_assets.snapshots.denylist import Denylist
from batch_assets.snapshots.version import Answer
from batch_assets.spec import CassandraTarget

SECONDS = 30
PARTITION_ROWS = 200
# A server warns of batches above 5 KiB, and refuses those above 50.
BATCH_BYTES = 4_096
ROW_BYTES = 32  # of a row beside its outputs, about
IN_FLIGHT = 64

CQL_TYPES = {"int64": "bigint", "string": "text"}
TABLES = {
    "rows": "version text, bucket int, key {key}, outputs blob, "
    "PRIMARY KEY ((version, bucket), key)",
    "loaded": "version text, shard int, evidence text, PRIMARY KEY (version, shard)",
    "versions": "version text PRIMARY KEY, about text, buckets int, "
    "began_at timestamp, served_at timestamp",
    "pointer": "name text PRIMARY KEY, version text",
    "denylist": "name text PRIMARY KEY, items text",
}
CURRENT = "current"
DRIVER_ERRORS = (DriverException, NoHostAvailable)


def open_sink(target: CassandraTarget, pipeline: str) -> "CassandraSink":
    """Connect to a pipeline's Cassandra.

    Reads and writes are by LOCAL_QUORUM, the pointer by LOCAL_SERIAL.

    Raises:
        ConfigError: there is a user, and the variable of its password is not set.
        SinkError: no host can be reached, or none lets us in.
    """
    user = os.environ.get(target.user_env)
    password = (
        secret(target.password_env, f"the sink '{target.name}'") if user else None
    )
    nearest = DCAwareRoundRobinPolicy(target.data_center)
    profile = ExecutionProfile(
        load_balancing_policy=TokenAwarePolicy(nearest),
        consistency_level=ConsistencyLevel.LOCAL_QUORUM,
        serial_consistency_level=ConsistencyLevel.LOCAL_SERIAL,
        request_timeout=SECONDS,
        row_factory=tuple_factory,
    )
    cluster = Cluster(
        target.hosts,
        port=target.port,
        auth_provider=PlainTextAuthProvider(user, password) if user else None,
        execution_profiles={EXEC_PROFILE_DEFAULT: profile},
        connect_timeout=SECONDS,
    )
    server = f"{','.join(target.hosts)}:{target.port}"
    with store_errors(f"cassandra://{server}", *DRIVER_ERRORS, OSError):
        try:
            session = cluster.connect()
        except BaseException:
            cluster.shutdown()
            raise
    name = target.prefix or pipeline
    return CassandraSink(session, target.keyspace, name, server)


class CassandraSink:
    """A pipeline's versions in a keyspace that is there already."""

    def __init__(self, session: Session, keyspace: str, name: str, server: str) -> None:
        """Nothing is sent yet.

        Args:
            session: of the driver.
            keyspace: its replication is its owner's affair.
            name: what the tables' names begin with.
            server: where it is, for messages.
        """
        self.address = f"cassandra://{server}/{keyspace}.{name}"
        self._session = session
        self._tables = {table: f"{keyspace}.{name}_{table}" for table in TABLES}
        self._prepared: dict[str, PreparedStatement] = {}
        self._served: tuple[SinkVersion, int] | None = None
        self._answers = Answers(self.denied)

    def begin(self, about: SinkVersion) -> Mapping[int, RowChecksums]:
        with self._store_errors():
            for table, columns in TABLES.items():
                key = CQL_TYPES[about.manifest.key_dtype]
                self._make_table(table, columns.format(key=key))
            known = self._do(
                "SELECT about FROM {versions} WHERE version = ?", about.name
            )
            if known.one() is None:
                self._do(
                    "INSERT INTO {versions} (version, about, buckets, began_at) "
                    "VALUES (?, ?, ?, ?)",
                    about.name,
                    about.model_dump_json(),
                    _buckets(about),
                    datetime.now(UTC),
                )
            return self._records(about.name)

    def load(
        self, about: SinkVersion, shard: int, rows: pa.Table, evidence: RowChecksums
    ) -> None:
        # What a killed load left of the shard are rows of it: they are overwritten.
        with self._store_errors():
            insert = self._prepare(
                "INSERT INTO {rows} (version, bucket, key, outputs) VALUES (?, ?, ?, ?)"
            )
            self._all((batch, ()) for batch in _batches(insert, about, rows))
            self._do(
                "INSERT INTO {loaded} (version, shard, evidence) VALUES (?, ?, ?)",
                about.name,
                shard,
                str(evidence),
            )

    def finish(self, about: SinkVersion) -> Mapping[int, RowChecksums]:
        with self._store_errors():
            return {shard: self._read(about, shard) for shard in range(about.shards)}

    def swap(self, about: SinkVersion, *, back: bool) -> None:
        with self._store_errors():
            # Before the pointer: it says that the version is proved.
            self._do(
                "UPDATE {versions} SET served_at = ? WHERE version = ?",
                datetime.now(UTC),
                about.name,
            )
            while True:
                served = self._pointer()
                must_be_whole(about, len(self._records(about.name)))
                served_version = self._about(served)[0] if served else None
                must_be_newer(about, served_version, back=back)
                swapped = self._do(
                    "UPDATE {pointer} SET version = ? WHERE name = ? IF version = ?",
                    about.name,
                    CURRENT,
                    served,
                )
                if swapped.was_applied:
                    return

    def current(self) -> str | None:
        with self._store_errors():
            return self._pointer() if self._is_there() else None

    def stored_versions(self) -> list[StoredVersion]:
        with self._store_errors():
            if not self._is_there():
                return []
            rows = self._do("SELECT about, began_at, served_at FROM {versions}")
            return [
                StoredVersion(
                    SinkVersion.model_validate_json(about),
                    began_at.replace(tzinfo=UTC),
                    served_at.replace(tzinfo=UTC) if served_at else None,
                )
                for about, began_at, served_at in rows
            ]

    def drop(self, version: str) -> None:
        with self._store_errors():
            must_not_be_served(version, self._pointer())
            # First what makes it servable, last what makes it known.
            self._do("DELETE FROM {loaded} WHERE version = ?", version)
            self._do("DELETE served_at FROM {versions} WHERE version = ?", version)
            must_not_be_served(version, self._pointer())
            numbers = self._do(
                "SELECT buckets FROM {versions} WHERE version = ?", version
            )
            delete = self._prepare(
                "DELETE FROM {rows} WHERE version = ? AND bucket = ?"
            )
            for (buckets,) in numbers:
                self._all((delete, (version, bucket)) for bucket in range(buckets))
            self._do("DELETE FROM {versions} WHERE version = ?", version)

    def get(self, key: int | str, segment: int | str | None = None) -> Answer | None:
        with self._store_errors():
            about, buckets = self._served or self._about(None)
            while True:
                stored_key = about.key_of(key)
                if stored_key is None:
                    return self._answers.of(about, key, None, segment)
                # Sent together; the row counts if the pointer still names its version.
                pointer = self._later(
                    "SELECT version FROM {pointer} WHERE name = ?", CURRENT
                )
                row = self._later(
                    "SELECT outputs FROM {rows} "
                    "WHERE version = ? AND bucket = ? AND key = ?",
                    about.name,
                    hash_key(stored_key) % buckets,
                    stored_key,
                )
                (version,) = pointer.result().one()
                outputs = row.result().one()
                if version == about.name:
                    self._served = about, buckets
                    numbers = None if outputs is None else unpack_row(outputs[0], about)
                    return self._answers.of(about, stored_key, numbers, segment)
                about, buckets = self._about(version)

    def deny(self, denylist: Denylist) -> None:
        with self._store_errors():
            self._make_table("denylist", TABLES["denylist"])
            self._do(
                "INSERT INTO {denylist} (name, items) VALUES (?, ?)",
                CURRENT,
                denylist.model_dump_json(),
            )

    def denied(self) -> Denylist:
        with self._store_errors():
            row = None
            if self._is_there("denylist"):
                statement = "SELECT items FROM {denylist} WHERE name = ?"
                row = self._do(statement, CURRENT).one()
        data = row[0].encode() if row else None
        return Denylist.loads(data, f"{self.address}: the denylist")

    def close(self) -> None:
        self._session.cluster.shutdown()

    def _read(self, about: SinkVersion, shard: int) -> RowChecksums:
        """Read a shard back, and sum it up."""
        buckets = _buckets(about)
        numbers = range(shard, buckets, about.shards)
        select = self._prepare(
            "SELECT key, outputs FROM {rows} WHERE version = ? AND bucket = ?"
        )
        selects = ((select, (about.name, bucket)) for bucket in numbers)
        names, outputs, bucket_of = [], [], []
        for bucket, (_, rows) in zip(numbers, self._results(selects), strict=True):
            for key, packed in rows:
                names.append(key)
                outputs.append(packed)
                bucket_of.append(bucket)
        size = width(about)
        if any(len(packed) != size for packed in outputs):
            return RowChecksums()
        keys = pa.array(names, pa.large_string() if about.strings else pa.int64())
        hashes = hash_keys(keys)
        if (hashes % np.uint64(buckets) != np.array(bucket_of, np.uint64)).any():
            return RowChecksums()  # A lookup does not find a key in another bucket.
        return RowChecksums.of(keys, unpack(b"".join(outputs), about))

    def _records(self, version: str) -> dict[int, RowChecksums]:
        rows = self._do(
            "SELECT shard, evidence FROM {loaded} WHERE version = ?", version
        )
        return {shard: RowChecksums.parse(text) for shard, text in rows}

    def _pointer(self) -> str | None:
        """Return what is served, after every swap that has been decided."""
        statement = SimpleStatement(
            f"SELECT version FROM {self._tables['pointer']} WHERE name = '{CURRENT}'",
            consistency_level=ConsistencyLevel.LOCAL_SERIAL,
        )
        row = self._session.execute(statement).one()
        return row[0] if row else None

    def _about(self, version: str | None) -> tuple[SinkVersion, int]:
        """Return what a version, or the one that is served, is of, and its buckets."""
        version = version or self.current()
        if version is None:
            msg = f"{self.address} serves nothing: load a version first"
            raise NotServedError(msg)
        statement = "SELECT about, buckets FROM {versions} WHERE version = ?"
        about, buckets = self._do(statement, version).one()
        return SinkVersion.model_validate_json(about), buckets

    def _make_table(self, table: str, columns: str) -> None:
        name = self._tables[table]
        self._session.execute(f"CREATE TABLE IF NOT EXISTS {name} ({columns})")

    def _is_there(self, name: str = "pointer") -> bool:
        keyspace, _, table = self._tables[name].partition(".")
        rows = self._session.execute(
            "SELECT table_name FROM system_schema.tables "
            "WHERE keyspace_name = %s AND table_name = %s",
            (keyspace, table),
        )
        return rows.one() is not None

    def _do(self, statement: str, *values: Any) -> Any:
        return self._session.execute(self._prepare(statement), values)

    def _later(self, statement: str, *values: Any) -> Any:
        return self._session.execute_async(self._prepare(statement), values)

    def _all(self, statements: Iterable[tuple[Any, Sequence[Any]]]) -> None:
        for _ in self._results(statements):
            pass

    def _results(
        self, statements: Iterable[tuple[Any, Sequence[Any]]]
    ) -> Iterator[Any]:
        """Yield results in order, with no more than so many statements on their way."""
        yield from execute_concurrent(
            self._session, statements, concurrency=IN_FLIGHT, results_generator=True
        )

    def _prepare(self, statement: str) -> PreparedStatement:
        if statement not in self._prepared:
            prepared = self._session.prepare(statement.format(**self._tables))
            # Every statement but a conditional one may be sent again after a lost answer.
            prepared.is_idempotent = " IF " not in statement
            self._prepared[statement] = prepared
        return self._prepared[statement]

    def _store_errors(self) -> AbstractContextManager[None]:
        return store_errors(self.address, *DRIVER_ERRORS)


def _buckets(about: SinkVersion) -> int:
    each = math.ceil(about.rows / (about.shards * PARTITION_ROWS))
    return about.shards * max(each, 1)


def _batches(
    insert: PreparedStatement, about: SinkVersion, rows: pa.Table
) -> Iterator[BatchStatement]:
    """Batch a shard's rows by partition: a batch goes to the owners of one alone."""
    hashes = hash_keys(rows[about.key])
    buckets = (hashes % np.uint64(_buckets(about))).astype(np.int64)
    order = np.argsort(buckets, kind="stable")
    buckets, packed = buckets[order], pack(rows, about)[order]
    keys = rows[about.key].take(pa.array(order)).to_pylist()
    starts = np.flatnonzero(np.diff(buckets, prepend=-1)).tolist()
    step = max(1, BATCH_BYTES // (width(about) + ROW_BYTES))
    for start, stop in pairwise([*starts, len(order)]):
        bucket = int(buckets[start])
        for first in range(start, stop, step):
            batch = BatchStatement(BatchType.UNLOGGED)
            batch.is_idempotent = True
            for n in range(first, min(first + step, stop)):
                row = (about.name, bucket, keys[n], packed[n].tobytes())
                batch.add(insert, row)
            yield batch
