"""A part: one Parquet file with its receipt in the footer, and how it is read.

The receipt travels in the file, so that whoever finds the file can tell whose it is and
what it must hold. It knows nothing of tables and commits.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from batch_assets.errors import CorruptPartError
from batch_assets.lake.plain_pages import read_plain
from batch_assets.lake.receipts import Receipt, read_receipt
from batch_assets.lake.reconciliation import ControlTotal
from batch_assets.lake.seal import SHA256, seal_of
from batch_assets.storage import (
    ReadableFile,
    StoragePath,
    is_local,
    local,
    read_ahead,
    readable,
)

RECEIPT = b"batch_assets.receipt"
# There if the numbers lie as they do in memory.
LAYOUT, AS_IN_MEMORY = b"batch_assets.layout", b"as in memory"
VERIFY_ROWS = 65_536

R_co = TypeVar("R_co", bound=Receipt, covariant=True)


@dataclass(frozen=True)
class Part(Generic[R_co]):
    """A part file as it lies on disk.

    `size` is in bytes, `sha256` as it is sealed, `groups` the rows of each row group.
    `as_in_memory` tells how its numbers lie.
    """

    path: StoragePath
    size: int
    sha256: str
    receipt: R_co
    groups: tuple[int, ...]
    as_in_memory: bool = False

    @property
    def rows(self) -> int:
        return self.receipt.total.rows

    @property
    def shard(self) -> int:
        return self.receipt.shard


def open_part(
    path: StoragePath, data: ReadableFile | None = None
) -> tuple[Part[Receipt], pq.ParquetFile]:
    """Open a part and its receipt; page checksums are verified as it is read.

    Args:
        path: of the part.
        data: what it is read from, if that is open already.

    Raises:
        CorruptPartError: it is not there, torn, without a receipt, or its row count is
            not that of the receipt.
    """
    try:
        data = data or readable(path)
        # Buffered ahead, a file would be held whole until its last row; without it,
        # each column of a row group would be a request to a store.
        file = pq.ParquetFile(
            data.file,
            page_checksum_verification=True,
            pre_buffer=data.pre_buffer,
        )
        notes = file.metadata.metadata or {}
        receipt, sealed = read_receipt(notes[RECEIPT]), notes[SHA256].decode()
    except (OSError, pa.ArrowException, KeyError, TypeError, ValueError) as error:
        msg = f"part {path} can't be read: {error or type(error).__name__}"
        raise CorruptPartError(msg) from error
    # A footer has no checksum: one flipped bit there shortens a row group, unnoticed.
    groups = tuple(
        file.metadata.row_group(group).num_rows for group in range(file.num_row_groups)
    )
    rows = sum(groups)
    if not rows == file.metadata.num_rows == receipt.total.rows:
        msg = f"part {path} has {rows:,} rows, its receipt says {receipt.total.rows:,}"
        raise CorruptPartError(msg)
    as_in_memory = notes.get(LAYOUT) == AS_IN_MEMORY
    return Part(path, data.size, sealed, receipt, groups, as_in_memory), file


def read_batches(
    path: StoragePath,
    *,
    rows: int,
    columns: list[str] | None = None,
    data: ReadableFile | None = None,
) -> Iterator[pa.RecordBatch]:
    """Yield the rows of a part, a batch at a time.

    Raises:
        CorruptPartError: as `open_part`, a page's checksum is wrong, or rows are gone.
    """
    came = 0
    with _whole(path) if data is None else nullcontext(data) as opened:
        part, file = open_part(path, opened)
        try:
            for batch in file.iter_batches(batch_size=rows, columns=columns):
                came += len(batch)
                yield batch
        except (OSError, pa.ArrowException) as error:
            msg = f"part {path} can't be read: {error}"
            raise CorruptPartError(msg) from error
        finally:
            file.close()
    # Arrow ends early, without a word, where a footer points to a wrong place.
    if came != part.rows:
        msg = f"part {path} gave {came:,} rows of {part.rows:,}"
        raise CorruptPartError(msg)


def read_columns(
    path: StoragePath,
    columns: list[str] | None = None,
    groups: Sequence[int] | None = None,
) -> pa.Table:
    """Columns of a part, or all, of these row groups or of all, read on this thread alone.

    Raises:
        CorruptPartError: as `open_part`, a page's checksum is wrong, or rows are gone.
    """
    part, file = open_part(path)
    with file:
        return read_open(part, file, columns, groups)


def read_open(
    part: Part[Receipt],
    file: pq.ParquetFile,
    columns: list[str] | None,
    groups: Sequence[int] | None = None,
) -> pa.Table:
    """Yield the same, of a part that is open."""
    wanted = range(len(part.groups)) if groups is None else groups
    expected = sum(part.groups[group] for group in wanted)
    try:
        # Without it a worker decodes a column, waits for the next one, and so on.
        read_ahead(part.path, _spans(file.metadata, wanted))
        # Overlap comes from workers: each decodes on its own thread.
        table = file.read_row_groups(list(wanted), columns=columns, use_threads=False)
    except (OSError, pa.ArrowException) as error:
        msg = f"part {part.path} can't be read: {error}"
        raise CorruptPartError(msg) from error
    # Arrow ends early, without a word, where a footer points to a wrong place.
    if len(table) != expected:
        msg = f"part {part.path} gave {len(table):,} rows of {expected:,}"
        raise CorruptPartError(msg)
    return table


def read_plain_columns(
    part: Part[Receipt],
    file: pq.ParquetFile,
    groups: Sequence[int],
    rooms: Mapping[str, np.ndarray],
) -> bool:
    """Read columns straight into arrays, if they lie in the part as they do in memory.

    Args:
        part: the part.
        file: the same, open.
        groups: the row groups, one after the other.
        rooms: by column an array (rows,) of all these row groups; beside each other in
            the part, and float32 or int64.

    Returns:
        Whether they were read; if not, what is in the arrays means nothing.

    Raises:
        CorruptPartError: a page's checksum is wrong, or rows are gone.
    """
    if not part.as_in_memory or not is_local(part.path):
        return False
    names = file.schema_arrow.names
    first = names.index(next(iter(rooms)))
    columns = range(first, first + len(rooms))
    if names[first : columns.stop] != list(rooms):
        return False
    try:
        read_ahead(part.path, _spans(file.metadata, groups))
        return read_plain(
            local(part.path), file.metadata, columns, groups, list(rooms.values())
        )
    except OSError as error:
        msg = f"part {part.path} can't be read: {error}"
        raise CorruptPartError(msg) from error


def _spans(footer: pq.FileMetaData, groups: Sequence[int]) -> Iterator[tuple[int, int]]:
    """The bytes of row groups, from start to end."""
    for group in map(footer.row_group, groups):
        first, last = group.column(0), group.column(group.num_columns - 1)
        yield _start(first), _start(last) + last.total_compressed_size


def _start(column: pq.ColumnChunkMetaData) -> int:
    dictionary = column.dictionary_page_offset
    return int(column.data_page_offset if dictionary is None else dictionary)


def sealed_part(path: StoragePath) -> Part[Receipt]:
    """Return a part whose bytes, all of them, are those that were sealed.

    Raises:
        CorruptPartError: they are not.
    """
    with _whole(path) as data:
        return _sealed(path, data)


def verified_part(path: StoragePath, key: str) -> Part[Receipt]:
    """Return a part whose bytes are as sealed, and its keys those of its receipt.

    Raises:
        CorruptPartError: it is not whole.
    """
    total = ControlTotal()
    with _whole(path) as data:
        part = _sealed(path, data)
        try:
            for batch in read_batches(path, rows=VERIFY_ROWS, data=data):
                total += ControlTotal.of(batch[key])
        except (KeyError, TypeError) as error:
            msg = f"part {path} has no key '{key}': {error}"
            raise CorruptPartError(msg) from error
    if total != part.receipt.total:
        msg = f"part {path} holds {total}, its receipt says {part.receipt.total}"
        raise CorruptPartError(msg)
    return part


@contextmanager
def _whole(path: StoragePath) -> Iterator[ReadableFile]:
    """What a part is read from, all of it."""
    try:
        data = readable(path, whole=True)
    except OSError as error:
        msg = f"part {path} can't be read: {error}"
        raise CorruptPartError(msg) from error
    with data:
        yield data


def _sealed(path: StoragePath, data: ReadableFile) -> Part[Receipt]:
    part, file = open_part(path, data)
    file.close()
    with data.open_bytes() as opened:
        seal, _ = seal_of(opened)
    if seal != part.sha256:
        msg = f"part {path} hashes to {seal[:12]}, it was sealed as {part.sha256[:12]}"
        raise CorruptPartError(msg)
    return part
