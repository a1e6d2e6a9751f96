"""Rows of files of newline-delimited JSON."""

import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import ClassVar, Literal

import pyarrow as pa
import pyarrow.json as pj

from batch_assets.errors import SourceError
from batch_assets.lake.source_files import unreadable
from batch_assets.lake.sources.base import ReadContext
from batch_assets.lake.sources.text_files import BLOCK_BYTES, TextFilesSource

# What Arrow says of a value that is none of its type.
CHANGED = re.compile(r"Column\(/?([^)]*)\) changed from (\w+) to (\w+)")
# So many lines are parsed at once to find the one that is wrong.
LOOKED_AT = 1_024
WHITESPACE = b" \t\r\n"


class JsonSource(TextFilesSource):
    """Files with a JSON object on each line; the glob may hold `{{ day }}`.

    Each field is read as the type of its column in the contract, and nothing is guessed.
    A field that is left out is null; one that the contract does not have is an error. A
    file whose name ends in `.gz` or `.zst` is unpacked.
    """

    shown_as: ClassVar[str] = "json"
    kind: Literal["json"]

    @contextmanager
    def read(self, context: ReadContext) -> Iterator[pa.RecordBatchReader]:
        """Stream the files' rows, a block of each at a time.

        Raises:
            SourceError: a line is no JSON object, has a field that is no column, or a
                value that is none of its column's type.
        """
        schema = pa.schema(list(self.types(context).items()))
        batches = _batches(self.files(context), schema)
        yield pa.RecordBatchReader.from_batches(schema, batches)


def _batches(paths: list[Path], schema: pa.Schema) -> Iterator[pa.RecordBatch]:
    for path in paths:
        rows = 0
        try:
            if _is_blank(path):
                continue
            with (
                pa.input_stream(str(path), compression="detect") as stream,
                pj.open_json(
                    stream,
                    pj.ReadOptions(use_threads=False, block_size=BLOCK_BYTES),
                    _parsing(schema),
                ) as reader,
            ):
                for batch in reader:
                    rows += len(batch)
                    yield batch
        except (OSError, UnicodeError, pa.ArrowException) as error:
            raise _refused(path, rows, schema, error) from error


def _parsing(schema: pa.Schema) -> pj.ParseOptions:
    return pj.ParseOptions(explicit_schema=schema, unexpected_field_behavior="error")


def _is_blank(path: Path) -> bool:
    """Tell whether a file holds no line, which is no error in one of many."""
    with pa.input_stream(str(path), compression="detect") as stream:
        while chunk := stream.read(1 << 16):
            if chunk.strip(WHITESPACE):
                return False
    return True


def _refused(path: Path, rows: int, schema: pa.Schema, error: Exception) -> SourceError:
    """Say which line was refused: Arrow knows at best its place in a block."""
    try:
        found = _first_refused(path, rows, schema)
    # A file that breaks off, or is packed wrongly, has no such line.
    except (OSError, pa.ArrowException):
        found = None
    if found is None:
        return unreadable(path, "JSON", error)
    line, why, extra = found
    if extra:
        names = ", ".join(f"'{name}'" for name in extra)
        why = f"it has fields that neither contract nor `columns` has: {names}"
    return unreadable(path, "JSON, an object on each line", f"line {line:,}: {why}")


def _first_refused(
    path: Path, rows: int, schema: pa.Schema
) -> tuple[int, str, list[str]] | None:
    """Return the first line that is refused after so many rows, and its extra fields."""
    with pa.input_stream(str(path), compression="detect") as stream:
        lines = (
            (number, line)
            for number, line in enumerate(io.BufferedReader(stream, BLOCK_BYTES), 1)
            if line.strip(WHITESPACE)
        )
        unread = islice(lines, rows, None)
        while some := list(islice(unread, LOOKED_AT)):
            if _error(b"".join(line for _, line in some), schema) is None:
                continue
            for number, line in some:
                if error := _error(line, schema):
                    return number, _why(error), _extra(line, schema)
    return None


def _error(text: bytes, schema: pa.Schema) -> Exception | None:
    try:
        pj.read_json(pa.BufferReader(text), parse_options=_parsing(schema))
    except (UnicodeError, pa.ArrowException) as error:
        return error
    return None


def _why(error: Exception) -> str:
    text = str(error).replace(" in row 0", "")
    found = CHANGED.search(text)
    if found is None:
        return text
    name, expected, got = found.groups()
    what = f"field '{name.replace('/', '.')}'" if name else "the line"
    return f"{what} is of type {got}, expected {expected}"


def _extra(line: bytes, schema: pa.Schema) -> list[str]:
    try:
        names = pj.read_json(pa.BufferReader(line)).column_names
    except (UnicodeError, pa.ArrowException):
        return []
    return [name for name in names if name not in schema.names]
