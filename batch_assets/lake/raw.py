"""Take a day's source into a table: shard by shard, in one commit.

What can change under us is copied; a version of a Delta table can't, so it is pinned and
only its keys are written down. A row's shard is decided here and stays. Memory holds one
batch of the source and one row group per shard. It knows the columns that it is told to
take, not what they mean.
"""

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from typing import Any, Self

import pyarrow as pa

from batch_assets.errors import EmptySourceError, NoHistoryError, SourceError
from batch_assets.lake.commits import RawCommit
from batch_assets.lake.day_run import DayRun
from batch_assets.lake.delta_table import Table
from batch_assets.lake.page_layout import COMPACT
from batch_assets.lake.part_writer import ROW_GROUPS_HELD, PartWriter, PendingRows
from batch_assets.lake.parts import Part
from batch_assets.lake.pins import PinnedRows
from batch_assets.lake.receipts import Pin, RawReceipt
from batch_assets.lake.reconciliation import ControlTotal, total_of
from batch_assets.lake.shards import cut, hash_keys
from batch_assets.lake.source_files import Signature
from batch_assets.lake.sources import ReadContext, Source
from batch_assets.lake.texts import FOUND, NOT_UTF8, has_texts, taken

# In the identity of rows that are known by when they were read.
READ_AT = "read_at"


@dataclass(frozen=True)
class RawSettings:
    """How raw rows are taken: their columns in order, and how they lie.

    With `allow_empty`, a day without rows is no error. `into` is another table than
    `raw_features`; nothing is pinned there. Rows are `whole`, or but keys of pinned ones.
    """

    schema: pa.Schema
    shards: int
    row_group_rows: int
    allow_empty: bool = False
    into: Table[RawReceipt, RawCommit] | None = None
    whole: bool = True

    @property
    def inputs(self) -> list[Any]:
        """What of it changes the job."""
        return [self.shards, self.row_group_rows, self.schema]

    def of_the_key(self, key: str) -> Self:
        """Return them for the key alone: the other columns stay where they are pinned."""
        return replace(self, schema=pa.schema([self.schema.field(key)]), whole=False)

    @property
    def written(self) -> pa.Schema:
        """The columns of a part: what was not UTF-8 is told beside rows that wait for it.

        The table does not have that column, so that who reads it sees the source's alone.
        """
        if self.into or not (self.whole and has_texts(self.schema)):
            return self.schema
        return self.schema.append(pa.field(NOT_UTF8, FOUND))


@dataclass(frozen=True)
class Copied:
    """What was taken: the job, its parts, and whether it was there already.

    `forced_at` is when rows of a source without history were taken for a day that was
    over by then; None if they were taken for their own day.
    """

    job: str
    parts: list[Part[RawReceipt]]
    unchanged: bool
    forced_at: datetime | None = None

    @property
    def total(self) -> ControlTotal:
        return total_of(part.receipt.total for part in self.parts)


def copy_day(
    run: DayRun,
    source: Source,
    context: ReadContext,
    settings: RawSettings,
    *,
    check: Callable[[pa.Schema], None],
    newest: str,
    force: bool = False,
) -> Copied:
    """Copy a day of a source into the lake, or pin it.

    A source without history is read for the newest day alone: an older stays as it was.

    Args:
        run: the day to make.
        source: where the rows come from.
        context: for which day, and from where, it is read.
        settings: of the rows; of a pinned source, the key is written.
        check: judges the source's columns before a row is read; raises to stop.
        newest: the day that ended last.
        force: take what the source holds now, though the day be old, or was read.

    Raises:
        SourceError, EmptySourceError: the source can't be read, or has no rows.
        NoHistoryError: the source holds the newest day, and an older one was asked for.
        ContractError: from `check`.
    """
    day, into = run.day, settings.into
    table = into or run.lake.raw_features
    late = day < newest and not source.keeps_history(context.base)
    if late and not force:
        return _as_it_was_taken(table, context, newest, settings)
    context = replace(context, committed=_TakenFrom(table))
    if not into:  # Another table takes what can be cast to its columns, too.
        context = replace(context, columns=settings.schema)
    pinned = None if into else source.pinned(context)
    before = source.signature(context)
    identity = asdict(pinned.pin) if pinned else source.identity(context)
    if not (source.by_content or force):
        identity = _as_it_was_read(table, day, identity)
    job = job_of(day, identity, *settings.inputs)
    if (done := table.done(day, job, context.key)) is not None:
        return Copied(job, done, unchanged=True, forced_at=_forced_at(table, day))
    if not source.by_content:
        identity |= {READ_AT: datetime.now(UTC).isoformat()}
        job = job_of(day, identity, *settings.inputs)
    with ExitStack() as stack:
        to_read = replace(context, identity=identity)
        batches = _checked(stack, source, to_read, pinned, check)
        settings = settings.of_the_key(context.key) if pinned else settings
        writer = _RawWriter(stack, table, day, context.key, job, settings)
        for batch in batches:
            writer.write(batch)
            run.progress(len(batch))
        parts = writer.finish(pinned, allow_empty=settings.allow_empty)
    _must_not_have_changed(source, context, before)
    facts = RawCommit(job, identity, datetime.now(UTC) if late else None)
    run.commit(table, parts, settings.schema, facts)
    return Copied(job, parts, unchanged=False, forced_at=facts.forced_at)


def _checked(
    stack: ExitStack,
    source: Source,
    context: ReadContext,
    pinned: PinnedRows | None,
    check: Callable[[pa.Schema], None],
) -> Iterator[pa.RecordBatch]:
    """Have the columns judged, and return the rows; of a pin, their keys."""
    if pinned:
        check(pinned.schema)
        return pinned.batches([context.key])
    reader = stack.enter_context(source.read(context))
    check(reader.schema)
    return _unbroken(reader, context.day)


def _must_not_have_changed(
    source: Source, context: ReadContext, before: Signature
) -> None:
    if source.signature(context) != before:
        msg = (
            f"the source of {context.day} changed while it was read. Run the day again."
        )
        raise SourceError(msg)


class _TakenFrom(Mapping[str, Any]):
    """Of each committed day what it was taken from; the log is read when it is asked."""

    def __init__(self, table: Table[RawReceipt, RawCommit]) -> None:
        self._table = table

    def __getitem__(self, day: str) -> Any:
        commit = self._table.last_commit(day)
        if commit is None:
            raise KeyError(day)
        return commit.facts.source

    def __iter__(self) -> Iterator[str]:
        return iter(self._table.rows_by_day())

    def __len__(self) -> int:
        return len(self._table.rows_by_day())


def _forced_at(table: Table[RawReceipt, RawCommit], day: str) -> datetime | None:
    commit = table.last_commit(day)
    return commit.facts.forced_at if commit else None


def _as_it_was_read(
    table: Table[RawReceipt, RawCommit], day: str, asked: dict[str, Any]
) -> dict[str, Any]:
    """Name rows that nothing but their reading tells apart as those that are there.

    They stand for the day if they were asked for in the same way, so that a night that is
    run again goes on with what it began with.
    """
    commit = table.last_commit(day)
    found = dict(commit.facts.source) if commit else {}
    same = {name: found[name] for name in found if name != READ_AT}
    return found if same == json.loads(json.dumps(asked)) else asked


def _as_it_was_taken(
    table: Table[RawReceipt, RawCommit],
    context: ReadContext,
    newest: str,
    settings: RawSettings,
) -> Copied:
    """The committed day, if nothing but the source could be another by now.

    Raises:
        NoHistoryError: it was never taken, or is wanted otherwise than it was taken.
    """
    day = context.day
    commit = table.last_commit(day)
    if commit and commit.facts.job == job_of(
        day, commit.facts.source, *settings.inputs
    ):
        done = table.done(day, commit.facts.job, context.key)
        if done is not None:
            forced_at = commit.facts.forced_at
            return Copied(commit.facts.job, done, unchanged=True, forced_at=forced_at)
    why = (
        f"its {table.name} were taken with other settings, or are damaged"
        if commit
        else f"its {table.name} were never taken"
    )
    msg = (
        f"the source keeps no history: what it holds now are the rows of {newest}, not "
        f"of {day}, and {why}. Nothing was committed. Run {newest}; or take today's rows "
        f"for {day} all the same, with `--force` or the config `force: true` of {table.name}, "
        "which is marked in its books, its version and the catalog. If the source does "
        "tell of past days, let it use the day ($day, {{ day }} or a day_column)."
    )
    raise NoHistoryError(msg)


class _RawWriter:
    """Cuts batches into the parts of a day, one for each shard."""

    def __init__(
        self,
        stack: ExitStack,
        table: Table[RawReceipt, RawCommit],
        day: str,
        key: str,
        job: str,
        settings: RawSettings,
    ) -> None:
        self._day, self._key, self._job = day, key, job
        self._settings, self._receipt = settings, table.receipts
        self._totals = [ControlTotal()] * settings.shards
        self._broken = [0] * settings.shards
        together = PendingRows(ROW_GROUPS_HELD * settings.row_group_rows)
        self._writers = [
            stack.enter_context(
                PartWriter(
                    table.part_path(day, shard, job, 0),
                    settings.written,
                    row_group_rows=settings.row_group_rows,
                    layout=COMPACT,
                    together=together,
                )
            )
            for shard in range(settings.shards)
        ]

    def write(self, batch: pa.RecordBatch) -> None:
        """Write each row to the shard of its key, in the order of the batch.

        Raises:
            SourceError: a value is none of its type; or a text that is not UTF-8 goes to
                a table from which nothing is quarantined.
        """
        what = f"the source of {self._day}"
        came = taken(batch, self._settings.schema, self._key, what)
        tells = NOT_UTF8 in self._settings.written.names
        if self._settings.into:
            came.must_be_whole(what)
        rows = came.with_found() if tells else came.rows
        hashes = hash_keys(rows[self._key])
        for shard, its_rows, its_hashes in cut(rows, hashes, len(self._writers)):
            self._writers[shard].write(its_rows)
            self._totals[shard] += ControlTotal.of_hashes(its_hashes)
            if tells:
                self._broken[shard] += len(its_rows) - its_rows[NOT_UTF8].null_count

    def finish(
        self, pinned: PinnedRows | None, *, allow_empty: bool
    ) -> list[Part[RawReceipt]]:
        """Close the parts, each with its receipt.

        Raises:
            EmptySourceError: no row came.
            SourceError: the pin has another number of rows than came.
        """
        day, came = self._day, total_of(self._totals).rows
        if not came and not allow_empty:
            msg = (
                f"the source has no rows for {day}. Nothing was committed. If that is "
                "right for this pipeline, say `allow_empty: true` in its YAML."
            )
            raise EmptySourceError(msg)
        if pinned and came != pinned.rows:
            msg = (
                f"the source of {day} gave {came:,} keys of {pinned.rows:,} rows. Nothing "
                "was committed; run the day again."
            )
            raise SourceError(msg)
        return [
            writer.finish(
                self._receipt(
                    day,
                    shard,
                    0,
                    self._job,
                    self._totals[shard],
                    pinned.pin if pinned else None,
                    self._broken[shard],
                )
            )
            for shard, writer in enumerate(self._writers)
        ]


def pin_of(parts: Sequence[Part[RawReceipt]]) -> Pin | None:
    """Return what a committed day is pinned to; None if it was copied."""
    return parts[0].receipt.pinned


def job_of(day: str, *inputs: Any) -> str:
    """Return the id of a job: a hash of the day and of all that changes its output."""
    text = json.dumps([day, *inputs], sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()


def _unbroken(reader: pa.RecordBatchReader, day: str) -> Iterator[pa.RecordBatch]:
    try:
        yield from reader
    except (OSError, pa.ArrowException) as error:
        msg = f"the source of {day} broke off: {error}. Nothing was committed."
        raise SourceError(msg) from error
