"""Validate a day: raw rows become features for the scorer, or quarantined rows.

Bad schema stops, bad rows wait. Each shard is a task of its own that reads one raw part
and writes one validated part, so memory holds one batch. It knows no model, only the
contract; and not where the raw rows came from.
"""

from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import duckdb
import numpy as np
import polars as pl
import pyarrow as pa

from batch_assets.errors import ContractError, LakeError
from batch_assets.lake.books import Tally, must_close, total
from batch_assets.lake.parts import Part, PartWriter, Receipt, open_part, read_batches
from batch_assets.lake.raw import job_of
from batch_assets.lake.shards import fingerprint
from batch_assets.lake.tables import Lake
from batch_assets.models.contract import Contract
from batch_assets.quality.rules import RULES, RowRules

FINGERPRINT = "fingerprint"


@dataclass(frozen=True)
class ShardTask:
    """What it takes to validate one shard, wherever that happens."""

    day: str
    shard: int
    job: str
    raw: Path
    validated: Path
    quarantined: Path
    contract: Contract
    row_group_rows: int
    fingerprints: bool


@dataclass(frozen=True)
class Validated:
    """What a validation left: the job, its parts, and whether it was there already."""

    job: str
    parts: list[Part]
    quarantined: list[Part]
    raw: Tally
    unchanged: bool

    @property
    def tally(self) -> Tally:
        return total(part.receipt.tally for part in self.parts)

    @property
    def quarantine(self) -> Tally:
        return total(part.receipt.tally for part in self.quarantined)

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
    guard: Callable[[], None] = lambda: None,
    progress: Callable[[int], None] = lambda rows: None,
) -> Validated:
    """Validate a day of `raw_features` and commit both sides.

    With `fingerprints`, each validated row has one of its features, by which the next
    night tells whether it has changed.

    Raises:
        LakeError: the day has no raw features.
        ContractError: its columns are not those of the contract.
        BooksError: rows in and rows out don't agree; nothing is committed.
    """
    raw = lake.raw_features.parts(day)
    if not raw:
        msg = f"raw_features has no {day}: materialise it first"
        raise LakeError(msg)
    raw_rows = total(part.receipt.tally for part in raw)
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
    tasks = [
        ShardTask(
            day=day,
            shard=part.receipt.shard,
            job=job,
            raw=part.path,
            validated=validated.part_path(day, part.receipt.shard, job, 0),
            quarantined=quarantined.part_path(day, part.receipt.shard, job, 0),
            contract=contract,
            row_group_rows=row_group_rows,
            fingerprints=fingerprints,
        )
        for part in raw
    ]
    good: list[Part] = []
    bad: list[Part] = []
    for task, part in zip(tasks, raw, strict=True):
        good_part, bad_part = validate_shard(task, progress)
        good.append(good_part)
        bad += [bad_part] if bad_part else []
        must_close(
            day,
            task.shard,
            part.receipt.tally,
            validated=good_part.receipt.tally,
            quarantined=bad_part.receipt.tally if bad_part else Tally(),
        )
    facts = {"job": job, "contract": contract.digest}
    # The validated commit comes last: it is what the scorer looks for.
    quarantined.commit_day(day, bad, quarantine_schema(contract), facts, guard=guard)
    schema = validated_schema(contract, fingerprints=fingerprints)
    validated.commit_day(day, good, schema, facts, guard=guard)
    return Validated(job, good, bad, raw_rows, unchanged=False)


def validate_shard(
    task: ShardTask, progress: Callable[[int], None] = lambda rows: None
) -> tuple[Part, Part | None]:
    """Cut one raw part in two; the quarantine part is left out if it has no rows."""
    contract, key = task.contract, task.contract.key.name
    schema = validated_schema(contract, fingerprints=task.fingerprints)
    bad_schema = quarantine_schema(contract)
    _, file = open_part(task.raw)
    with file:
        contract.check_schema(file.schema_arrow, f"raw_features {task.day}")
    rules = RowRules(contract)
    duplicated = duplicated_keys(task.raw, key)
    good = bad = Tally()
    broken: Counter[str] = Counter()
    with ExitStack() as stack:
        good_writer, bad_writer = (
            stack.enter_context(
                PartWriter(path, columns, row_group_rows=task.row_group_rows, floats=f)
            )
            for path, columns, f in (
                (task.validated, schema, True),
                (task.quarantined, bad_schema, False),
            )
        )
        for batch in read_batches(
            task.raw, rows=task.row_group_rows, columns=contract.raw_schema().names
        ):
            split = rules.split(pl.DataFrame(batch), duplicated)
            if len(split.good):
                rows = split.good.to_arrow().cast(contract.feature_schema())
                if task.fingerprints:
                    rows = rows.append_column(
                        schema.field(FINGERPRINT), _fingerprints(rows, contract)
                    )
                good_writer.write(rows)
                good += Tally.of(rows[key])
            if len(split.bad):
                rows = split.bad.to_arrow().cast(bad_schema)
                bad_writer.write(rows)
                bad += Tally.of(rows[key])
            broken.update(split.counts)
            progress(len(batch))
        facts = {"raw": task.raw.name, "contract": contract.digest}
        bad_part = None
        if bad.rows:
            bad_part = bad_writer.finish(
                Receipt(
                    "quarantined_rows", task.day, task.shard, 0, task.job, bad, facts
                )
            )
        good_part = good_writer.finish(
            Receipt(
                "validated_features",
                task.day,
                task.shard,
                0,
                task.job,
                good,
                {**facts, "rules": dict(broken), FINGERPRINT: task.fingerprints},
            )
        )
    return good_part, bad_part


def validated_schema(contract: Contract, *, fingerprints: bool) -> pa.Schema:
    """The columns of validated features, with the fingerprint of them if asked for."""
    schema = contract.feature_schema()
    # Delta has no unsigned integers.
    return schema.append(pa.field(FINGERPRINT, pa.int64())) if fingerprints else schema


def _fingerprints(rows: pa.Table, contract: Contract) -> pa.Array:
    columns = [rows[name].to_numpy() for name in contract.feature_names]
    return pa.array(fingerprint(columns).view(np.int64))


def quarantine_schema(contract: Contract) -> pa.Schema:
    """The columns of quarantined rows: the raw row, whole, and the rules it broke."""
    return contract.raw_schema().append(pa.field(RULES, pa.list_(pa.string())))


def duplicated_keys(part: Path, key: str) -> pl.Series:
    """The keys that a raw part has more than once.

    A key's rows are all in one shard, so one part at a time is enough.
    """
    query = (
        f'SELECT "{key}" FROM read_parquet(?, hive_partitioning = false) WHERE "{key}" IS NOT NULL '
        f'GROUP BY "{key}" HAVING count(*) > 1'
    )
    with duckdb.connect() as connection:
        return connection.sql(query, params=[str(part)]).pl()[key]


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
