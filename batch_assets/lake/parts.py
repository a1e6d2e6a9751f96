"""A part: one Parquet file with its receipt in the footer.

A part appears under its name only when it is whole and on disk: it is written beside,
synced and renamed. The receipt travels in the file, so that whoever finds the file can
tell whose it is and what it must hold. So does the sha256 of all its bytes but those of
the digest itself, because Parquet's checksums cover its pages and not its footer. Of an
object store, it is written and sealed on this machine, and then put there. It knows
nothing of tables and commits.
"""

import hashlib
import io
import json
import os
import uuid
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager, nullcontext, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import pyarrow as pa
import pyarrow.parquet as pq

from batch_assets.errors import CorruptPartError, LakeError
from batch_assets.lake.reconciliation import ControlTotal
from batch_assets.storage import (
    BESIDE,
    Ranges,
    Readable,
    StoragePath,
    local,
    put_file,
    size_of,
    source,
)

RECEIPT = b"batch_assets.receipt"
SHA256 = b"batch_assets.sha256"
# What stands for the digest while it is taken; of the same length.
UNSEALED = b"0" * 64
HASH_BYTES = 1 << 20
# How pages are compressed. A night decodes all of its features: LZ4 takes half the time of
# zstd for that, and three tenths more bytes.
RECORDS, FEATURES = "zstd", "lz4"
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
    total: ControlTotal
    facts: dict[str, Any] = field(default_factory=dict)

    def dumps(self) -> bytes:
        # On disk the total has the name that it was first given.
        body = {
            "tally" if name == "total" else name: value
            for name, value in asdict(self).items()
        }
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
        total = ControlTotal(**body.pop("tally"))
        return cls(**body, total=total)


@dataclass(frozen=True)
class Part:
    """A part file as it lies on disk.

    `size` is in bytes, `sha256` as it is sealed, `groups` the rows of each row group.
    """

    path: StoragePath
    size: int
    sha256: str
    receipt: Receipt
    groups: tuple[int, ...]

    @property
    def carried(self) -> ControlTotal:
        """Of the receipt's total, the rows that were taken over from a night before."""
        return ControlTotal(**self.receipt.facts.get("carried", {}))


class PartWriter:
    """Writes one part, in row groups of a fixed number of rows.

    Used as a context manager: leaving it without `finish` removes what was written.
    """

    def __init__(
        self,
        path: StoragePath,
        schema: pa.Schema,
        *,
        row_group_rows: int,
        numbers: bool = False,
        compression: str = RECORDS,
        kinds: int = 1,
    ) -> None:
        """Open the file beside its final name, or what stands for that on this machine.

        Args:
            path: the part's final path.
            schema: its columns, the key first.
            row_group_rows: rows of a row group; memory is bounded by one of each kind.
            numbers: the columns mostly are: split the bytes of floats, write integers as
                differences, no dictionary.
            compression: of its pages.
            kinds: of rows, of which no row group holds two.
        """
        self.path = path
        self._schema = schema
        self._rows = row_group_rows
        self._pending: list[list[pa.Table]] = [[] for _ in range(kinds)]
        # Counted, not summed: with many shards a row group comes in thousands of pieces.
        self._pending_rows = [0] * kinds
        self._groups: list[int] = []
        self._kinds: list[int] = []
        here = local(path)
        self._beside = here.with_name(f"{here.name}.{uuid.uuid4().hex}{BESIDE}")
        # No key is there twice, and numbers hardly repeat: to try a dictionary on them
        # costs more than all else, 0.08 of 0.26 us a row of predictions for the key.
        columns = list(schema)[1:]
        repeating = [f.name for f in columns if not pa.types.is_primitive(f.type)]
        encodings = {f.name: e for f in schema if (e := _encoding_of(f.type))}
        with self._explained():
            self._beside.parent.mkdir(parents=True, exist_ok=True)
            self._writer = pq.ParquetWriter(
                self._beside,
                schema,
                compression=compression,
                use_dictionary=repeating if numbers else schema.names[1:],
                column_encoding=encodings if numbers else None,
                write_page_checksum=True,
                # The columns' own types say it all; a dictionary that is written is a
                # way to write, not what readers should get.
                store_schema=False,
            )

    def write(self, rows: pa.Table | pa.RecordBatch, kind: int = 0) -> None:
        """Add rows; they are written as soon as a row group is full."""
        if isinstance(rows, pa.RecordBatch):
            rows = pa.Table.from_batches([rows])
        self._pending[kind].append(rows)
        self._pending_rows[kind] += len(rows)
        while self._pending_rows[kind] >= self._rows:
            self._flush(kind, self._rows)

    def finish(self, receipt: Receipt) -> Part:
        """Close the file with its receipt, seal and sync it, and give it its name."""
        self.flush()
        with self._explained():
            self._writer.add_key_value_metadata(
                {RECEIPT: receipt.dumps(), SHA256: UNSEALED}
            )
            self._writer.close()
            with self._beside.open("r+b") as file:
                digest, at = _digest_of(file)
                file.seek(at)
                file.write(digest.encode())
                file.flush()
                os.fsync(file.fileno())
                size = os.fstat(file.fileno()).st_size
            put_file(self._beside, self.path)
        return Part(self.path, size, digest, receipt, tuple(self._groups))

    def flush(self) -> list[int]:
        """Write what is pending; the kind of each row group that there is."""
        for kind, rows in enumerate(self._pending_rows):
            if rows:
                self._flush(kind, rows)
        return self._kinds

    def _flush(self, kind: int, rows: int) -> None:
        table = pa.concat_tables(self._pending[kind])
        with self._explained():
            self._writer.write_table(table.slice(0, rows), row_group_size=rows)
        rest = table.slice(rows)
        self._pending[kind] = [rest] if len(rest) else []
        self._pending_rows[kind] = len(rest)
        self._groups.append(rows)
        self._kinds.append(kind)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            if self._writer.is_open:
                with suppress(OSError):  # On a full disk there is no closing either.
                    self._writer.close()
        finally:
            self._beside.unlink(missing_ok=True)

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """What the disk says, with what to do next."""
        try:
            yield
        except OSError as error:
            self._beside.unlink(missing_ok=True)
            msg = (
                f"part {self.path} can't be written: {error}. Nothing of it is taken "
                "for whole. Make room, or give the permission, and run the day again."
            )
            raise LakeError(msg) from error


def _encoding_of(numbers: pa.DataType) -> str | None:
    """How a column of numbers is written, if not as it is."""
    if pa.types.is_floating(numbers):
        return "BYTE_STREAM_SPLIT"
    # As differences, keys take a fifth less room and half the time, to write and to read.
    # Fingerprints have none to speak of, and take 10 ns more to write.
    return "DELTA_BINARY_PACKED" if pa.types.is_integer(numbers) else None


def open_part(
    path: StoragePath, data: Readable | None = None
) -> tuple[Part, pq.ParquetFile]:
    """Open a part and its receipt; page checksums are verified as it is read.

    Args:
        path: of the part.
        data: what it is read from, if that is open already.

    Raises:
        CorruptPartError: it is not there, torn, without a receipt, or its row count is
            not that of the receipt.
    """
    try:
        data = data or source(path)
        size = size_of(data)
        # Buffered ahead, a file would be held whole until its last row; without it,
        # each column of a row group would be a request to a store.
        file = pq.ParquetFile(
            data,
            page_checksum_verification=True,
            pre_buffer=isinstance(data, Ranges),
        )
        notes = file.metadata.metadata or {}
        receipt, sealed = Receipt.loads(notes[RECEIPT]), notes[SHA256].decode()
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
    return Part(path, size, sealed, receipt, groups), file


def read_batches(
    path: StoragePath,
    *,
    rows: int,
    columns: list[str] | None = None,
    data: Readable | None = None,
) -> Iterator[pa.RecordBatch]:
    """The rows of a part, a batch at a time.

    Raises:
        CorruptPartError: as `open_part`, a page's checksum is wrong, or rows are gone.
    """
    found = 0
    with _whole(path) if data is None else nullcontext(data) as here:
        part, file = open_part(path, here)
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
    if found != part.receipt.total.rows:
        msg = f"part {path} gave {found:,} rows of {part.receipt.total.rows:,}"
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
    part: Part,
    file: pq.ParquetFile,
    columns: list[str] | None,
    groups: Sequence[int] | None = None,
) -> pa.Table:
    """The same, of a part that is open."""
    wanted = range(len(part.groups)) if groups is None else groups
    expected = sum(part.groups[group] for group in wanted)
    try:
        if isinstance(part.path, Path):
            _announce(part.path, file.metadata, wanted)
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


def _announce(path: Path, footer: pq.FileMetaData, groups: Sequence[int]) -> None:
    """Tell the kernel which row groups are read next, so that the disk runs ahead.

    Without it a worker decodes a column, waits for the next one, and so on.
    """
    with path.open("rb") as file:
        for group in map(footer.row_group, groups):
            first, last = group.column(0), group.column(group.num_columns - 1)
            start, end = _start(first), _start(last) + last.total_compressed_size
            os.posix_fadvise(file.fileno(), start, end - start, os.POSIX_FADV_WILLNEED)


def _start(column: pq.ColumnChunkMetaData) -> int:
    dictionary = column.dictionary_page_offset
    return column.data_page_offset if dictionary is None else dictionary


def sealed_part(path: StoragePath) -> Part:
    """A part whose bytes, all of them, are those that were sealed.

    Raises:
        CorruptPartError: they are not.
    """
    with _whole(path) as data:
        return _sealed(path, data)


def verified_part(path: StoragePath, key: str) -> Part:
    """A part whose bytes are those that were sealed, and its keys those of its receipt.

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
def _whole(path: StoragePath) -> Iterator[Readable]:
    """What a part is read from, all of it."""
    try:
        data = source(path, whole=True)
    except FileNotFoundError as error:
        msg = f"part {path} can't be read: {error}"
        raise CorruptPartError(msg) from error
    with nullcontext(data) if isinstance(data, Path) else closing(data):
        yield data


def _sealed(path: StoragePath, data: Readable) -> Part:
    part, file = open_part(path, data)
    file.close()
    with data.open("rb") if isinstance(data, Path) else nullcontext(data) as bytes_:
        found, _ = _digest_of(bytes_)
    if found != part.sha256:
        msg = f"part {path} hashes to {found[:12]}, it was sealed as {part.sha256[:12]}"
        raise CorruptPartError(msg)
    return part


def _digest_of(file: io.BufferedIOBase) -> tuple[str, int]:
    """The sha256 of a part without its own digest, and where that stands.

    Raises:
        CorruptPartError: it has none.
    """
    size = file.seek(0, os.SEEK_END)
    file.seek(max(size - 8, 0))
    length = int.from_bytes(file.read(4), "little")
    start = max(size - 8 - length, 0)
    file.seek(start)
    footer = file.read()
    # In the footer a string stands as it is, after its length: 64 is one byte.
    at = footer.find(SHA256) + len(SHA256)
    at += footer[at : at + 4].find(b"\x40") + 1
    if SHA256 not in footer or len(footer) < at + len(UNSEALED):
        msg = f"part {getattr(file, 'name', '')} has no digest"
        raise CorruptPartError(msg)
    file.seek(0)
    digest, left = hashlib.sha256(), start
    while left:
        digest.update(file.read(min(left, HASH_BYTES)))
        left -= min(left, HASH_BYTES)
    digest.update(footer[:at] + UNSEALED + footer[at + len(UNSEALED) :])
    return digest.hexdigest(), start + at


def _digest(body: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()
