"""Small tables beside a day's rows, such as the items that are not to be had that night.

They are taken with the raw rows and stay as they were: one Arrow file for each, whose
digest is in the job of what is scored with them. It knows no model.

    <root>/lake/<pipeline>/side_tables/day=<day>/<name>.arrow
"""

import hashlib
import io
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from batch_assets.errors import LakeError, SourceError
from batch_assets.lake.sources import ReadContext, Source
from batch_assets.lake.tables import Lake
from batch_assets.lake.texts import must_be_readable
from batch_assets.storage import StoragePath, beside, put_file

FOLDER = "side_tables"
# They are held by every worker, whole.
MOST_ROWS = 10_000_000


@dataclass(frozen=True)
class SideTable:
    """A table of a day as it was taken: its name, where it lies, the sha256 of its bytes."""

    name: str
    path: StoragePath
    sha256: str


def copy_side_tables(
    lake: Lake,
    sources: Mapping[str, Source],
    context: ReadContext,
    *,
    newest: str,
    force: bool = False,
) -> dict[str, int]:
    """Take the side tables of a day, each in one step; return the rows of each.

    What is there of a day that is over stays as it was taken, if its source tells only of
    today, as the raw rows do.

    Raises:
        SourceError: a source can't be read, or holds too many rows.
    """
    taken = {}
    for name, source in sources.items():
        path = _path(lake, context.day, name)
        late = context.day < newest and not source.keeps_history(context.base)
        if late and not force and path.exists():
            taken[name] = len(read_side_table(_table(name, path)))
            continue
        if late and not force:
            msg = (
                f"the side table '{name}' keeps no history, and was not taken for "
                f"{context.day}: what it holds now is of {newest}. Take it all the same "
                "with `--force`."
            )
            raise SourceError(msg)
        before = source.signature(context)
        with source.read(context) as reader:
            rows = reader.read_all()
        for batch in rows.to_batches():
            must_be_readable(batch, f"the side table '{name}'")
        if source.signature(context) != before:
            msg = (
                f"the side table '{name}' changed while it was read. Run the day again."
            )
            raise SourceError(msg)
        if len(rows) > MOST_ROWS:
            msg = (
                f"the side table '{name}' has {len(rows):,} rows of {context.day}, expected "
                f"{MOST_ROWS:,} at most: what is of each row belongs into the rows"
            )
            raise SourceError(msg)
        _write(path, _canonical(rows))
        taken[name] = len(rows)
    return taken


def side_tables_of(
    lake: Lake, day: str, names: tuple[str, ...]
) -> tuple[SideTable, ...]:
    """Return the side tables that were taken for a day.

    Raises:
        LakeError: one was not.
    """
    tables = []
    for name in sorted(names):
        path = _path(lake, day, name)
        if not path.exists():
            msg = (
                f"the side table '{name}' was not taken for {day}: materialise its "
                "raw_features again. Nothing was scored."
            )
            raise LakeError(msg)
        tables.append(_table(name, path))
    return tuple(tables)


def digests_of(tables: Sequence[SideTable]) -> dict[str, str]:
    """Return the digest of each side table by its name."""
    return {table.name: table.sha256 for table in tables}


def read_side_table(table: SideTable) -> pa.Table:
    """Return the rows of a side table, whose bytes are those of its digest.

    Raises:
        LakeError: they are not, or it is gone.
    """
    try:
        data = table.path.read_bytes()
    except OSError as error:
        msg = f"the side table {table.path} can't be read: {error}"
        raise LakeError(msg) from error
    if hashlib.sha256(data).hexdigest() != table.sha256:
        msg = (
            f"the side table {table.path} is not what it was when the night began. "
            "Nothing was scored with it; run the day again."
        )
        raise LakeError(msg)
    return pa.ipc.open_stream(data).read_all()


def _table(name: str, path: StoragePath) -> SideTable:
    return SideTable(name, path, hashlib.sha256(path.read_bytes()).hexdigest())


def _path(lake: Lake, day: str, name: str) -> StoragePath:
    return lake.folder / FOLDER / f"day={day}" / f"{name}.arrow"


def _canonical(rows: pa.Table) -> pa.Table:
    """The same rows in one order, so that equal ones have equal bytes."""
    rows = rows.combine_chunks().replace_schema_metadata(None)
    if not rows.num_columns or not len(rows):
        return rows
    # Arrow sorts by no lists: those few are sorted by as they read.
    by = {
        str(at): pa.array(map(repr, column.to_pylist()))
        if pa.types.is_nested(column.type)
        else column
        for at, column in enumerate(rows.columns)
    }
    order = pc.sort_indices(
        pa.table(by), sort_keys=[(name, "ascending") for name in by]
    )
    return rows.take(order)


def _write(path: StoragePath, rows: pa.Table) -> None:
    sink = io.BytesIO()
    with pa.ipc.new_stream(sink, rows.schema) as out:
        out.write_table(rows, max_chunksize=max(len(rows), 1))
    made = beside(path)
    made.parent.mkdir(parents=True, exist_ok=True)
    with made.open("wb") as file:
        file.write(sink.getvalue())
        file.flush()
        os.fsync(file.fileno())
    put_file(made, path)
