"""A schema of a PostgreSQL: its connection, and statements that name it.

It knows neither tables nor versions.
"""

from contextlib import AbstractContextManager
from typing import Any, LiteralString

import psycopg
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict

from batch_assets.errors import SinkError
from batch_assets.sinks.base import store_errors

SECONDS = 30


class Schema:
    """One schema, through one connection, which is opened when it is first used."""

    def __init__(self, dsn: str, name: str) -> None:
        """Nothing is sent yet.

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
        self.address = f"postgresql://{server}/{parts.get('dbname', '')} {name}"
        self.name = name
        self._dsn = dsn
        self._opened: psycopg.Connection | None = None

    @property
    def connection(self) -> psycopg.Connection:
        """Return the connection, opened again if the server has closed it."""
        if self._opened is None or self._opened.closed:
            self._opened = psycopg.connect(
                self._dsn, autocommit=True, connect_timeout=SECONDS
            )
        return self._opened

    def has(self, table: str) -> bool:
        """Tell whether a table is there."""
        tables = self.do(
            "SELECT FROM pg_tables WHERE schemaname = %s AND tablename = %s",
            self.name,
            table,
        )
        return bool(tables.fetchall())

    def do(
        self, statement: LiteralString, *values: Any, **names: sql.Composable
    ) -> psycopg.Cursor[tuple[Any, ...]]:
        """Send a statement, in which {schema} and {names} are filled in."""
        return self.connection.execute(self.sql(statement, **names), values or None)

    def sql(self, statement: LiteralString, **names: sql.Composable) -> sql.Composed:
        """Return a statement with its names filled in."""
        schema = sql.Identifier(self.name)
        return sql.SQL(statement).format(schema=schema, **names)

    def errors(self) -> AbstractContextManager[None]:
        """Raise what the server says as a `SinkError`."""
        return store_errors(self.address, psycopg.Error)

    def close(self) -> None:
        """Give the connection back."""
        if self._opened:
            self._opened.close()
