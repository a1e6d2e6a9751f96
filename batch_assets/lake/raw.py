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
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa

from batch_assets.errors import EmptySourceError, NoHistoryError, SourceError
from batch_assets.lake.parts import FEATURES, Part, PartWriter, Receipt
from batch_assets.lake.pins import Pin, PinnedRows
from batch_assets.lake.reconciliation import ControlTotal, total_of
from batch_assets.lake.shards import cut, hash_keys
from batch_assets.lake.source_files import must_be_text
from batch_assets.lake.sources import ReadContext, Source
from batch_assets.lake.tables import FORCED, Lake, Table


@dataclass(frozen=True)
class Copied:
    """What was taken: the job, its parts, and whether it was there already.

    `forced_at` is when rows of a source without history were taken for a day that was
    over by then; None if they were taken for their own day.
    """

    job: str
    parts: list[Part]
    unchanged: bool
    forced_at: datetime | None = None

    @property
    def total(self) -> ControlTotal:
        return total_of(part.receipt.total for part in self.parts)


def copy_day(
    lake: Lake,
    source: Source,
    context: ReadContext,
    *,
    newest: str,
    schema: pa.Schema,
    check: Callable[[pa.Schema], None],
    shards: int,
    row_group_rows: int,
    allow_empty: bool = False,
    force: bool = False,
    guard: Callable[[], None] = lambda: None,
    progress: Callable[[int], None] = lambda rows: None,
) -> Copied:
    """Copy a day of a source into the lake, or pin it.

    A source without history is read for the newest day alone: what is there of an older
    one stays as it was taken then.

    Args:
        lake: the pipeline's tables.
        source: where the rows come from.
        context: the day to take, and where the source is.
        newest: the day that ended last.
        schema: the columns to write, in order; of a pinned source, the key alone.
        check: judges the source's columns before a row is read; raises to stop.
        shards: how many shards to cut the rows into.
        row_group_rows: rows of a row group.
        allow_empty: a day without rows is no error.
        force: take what the source holds now, though the day be an older one.
        guard: raises if this run may not commit any more.
        progress: called with the number of rows of each batch.

    Raises:
        SourceError, EmptySourceError: the source can't be read, or has no rows.
        NoHistoryError: the source holds the newest day, and an older one was asked for.
        ContractError: from `check`.
    """
    day, table = context.day, lake.raw_features
    settings = [shards, row_group_rows, schema]
    late = day < newest and not source.keeps_history(context.base)
    if late and not force:
        return _as_it_was_taken(lake, context, newest, settings)
    rows = source.pinned(context)
    before = source.signature(context)
    identity = asdict(rows.pin) if rows else source.identity(context)
    job = job_of(day, identity, *settings)
    if (there := table.done(day, job, context.key)) is not None:
        return Copied(job, there, unchanged=True, forced_at=lake.forced_at(day))
    with ExitStack() as stack:
        if rows:
            check(rows.schema)
            schema = pa.schema([schema.field(context.key)])
            batches = rows.batches(schema.names)
        else:
            reader = stack.enter_context(source.read(context))
            check(reader.schema)
            batches = _unbroken(reader, day)
        writer = _RawWriter(stack, table, context, job, schema, shards, row_group_rows)
        for batch in batches:
            writer.write(batch)
            progress(len(batch))
        parts = writer.finish(rows, allow_empty=allow_empty)
    if source.signature(context) != before:
        msg = f"the source of {day} changed while it was read. Run the day again."
        raise SourceError(msg)
    forced_at = datetime.now(UTC) if late else None
    facts: dict[str, Any] = {"job": job, "source": identity}
    if forced_at:
        facts[FORCED] = forced_at.isoformat()
    table.commit_day(day, parts, schema, facts, guard=guard)
    return Copied(job, parts, unchanged=False, forced_at=forced_at)


def _as_it_was_taken(
    lake: Lake, context: ReadContext, newest: str, settings: list[Any]
) -> Copied:
    """The committed day, if nothing but the source could be another by now.

    Raises:
        NoHistoryError: it was never taken, or is wanted otherwise than it was taken.
    """
    day, table = context.day, lake.raw_features
    commit = table.last_commit(day)
    job = job_of(day, commit.facts["source"], *settings) if commit else ""
    if commit and commit.facts["job"] == job:
        there = table.done(day, job, context.key)
        if there is not None:
            return Copied(job, there, unchanged=True, forced_at=lake.forced_at(day))
    why = (
        "its raw rows were taken with other settings, or are damaged"
        if commit
        else "its raw rows were never taken"
    )
    msg = (
        f"the source keeps no history: what it holds now are the rows of {newest}, not "
        f"of {day}, and {why}. Nothing was committed. Run {newest}; or take today's rows "
        f"for {day} all the same, with `--force` or raw_features' config `force: true`, "
        "which is marked in its books, its version and the catalog. If the source does "
        "tell of past days, let it use the day ($day, {{ day }} or a day_column)."
    )
    raise NoHistoryError(msg)


class _RawWriter:
    """Cuts batches into the parts of a day, one for each shard."""

    def __init__(
        self,
        stack: ExitStack,
        table: Table,
        context: ReadContext,
        job: str,
        schema: pa.Schema,
        shards: int,
        row_group_rows: int,
    ) -> None:
        self._table, self._context, self._job = table, context, job
        self._schema = schema
        self._totals = [ControlTotal()] * shards
        self._writers = [
            stack.enter_context(
                PartWriter(
                    table.part_path(context.day, shard, job, 0),
                    schema,
                    row_group_rows=row_group_rows,
                    numbers=True,
                    compression=FEATURES,
                )
            )
            for shard in range(shards)
        ]

    def write(self, batch: pa.RecordBatch) -> None:
        """Write each row to the shard of its key, in the order of the batch."""
        found = pa.Table.from_batches([batch]).select(self._schema.names)
        found = found.cast(self._schema)
        hashes = hash_keys(found[self._context.key])
        for shard, mine, theirs in cut(found, hashes, len(self._writers)):
            self._writers[shard].write(mine)
            self._totals[shard] += ControlTotal.of_hashes(theirs)

    def finish(self, rows: PinnedRows | None, *, allow_empty: bool) -> list[Part]:
        """Close the parts, each with its receipt.

        Raises:
            EmptySourceError: no row came.
            SourceError: the pin has another number of rows than came.
        """
        day, came = self._context.day, total_of(self._totals).rows
        if not came and not allow_empty:
            msg = (
                f"the source has no rows for {day}. Nothing was committed. If that is "
                "right for this pipeline, say `allow_empty: true` in its YAML."
            )
            raise EmptySourceError(msg)
        if rows and came != rows.rows:
            msg = (
                f"the source of {day} gave {came:,} keys of {rows.rows:,} rows. Nothing "
                "was committed; run the day again."
            )
            raise SourceError(msg)
        facts = {"pinned": asdict(rows.pin)} if rows else {}
        return [
            writer.finish(
                Receipt(self._table.name, day, shard, 0, self._job, total, facts)
            )
            for shard, (writer, total) in enumerate(
                zip(self._writers, self._totals, strict=True)
            )
        ]


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
        for batch in reader:
            must_be_text(batch, f"the source of {day}")
            yield batch
    except (OSError, pa.ArrowException) as error:
        msg = f"the source of {day} broke off: {error}. Nothing was committed."
        raise SourceError(msg) from error
