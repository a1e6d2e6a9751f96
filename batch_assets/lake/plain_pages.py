"""Read columns that lie in a file as they lie in memory, straight into arrays.

A page that is neither encoded nor compressed is the column's own bytes behind a short
header, so one request to the disk fills the arrays of many columns: nothing is decoded,
and nothing copied twice. What lies otherwise is left to Arrow. It knows no receipt.
"""

import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
import pyarrow.parquet as pq
from isal import isal_zlib

from batch_assets.errors import CorruptPartError

# More than any header takes: of a longer one it is not known whether it is one.
MOST_HEADER_BYTES = 1_024
# Read at once, so that what is checked afterwards is still in a core's cache.
READ_BYTES = 1 << 20
MOST_PAGES = 256
PHYSICAL_TYPES = {"FLOAT": np.dtype("<f4"), "INT64": np.dtype("<i8")}


@dataclass(frozen=True)
class Page:
    """A page to be read: where it begins, its header's room, and the values' (rows,)."""

    start: int
    header: bytearray
    values: np.ndarray

    @property
    def stop(self) -> int:
        return self.start + len(self.header) + self.values.nbytes


@dataclass(frozen=True)
class _Header:
    """How the header of a plain page begins and goes on, but for its checksum.

    In Thrift's compact protocol a field is `0x15` for a number, `0x1c` for a structure,
    as each has the next higher number than the one before: the page's type, its bytes
    twice, its checksum; then of its data the rows and the encoding.
    """

    begin: bytes
    then: bytes

    @classmethod
    def of(cls, rows: int, itemsize: int) -> Self:
        size, data_page, plain = _number(rows * itemsize), _number(0), _number(0)
        return cls(
            b"\x15" + data_page + (b"\x15" + size) * 2 + b"\x15",
            b"\x1c\x15" + _number(rows) + b"\x15" + plain,
        )

    def checksum(self, header: bytearray) -> int | None:
        """Return the CRC-32 of a page, or None if it is not a plain one of this size."""
        if not header.startswith(self.begin):
            return None
        zigzag = shift = 0
        for at in range(len(self.begin), len(header)):
            zigzag |= (header[at] & 0x7F) << shift
            shift += 7
            if header[at] < 0x80:
                found = header.startswith(self.then, at + 1)
                return (zigzag >> 1 ^ -(zigzag & 1)) & 0xFFFFFFFF if found else None
        return None


def read_plain(
    path: Path,
    footer: pq.FileMetaData,
    columns: range,
    groups: Sequence[int],
    rooms: Sequence[np.ndarray],
) -> bool:
    """Read columns of row groups into arrays, if all of them lie plainly.

    Args:
        path: of the file.
        footer: of the file; it says that nothing is compressed.
        columns: their places in the file, beside each other.
        groups: the row groups, one after the other.
        rooms: an array for each column, (rows,) of all these row groups, float32 or
            int64, each one run of memory.

    Returns:
        Whether they were read; if not, what is in the arrays means nothing.

    Raises:
        CorruptPartError: a page's checksum is wrong, or the file ends before it.
        OSError: it can't be read.
    """
    if sys.byteorder != "little":
        return False
    start = 0
    with path.open("rb", buffering=0) as file:
        for group in groups:
            rows = footer.row_group(group).num_rows
            pages = _pages(footer.row_group(group), columns, start, rooms)
            if pages is None:
                return False
            headers = {
                size: _Header.of(rows, size)
                for size in {page.values.itemsize for page in pages}
            }
            for some in _at_once(pages):
                _fill(file.fileno(), some, path)
                for page in some:
                    expected = headers[page.values.itemsize].checksum(page.header)
                    if expected is None:
                        return False
                    if isal_zlib.crc32(page.values) != expected:
                        msg = f"part {path} can't be read: the checksum of a page is wrong"
                        raise CorruptPartError(msg)
            start += rows
    return True


def _pages(
    group: pq.RowGroupMetaData,
    columns: range,
    start: int,
    rooms: Sequence[np.ndarray],
) -> list[Page] | None:
    """The pages of a row group, if by the footer each column may be one plain page."""
    rows = group.num_rows
    at, pages = group.column(columns.start).data_page_offset, []
    # Not asked for its compression: where the footer is damaged, to ask ends the process.
    for column, room in zip(map(group.column, columns), rooms, strict=True):
        values = room[start : start + rows]
        header = column.total_compressed_size - values.nbytes
        if (
            PHYSICAL_TYPES.get(column.physical_type) != room.dtype
            or len(values) != rows
            or not 0 < header <= MOST_HEADER_BYTES
        ):
            return None
        pages.append(Page(at, bytearray(header), values))
        at = pages[-1].stop
    return pages


def _at_once(pages: Sequence[Page]) -> Iterator[Sequence[Page]]:
    """Pages in runs of about `READ_BYTES`, no more of them than one request takes."""
    largest = max(page.values.nbytes for page in pages)
    most = min(max(READ_BYTES // max(largest, 1), 1), MOST_PAGES)
    return (pages[start : start + most] for start in range(0, len(pages), most))


def _fill(descriptor: int, pages: Sequence[Page], path: Path) -> None:
    """Read pages that lie one after the other."""
    rooms: list[memoryview] = []
    for page in pages:
        rooms += [memoryview(page.header), memoryview(page.values.data).cast("B")]
    at = pages[0].start
    while rooms:
        came = os.preadv(descriptor, rooms, at)
        if not came:
            msg = f"part {path} can't be read: it ends at byte {at:,}"
            raise CorruptPartError(msg)
        at += came
        while rooms and came >= len(rooms[0]):
            came -= len(rooms.pop(0))
        if came:
            rooms[0] = rooms[0][came:]


def _number(value: int) -> bytes:
    """A number as Thrift's compact protocol writes it: zigzag, seven bits a byte."""
    value <<= 1
    written = bytearray()
    while value >= 0x80:
        written.append(value & 0x7F | 0x80)
        value >>= 7
    written.append(value)
    return bytes(written)
