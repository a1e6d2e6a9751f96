"""Take a day's source into `raw_features`: shard by shard, in one commit.

What can change under us is copied; a version of a Delta table can't, so it is pinned and
only its keys are written down. A row's shard is decided here and stays. Memory holds one
batch of the source and one row group per shard. It knows the columns that it is told to
take, not what they mean.
"""

import hashlib
import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from batch_assets.errors import EmptySourceError, SourceError
from batch_assets.lake.books import Tally, total
from batch_assets.lake.parts import FEATURES, Part, PartWriter, Receipt
from batch_assets.lake.pins import Pin
from batch_assets.lake.shards import cut, hash_keys
from batch_assets.lake.sources import DeltaSource, Source
from batch_assets.lake.tables import Lake


@dataclass(frozen=True)
class Copied:
    """What was taken: the job, its parts, and whether it was there already."""

    job: str
    parts: list[Part]
    unchanged: bool

    @property
    def tally(self) -> Tally:
        return total(part.receipt.tally for part in self.parts)


def copy_day(
    lake: Lake,
    source: Source,
    day: str,
    *,
    base: Path,
    project: Path,
    key: str,
    schema: pa.Schema,
    check: Callable[[pa.Schema], None],
    shards: int,
    row_group_rows: int,
    allow_empty: bool = False,
    guard: Callable[[], None] = lambda: None,
    progress: Callable[[int], None] = lambda rows: None,
) -> Copied:
    """Copy a day of a source into the lake, or pin it.

    Args:
        lake: the pipeline's tables.
        source: where the rows come from.
        day: the day to take.
        base: the folder of the YAML, which a query's file is relative to.
        project: the folder of the project, which data files are relative to.
        key: the key column.
        schema: the columns to write, in order; of a pinned source, the key alone.
        check: judges the source's columns before a row is read; raises to stop.
        shards: how many shards to cut the rows into.
        row_group_rows: rows of a row group.
        allow_empty: a day without rows is no error.
        guard: raises if this run may not commit any more.
        progress: called with the number of rows of each batch.

    Raises:
        SourceError, EmptySourceError: the source can't be read, or has no rows.
        ContractError: from `check`.
    """
    rows = source.pinned(day, project) if isinstance(source, DeltaSource) else None
    pinned = {"pinned": asdict(rows.pin)} if rows else {}
    identity = source.identity(day, base, project) if rows is None else pinned["pinned"]
    job = job_of(day, identity, shards, row_group_rows, schema)
    table = lake.raw_features
    if (there := table.done(day, job, key)) is not None:
        return Copied(job, there, unchanged=True)
    with ExitStack() as stack:
        if rows:
            check(rows.schema)
            schema = pa.schema([schema.field(key)])
            batches = rows.batches(schema.names)
        else:
            reader = stack.enter_context(source.read(day, base, project))
            check(reader.schema)
            batches = _unbroken(reader, day)
        writers = [
            stack.enter_context(
                PartWriter(
                    table.part_path(day, shard, job, 0),
                    schema,
                    row_group_rows=row_group_rows,
                    numbers=True,
                    compression=FEATURES,
                )
            )
            for shard in range(shards)
        ]
        tallies = [Tally()] * shards
        for batch in batches:
            found = pa.Table.from_batches([batch]).select(schema.names).cast(schema)
            for shard, mine, hashes in cut(found, hash_keys(found[key]), shards):
                writers[shard].write(mine)
                tallies[shard] += Tally.of_hashes(hashes)
            progress(len(batch))
        if not total(tallies).rows and not allow_empty:
            msg = (
                f"the source has no rows for {day}. Nothing was committed. If that is "
                "right for this pipeline, say `allow_empty: true` in its YAML."
            )
            raise EmptySourceError(msg)
        if rows and total(tallies).rows != rows.rows:
            msg = (
                f"the source of {day} gave {total(tallies).rows:,} keys of "
                f"{rows.rows:,} rows. Nothing was committed; run the day again."
            )
            raise SourceError(msg)
        parts = [
            writer.finish(
                Receipt(table.name, day, shard, 0, job, tallies[shard], pinned)
            )
            for shard, writer in enumerate(writers)
        ]
    if rows is None and source.identity(day, base, project) != identity:
        msg = f"the source of {day} changed while it was read. Run the day again."
        raise SourceError(msg)
    table.commit_day(day, parts, schema, {"job": job, "source": identity}, guard=guard)
    return Copied(job, parts, unchanged=False)


def pin_of(parts: list[Part]) -> Pin | None:
    """What a committed day of `raw_features` is pinned to; None if it was copied."""
    found = parts[0].receipt.facts.get("pinned")
    return Pin(**found) if found else None


def job_of(day: str, *inputs: Any) -> str:
    """The id of a job: a hash of the day and of everything that changes its output."""
    text = json.dumps([day, *inputs], sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()


def _unbroken(reader: pa.RecordBatchReader, day: str) -> Iterator[pa.RecordBatch]:
    try:
        yield from reader
    except (OSError, pa.ArrowException) as error:
        msg = f"the source of {day} broke off: {error}. Nothing was committed."
        raise SourceError(msg) from error
