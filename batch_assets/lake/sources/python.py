"""Rows that a function of the project gives.

What it gives is read once for a day, and the copy is what the day is made of: nothing is
known of what it reads. Its source is known by the bytes of its file.
"""

import hashlib
import importlib
import importlib.util
import logging
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import date
from importlib.machinery import ModuleSpec
from itertools import chain
from pathlib import Path
from typing import Any, ClassVar, Literal

import pyarrow as pa
from pydantic import Field

from batch_assets.errors import BatchAssetsError, SourceError
from batch_assets.lake.source_files import Signature, plain, signature
from batch_assets.lake.sources.base import (
    HISTORY,
    BaseSource,
    History,
    ReadContext,
    SourceTable,
)

log = logging.getLogger(__name__)

CALLABLE = r"^[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*$"


@dataclass(frozen=True)
class SourceDay:
    """What a function is told beside the day.

    Attributes:
        day: whose rows are wanted.
        timezone: of the pipeline, in which that day begins and ends.
        key: the column that names a row.
        columns: that the rows are to have, in the contract's types; None where it does not
            tell, as of side tables and outcomes.
        project: the folder of the project.
        arguments: what the YAML gives it.
    """

    day: date
    timezone: str
    key: str
    columns: pa.Schema | None
    project: Path
    arguments: Mapping[str, Any] = field(default_factory=dict)


class PythonSource(BaseSource):
    """A function of the project, called with a `SourceDay`, that yields Arrow.

    What it yields, or returns at once, are record batches or tables of Arrow, or frames of
    polars or pandas.
    """

    shown_as: ClassVar[str] = "python"
    by_content: ClassVar[bool] = False
    kind: Literal["python"]
    callable: str = Field(pattern=CALLABLE, description="`package.module:function`")
    arguments: dict[str, Any] = Field(
        default_factory=dict, description="What it is given beside the day."
    )
    history: History | None = HISTORY

    def read_from(self) -> list[SourceTable]:
        """Return what the function gives as one table."""
        return [SourceTable("", f"python://{self.callable}", self.shown_as)]

    def keeps_history(self, base: Path) -> bool:
        """Return whether it tells of every day, as one does that is given the day."""
        return self.history != "none"

    def code(self, base: Path) -> list[Path]:
        """Return the file of the function's module."""
        spec = _spec_of(self.callable)
        return [Path(spec.origin)] if spec and spec.origin else []

    def identity(self, context: ReadContext) -> dict[str, Any]:
        """Return the sha256 of the function's file, and what it is called with."""
        return {
            "kind": self.kind,
            "day": context.day,
            "timezone": context.timezone,
            "callable": self.callable,
            "source": hashlib.sha256(self._source()[1]).hexdigest(),
            "arguments": self.arguments,
        }

    def signature(self, context: ReadContext) -> Signature:
        return signature(self.code(context.base))

    @contextmanager
    def read(self, context: ReadContext) -> Iterator[pa.RecordBatchReader]:
        """Stream what the function gives.

        Raises:
            SourceError: it is not there, raises, or gives what is no Arrow.
        """
        function = self._function()
        asked = SourceDay(
            date.fromisoformat(context.day),
            context.timezone,
            context.key,
            context.columns,
            context.project,
            self.arguments,
        )
        batches = self._batches(function, asked)
        first = next(batches, None)
        # Without a batch nothing tells the columns: no rows are of any.
        schema = first.schema if first else context.columns or pa.schema([])
        schema = pa.schema([pa.field(f.name, plain(f.type)) for f in schema])
        rest = chain([first] if first else [], batches)
        yield pa.RecordBatchReader.from_batches(schema, self._alike(rest, schema))

    def _batches(
        self, function: Callable[..., Any], asked: SourceDay
    ) -> Iterator[pa.RecordBatch]:
        try:
            given = function(asked)
            for one in [given] if _is_arrow(given) else given:
                yield from _batches_of(one)
        except BatchAssetsError:
            raise
        # It is a user's own, and can raise anything.
        except Exception as error:
            msg = (
                f"'{self.callable}' raised for {asked.day}: {type(error).__name__}: "
                f"{error}. Nothing was committed"
            )
            raise SourceError(msg) from error

    def _alike(
        self, batches: Iterator[pa.RecordBatch], schema: pa.Schema
    ) -> Iterator[pa.RecordBatch]:
        """Yield batches with the columns of the first, which may stand in any order."""
        for number, batch in enumerate(batches, 1):
            types = {f.name: plain(f.type) for f in batch.schema}
            if len(types) != len(schema) or any(
                types.get(f.name) not in (f.type, pa.null()) for f in schema
            ):
                msg = (
                    f"batch {number:,} of '{self.callable}' has other columns than the "
                    f"first: got {_named(batch.schema)}; expected {_named(schema)}"
                )
                raise SourceError(msg)
            yield batch.select(schema.names).cast(schema)

    def _source(self) -> tuple[ModuleSpec, bytes]:
        spec = _spec_of(self.callable)
        if spec is None or not spec.origin or not Path(spec.origin).is_file():
            name = self.callable.partition(":")[0]
            msg = (
                f"the source of '{self.callable}' is not there: no file of a module "
                f"'{name}'. Install the project where this runs, or mend the name"
            )
            raise SourceError(msg)
        return spec, Path(spec.origin).read_bytes()

    def _function(self) -> Callable[..., Any]:
        """Return the function, of the file as it is now: a process may be older."""
        spec, source = self._source()
        module = importlib.util.module_from_spec(spec)
        before = sys.modules.get(spec.name)
        sys.modules[spec.name] = module
        try:
            exec(compile(source, str(spec.origin), "exec"), module.__dict__)
            found: Callable[..., Any] = module.__dict__[self.callable.partition(":")[2]]
        # It is a user's own, and can raise anything.
        except Exception as error:
            sys.modules.pop(spec.name)
            if before:
                sys.modules[spec.name] = before
            msg = f"'{self.callable}' can't be used: {type(error).__name__}: {error}"
            raise SourceError(msg) from error
        return found


def _spec_of(path: str) -> ModuleSpec | None:
    # A module that was written a moment ago is found, too.
    importlib.invalidate_caches()
    try:
        return importlib.util.find_spec(path.partition(":")[0])
    # The packages around it are imported for it, and can raise anything.
    except Exception as error:  # noqa: BLE001
        log.info("the module of '%s' can't be found: %s", path, error)
        return None


def _is_arrow(given: Any) -> bool:
    return hasattr(given, "__arrow_c_stream__") or hasattr(given, "__arrow_c_array__")


def _batches_of(one: Any) -> Iterator[pa.RecordBatch]:
    if isinstance(one, pa.RecordBatch):
        yield one
    elif hasattr(one, "__arrow_c_stream__"):
        yield from pa.RecordBatchReader.from_stream(one)
    elif hasattr(one, "__arrow_c_array__"):
        yield pa.record_batch(one)
    else:
        msg = (
            f"it gave a {type(one).__name__}; expected a RecordBatch or Table of Arrow, or "
            "a frame of polars or pandas"
        )
        raise TypeError(msg)


def _named(schema: pa.Schema) -> str:
    return ", ".join(f"'{field.name}' {plain(field.type)}" for field in schema)
