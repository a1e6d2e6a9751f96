"""Validate a day: raw rows become features for the scorer, or quarantined rows.

Bad schema stops, bad rows wait. A day is cut into pieces, each a task of its own: the
raw part of one shard, or a run of row groups of a pinned source, whose rows go to every
shard. It knows no model, only the contract; and not where the raw rows came from.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import duckdb
import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from batch_assets.errors import ContractError, CorruptPartError, LakeError
from batch_assets.incremental.previous_day import FINGERPRINT, previous_day
from batch_assets.lake.books import totals_by_shard
from batch_assets.lake.commits import ValidationCommit
from batch_assets.lake.day_run import DayRun
from batch_assets.lake.page_layout import PageLayout, layout_for
from batch_assets.lake.parts import Part, open_part, read_batches
from batch_assets.lake.pins import PinnedRows, RowGroups
from batch_assets.lake.raw import job_of, pin_of
from batch_assets.lake.receipts import QuarantineReceipt, RawReceipt, ValidatedReceipt
from batch_assets.lake.reconciliation import ControlTotal, must_close, total_of
from batch_assets.lake.shards import hash_keys
from batch_assets.lake.texts import NOT_UTF8, taken
from batch_assets.models.contract import Contract
from batch_assets.parallel import ParallelMap, Report, on_cores
from batch_assets.quality.pieces import (
    Piece,
    ValidationTask,
    quarantine_schema,
    validate_piece,
    validated_schema,
)
from batch_assets.storage import StoragePath, readable

# Shards of a piece of a pinned source are of about the same size, not the same: what is
# over a row group by so little goes into it, and not into one of a few rows.
UNEVEN = 1 / 8


@dataclass(frozen=True)
class Validated:
    """What a validation left: the job, its parts, and whether it was there already."""

    job: str
    parts: list[Part[ValidatedReceipt]]
    quarantined: list[Part[QuarantineReceipt]]
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
            counts.update(part.receipt.rules)
        return dict(counts.most_common())


def validate_day(
    run: DayRun,
    contract: Contract,
    *,
    row_group_rows: int,
    layout: PageLayout | None = None,
    fingerprints: bool = False,
    parallel_map: ParallelMap = on_cores,
) -> Validated:
    """Validate a day of `raw_features` and commit both sides.

    Validated rows lie as `layout` says, or as `layout_for` the lake; it changes no row,
    so a day that is there already stays as it lies. With `fingerprints`, each validated row has one of its features, by which the next
    night tells whether it has changed. Pieces are done where `parallel_map` does them.

    Raises:
        LakeError: the day has no raw features.
        SourceError: what it is pinned to is gone.
        ContractError: its columns are not those of the contract.
        BooksError: rows in and rows out don't agree; nothing is committed.
    """
    lake, day, key = run.lake, run.day, contract.key.name
    layout = layout or layout_for(lake.folder)
    raw = lake.raw_features.parts(day)
    if not raw:
        msg = f"raw_features has no {day}: materialise it first"
        raise LakeError(msg)
    raw_total = total_of(part.receipt.total for part in raw)
    inputs = [[part.path.name, part.size] for part in raw]
    marks = [FINGERPRINT] if fingerprints else []
    job = job_of(day, inputs, contract.digest, row_group_rows, *marks)
    validated, quarantined = lake.validated_features, lake.quarantined_rows
    if (done := validated.done(day, job, key)) is not None and (
        # Both sides: a run may have died between the two commits.
        not lake.books(day, scoring=False).open_after_validation()
    ):
        return Validated(job, done, quarantined.parts(day), raw_total, unchanged=True)
    pieces = _pieces(raw, contract, row_group_rows, parallel_map)
    with previous_day(
        validated, day, key, wanted=fingerprints, parallel_map=parallel_map
    ) as previous:
        task = ValidationTask(
            day, job, validated, quarantined, contract, layout, len(raw), previous
        )
        sides = parallel_map(partial(validate_piece, task), pieces, run.progress)
    good = [part for side in sides for part in side.validated]
    bad = [part for side in sides for part in side.quarantined]
    must_close(
        day,
        totals_by_shard(raw),
        validated=totals_by_shard(good),
        quarantined=totals_by_shard(bad),
    )
    facts = ValidationCommit(job, contract.digest)
    # The validated commit comes last: it is what the scorer looks for.
    schema = quarantine_schema(contract)
    run.commit(quarantined, bad, schema, facts)
    schema = validated_schema(contract, fingerprints=fingerprints)
    run.commit(validated, good, schema, facts)
    return Validated(job, good, bad, raw_total, unchanged=False)


def contract_of(parts: Sequence[Part[ValidatedReceipt]]) -> str:
    """Return the digest of the contract under which a day was validated.

    Raises:
        ContractError: its parts don't agree.
    """
    digests = {part.receipt.contract for part in parts}
    if len(digests) != 1:
        msg = f"validated under {len(digests)} contracts, expected 1: {sorted(digests)}"
        raise ContractError(msg)
    return digests.pop()


def _pieces(
    raw: Sequence[Part[RawReceipt]],
    contract: Contract,
    row_group_rows: int,
    parallel_map: ParallelMap,
) -> list[Piece]:
    """The pieces of a raw day; the same whatever machine validates it."""
    key, names = contract.key.name, contract.raw_schema().names
    what = f"raw_features {raw[0].receipt.day}"
    pin = pin_of(raw)
    pinned = PinnedRows.of(pin) if pin else None
    if pinned:
        contract.check_schema(pinned.schema, what)
    else:
        for part in raw:
            _, file = open_part(part.path)
            with file:
                contract.check_schema(_of_source(file.schema_arrow), what)
    # Of a pinned day the raw parts hold the keys: of every row, in its shard.
    duplicated = parallel_map(partial(_duplicated_in, key), raw)
    if pinned is None:
        return [
            Piece(
                0,
                [part],
                partial(
                    read_batches,
                    part.path,
                    rows=row_group_rows,
                    columns=_told(part, names),
                ),
                keys,
                row_group_rows,
            )
            for part, keys in zip(raw, duplicated, strict=True)
        ]
    shards = [part.shard for part in raw]
    if shards != list(range(len(raw))):
        msg = f"{what} has parts of the shards {shards}, expected 0 to {len(raw) - 1}"
        raise LakeError(msg)
    return [
        Piece(
            number,
            raw,
            partial(_pinned_rows, pinned, contract, groups),
            pl.concat(duplicated),
            row_group_rows + int(row_group_rows * UNEVEN),
        )
        for number, groups in enumerate(pinned.pieces(row_group_rows * len(raw)))
    ]


def _told(part: Part[RawReceipt], names: list[str]) -> list[str]:
    """The columns to read of a raw part, with what it tells of its texts, if anything."""
    return [*names, NOT_UTF8] if part.receipt.not_utf8 else names


def _of_source(schema: pa.Schema) -> pa.Schema:
    """The columns of a raw part that are the source's own."""
    return pa.schema([field for field in schema if field.name != NOT_UTF8])


def _pinned_rows(
    pinned: PinnedRows, contract: Contract, groups: RowGroups
) -> Iterator[pa.RecordBatch]:
    """The rows of a piece, as a raw part would have them."""
    schema, what = contract.raw_schema(), f"the Delta table {pinned.pin.table}"
    for batch in pinned.batches(schema.names, groups):
        came = taken(batch, schema, contract.key.name, what)
        rows = came.with_found() if came.broken else came.rows
        yield from rows.combine_chunks().to_batches()


def _duplicated_in(key: str, part: Part[RawReceipt], _: Report) -> pl.Series:
    return duplicated_keys(part.path, key)


def duplicated_keys(part: StoragePath, key: str) -> pl.Series:
    """Return the keys that a raw part has more than once.

    A key's rows are all in one shard, so one part at a time is enough. Keys whose hashes
    are all different are different themselves; only where two agree are the keys asked.

    Raises:
        CorruptPartError: the part can't be read.
    """
    try:
        with pq.ParquetFile(
            readable(part).file, page_checksum_verification=True
        ) as file:
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
        repeated: pl.DataFrame = connection.sql(query).pl()
    return repeated[key]
