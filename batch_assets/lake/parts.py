"""A part: one Parquet file with its receipt in the footer.

A part appears under its name only when it is whole and on disk: it is written beside,
synced and renamed. The receipt travels in the file, so that whoever finds the file can
tell whose it is and what it must hold. It knows nothing of tables and commits.
"""

import hashlib
import json
import os
import uuid
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import pyarrow as pa
import pyarrow.parquet as pq

from batch_assets.errors import CorruptPartError
from batch_assets.lake.books import Tally

RECEIPT = b"batch_assets.receipt"
VERIFY_ROWS = 65_536


@dataclass(frozen=True)
class Receipt:
    """What one chunk leaves behind.

    `facts` depend on the table: what was read, how the outputs are distributed, which
    rules were broken how often. Everything in it is JSON.
    """

    table: str
    day: str
    shard: int
    chunk: int
    job: str
    tally: Tally
    facts: dict[str, Any] = field(default_factory=dict)

    def dumps(self) -> bytes:
        body = asdict(self)
        return json.dumps({"body": body, "digest": _digest(body)}).encode()

    @classmethod
    def loads(cls, data: bytes) -> Self:
        """Read a receipt.

        Raises:
            ValueError: it is not whole.
        """
        record = json.loads(data)
        body = record["body"]
        if record["digest"] != _digest(body):
            msg = "the receipt's digest is not that of its content"
            raise ValueError(msg)
        return cls(**{**body, "tally": Tally(**body["tally"])})


@dataclass(frozen=True)
class Part:
    """A part file as it lies on disk; `size` in bytes."""

    path: Path
    size: int
    receipt: Receipt


class PartWriter:
    """Writes one part, in row groups of a fixed number of rows.

    Used as a context manager: leaving it without `finish` removes what was written.
    """

    def __init__(
        self,
        path: Path,
        schema: pa.Schema,
        *,
        row_group_rows: int,
        floats: bool = False,
    ) -> None:
        """Open the file beside its final name.

        Args:
            path: the part's final path.
            schema: its columns.
            row_group_rows: rows of a row group; memory is bounded by one of them.
            floats: the columns are mostly float32: split their bytes, no dictionary.
        """
        self.path = path
        self._schema = schema
        self._rows = row_group_rows
        self._pending: list[pa.Table] = []
        self._pending_rows = 0
        path.parent.mkdir(parents=True, exist_ok=True)
        self._beside = path.with_name(f"{path.name}.{uuid.uuid4().hex}.tmp")
        float_columns = [f.name for f in schema if pa.types.is_floating(f.type)]
        others = [f.name for f in schema if not pa.types.is_floating(f.type)]
        self._writer = pq.ParquetWriter(
            self._beside,
            schema,
            compression="zstd",
            use_dictionary=others if floats else True,
            column_encoding=(
                dict.fromkeys(float_columns, "BYTE_STREAM_SPLIT") if floats else None
            ),
            write_page_checksum=True,
        )

    def write(self, rows: pa.Table | pa.RecordBatch) -> None:
        """Add rows; they are written as soon as a row group is full."""
        if isinstance(rows, pa.RecordBatch):
            rows = pa.Table.from_batches([rows])
        self._pending.append(rows)
        self._pending_rows += len(rows)
        while self._pending_rows >= self._rows:
            self._flush(self._rows)

    def finish(self, receipt: Receipt) -> Part:
        """Close the file with its receipt, sync it, and give it its name."""
        if self._pending_rows:
            self._flush(self._pending_rows)
        self._writer.add_key_value_metadata({RECEIPT: receipt.dumps()})
        self._writer.close()
        with self._beside.open("rb") as file:
            os.fsync(file.fileno())
            size = os.fstat(file.fileno()).st_size
        self._beside.replace(self.path)
        sync_folder(self.path.parent)
        return Part(self.path, size, receipt)

    def _flush(self, rows: int) -> None:
        table = pa.concat_tables(self._pending)
        self._writer.write_table(table.slice(0, rows), row_group_size=rows)
        rest = table.slice(rows)
        self._pending = [rest] if len(rest) else []
        self._pending_rows = len(rest)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._writer.is_open:
            self._writer.close()
        self._beside.unlink(missing_ok=True)


def open_part(path: Path) -> tuple[Part, pq.ParquetFile]:
    """Open a part and its receipt; page checksums are verified as it is read.

    Raises:
        CorruptPartError: it is not there, torn, without a receipt, or its row count is
            not that of the receipt.
    """
    try:
        # Buffered ahead, a file would be held whole until its last row.
        file = pq.ParquetFile(path, page_checksum_verification=True, pre_buffer=False)
        receipt = Receipt.loads((file.metadata.metadata or {})[RECEIPT])
    except (OSError, pa.ArrowException, KeyError, TypeError, ValueError) as error:
        msg = f"part {path} can't be read: {error or type(error).__name__}"
        raise CorruptPartError(msg) from error
    # A footer has no checksum: one flipped bit there shortens a row group, unnoticed.
    groups = range(file.num_row_groups)
    rows = sum(file.metadata.row_group(group).num_rows for group in groups)
    if not rows == file.metadata.num_rows == receipt.tally.rows:
        msg = f"part {path} has {rows:,} rows, its receipt says {receipt.tally.rows:,}"
        raise CorruptPartError(msg)
    return Part(path, path.stat().st_size, receipt), file


def read_batches(
    path: Path, *, rows: int, columns: list[str] | None = None
) -> Iterator[pa.RecordBatch]:
    """The rows of a part, a batch at a time.

    Raises:
        CorruptPartError: as `open_part`, a page's checksum is wrong, or rows are gone.
    """
    part, file = open_part(path)
    found = 0
    try:
        for batch in file.iter_batches(batch_size=rows, columns=columns):
            found += len(batch)
            yield batch
    except (OSError, pa.ArrowException) as error:
        msg = f"part {path} can't be read: {error}"
        raise CorruptPartError(msg) from error
    finally:
        file.close()
    # Arrow ends early, without a word, where a footer points to a wrong place.
    if found != part.receipt.tally.rows:
        msg = f"part {path} gave {found:,} rows of {part.receipt.tally.rows:,}"
        raise CorruptPartError(msg)


def verified_part(path: Path, key: str) -> Part:
    """A part whose every page was read, and whose keys are those of its receipt.

    Raises:
        CorruptPartError: it is not whole.
    """
    part, file = open_part(path)
    file.close()
    tally = Tally()
    for batch in read_batches(path, rows=VERIFY_ROWS):
        tally += Tally.of(batch[key])
    if tally != part.receipt.tally:
        msg = f"part {path} holds {tally}, its receipt says {part.receipt.tally}"
        raise CorruptPartError(msg)
    return part


def sync_folder(folder: Path) -> None:
    """Make renames in a folder outlast a power cut."""
    fd = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _digest(body: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()
