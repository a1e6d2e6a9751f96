"""Validate one piece of a day: a part of rows to score for each shard, and quarantine.

A core holds one batch or row group of its piece, and of what it writes one row group per
shard, or two with fingerprints, but no more than a few of all. It knows neither the rest of the day nor who runs it,
and commits nothing.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Self

import numpy as np
import polars as pl
import pyarrow as pa

from batch_assets.incremental.previous_day import (
    FINGERPRINT,
    PreviousDay,
    with_fingerprints,
)
from batch_assets.lake.commits import ValidationCommit
from batch_assets.lake.delta_table import Table
from batch_assets.lake.page_layout import RECORDS, PageLayout
from batch_assets.lake.part_writer import ROW_GROUPS_HELD, PartWriter, PendingRows
from batch_assets.lake.parts import Part
from batch_assets.lake.receipts import (
    LayoutHint,
    QuarantineReceipt,
    RawReceipt,
    ValidatedReceipt,
)
from batch_assets.lake.reconciliation import ControlTotal
from batch_assets.lake.shards import cut, hash_keys
from batch_assets.lake.texts import NOT_UTF8
from batch_assets.models.contract import Contract
from batch_assets.parallel import Report
from batch_assets.quality.rules import RULES, RowRules, counts_of


@dataclass(frozen=True)
class Piece:
    """A piece of a day: its number, the raw parts of its shards, and how to read it.

    `duplicated` are the keys that the day has more than once.
    """

    number: int
    raw: Sequence[Part[RawReceipt]]
    read: Callable[[], Iterator[pa.RecordBatch]]
    duplicated: pl.Series
    row_group_rows: int

    def __str__(self) -> str:
        shards = ", ".join(str(part.shard) for part in self.raw)
        return f"piece {self.number} of shard {shards}"


@dataclass(frozen=True)
class ValidationTask:
    """What it takes to validate a piece; rows have fingerprints if `previous` is there."""

    day: str
    job: str
    validated: Table[ValidatedReceipt, ValidationCommit]
    quarantined: Table[QuarantineReceipt, ValidationCommit]
    contract: Contract
    layout: PageLayout
    shards: int
    previous: PreviousDay | None


@dataclass(frozen=True)
class PieceParts:
    """What a piece left."""

    validated: list[Part[ValidatedReceipt]]
    quarantined: list[Part[QuarantineReceipt]]


def validated_schema(contract: Contract, *, fingerprints: bool) -> pa.Schema:
    """Return the columns of validated features, with their fingerprint if asked for."""
    schema = contract.feature_schema()
    # Delta has no unsigned integers.
    return schema.append(pa.field(FINGERPRINT, pa.int64())) if fingerprints else schema


def quarantine_schema(contract: Contract) -> pa.Schema:
    """Return the columns of quarantined rows: the raw row, whole, and its rules."""
    return contract.raw_schema().append(pa.field(RULES, pa.list_(pa.string())))


def validate_piece(task: ValidationTask, piece: Piece, progress: Report) -> PieceParts:
    """Cut a piece in two: a validated part for each shard, quarantine where there is any.

    Rows that are as they were the night before go to row groups of their own, so that
    the scorer need not decode them to find the others.
    """
    rules, raw_schema = _rules_of(task.contract), task.contract.raw_schema()
    features = task.layout.schema(task.contract.feature_schema())
    key = task.contract.key.name
    together = PendingRows(ROW_GROUPS_HELD * piece.row_group_rows)
    with ExitStack() as stack:
        sides = {
            part.shard: stack.enter_context(
                _ShardSides(task, piece, part.shard, part.path.name, together)
            )
            for part in piece.raw
        }

        def each_shard(
            rows: pl.DataFrame, schema: pa.Schema
        ) -> Iterator[tuple[_ShardSides, pa.Table, np.ndarray]]:
            if not len(rows):
                return
            table = rows.to_arrow().cast(schema)
            hashes = hash_keys(table[key])
            if len(sides) == 1:
                yield next(iter(sides.values())), table, hashes
                return
            for shard, shard_rows, shard_hashes in cut(table, hashes, task.shards):
                yield sides[shard], shard_rows, shard_hashes

        for batch in piece.read():
            rows = pa.Table.from_batches([batch])
            split = rules.split(
                pl.DataFrame(rows.select(raw_schema.names).cast(raw_schema)),
                piece.duplicated,
                _found_in(rows),
            )
            for side, table, hashes in each_shard(split.good, features):
                side.keep(table, hashes)
            for side, table, hashes in each_shard(
                split.bad, quarantine_schema(task.contract)
            ):
                side.put_aside(table, hashes)
            progress(len(batch))
        bad = [part for side in sides.values() if (part := side.finish_bad())]
        return PieceParts([side.finish_good() for side in sides.values()], bad)


def _found_in(rows: pa.Table) -> pl.Series | None:
    """What was not UTF-8 of each row; None if all was, or nobody has told."""
    if NOT_UTF8 not in rows.column_names:
        return None
    found = rows[NOT_UTF8]
    return None if found.null_count == len(found) else pl.Series(found)


@lru_cache(maxsize=1)
def _rules_of(contract: Contract) -> RowRules:
    """The same for each piece: of thousands of features they take a second to make."""
    return RowRules(contract)


class _ShardSides:
    """The parts that a piece leaves in a shard: of rows to score, and if there are any,
    of rows to quarantine.
    """

    def __init__(
        self,
        task: ValidationTask,
        piece: Piece,
        shard: int,
        raw: str,
        together: PendingRows,
    ) -> None:
        self._task, self._piece, self._together = task, piece, together
        self._shard, self._raw = shard, raw
        self._stack = ExitStack()
        fingerprints = task.previous is not None
        self._good = self._side(
            task.validated,
            validated_schema(task.contract, fingerprints=fingerprints),
            task.layout,
        )
        self._bad: _Side | None = None
        self._previous_parts: set[str] = set()
        self._broken: Counter[str] = Counter()

    def keep(self, rows: pa.Table, hashes: np.ndarray) -> None:
        """Write rows to score; those that are as the night before to their own groups."""
        previous = self._task.previous
        if previous is None:
            self._good.write(rows, hashes)
            return
        rows, fingerprints = with_fingerprints(rows, self._task.contract)
        same, parts = previous.find(self._shard, hashes, fingerprints)
        self._previous_parts |= parts
        for kind, which in enumerate((~same, same)):
            if which.all():
                self._good.write(rows, hashes, kind)
            elif which.any():
                picked = rows.take(pa.array(np.flatnonzero(which)))
                self._good.write(picked, hashes[which], kind)

    def put_aside(self, rows: pa.Table, hashes: np.ndarray) -> None:
        """Write rows to quarantine, and count the rules that they broke."""
        if self._bad is None:
            schema = quarantine_schema(self._task.contract)
            self._bad = self._side(self._task.quarantined, schema, RECORDS)
        self._bad.write(rows, hashes)
        self._broken.update(counts_of(pl.Series(rows[RULES])))

    def finish_good(self) -> Part[ValidatedReceipt]:
        task, hint = self._task, None
        if task.previous is not None:
            same = [at for at, kind in enumerate(self._good.writer.flush()) if kind]
            hint = LayoutHint(task.previous.of, same, sorted(self._previous_parts))
        return self._good.writer.finish(
            ValidatedReceipt(
                *self._whose,
                self._good.total,
                self._raw,
                task.contract.digest,
                dict(self._broken),
                hint,
            )
        )

    def finish_bad(self) -> Part[QuarantineReceipt] | None:
        if self._bad is None:
            return None
        contract = self._task.contract.digest
        return self._bad.writer.finish(
            QuarantineReceipt(*self._whose, self._bad.total, self._raw, contract)
        )

    @property
    def _whose(self) -> tuple[str, int, int, str]:
        return self._task.day, self._shard, self._piece.number, self._task.job

    def _side(
        self,
        table: Table[Any, ValidationCommit],
        schema: pa.Schema,
        layout: PageLayout,
    ) -> "_Side":
        day, shard, chunk, job = self._whose
        writer = PartWriter(
            table.part_path(day, shard, job, chunk),
            schema,
            row_group_rows=self._piece.row_group_rows,
            layout=layout,
            kinds=2 if self._task.previous is not None else 1,
            together=self._together,
        )
        return _Side(self._stack.enter_context(writer))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()


class _Side:
    """A part that is being written, with the total of what went in."""

    def __init__(self, writer: PartWriter) -> None:
        self.writer, self.total = writer, ControlTotal()

    def write(self, rows: pa.Table, hashes: np.ndarray, kind: int = 0) -> None:
        self.writer.write(rows, kind)
        self.total += ControlTotal.of_hashes(hashes)
