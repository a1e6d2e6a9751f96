"""Rows of CSV files."""

import codecs
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, ClassVar, Literal, Self

import pyarrow as pa
import pyarrow.csv as pc
from pydantic import AfterValidator, Field, model_validator

from batch_assets.errors import SourceError
from batch_assets.lake.source_files import one_schema, unreadable
from batch_assets.lake.sources.base import ReadContext
from batch_assets.lake.sources.text_files import BLOCK_BYTES, TextFilesSource

# As programs write them; the letters are PostgreSQL's.
TRUE = ["true", "True", "TRUE", "1", "t"]
FALSE = ["false", "False", "FALSE", "0", "f"]

# What Arrow says of where an error is.
PLACE = re.compile(r"(?:column #(\d+): )?Row #(\d+): (.*)", re.DOTALL)

Character = Annotated[str, Field(min_length=1, max_length=1)]


def _encoding(name: str) -> str:
    try:
        return codecs.lookup(name).name
    except LookupError as error:
        msg = f"'{name}' is no encoding that Python knows, such as 'utf-8' or 'latin-1'"
        raise ValueError(msg) from error


class CsvSource(TextFilesSource):
    """CSV files whose glob may hold `{{ day }}`, relative to the project.

    Each value is read as the type of its column in the contract, and nothing is guessed.
    An empty field is null; `""` is the empty text. A file whose name ends in `.gz` or
    `.zst` is unpacked.
    """

    shown_as: ClassVar[str] = "csv"
    kind: Literal["csv"]
    delimiter: Character = ","
    quote: Character | None = '"'
    escape: Character | None = None
    header: bool = Field(
        default=True,
        description="Without one, `columns` names all columns in their order.",
    )
    null_values: list[str] = Field(
        default=[""], description="What stands for null where it is not quoted."
    )
    decimal: Literal[".", ","] = "."
    encoding: Annotated[str, AfterValidator(_encoding)] = "utf-8"

    @model_validator(mode="after")
    def _columns_have_names(self) -> Self:
        if not self.header and not self.columns:
            msg = (
                "without a `header`, `columns` has to name all columns in their order, "
                "as in `columns: {user_id: int64, plan: string}`"
            )
            raise ValueError(msg)
        return self

    @contextmanager
    def read(self, context: ReadContext) -> Iterator[pa.RecordBatchReader]:
        """Stream the files' rows, a block of each at a time.

        A column that nothing tells the type of is text.

        Raises:
            SourceError: a file is no CSV, has other columns than the first, or holds a
                value that is none of its column's type.
        """
        types, paths = self.types(context), self.files(context)
        schemas = [
            pa.schema([(name, types.get(name, pa.string())) for name in names])
            for names in (self._names(path) for path in paths)
        ]
        schema = one_schema(paths, schemas)
        for field in schema:
            if pa.types.is_nested(field.type):
                msg = (
                    f"column '{field.name}' is to be a list, which a CSV can't hold: "
                    "write the rows as JSON or Parquet"
                )
                raise SourceError(msg)
        yield pa.RecordBatchReader.from_batches(schema, self._batches(paths, schema))

    def _names(self, path: Path) -> list[str]:
        if not self.header:
            return list(self.columns)
        try:
            with self._open(path, {}) as reader:
                return list(reader.schema.names)
        except (OSError, UnicodeError, pa.ArrowException) as error:
            raise self._refused(path, error) from error

    def _batches(
        self, paths: list[Path], schema: pa.Schema
    ) -> Iterator[pa.RecordBatch]:
        types = {field.name: field.type for field in schema}
        for path in paths:
            try:
                with self._open(path, types) as reader:
                    for batch in reader:
                        yield batch.select(schema.names)
            except (OSError, UnicodeError, pa.ArrowException) as error:
                raise self._refused(path, error) from error

    def _refused(self, path: Path, error: Exception) -> SourceError:
        """Say an error with the name of the column, which Arrow counts from 0."""
        found = PLACE.search(str(error))
        if found is None:
            return unreadable(path, "CSV", error)
        column, row, why = found.groups()
        name = f"column '{self._names(path)[int(column)]}', " if column else ""
        first = " (the header is row 1)" if self.header else ""
        return unreadable(path, "CSV", f"{name}row {row}{first}: {why}")

    @contextmanager
    def _open(
        self, path: Path, types: Mapping[str, pa.DataType]
    ) -> Iterator[pc.CSVStreamingReader]:
        names = None if self.header else list(self.columns)
        with (
            pa.input_stream(str(path), compression="detect") as stream,
            pc.open_csv(
                stream,
                # On one thread it counts the rows, and says which one is wrong.
                pc.ReadOptions(
                    use_threads=False,
                    block_size=BLOCK_BYTES,
                    column_names=names,
                    encoding=self.encoding,
                ),
                pc.ParseOptions(
                    delimiter=self.delimiter,
                    quote_char=self.quote or False,
                    escape_char=self.escape or False,
                    newlines_in_values=True,
                ),
                pc.ConvertOptions(
                    column_types=types,
                    # A row with other bytes is no reason to refuse the rest: see `texts`.
                    check_utf8=False,
                    null_values=self.null_values,
                    strings_can_be_null=True,
                    quoted_strings_can_be_null=False,
                    true_values=TRUE,
                    false_values=FALSE,
                    decimal_point=self.decimal,
                ),
            ) as reader,
        ):
            yield reader
