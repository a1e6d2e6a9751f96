"""What every kind of source is: a type of the YAML that names and reads a day's rows.

It knows no kind of source, and nothing of contracts, shards or tables of the lake.
"""

import re
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

import pyarrow as pa
from pydantic import Field, field_validator

from batch_assets.lake.handed_rows import HandedRows
from batch_assets.lake.pins import PinnedRows
from batch_assets.lake.source_files import Signature
from batch_assets.strict import StrictModel

DAY = re.compile(r"\{\{\s*day\s*\}\}")
HISTORY = Field(
    default=None,
    description="`none` where the source tells only what holds now, so that nothing but "
    "the newest day can be read; `days` where it tells of every day. Taken from the "
    "source if left out.",
)
History = Literal["days", "none"]


def asset_key(text: str) -> str:
    """Refuse what is no key of an asset, as `daily_features` or `marketing/users`."""
    if not re.fullmatch(r"[\w.-]+(/[\w.-]+)*", text):
        msg = (
            "an asset is named by its key, such as 'daily_features' or "
            f"'marketing/daily_features', got '{text}'"
        )
        raise ValueError(msg)
    return text


@dataclass(frozen=True)
class ReadContext:
    """What a source is read for, and from where.

    Attributes:
        day: the day, as `2026-01-05`.
        timezone: of the pipeline, in which that day begins and ends.
        key: the column that names a row.
        base: the folder of the YAML, which a query's file is relative to.
        project: the folder of the project, which data files are relative to.
        columns: that the rows are wanted with, where a contract says so: a source whose
            files tell no types reads them as these. Outcomes and side tables have none.
        committed: of each day that was taken, what it was taken from: an `identity`, of
            the last commit of the table that the rows go to. None where there is no such
            table, as of a side table.
        identity: what `identity` said of the day a moment ago: exactly that is read.
        handed: of a source that is handed its rows, the rows, by the name of who has them.
    """

    day: str
    timezone: str
    key: str
    base: Path
    project: Path
    columns: pa.Schema | None = None
    committed: Mapping[str, Any] | None = None
    identity: Mapping[str, Any] | None = None
    handed: Mapping[str, HandedRows] = field(default_factory=dict)


@dataclass(frozen=True)
class SourceTable:
    """A table that a source reads.

    Attributes:
        name: what a query calls it; empty where it is the only one.
        address: the file, glob or table, as the YAML has it.
        format: of its files, in one word.
        by_name: whether `address` is the name of who makes it, and no place.
    """

    name: str
    address: str
    format: str
    by_name: bool = False


@dataclass(frozen=True, order=True)
class Origin:
    """A column of one of the tables that a source reads, by the table's name."""

    table: str
    column: str


# Of each column that something is known of, the columns that it is computed from.
Origins = Mapping[str, tuple[Origin, ...]]


class BaseSource(StrictModel):
    """What a kind of source must do; each of these may raise `SourceError`."""

    # What Dagster calls it, and has a picture of.
    shown_as: ClassVar[str]
    # Whether its rows stay where they lie; `pinned` is none otherwise.
    pins: ClassVar[bool] = False
    # Whether its identity tells rows from others that replace them. What can't be told
    # apart is read once for a day: the copy stands until it is asked for anew.
    by_content: ClassVar[bool] = True
    # Whether it asks what other days were taken from, which no side table keeps.
    asks_commits: ClassVar[bool] = False
    deps: list[str] = Field(
        default_factory=list,
        description="The assets of the project, as `daily_features` or "
        "`marketing/daily_features`, that must be there before a day is read.",
    )

    @field_validator("deps")
    @classmethod
    def _deps_are_keys_of_assets(cls, deps: list[str]) -> list[str]:
        for at, dep in enumerate(deps):
            asset_key(dep)
            if dep in deps[:at]:
                msg = f"'{dep}' is named twice; once is enough"
                raise ValueError(msg)
        return deps

    @property
    def asset_names(self) -> list[str]:
        """The assets that must be there before a day is read, each once."""
        given = [table.address for table in self.read_from() if table.by_name]
        return list(dict.fromkeys([*given, *self.deps]))

    @property
    def handed_as(self) -> type | None:
        """As what type its rows are asked for, if they are handed to it; any, if None."""
        return None

    def handed_by_day(self, *, by_day: bool) -> Self:
        """Return the source, told whether what it is handed is of a day or of now."""
        return self

    @abstractmethod
    def read_from(self) -> list[SourceTable]:
        """Return the tables that days are read from, without a look at them."""

    @abstractmethod
    def keeps_history(self, base: Path) -> bool:
        """Return whether the source tells of a past day what held then."""

    @abstractmethod
    def identity(self, context: ReadContext) -> dict[str, Any]:
        """Return what a day would be read from, by content: the same names the same rows.

        Of a source that is not known by its content, it is how the rows are asked for. It
        is hashed into the job's id and written into the commit, as JSON.
        """

    @abstractmethod
    def signature(self, context: ReadContext) -> Signature:
        """Return what changes when a file is written to while it is read."""

    @abstractmethod
    def read(
        self, context: ReadContext
    ) -> AbstractContextManager[pa.RecordBatchReader]:
        """Stream the day's rows."""

    def pinned(self, context: ReadContext) -> PinnedRows | None:
        """Return the day's rows where they lie, if they can't change there.

        Such rows are not copied into the lake; of any other source it is None.
        """
        return None

    def code(self, base: Path) -> list[Path]:
        """Return the files beside the YAML that say how the rows are made, if any.

        Args:
            base: the folder of the YAML.
        """
        return []

    def origins(self, context: ReadContext, columns: Sequence[str]) -> Origins:
        """Return which columns of its tables each column of a day is computed from.

        A column that nothing can be said of is left out. The rows don't depend on it.
        """
        (table,) = self.read_from()
        return {column: (Origin(table.name, column),) for column in columns}
