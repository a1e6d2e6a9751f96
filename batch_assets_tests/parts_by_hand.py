"""Parts and days of a table, written without a night."""

from pathlib import Path
from typing import Any

import pyarrow as pa

from batch_assets.lake.parts import Part, PartWriter, Receipt, open_part
from batch_assets.lake.reconciliation import ControlTotal
from batch_assets.lake.tables import Table
from batch_assets_tests.toys import DAY

SCHEMA = pa.schema([("user_id", pa.int64()), ("risk", pa.float32())])


def write_part(
    table: Table,
    keys: list[int],
    *,
    day: str = DAY,
    shard: int = 0,
    job: str = "a" * 64,
    chunk: int = 0,
    schema: pa.Schema = SCHEMA,
    made_of: str | None = None,
) -> Part:
    """A part whose columns beside the key all hold the key's number."""
    rows = pa.table({f.name: pa.array(keys).cast(f.type) for f in schema})
    path = table.part_path(day, shard, job, chunk)
    # Parts of one job and chunk are made of one another.
    origin = f"{(made_of or job)[:16]}-00000.parquet"
    facts = {"raw": origin if made_of else path.name, "validated": origin}
    total = ControlTotal.of(rows["user_id"])
    receipt = Receipt(table.name, day, shard, chunk, job, total, facts)
    with PartWriter(path, schema, row_group_rows=100) as writer:
        writer.write(rows)
        return writer.finish(receipt)


def commit(table: Table, keys: list[int], *, day: str = DAY, **changes: object) -> None:
    part = write_part(table, keys, day=day, **changes)
    table.commit_day(
        day, [part], changes.get("schema", SCHEMA), {"job": part.receipt.job}
    )


def rewritten(path: Path, table: pa.Table, **changes: Any) -> None:
    receipt = open_part(path)[0].receipt
    with PartWriter(path, table.schema, row_group_rows=1_000, numbers=True) as writer:
        writer.write(table)
        writer.finish(Receipt(**(vars(receipt) | changes)))
