"""Validate a day: raw rows become features for the scorer, or quarantined rows.

Bad schema stops, bad rows wait. A day is cut into pieces, each a task of its own: the
raw part of one shard, or a run of row groups of a pinned source, whose rows go to every
shard. A core holds one batch or row group of its piece, and one row group per shard that
it writes, or two with fingerprints. It knows no model, only the contract; and not where the raw rows came from.
"""

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from functools import lru_cache, partial
from typing import Any, Self

import duckdb
import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from batch_assets.errors import ContractError, CorruptPartError, LakeError
from batch_assets.incremental.previous_day import (
    FINGERPRINT,
    HINT,
    LayoutHint,
    PreviousDay,
    previous_day,
)
from batch_assets.lake.parts import (
    FEATURES,
    RECORDS,
    Part,
    PartWriter,
    Receipt,
    open_part,
    read_batches,
)
from batch_assets.lake.pins import PinnedRows
from batch_assets.lake.raw import job_of, pin_of
from batch_assets.lake.reconciliation import ControlTotal, must_close, total_of
from batch_assets.lake.shards import cut, fingerprint, hash_keys
from batch_assets.lake.tables import Lake, Table
from batch_assets.models.contract import Contract
from batch_assets.parallel import ParallelMap, Report, on_cores
from batch_assets.quality.rules import RULES, RowRules, counts_of
from batch_assets.storage import StoragePath, source

# Shards of a piece of a pinned source are of about the same size, not the same: what is
# over a row group by so little goes into it, and not into one of a few rows.
UNEVEN = 1 / 8


@dataclass(frozen=True)
class Piece:
    """A piece of a day: its number, the raw parts of its shards, and how to read it."""

    number: int
    raw: list[Part]
    read: Callable[[], Iterator[pa.RecordBatch]]
    duplicated: pl.Series
    row_group_rows: int

    def __str__(self) -> str:
        shards = ", ".join(str(part.receipt.shard) for part in self.raw)
        return f"piece {self.number} of shard {shards}"


@dataclass(frozen=True)
class Job:
    """What it takes to validate a piece."""

    day: str
    id: str
    validated: Table
    quarantined: Table
    contract: Contract
    shards: int
    fingerprints: bool
    before: PreviousDay


@dataclass(frozen=True)
class Validated:
    """What a validation left: the job, its parts, and whether it was there already."""

    job: str
    parts: list[Part]
    quarantined: list[Part]
    raw: ControlTotal
    unchanged: bool

    @property
    def total(self) -> ControlTotal:
        return total_of(part.receipt.total for part in self.parts)

    @property
    def quarantine(self) -> ControlTotal:
        return total_of(part.receipt.total for part in self.quarantined)

    @property
    def rules(self) -> dict[str, int]:
        """How many rows broke each rule; a row may break several."""
        counts: Counter[str] = Counter()
        for part in self.parts:
            counts.update(part.receipt.facts["rules"])
        return dict(counts.most_common())


def validate_day(
    lake: Lake,
    day: str,
    contract: Contract,
    *,
    row_group_rows: int,
    fingerprints: bool = False,
    parallel_map: ParallelMap = on_cores,
    guard: Callable[[], None] = lambda: None,
    progress: Callable[[int], None] = lambda rows: None,
) -> Validated:
    """Validate a day of `raw_features` and commit both sides.

    With `fingerprints`, each validated row has one of its features, by which the next
    night tells whether it has changed. Pieces are done where `parallel_map` does them.

    Raises:
        LakeError: the day has no raw features.
        SourceError: what it is pinned to is gone.
        ContractError: its columns are not those of the contract.
        BooksError: rows in and rows out don't agree; nothing is committed.
    """
    raw = lake.raw_features.parts(day)
    if not raw:
        msg = f"raw_features has no {day}: materialise it first"
        raise LakeError(msg)
    raw_rows = total_of(part.receipt.total for part in raw)
    inputs = [[part.path.name, part.size] for part in raw]
    marks = [FINGERPRINT] if fingerprints else []
    job = job_of(day, inputs, contract.digest, row_group_rows, *marks)
    validated, quarantined = lake.validated_features, lake.quarantined_rows
    key = contract.key.name
    if (there := validated.done(day, job, key)) is not None and (
        # Both sides: a run may have died between the two commits.
        not lake.books(day, scoring=False).open_after_validation()
    ):
        return Validated(job, there, quarantined.parts(day), raw_rows, unchanged=True)
    pieces = _pieces(raw, contract, row_group_rows, parallel_map)
    with previous_day(
        validated, day, key, wanted=fingerprints, parallel_map=parallel_map
    ) as before:
        task = Job(
            day=day,
            id=job,
            validated=validated,
            quarantined=quarantined,
            contract=contract,
            shards=len(raw),
            fingerprints=fingerprints,
            before=before,
        )
        done = parallel_map(partial(validate_piece, task), pieces, progress)
    good = [part for goods, _ in done for part in goods]
    bad = [part for _, bads in done for part in bads]
    for part in raw:
        shard = part.receipt.shard
        must_close(
            day,
            shard,
            part.receipt.total,
            validated=total_of(
                p.receipt.total for p in good if p.receipt.shard == shard
            ),
            quarantined=total_of(
                p.receipt.total for p in bad if p.receipt.shard == shard
            ),
        )
    facts = {"job": job, "contract": contract.digest}
    # The validated commit comes last: it is what the scorer looks for.
    quarantined.commit_day(day, bad, quarantine_schema(contract), facts, guard=guard)
    schema = validated_schema(contract, fingerprints=fingerprints)
    validated.commit_day(day, good, schema, facts, guard=guard)
    return Validated(job, good, bad, raw_rows, unchanged=False)


def validate_piece(
    job: Job, piece: Piece, progress: Report
) -> tuple[list[Part], list[Part]]:
    """Cut a piece in two: a validated part for each shard, quarantine where there is any.

    Rows that are as they were the night before go to row groups of their own, so that
    the scorer need not decode them to find the others.
    """
    rules, raw = _rules_of(job.contract), job.contract.raw_schema()
    with ExitStack() as stack:
        sides = [
            stack.enter_context(_Sides(job, piece, part.receipt.shard, part.path.name))
            for part in piece.raw
        ]
        by_shard = {side.shard: side for side in sides}
        for batch in piece.read():
            found = pa.Table.from_batches([batch]).select(raw.names)
            # What is pinned may have narrower types, of which each value fits.
            split = rules.split(pl.DataFrame(found.cast(raw)), piece.duplicated)
            for rows, schema, keep in (
                (split.good, job.contract.feature_schema(), _Sides.keep),
                (split.bad, quarantine_schema(job.contract), _Sides.put_aside),
            ):
                if not len(rows):
                    continue
                table = rows.to_arrow().cast(schema)
                hashes = hash_keys(table[job.contract.key.name])
                if len(sides) == 1:
                    keep(sides[0], table, hashes)
                    continue
                for shard, mine, theirs in cut(table, hashes, job.shards):
                    keep(by_shard[shard], mine, theirs)
            progress(len(batch))
        bad = [part for side in sides if (part := side.finish_bad())]
        return [side.finish_good() for side in sides], bad


@lru_cache(maxsize=1)
def _rules_of(contract: Contract) -> RowRules:
    """The same for each piece: of thousands of features they take a second to make."""
    return RowRules(contract)


class _Sides:
    """The parts that a piece leaves in a shard: of rows to score, and if there are any,
    of rows to quarantine.
    """

    def __init__(self, job: Job, piece: Piece, shard: int, raw: str) -> None:
        self.shard = shard
        self._job, self._piece = job, piece
        self._facts = {"raw": raw, "contract": job.contract.digest}
        self._stack = ExitStack()
        self._good = self._new(job.validated)
        self._seen: set[str] = set()
        self._bad: _Side | None = None
        self._broken: Counter[str] = Counter()

    def keep(self, rows: pa.Table, hashes: np.ndarray) -> None:
        if not self._job.fingerprints:
            self._good.write(rows, hashes)
            return
        rows, found = _with_fingerprints(rows, self._job.contract)
        same, parts = self._job.before.find(self.shard, hashes, found)
        self._seen |= parts
        for kind, which in enumerate((~same, same)):
            if which.any():
                self._good.write(*_only(rows, hashes, which), kind)

    def put_aside(self, rows: pa.Table, hashes: np.ndarray) -> None:
        self._bad = self._bad or self._new(self._job.quarantined)
        self._bad.write(rows, hashes)
        self._broken.update(counts_of(pl.Series(rows[RULES])))

    def finish_good(self) -> Part:
        facts: dict[str, Any] = self._facts | {"rules": dict(self._broken)}
        if self._job.fingerprints:
            same = [at for at, kind in enumerate(self._good.flush()) if kind]
            hint = LayoutHint(self._job.before.of, same, sorted(self._seen))
            facts |= {FINGERPRINT: True, HINT: asdict(hint)}
        return self._good.finish(facts)

    def finish_bad(self) -> Part | None:
        return self._bad.finish(self._facts) if self._bad else None

    def _new(self, table: Table) -> "_Side":
        job, chunk = self._job, self._piece.number
        features = table is job.validated
        schema = (
            validated_schema(job.contract, fingerprints=job.fingerprints)
            if features
            else quarantine_schema(job.contract)
        )
        receipt = Receipt(
            table.name, job.day, self.shard, chunk, job.id, ControlTotal()
        )
        writer = PartWriter(
            table.part_path(job.day, self.shard, job.id, chunk),
            schema,
            row_group_rows=self._piece.row_group_rows,
            numbers=features,
            compression=FEATURES if features else RECORDS,
            kinds=2 if job.fingerprints else 1,
        )
        return _Side(self._stack.enter_context(writer), receipt)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()


class _Side:
    """A part that is being written, with the total of what went in."""

    def __init__(self, writer: PartWriter, receipt: Receipt) -> None:
        self._writer, self._receipt = writer, receipt

    def write(self, rows: pa.Table, hashes: np.ndarray, kind: int = 0) -> None:
        self._writer.write(rows, kind)
        total = self._receipt.total + ControlTotal.of_hashes(hashes)
        self._receipt = replace(self._receipt, total=total)

    def flush(self) -> list[int]:
        return self._writer.flush()

    def finish(self, facts: dict[str, Any]) -> Part:
        return self._writer.finish(replace(self._receipt, facts=facts))


def _only(
    rows: pa.Table, hashes: np.ndarray, which: np.ndarray
) -> tuple[pa.Table, np.ndarray]:
    if which.all():
        return rows, hashes
    return rows.take(pa.array(np.flatnonzero(which))), hashes[which]


def _pieces(
    raw: list[Part], contract: Contract, row_group_rows: int, parallel_map: ParallelMap
) -> list[Piece]:
    """The pieces of a raw day; the same whatever machine validates it."""
    key, columns = contract.key.name, contract.raw_schema().names
    what = f"raw_features {raw[0].receipt.day}"
    pin = pin_of(raw)
    rows = PinnedRows.of(pin) if pin else None
    if rows:
        contract.check_schema(rows.schema, what)
    else:
        for part in raw:
            _, file = open_part(part.path)
            with file:
                contract.check_schema(file.schema_arrow, what)
    # Of a pinned day the raw parts hold the keys: of every row, in its shard.
    duplicated = parallel_map(partial(_duplicated_in, key), raw)
    if rows is None:
        return [
            Piece(
                0,
                [part],
                partial(read_batches, part.path, rows=row_group_rows, columns=columns),
                keys,
                row_group_rows,
            )
            for part, keys in zip(raw, duplicated, strict=True)
        ]
    shards = [part.receipt.shard for part in raw]
    if shards != list(range(len(raw))):
        msg = f"{what} has parts of the shards {shards}, expected 0 to {len(raw) - 1}"
        raise LakeError(msg)
    twice = pl.concat(duplicated)
    return [
        Piece(
            number,
            raw,
            partial(rows.batches, columns, groups),
            twice,
            row_group_rows + int(row_group_rows * UNEVEN),
        )
        for number, groups in enumerate(rows.pieces(row_group_rows * len(raw)))
    ]


def validated_schema(contract: Contract, *, fingerprints: bool) -> pa.Schema:
    """The columns of validated features, with the fingerprint of them if asked for."""
    schema = contract.feature_schema()
    # Delta has no unsigned integers.
    return schema.append(pa.field(FINGERPRINT, pa.int64())) if fingerprints else schema


def _with_fingerprints(
    rows: pa.Table, contract: Contract
) -> tuple[pa.Table, np.ndarray]:
    rows = rows.combine_chunks()
    found = fingerprint([rows[name].to_numpy() for name in contract.feature_names])
    return rows.append_column(FINGERPRINT, pa.array(found.view(np.int64))), found


def quarantine_schema(contract: Contract) -> pa.Schema:
    """The columns of quarantined rows: the raw row, whole, and the rules it broke."""
    return contract.raw_schema().append(pa.field(RULES, pa.list_(pa.string())))


def _duplicated_in(key: str, part: Part, _: Report) -> pl.Series:
    return duplicated_keys(part.path, key)


def duplicated_keys(part: StoragePath, key: str) -> pl.Series:
    """The keys that a raw part has more than once.

    A key's rows are all in one shard, so one part at a time is enough. Keys whose hashes
    are all different are different themselves; only where two agree are the keys asked.

    Raises:
        CorruptPartError: the part can't be read.
    """
    try:
        with pq.ParquetFile(source(part), page_checksum_verification=True) as file:
            keys = file.read(columns=[key], use_threads=False)[key]
    except (OSError, pa.ArrowException) as error:
        msg = f"part {part} can't be read: {error}"
        raise CorruptPartError(msg) from error
    hashes = np.sort(hash_keys(keys))
    if not (hashes[1:] == hashes[:-1]).any():
        return pl.Series(key, keys.slice(0, 0))
    query = (
        f'SELECT "{key}" FROM rows WHERE "{key}" IS NOT NULL '
        f'GROUP BY "{key}" HAVING count(*) > 1'
    )
    with duckdb.connect() as connection:
        connection.register("rows", pa.table({key: keys}))
        return connection.sql(query).pl()[key]


def contract_of(parts: list[Part]) -> str:
    """The digest of the contract under which a day was validated.

    Raises:
        ContractError: its parts don't agree.
    """
    digests = {part.receipt.facts["contract"] for part in parts}
    if len(digests) != 1:
        msg = f"validated under {len(digests)} contracts, expected 1: {sorted(digests)}"
        raise ContractError(msg)
    return digests.pop()
