"""PostgreSQL: a table for each version, and a view of the one that is served.

    <schema>.current          the view that is read; its columns name the version, too
    <schema>.rows_<version>   a version: key and outputs, loaded by COPY, one primary key
    <schema>.loaded           version, shard -> evidence, in one transaction with its rows
    <schema>.versions         what a version is of, as JSON; when it began and was served
    <schema>.pointer          one row: the version of the view

A swap replaces view and pointer in one transaction. It knows no other store.
"""

import time
from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import Any, LiteralString

import psycopg
import pyarrow as pa
from psycopg import errors, sql
from psycopg.conninfo import conninfo_to_dict
from psycopg.rows import dict_row

from batch_assets.errors import NotServedError, SinkError
from batch_assets.sinks.base import (
    STAYS,
    RowChecksums,
    SinkVersion,
    StoredVersion,
    evidence_by_shard,
    must_be_newer,
    must_be_whole,
    must_not_be_served,
    secret,
    store_errors,
)
from batch_assets.sinks.postgres_copy import HEADER, TRAILER, decode, encode
from batch_assets.snapshots.version import Answer
from batch_assets.spec import PostgresTarget

SECONDS = 30
# Who waits for a lock makes all wait who come after: better try again than wait long.
LOCK_SECONDS = 1
LOCK_TRIES = 8

SQL_TYPES = {
    "float32": "real",
    "float64": "double precision",
    "int32": "integer",
    "int64": "bigint",
    "string": 'text COLLATE "C"',
}
# What the view adds to the columns of a version; the lake lets no output have the
# names of the others.
SERVED_VERSION = "served_version"

TABLES = """\
CREATE TABLE IF NOT EXISTS {schema}.versions (
    version text PRIMARY KEY,
    about text NOT NULL,
    began_at timestamptz NOT NULL DEFAULT now(),
    served_at timestamptz
);
CREATE TABLE IF NOT EXISTS {schema}.loaded (
    version text REFERENCES {schema}.versions ON DELETE CASCADE,
    shard integer,
    evidence text NOT NULL,
    PRIMARY KEY (version, shard)
);
CREATE TABLE IF NOT EXISTS {schema}.pointer (
    one boolean PRIMARY KEY DEFAULT true CHECK (one),
    version text
);
INSERT INTO {schema}.pointer DEFAULT VALUES ON CONFLICT DO NOTHING;
"""


# No other transaction moves the pointer before the one that read it ends.
LOCKED: LiteralString = " FOR UPDATE"


def open_sink(target: PostgresTarget, pipeline: str) -> "PostgresSink":
    """Open a pipeline's PostgreSQL.

    Raises:
        ConfigError: the variable of its address is not set.
        SinkError: that is no address.
    """
    dsn = secret(target.dsn_env, target.name)
    return PostgresSink(dsn, target.db_schema or pipeline)


class PostgresSink:
    """A pipeline's versions in a schema of their own."""

    def __init__(self, dsn: str, schema: str) -> None:
        """Nothing is sent yet.

        Args:
            dsn: `postgresql://user:password@host:5432/database`, or its other form.
            schema: where the tables and the view are; it is created if it is not there.

        Raises:
            SinkError: the address is none. It is not shown: it may hold a password.
        """
        try:
            parts = conninfo_to_dict(dsn)
        except psycopg.ProgrammingError:
            # Its message would show the text, which may hold a password.
            msg = (
                "that is no address of a PostgreSQL; one is "
                "postgresql://user:password@host:5432/database"
            )
            raise SinkError(msg) from None
        server = f"{parts.get('host', 'local')}:{parts.get('port', 5432)}"
        self.address = f"postgresql://{server}/{parts.get('dbname', '')} {schema}"
        self._dsn = dsn
        self._schema = schema
        self._served: SinkVersion | None = None
        self._opened: psycopg.Connection | None = None

    def begin(self, about: SinkVersion) -> Mapping[int, RowChecksums]:
        names = [about.key, *(name for name, _ in about.outputs)]
        if SERVED_VERSION in names:
            msg = f"a column is named '{SERVED_VERSION}', as one of the view's own is"
            raise SinkError(msg)
        types = [about.manifest.key_dtype, *(dtype for _, dtype in about.outputs)]
        columns = [
            sql.SQL("{} {} NOT NULL").format(sql.Identifier(name), _type(dtype))
            for name, dtype in zip(names, types, strict=True)
        ]
        with self._store_errors(), self._connection.transaction():
            # One at a time: CREATE ... IF NOT EXISTS fails if another one does the same.
            self._do("SELECT pg_advisory_xact_lock(hashtext(%s))", self._schema)
            self._make_room()
            self._do(
                "INSERT INTO {schema}.versions (version, about) VALUES (%s, %s) "
                "ON CONFLICT DO NOTHING",
                about.name,
                about.model_dump_json(),
            )
            self._do(
                "CREATE TABLE IF NOT EXISTS {schema}.{rows} ({columns})",
                rows=_rows(about.name),
                columns=sql.SQL(", ").join(columns),
            )
            loaded = self._do(
                "SELECT shard, evidence FROM {schema}.loaded WHERE version = %s",
                about.name,
            )
            return {shard: RowChecksums.parse(text) for shard, text in loaded}

    def load(
        self, about: SinkVersion, shard: int, rows: pa.Table, evidence: RowChecksums
    ) -> None:
        with self._store_errors(), self._connection.transaction():
            # The record first: a second loader waits here for the first, and then finds
            # it. Rows and record are there together or not at all.
            new = self._do(
                "INSERT INTO {schema}.loaded (version, shard, evidence) "
                "VALUES (%s, %s, %s) ON CONFLICT DO NOTHING RETURNING shard",
                about.name,
                shard,
                str(evidence),
            ).fetchall()
            if not new:
                return
            copy_in = self._sql(
                "COPY {schema}.{rows} FROM STDIN (FORMAT binary)",
                rows=_rows(about.name),
            )
            with self._connection.cursor().copy(copy_in) as copy:
                copy.write(HEADER)
                for block in encode(rows, about):
                    copy.write(block)
                copy.write(TRAILER)

    def finish(self, about: SinkVersion) -> Mapping[int, RowChecksums]:
        with self._store_errors():
            try:
                self._index(about)
            except errors.UniqueViolation:
                return {}  # A key is there twice, so nothing adds up.
            with self._connection.cursor().copy(
                self._sql(
                    "COPY {schema}.{rows} TO STDOUT (FORMAT binary)",
                    rows=_rows(about.name),
                )
            ) as copy:
                total: dict[int, RowChecksums] = {}
                for keys, outputs in decode(copy, about):
                    block = evidence_by_shard(keys, outputs, about.shards)
                    for shard, evidence in block.items():
                        total[shard] = total.get(shard, RowChecksums()) + evidence
            return total

    def swap(self, about: SinkVersion, *, back: bool) -> None:
        with self._store_errors():
            for tries_left in reversed(range(LOCK_TRIES)):
                try:
                    with self._connection.transaction():
                        self._swap(about, back=back)
                    return
                except errors.LockNotAvailable as error:
                    if not tries_left:
                        msg = (
                            f"{self.address}: a transaction that has read the view is open "
                            f"for longer than {LOCK_SECONDS * LOCK_TRIES * 2} s; {STAYS}. "
                            "End it (pg_stat_activity shows it), and start this again."
                        )
                        raise SinkError(msg) from error
                    time.sleep(LOCK_SECONDS)

    def current(self) -> str | None:
        with self._store_errors():
            return self._pointer() if self._is_there() else None

    def stored_versions(self) -> list[StoredVersion]:
        with self._store_errors():
            if not self._is_there():
                return []
            rows = self._do("SELECT about, began_at, served_at FROM {schema}.versions")
            return [
                StoredVersion(
                    SinkVersion.model_validate_json(about), began_at, served_at
                )
                for about, began_at, served_at in rows
            ]

    def drop(self, version: str) -> None:
        with self._store_errors(), self._connection.transaction():
            self._do(f"SET LOCAL lock_timeout = '{LOCK_SECONDS}s'")
            must_not_be_served(version, self._pointer(LOCKED))
            self._do("DELETE FROM {schema}.versions WHERE version = %s", version)
            self._do("DROP TABLE IF EXISTS {schema}.{rows}", rows=_rows(version))

    def get(self, key: int | str) -> Answer | None:
        """Look a key up in the view: one statement sees one version."""
        with self._store_errors():
            about = self._served or self._about()
            stored_key = about.key_of(key)
            if stored_key is None:
                return None
            select = self._sql(
                "SELECT * FROM {schema}.current WHERE {key} = %s",
                key=sql.Identifier(about.key),
            )
            cursor = self._connection.cursor(row_factory=dict_row)
            # Binary: a float32 comes back as it is, not as its shortest text.
            row = cursor.execute(
                select, [stored_key], binary=True, prepare=False
            ).fetchone()
            if row is None:
                return None
            if row[SERVED_VERSION] != about.name:
                about = self._about(row[SERVED_VERSION])
            self._served = about
            return about.answer(stored_key, [row[name] for name, _ in about.outputs])

    def close(self) -> None:
        if self._opened:
            self._opened.close()

    @property
    def _connection(self) -> psycopg.Connection:
        """Return the connection, opened again if the server has closed it."""
        if self._opened is None or self._opened.closed:
            self._opened = psycopg.connect(
                self._dsn, autocommit=True, connect_timeout=SECONDS
            )
        return self._opened

    def _make_room(self) -> None:
        # Asked before, because IF NOT EXISTS needs the right to create one all the same.
        schemas = self._do("SELECT FROM pg_namespace WHERE nspname = %s", self._schema)
        if not schemas.fetchall():
            self._do("CREATE SCHEMA {schema}")
        self._do(TABLES)

    def _is_there(self) -> bool:
        tables = self._do(
            "SELECT FROM pg_tables WHERE schemaname = %s AND tablename = 'pointer'",
            self._schema,
        )
        return bool(tables.fetchall())

    def _pointer(self, lock: LiteralString = "") -> str | None:
        """Return what is served; `lock` is a clause as FOR UPDATE."""
        rows = self._do("SELECT version FROM {schema}.pointer" + lock)
        version: str | None = rows.fetchall()[0][0]
        return version

    def _about(self, version: str | None = None) -> SinkVersion:
        """Return what a version is of, or the one that is served."""
        version = version or self.current()
        if version is None:
            msg = f"{self.address} serves nothing: load a version first"
            raise NotServedError(msg)
        rows = self._do(
            "SELECT about FROM {schema}.versions WHERE version = %s", version
        )
        return SinkVersion.model_validate_json(rows.fetchall()[0][0])

    def _index(self, about: SinkVersion) -> None:
        table = sql.Identifier(self._schema, _name(about.name)).as_string()
        with self._connection.transaction():
            self._do("SELECT pg_advisory_xact_lock(hashtext(%s))", self._schema)
            keys = self._do(
                "SELECT FROM pg_index WHERE indrelid = %s::regclass AND indisprimary",
                table,
            )
            if not keys.fetchall():
                self._do(
                    "ALTER TABLE {schema}.{rows} ADD PRIMARY KEY ({key})",
                    rows=_rows(about.name),
                    key=sql.Identifier(about.key),
                )
                self._do("ANALYZE {schema}.{rows}", rows=_rows(about.name))

    def _swap(self, about: SinkVersion, *, back: bool) -> None:
        self._do(f"SET LOCAL lock_timeout = '{LOCK_SECONDS}s'")
        served = self._pointer(LOCKED)
        records = self._do(
            "SELECT count(*) FROM {schema}.loaded WHERE version = %s", about.name
        )
        must_be_whole(about, records.fetchall()[0][0])
        must_be_newer(about, self._about(served) if served else None, back=back)
        self._show(about)
        self._do("UPDATE {schema}.pointer SET version = %s", about.name)
        # After all others, even if the clock has gone back.
        self._do(
            "UPDATE {schema}.versions SET served_at = greatest(clock_timestamp(), "
            "(SELECT max(served_at) FROM {schema}.versions) + interval '1 ms') "
            "WHERE version = %s",
            about.name,
        )

    def _show(self, about: SinkVersion) -> None:
        """Let the view show a version; whoever may read it still may."""
        names = [about.key, *(name for name, _ in about.outputs)]
        columns: list[sql.Composable] = [sql.Identifier(name) for name in names]
        facts = {
            SERVED_VERSION: sql.SQL("{}::text").format(about.name),
            "day": sql.SQL("{}::date").format(about.manifest.day),
            "model_name": sql.SQL("{}::text").format(about.manifest.model_name),
            "model_version": sql.SQL("{}::text").format(about.manifest.model_version),
        }
        columns += [
            sql.SQL("{} AS {}").format(fact, sql.Identifier(name))
            for name, fact in facts.items()
        ]
        view = self._sql(
            "VIEW {schema}.current AS SELECT {columns} FROM {schema}.{rows}",
            rows=_rows(about.name),
            columns=sql.SQL(", ").join(columns),
        )
        try:
            with self._connection.transaction():
                self._connection.execute(sql.SQL("CREATE OR REPLACE ") + view)
        except errors.InvalidTableDefinition:
            # Another release, other outputs: only a new view can have other columns.
            readers = self._do(
                "SELECT CASE grantee WHEN 0 THEN 'PUBLIC' "
                "ELSE quote_ident(pg_get_userbyid(grantee)) END "
                "FROM pg_class, aclexplode(relacl) WHERE oid = %s::regclass "
                "AND privilege_type = 'SELECT' AND grantee <> relowner",
                sql.Identifier(self._schema, "current").as_string(),
            ).fetchall()
            self._do("DROP VIEW {schema}.current")
            self._connection.execute(sql.SQL("CREATE ") + view)
            for (reader,) in readers:
                self._do(
                    "GRANT SELECT ON {schema}.current TO {reader}",
                    reader=sql.SQL(reader),
                )

    def _do(
        self, statement: LiteralString, *values: Any, **names: sql.Composable
    ) -> psycopg.Cursor[tuple[Any, ...]]:
        return self._connection.execute(self._sql(statement, **names), values or None)

    def _sql(self, statement: LiteralString, **names: sql.Composable) -> sql.Composed:
        schema = sql.Identifier(self._schema)
        return sql.SQL(statement).format(schema=schema, **names)

    def _store_errors(self) -> AbstractContextManager[None]:
        return store_errors(self.address, psycopg.Error)


def _name(version: str) -> str:
    return f"rows_{version.replace('-', '_')}"


def _rows(version: str) -> sql.Identifier:
    return sql.Identifier(_name(version))


def _type(dtype: str) -> sql.SQL:
    return sql.SQL(SQL_TYPES[dtype])
