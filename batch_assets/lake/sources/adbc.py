"""Rows that a database gives, through its ADBC driver: a query, streamed as Arrow.

What a database holds has no digest: its rows are read once for a day, and the copy is
what the day is made of. An address comes from the environment, and goes to the driver
alone.
"""

import hashlib
import os
import sys
from abc import abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar, Literal

import pyarrow as pa
from pydantic import Field

from batch_assets.environment import secret, secrets_in, without_secrets
from batch_assets.errors import ConfigError, SourceError
from batch_assets.lake.places import within
from batch_assets.lake.source_files import Signature, signature
from batch_assets.lake.sources.base import (
    HISTORY,
    BaseSource,
    History,
    ReadContext,
    SourceTable,
)
from batch_assets.lake.sources.database_types import as_wanted
from batch_assets.lake.sources.query_file import query_failed, query_text, with_day

# Who needs a variable, in an error.
SOURCE = "the source"


class DatabaseSource(BaseSource):
    """A query in a file beside the YAML, with the day as `$day`, a DATE."""

    by_content: ClassVar[bool] = False
    kind: str
    query: str
    history: History | None = HISTORY

    @property
    @abstractmethod
    def reached_by(self) -> str:
        """What stands for the address of the database where it may be shown."""

    @abstractmethod
    def database(self) -> Mapping[str, Any]:
        """Return which database it is, without a secret: another one has other rows."""

    @abstractmethod
    def connect(self, context: ReadContext) -> AbstractContextManager[Any]:
        """Open a connection of the driver's.

        Raises:
            ConfigError: a variable is not set, or the driver is not installed.
            SourceError: the database can't be reached, no secret is shown; or the
                driver lies where no YAML may lead.
        """

    def shown(self, error: str) -> str:
        """Return what a driver says of a query without what is secret."""
        return error

    def begin(self, cursor: Any, context: ReadContext) -> None:
        """Set the session up, before the query is run. Nothing by default."""

    def read_from(self) -> list[SourceTable]:
        """Return the query's rows as one table."""
        address = f"{self.kind}://{self.reached_by}/{self.query}"
        return [SourceTable("", address, self.shown_as)]

    def code(self, base: Path) -> list[Path]:
        """Return the query's file."""
        return [base / self.query]

    def keeps_history(self, base: Path) -> bool:
        """Return whether `$day` is in the query.

        Raises:
            SourceError: `history: days` is declared, and no day is asked for.
        """
        _, asked = with_day(query_text(base, self.query), "2026-01-01")
        if self.history == "days" and not asked:
            msg = (
                f"the query {base / self.query} never uses $day, so it gives every day "
                "the same rows, and `history: days` can't be. Use $day in it, or declare "
                "`history: none`"
            )
            raise SourceError(msg)
        return asked and self.history != "none"

    def identity(self, context: ReadContext) -> dict[str, Any]:
        """Return the query's sha256, the day, its zone, and which database it is."""
        text = query_text(context.base, self.query)
        return {
            "kind": self.kind,
            "day": context.day,
            "timezone": context.timezone,
            "query": hashlib.sha256(text.encode()).hexdigest(),
            "database": dict(self.database()),
        }

    def signature(self, context: ReadContext) -> Signature:
        return signature(self.code(context.base))

    @contextmanager
    def read(self, context: ReadContext) -> Iterator[pa.RecordBatchReader]:
        """Stream the query's rows.

        Raises:
            ConfigError: a variable is not set, or the driver is not installed.
            SourceError: the database can't be reached, or refuses the query.
            ContractError: a column is of a type that has to be cast in the query.
        """
        text, _ = with_day(query_text(context.base, self.query), context.day)
        with self.connect(context) as connection, connection.cursor() as cursor:
            with self._explained(context):
                self.begin(cursor, context)
                # Drivers put it in brackets, which a comment would swallow.
                cursor.execute(text.rstrip().rstrip(";") + "\n")
                result = cursor.fetch_record_batch()
            rows = pa.RecordBatchReader.from_batches(
                result.schema, self._streamed(result, context)
            )
            yield as_wanted(rows, context.columns, str(context.base / self.query))

    def _streamed(
        self, result: pa.RecordBatchReader, context: ReadContext
    ) -> Iterator[pa.RecordBatch]:
        with self._explained(context):
            yield from result

    @contextmanager
    def _explained(self, context: ReadContext) -> Iterator[None]:
        """Raise what the driver raises as `SourceError`, without what is secret."""
        import adbc_driver_manager

        try:
            yield
        except (adbc_driver_manager.Error, OSError, pa.ArrowException) as error:
            why = self.shown(" ".join(str(error).split()))
            what = f"it failed for {context.day}: {why}. Nothing was committed"
            # Not from the error, which may show more.
            raise query_failed(context.base / self.query, what) from None


class AdbcSource(DatabaseSource):
    """A query of any database that has an ADBC driver, with the day as `$day`, a DATE.

    `driver` is the name of its Python package, or the path of its library. What `options`
    say is shown; `options_env` names the variables of what is secret.
    """

    shown_as: ClassVar[str] = "arrow"
    kind: Literal["adbc"]
    driver: str
    entrypoint: str | None = None
    options: dict[str, str] = Field(default_factory=dict)
    options_env: dict[str, str] = Field(
        default_factory=dict,
        description="By the driver's name of an option, the variable that holds it: "
        "`{uri: WAREHOUSE_URI}`.",
    )

    @property
    def reached_by(self) -> str:
        return Path(self.driver).name

    def database(self) -> Mapping[str, Any]:
        """Return the driver and its options, of the secret ones the variables."""
        return {
            "driver": self.driver,
            "options": self.options,
            "options_env": self.options_env,
        }

    def shown(self, error: str) -> str:
        return without_secrets(error, secrets_in(self.options_env.values()))

    @contextmanager
    def connect(self, context: ReadContext) -> Iterator[Any]:
        dbapi = driver_module("adbc_driver_manager.dbapi", self.kind)
        secrets = {name: secret(var, SOURCE) for name, var in self.options_env.items()}
        library = _library(self.driver, context)
        import adbc_driver_manager

        try:
            connection = dbapi.connect(
                driver=library,
                entrypoint=self.entrypoint,
                db_kwargs={**self.options, **secrets},
            )
        except (adbc_driver_manager.Error, OSError, TypeError, ValueError) as error:
            why = self.shown(" ".join(str(error).split()))
            msg = f"the driver {self.driver} does not connect: {why}"
            raise SourceError(msg) from None
        with connection:
            yield connection


def driver_module(name: str, kind: str) -> Any:
    """Import a driver.

    Raises:
        ConfigError: it is not installed.
    """
    try:
        return import_module(name)
    except ImportError as error:
        msg = (
            f"a source of the kind {kind} needs a driver: {error}. "
            f"pip install 'batch-assets[{kind}]'"
        )
        raise ConfigError(msg) from error


def _library(driver: str, context: ReadContext) -> str:
    """Return what the driver manager loads: the library in a package, if it is one.

    Raises:
        SourceError: it is the path of what is neither installed nor the project's.
    """
    if os.sep in driver:
        path = context.base / driver
        if not path.resolve().is_relative_to(Path(sys.prefix).resolve()):
            within(path, context.project, driver)
        return str(path)
    if not driver.isidentifier() or find_spec(driver) is None:
        return driver
    module = import_module(driver)
    if hasattr(module, "driver_path"):
        return str(module.driver_path())
    (folder,) = module.__path__
    found = sorted(Path(folder).glob(f"*{driver}.*"))
    return str(found[0]) if found else driver
