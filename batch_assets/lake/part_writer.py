"""Write a part: one Parquet file with its receipt in the footer.

A part appears under its name only when it is whole and on disk: it is written beside,
sealed, synced and renamed. Of an object store, that is done on this machine, and then it
is put there. It knows nothing of tables and commits.
"""

import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import TracebackType
from typing import Self, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq

from batch_assets.errors import LakeError
from batch_assets.lake.page_layout import RECORDS, PageLayout
from batch_assets.lake.parts import AS_IN_MEMORY, LAYOUT, RECEIPT, Part
from batch_assets.lake.receipts import Receipt
from batch_assets.lake.seal import SHA256, UNSEALED, seal_of
from batch_assets.storage import BESIDE, StoragePath, local, put_file

R = TypeVar("R", bound=Receipt)

# Full row groups that whoever writes the parts of many shards at once holds of all of them.
ROW_GROUPS_HELD = 4


class PendingRows:
    """Bounds what the writers of many parts hold together, in rows.

    Once they hold more, each writes what it has as a row group, however small: memory
    does not follow the number of shards. All do, because what they hold are mostly
    slices of the same batches, which go when the last slice does.
    """

    def __init__(self, most: int) -> None:
        self._most, self._rows = most, 0
        self._writers: list[PartWriter] = []

    def join(self, writer: "PartWriter") -> None:
        self._writers.append(writer)

    def add(self, rows: int) -> None:
        """Count rows that came, or that were written if it is less than 0."""
        self._rows += rows

    def make_room(self) -> None:
        """Have all written, if it is too much."""
        if self._rows > self._most:
            for writer in self._writers:
                writer.flush()


class PartWriter:
    """Writes one part, in row groups of a fixed number of rows, or fewer.

    Used as a context manager: leaving it without `finish` removes what was written.
    """

    def __init__(
        self,
        path: StoragePath,
        schema: pa.Schema,
        *,
        row_group_rows: int,
        layout: PageLayout = RECORDS,
        kinds: int = 1,
        together: PendingRows | None = None,
    ) -> None:
        """Open the file beside its final name, or what stands for that on this machine.

        Args:
            path: the part's final path.
            schema: its columns, the key first.
            row_group_rows: rows of a row group; memory is bounded by one of each kind.
            layout: of its pages.
            kinds: of rows, of which no row group holds two.
            together: what bounds it and the writers of other parts.
        """
        self.path = path
        self._layout, self._schema = layout, layout.schema(schema)
        self._rows = row_group_rows
        self._pending: list[list[pa.Table]] = [[] for _ in range(kinds)]
        # Counted, not summed: with many shards a row group comes in thousands of pieces.
        self._pending_rows = [0] * kinds
        self._together = together
        if together:
            together.join(self)
        self._groups: list[int] = []
        self._kinds: list[int] = []
        local_path = local(path)
        self._beside = local_path.with_name(
            f"{local_path.name}.{uuid.uuid4().hex}{BESIDE}"
        )
        with self._explained():
            self._beside.parent.mkdir(parents=True, exist_ok=True)
            self._writer = pq.ParquetWriter(
                self._beside,
                self._schema,
                **layout.options(schema, row_group_rows),
                write_page_checksum=True,
                # The columns' own types say it all; a dictionary that is written is a
                # way to write, not what readers should get.
                store_schema=False,
            )

    def write(self, rows: pa.Table | pa.RecordBatch, kind: int = 0) -> None:
        """Add rows; they are written as soon as a row group is full."""
        if isinstance(rows, pa.RecordBatch):
            rows = pa.Table.from_batches([rows])
        if self._layout.as_in_memory and rows.schema != self._schema:
            # No copy, but a look for nulls: the file is to have none.
            rows = rows.cast(self._schema)
        self._pending[kind].append(rows)
        self._pending_rows[kind] += len(rows)
        if self._together:
            self._together.add(len(rows))
        while self._pending_rows[kind] >= self._rows:
            self._flush(kind, self._rows)
        if self._together:
            self._together.make_room()

    def finish(self, receipt: R) -> Part[R]:
        """Close the file with its receipt, seal and sync it, and give it its name."""
        self.flush()
        with self._explained():
            notes = {RECEIPT: receipt.dumps(), SHA256: UNSEALED}
            if self._layout.as_in_memory:
                notes[LAYOUT] = AS_IN_MEMORY
            self._writer.add_key_value_metadata(notes)
            self._writer.close()
            with self._beside.open("r+b") as file:
                digest, at = seal_of(file)
                file.seek(at)
                file.write(digest.encode())
                file.flush()
                os.fsync(file.fileno())
                size = os.fstat(file.fileno()).st_size
            put_file(self._beside, self.path)
        groups, as_in_memory = tuple(self._groups), self._layout.as_in_memory
        return Part(self.path, size, digest, receipt, groups, as_in_memory)

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
        if self._together:
            self._together.add(-rows)
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
