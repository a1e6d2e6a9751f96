"""Generated rows as a night leaves them, validated, and what a column is told of them."""

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from batch_assets import Contract
from batch_assets.lake.day_run import DayRun
from batch_assets.lake.raw import RawSettings, copy_day
from batch_assets.lake.sources import ParquetSource, ReadContext
from batch_assets.quality.validation import validate_day


def write_validated(
    root: Path,
    run: DayRun,
    contract: Contract,
    rows: pa.Table,
    versions: dict[str, str],
    *,
    shards: int,
    row_group_rows: int,
) -> None:
    """Validate rows as one day of a pipeline, and write `work.json`.

    Args:
        root: where they go.
        run: of the day.
        contract: of the rows.
        rows: raw.
        versions: the digest of each release that scores them, by its name.
        shards: of the pipeline.
        row_group_rows: of the files.
    """
    pq.write_table(rows, root / "source.parquet")
    copy_day(
        run,
        ParquetSource(kind="parquet", glob="source.parquet"),
        ReadContext(run.day, "UTC", contract.key.name, base=root, project=root),
        RawSettings(contract.raw_schema(), shards, row_group_rows),
        check=lambda schema: contract.check_schema(schema, "the source"),
        newest=run.day,
    )
    parts = validate_day(run, contract, row_group_rows=row_group_rows).parts
    files = [str(part.path) for part in parts]
    described = {
        "rows": len(rows),
        "files": files,
        "fast_files": files,
        "versions": versions,
    }
    (root / "work.json").write_text(json.dumps(described), encoding="utf-8")
