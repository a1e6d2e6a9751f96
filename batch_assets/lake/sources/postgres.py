"""Rows that a query of PostgreSQL gives: of one snapshot, streamed by COPY."""

import hashlib
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, ClassVar, Literal
from urllib.parse import parse_qs, urlsplit

from pydantic import Field

from batch_assets.environment import secret
from batch_assets.errors import SourceError
from batch_assets.lake.sources.adbc import SOURCE, DatabaseSource, driver_module
from batch_assets.lake.sources.base import ReadContext

# What tells one database from another in an address of either form.
PLACES = ("host", "hostaddr", "port", "dbname", "service")
PAIR = re.compile(r"(\w+)\s*=\s*('(?:[^'\\]|\\.)*'|\S*)")
# What libpq says once it has understood the address: it holds no password.
REACHED = "connection to server"


class PostgresSource(DatabaseSource):
    """A query of PostgreSQL in a file beside the YAML, with the day as `$day`, a DATE.

    It is run in a transaction that only reads, in the pipeline's time zone.
    """

    shown_as: ClassVar[str] = "postgres"
    kind: Literal["postgres"]
    dsn_env: str = Field(
        default="POSTGRES_DSN", description="The variable that holds the address."
    )

    @property
    def reached_by(self) -> str:
        return self.dsn_env

    def database(self) -> Mapping[str, Any]:
        """Return a digest of host, port and name: neither who reads it nor a password."""
        return {
            "place": hashlib.sha256(
                _place(secret(self.dsn_env, SOURCE)).encode()
            ).hexdigest()
        }

    @contextmanager
    def connect(self, context: ReadContext) -> Iterator[Any]:
        dbapi = driver_module("adbc_driver_postgresql.dbapi", self.kind)
        try:
            connection = dbapi.connect(secret(self.dsn_env, SOURCE))
        except (dbapi.Error, ValueError) as error:
            said = " ".join(str(error).split())
            why = (
                said.partition("Failed to connect: ")[2] or said
                if REACHED in said
                else "that is no address of a PostgreSQL that answers"
            )
            msg = f"the PostgreSQL at {self.dsn_env} can't be reached: {why}"
            # Not from the error: it may show the address, with its password.
            raise SourceError(msg) from None
        with connection:
            yield connection

    def begin(self, cursor: Any, context: ReadContext) -> None:
        cursor.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
        # Its own spelling of zones is that of the tz database.
        cursor.execute(f"SET LOCAL TIME ZONE '{context.timezone}'")


def _place(dsn: str) -> str:
    if "://" not in dsn:
        pairs = dict(PAIR.findall(dsn))
        return repr([pairs.get(name) for name in PLACES])
    try:
        parts = urlsplit(dsn)
    except ValueError:
        # Not from the error: it may show the address, with its password.
        msg = (
            "that is no address of a PostgreSQL; one is postgresql://host:5432/database"
        )
        raise SourceError(msg) from None
    more = parse_qs(parts.query)
    host = parts.netloc.rpartition("@")[2]
    return repr([host, parts.path, *(more.get(name) for name in PLACES)])
