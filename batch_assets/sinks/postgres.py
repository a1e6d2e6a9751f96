"""PostgreSQL: a table for each version, and a view of the one that is served.

    <schema>.current          the view that is read; its columns name the version, too
    <schema>.current_numbers  the same as it was loaded: `postgres_view`
    <schema>.rows_<version>   a version: key and outputs, loaded by COPY, one primary key
    <schema>.items_<version>_<n>   what the positions of its n-th ranking mean
    <schema>.denylist         items that no ranking shows
    <schema>.loaded           version, shard -> evidence, in one transaction with its rows
    <schema>.versions         what a version is of, as JSON; when it began and was served
    <schema>.pointer          one row: the version of the view

A swap replaces views and pointer in one transaction. It knows no other store.
"""

import time
from collections.abc import Mapping
from datetime import UTC
from typing import Any, LiteralString

import pyarrow as pa
from psycopg import errors, sql
from psycopg.rows import dict_row
from psycopg.sql import Identifier

from batch_assets.environment import secret
from batch_assets.errors import NotServedError, SinkError
from batch_assets.sinks.answers import Answers
from batch_assets.sinks.base import (
    STAYS,
    RowChecksums,
    SinkVersion,
    StoredVersion,
    evidence_by_shard,
    must_be_newer,
    must_be_whole,
    must_not_be_served,
)
from batch_assets.sinks.postgres_copy import HEADER, TRAILER, decode, encode
from batch_assets.sinks.postgres_schema import Schema
from batch_assets.sinks.postgres_view import (
    DENYLIST,
    SERVED_VERSION,
    items_names,
    name_items,
    show,
    sql_type,
    table_name,
    view_of_numbers,
)
from batch_assets.snapshots.denylist import DeniedItem, Denylist
from batch_assets.snapshots.version import Answer
from batch_assets.spec import PostgresTarget

# Who waits for a lock makes all wait who come after: better try again than wait long.
LOCK_SECONDS = 1
LOCK_TRIES = 8

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
CREATE TABLE IF NOT EXISTS {schema}.denylist (
    item text PRIMARY KEY,
    place integer NOT NULL,
    denied_at timestamptz NOT NULL,
    denied_by text NOT NULL,
    why text NOT NULL
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
    dsn = secret(target.dsn_env, f"the sink '{target.name}'")
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
        self._schema = Schema(dsn, schema)
        self.address = self._schema.address
        self._served: SinkVersion | None = None
        self._answers = Answers(self.denied)

    def begin(self, about: SinkVersion) -> Mapping[int, RowChecksums]:
        names = [about.key, *(name for name, _ in about.outputs)]
        if SERVED_VERSION in names:
            msg = f"a column is named '{SERVED_VERSION}', as one of the view's own is"
            raise SinkError(msg)
        types = [about.manifest.key_dtype, *(dtype for _, dtype in about.outputs)]
        columns = [
            sql.SQL("{} {} NOT NULL").format(Identifier(name), sql_type(dtype))
            for name, dtype in zip(names, types, strict=True)
        ]
        with self._schema.errors(), self._schema.connection.transaction():
            # One at a time: CREATE ... IF NOT EXISTS fails if another one does the same.
            self._schema.do(
                "SELECT pg_advisory_xact_lock(hashtext(%s))", self._schema.name
            )
            self._make_room()
            self._schema.do(
                "INSERT INTO {schema}.versions (version, about) VALUES (%s, %s) "
                "ON CONFLICT DO NOTHING",
                about.name,
                about.model_dump_json(),
            )
            self._schema.do(
                "CREATE TABLE IF NOT EXISTS {schema}.{rows} ({columns})",
                rows=Identifier(table_name(about.name)),
                columns=sql.SQL(", ").join(columns),
            )
            name_items(self._schema, about)
            loaded = self._schema.do(
                "SELECT shard, evidence FROM {schema}.loaded WHERE version = %s",
                about.name,
            )
            return {shard: RowChecksums.parse(text) for shard, text in loaded}

    def load(
        self, about: SinkVersion, shard: int, rows: pa.Table, evidence: RowChecksums
    ) -> None:
        with self._schema.errors(), self._schema.connection.transaction():
            # The record first: a second loader waits here for the first, and then finds
            # it. Rows and record are there together or not at all.
            new = self._schema.do(
                "INSERT INTO {schema}.loaded (version, shard, evidence) "
                "VALUES (%s, %s, %s) ON CONFLICT DO NOTHING RETURNING shard",
                about.name,
                shard,
                str(evidence),
            ).fetchall()
            if not new:
                return
            copy_in = self._schema.sql(
                "COPY {schema}.{rows} FROM STDIN (FORMAT binary)",
                rows=Identifier(table_name(about.name)),
            )
            with self._schema.connection.cursor().copy(copy_in) as copy:
                copy.write(HEADER)
                for block in encode(rows, about):
                    copy.write(block)
                copy.write(TRAILER)

    def finish(self, about: SinkVersion) -> Mapping[int, RowChecksums]:
        with self._schema.errors():
            try:
                self._index(about)
            except errors.UniqueViolation:
                return {}  # A key is there twice, so nothing adds up.
            with self._schema.connection.cursor().copy(
                self._schema.sql(
                    "COPY {schema}.{rows} TO STDOUT (FORMAT binary)",
                    rows=Identifier(table_name(about.name)),
                )
            ) as copy:
                total: dict[int, RowChecksums] = {}
                for keys, outputs in decode(copy, about):
                    block = evidence_by_shard(keys, outputs, about.shards)
                    for shard, evidence in block.items():
                        total[shard] = total.get(shard, RowChecksums()) + evidence
            return total

    def swap(self, about: SinkVersion, *, back: bool) -> None:
        with self._schema.errors():
            for tries_left in reversed(range(LOCK_TRIES)):
                try:
                    with self._schema.connection.transaction():
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
        with self._schema.errors():
            return self._pointer() if self._schema.has("pointer") else None

    def stored_versions(self) -> list[StoredVersion]:
        with self._schema.errors():
            if not self._schema.has("pointer"):
                return []
            rows = self._schema.do(
                "SELECT about, began_at, served_at FROM {schema}.versions"
            )
            return [
                StoredVersion(
                    SinkVersion.model_validate_json(about), began_at, served_at
                )
                for about, began_at, served_at in rows
            ]

    def drop(self, version: str) -> None:
        with self._schema.errors(), self._schema.connection.transaction():
            self._schema.do(f"SET LOCAL lock_timeout = '{LOCK_SECONDS}s'")
            must_not_be_served(version, self._pointer(LOCKED))
            known = self._schema.do(
                "SELECT about FROM {schema}.versions WHERE version = %s", version
            )
            tables = [table_name(version)]
            for (text,) in known.fetchall():
                tables += items_names(SinkVersion.model_validate_json(text)).values()
            self._schema.do("DELETE FROM {schema}.versions WHERE version = %s", version)
            for table in tables:
                self._schema.do(
                    "DROP TABLE IF EXISTS {schema}.{table}",
                    table=Identifier(table),
                )

    def get(self, key: int | str, segment: int | str | None = None) -> Answer | None:
        """Look a key up in the view: one statement sees one version."""
        with self._schema.errors():
            about = self._served or self._about()
            while True:
                stored_key = about.key_of(key)
                if stored_key is None:
                    return self._answers.of(about, key, None, segment)
                version, row = self._look_up(about, stored_key)
                if version == about.name:
                    self._served = about
                    return self._answers.of(about, stored_key, row, segment)
                about = self._about(version)

    def deny(self, denylist: Denylist) -> None:
        with self._schema.errors(), self._schema.connection.transaction():
            self._schema.do(
                "SELECT pg_advisory_xact_lock(hashtext(%s))", self._schema.name
            )
            self._make_room()
            self._schema.do("DELETE FROM {schema}.denylist")
            copy_in = self._schema.sql("COPY {schema}.denylist FROM STDIN")
            with self._schema.connection.cursor().copy(copy_in) as copy:
                for place, one in enumerate(denylist.items):
                    copy.write_row((one.item, place, one.at, one.by, one.why))

    def denied(self) -> Denylist:
        with self._schema.errors():
            if not self._schema.has(DENYLIST):
                return Denylist()
            rows = self._schema.do(
                "SELECT item, denied_at, denied_by, why FROM {schema}.denylist "
                "ORDER BY place"
            )
            return Denylist(
                items=tuple(
                    DeniedItem(item=item, at=at.astimezone(UTC), by=by, why=why)
                    for item, at, by, why in rows
                )
            )

    def close(self) -> None:
        self._schema.close()

    def _make_room(self) -> None:
        # Asked before, because IF NOT EXISTS needs the right to create one all the same.
        schemas = self._schema.do(
            "SELECT FROM pg_namespace WHERE nspname = %s", self._schema.name
        )
        if not schemas.fetchall():
            self._schema.do("CREATE SCHEMA {schema}")
        self._schema.do(TABLES)

    def _pointer(self, lock: LiteralString = "") -> str | None:
        """Return what is served; `lock` is a clause as FOR UPDATE."""
        rows = self._schema.do("SELECT version FROM {schema}.pointer" + lock)
        version: str | None = rows.fetchall()[0][0]
        return version

    def _about(self, version: str | None = None) -> SinkVersion:
        """Return what a version is of, or the one that is served."""
        version = version or self.current()
        if version is None:
            msg = f"{self.address} serves nothing: load a version first"
            raise NotServedError(msg)
        rows = self._schema.do(
            "SELECT about FROM {schema}.versions WHERE version = %s", version
        )
        return SinkVersion.model_validate_json(rows.fetchall()[0][0])

    def _index(self, about: SinkVersion) -> None:
        table = Identifier(self._schema.name, table_name(about.name)).as_string()
        with self._schema.connection.transaction():
            self._schema.do(
                "SELECT pg_advisory_xact_lock(hashtext(%s))", self._schema.name
            )
            keys = self._schema.do(
                "SELECT FROM pg_index WHERE indrelid = %s::regclass AND indisprimary",
                table,
            )
            if not keys.fetchall():
                self._schema.do(
                    "ALTER TABLE {schema}.{rows} ADD PRIMARY KEY ({key})",
                    rows=Identifier(table_name(about.name)),
                    key=Identifier(about.key),
                )
                self._schema.do(
                    "ANALYZE {schema}.{rows}", rows=Identifier(table_name(about.name))
                )

    def _swap(self, about: SinkVersion, *, back: bool) -> None:
        self._schema.do(f"SET LOCAL lock_timeout = '{LOCK_SECONDS}s'")
        served = self._pointer(LOCKED)
        records = self._schema.do(
            "SELECT count(*) FROM {schema}.loaded WHERE version = %s", about.name
        )
        must_be_whole(about, records.fetchall()[0][0])
        must_be_newer(about, self._about(served) if served else None, back=back)
        show(self._schema, about)
        self._schema.do("UPDATE {schema}.pointer SET version = %s", about.name)
        # After all others, even if the clock has gone back.
        self._schema.do(
            "UPDATE {schema}.versions SET served_at = greatest(clock_timestamp(), "
            "(SELECT max(served_at) FROM {schema}.versions) + interval '1 ms') "
            "WHERE version = %s",
            about.name,
        )

    def _look_up(
        self, about: SinkVersion, key: int | str
    ) -> tuple[str | None, list[Any] | None]:
        """Return what is served, and the numbers of a key if that is `about`.

        The view of a version may be gone by now, or be of another key.
        """
        select = self._schema.sql(
            "SELECT p.version AS pointed_at, v.* FROM {schema}.pointer AS p "
            "LEFT JOIN {schema}.{view} AS v ON v.{key} = %s",
            view=Identifier(view_of_numbers(about)),
            key=Identifier(about.key),
        )
        cursor = self._schema.connection.cursor(row_factory=dict_row)
        try:
            # Binary: a float32 comes back as it is, not as its shortest text.
            row = cursor.execute(select, [key], binary=True, prepare=False).fetchone()
        except (
            errors.UndefinedTable,
            errors.UndefinedColumn,
            errors.UndefinedFunction,  # The key is of another type.
        ):
            if (version := self.current()) == about.name:
                raise
            return version, None
        assert row is not None  # The pointer is one row.
        if row["pointed_at"] != about.name or row[SERVED_VERSION] is None:
            return row["pointed_at"], None
        return about.name, [row[name] for name, _ in about.outputs]
