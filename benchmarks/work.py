"""The work that every column does: generated subscribers, validated; two releases.

The data is generated, from a fixed seed. It knows no column.
"""

import argparse
import json
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from deltalake import convert_to_deltalake

from batch_assets.lake.day_run import DayRun
from batch_assets.lake.page_layout import COMPACT, FAST, PageLayout
from batch_assets.lake.parts import Part
from batch_assets.lake.raw import RawSettings, copy_day
from batch_assets.lake.sources import DeltaSource, ReadContext
from batch_assets.lake.tables import Lake
from batch_assets.models.contract import Contract
from batch_assets.models.input_rows import InputRows
from batch_assets.models.registry import Registry
from batch_assets.models.release import Release
from batch_assets.models.writing import save_release
from batch_assets.quality.validation import validate_day
from benchmarks.column import CORES
from benchmarks.model import (
    FEATURES,
    LABELS,
    NAMES,
    SIZES,
    Size,
    make_model,
    save_model,
)

DAY = "2026-01-05"
NEXT_DAY = "2026-01-06"
# The project's, whose features lie as they do in memory; and the same rows, compact.
PIPELINE = "bench"
COMPACT_PIPELINE = "compact"
SHARDS = 8
ROW_GROUP_ROWS = 65_536
CHUNK_ROWS = 262_144
SOURCE_ROWS = 1 << 18


def make_contract() -> Contract:
    return Contract.model_validate(
        {
            "key": {"name": "user_id", "dtype": "int64"},
            "features": [{"name": name, "dtype": "float32"} for name in NAMES],
            "outputs": [
                {"name": "label", "dtype": "int64", "min": 0, "max": LABELS - 1},
                {"name": "confidence", "dtype": "float32", "min": 0, "max": 1},
            ],
        }
    )


def make_release(folder: Path, size: Size) -> Release:
    """The same bytes each time."""
    module = make_model(size)
    inputs = torch.randn(4_096, FEATURES)
    return save_release(
        folder,
        name=size.name,
        module=module,
        contract=make_contract(),
        golden_inputs=inputs[:64],
        usual=InputRows(np.ascontiguousarray(inputs.numpy().T)),
        about={"data": "generated"},
    )


def write_source(folder: Path, rows: int, changed: float = 0.0) -> None:
    """Subscribers with keys in no order, in a Delta table of files of `SOURCE_ROWS`.

    They are the same each time, but for the share `changed`, here and there among them.
    """
    folder.mkdir(parents=True, exist_ok=True)
    keys = np.random.default_rng(11).permutation(rows)
    schema = make_contract().raw_schema()

    def write(start: int) -> None:
        random, change = (np.random.default_rng([start, seed]) for seed in (11, 13))
        mine = keys[start : start + SOURCE_ROWS]
        features = random.standard_normal((FEATURES, len(mine)), dtype=np.float32)
        features[0, change.random(len(mine)) < changed] += 1
        table = pa.table([pa.array(mine), *map(pa.array, features)], schema=schema)
        # A key is there once, and no float twice: a dictionary is tried in vain.
        file = folder / f"{start // SOURCE_ROWS:04d}.parquet"
        pq.write_table(table, file, use_dictionary=False)

    with ThreadPoolExecutor(CORES) as pool:
        list(pool.map(write, range(0, rows, SOURCE_ROWS)))
    convert_to_deltalake(folder)


def prepare(
    root: Path,
    rows: int,
    *,
    shards: int = SHARDS,
    changed: float | None = None,
    sizes: Mapping[str, Size] = SIZES,
) -> None:
    """Write the source and validate it in either layout: every column reads the same rows.

    With `changed` there are two nights, with fingerprints, in the fast layout alone: the
    second differs from the first in so large a share of the rows, and is the one that
    the work is.

    What a column needs is in `work.json`: it may not have this package at hand.
    """
    versions = {}
    for size in sizes.values():
        release = make_release(root / "releases" / size.name, size)
        registry = Registry(root)
        registry.add(release.folder)
        registry.approve(size.name, release.digest, channel="batch", why="benchmark")
        versions[size.name] = release.digest
        save_model(make_model(size), root / f"{size.name}.pt")
    write_source(root / "source", rows)
    fingerprints = changed is not None
    fast = _validated(root, DAY, "source", shards, FAST, fingerprints=fingerprints)
    compact = fast
    if changed is None:
        compact = _validated(root, DAY, "source", shards, COMPACT, fingerprints=False)
    else:
        write_source(root / "next_source", rows, changed)
        compact = fast = _validated(
            root, NEXT_DAY, "next_source", shards, FAST, fingerprints=True
        )
    described = {
        "rows": sum(part.receipt.total.rows for part in fast),
        "files": [str(part.path) for part in compact],
        "fast_files": [str(part.path) for part in fast],
        "versions": versions,
    }
    (root / "work.json").write_text(json.dumps(described), encoding="utf-8")


def _validated(
    root: Path,
    day: str,
    source: str,
    shards: int,
    layout: PageLayout,
    *,
    fingerprints: bool,
) -> list[Part]:
    contract = make_contract()
    lake = Lake(root, PIPELINE if layout is FAST else COMPACT_PIPELINE)
    day_run = DayRun(lake, day)
    copy_day(
        day_run,
        DeltaSource(kind="delta", table=str(root / source), day_column=None),
        ReadContext(day, "UTC", contract.key.name, base=root, project=root),
        RawSettings(contract.raw_schema(), shards, ROW_GROUP_ROWS),
        check=lambda schema: contract.check_schema(schema, "the source"),
        newest=day,
    )
    return validate_day(
        day_run,
        contract,
        row_group_rows=ROW_GROUP_ROWS,
        layout=layout,
        fingerprints=fingerprints,
    ).parts


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("root", type=Path)
    parser.add_argument("--rows", type=int, default=4_000_000)
    asked = parser.parse_args()
    prepare(asked.root.resolve(), asked.rows)
