"""Parts and days of a table, written without a night."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from batch_assets.lake.commits import (
    CommitFacts,
    RawCommit,
    ScoringCommit,
    ValidationCommit,
)
from batch_assets.lake.delta_table import Table
from batch_assets.lake.page_layout import NUMBERS
from batch_assets.lake.part_writer import PartWriter
from batch_assets.lake.parts import Part, open_part
from batch_assets.lake.receipts import KINDS, PredictionsReceipt
from batch_assets.lake.reconciliation import ControlTotal
from batch_assets.lake.tables import Lake
from batch_assets.storage import StoragePath
from batch_assets_tests.toys import DAY

SCHEMA = pa.schema([("user_id", pa.int64()), ("risk", pa.float32())])


def predictions_in(folder: StoragePath) -> Table[PredictionsReceipt, ScoringCommit]:
    """The table of predictions in a folder."""
    return Table(folder, PredictionsReceipt, ScoringCommit)


def scored_by(job: str, **facts: Any) -> ScoringCommit:
    """What a commit of a job's predictions records."""
    return ScoringCommit(
        **({"job": job, "model": "", "release": ""} | {"scored": 0, "dead": 0} | facts)
    )


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
    made = {
        "validated_features": {"raw": origin if made_of else path.name},
        "quarantined_rows": {"raw": origin if made_of else path.name},
        "predictions": {"validated": origin},
        "dead_letters": {"validated": origin},
    }
    total = ControlTotal.of(rows["user_id"])
    kind = KINDS[table.name]
    receipt = kind(day, shard, chunk, job, total, **made.get(table.name, {}))
    with PartWriter(path, schema, row_group_rows=100) as writer:
        writer.write(rows)
        return writer.finish(receipt)


def commit(table: Table, keys: list[int], *, day: str = DAY, **changes: object) -> None:
    part = write_part(table, keys, day=day, **changes)
    table.commit_day(day, [part], changes.get("schema", SCHEMA), facts_of(part))


def facts_of(part: Part) -> CommitFacts:
    """What a commit of a part records, whatever its table."""
    job, table = part.receipt.job, part.receipt.table
    if table == "raw_features":
        return RawCommit(job, {})
    if table in ("validated_features", "quarantined_rows"):
        return ValidationCommit(job, "")
    return ScoringCommit(job, "", "", scored=part.rows, dead=0)


def rewritten(path: Path, table: pa.Table, **changes: Any) -> None:
    receipt = open_part(path)[0].receipt
    with PartWriter(path, table.schema, row_group_rows=1_000, layout=NUMBERS) as writer:
        writer.write(table)
        writer.finish(replace(receipt, **changes))


def spoil_shard(lake: Lake, day: str, shard: int) -> bytes:
    """Flip a bit of a validated shard, so that it can't be read; what it was."""
    [path] = lake.validated_features.of_shards([shard]).paths(day)
    whole = path.read_bytes()
    with pq.ParquetFile(path) as file:
        chunk = file.metadata.row_group(0).column(1)
    data = bytearray(whole)
    data[chunk.data_page_offset + chunk.total_compressed_size - 1] ^= 1
    path.write_bytes(data)
    return whole
