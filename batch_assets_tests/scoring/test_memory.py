"""Memory follows the chunk, not the day: four times the rows, in as many more shards."""

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from deltalake import convert_to_deltalake

from batch_assets.models.contract import Contract
from batch_assets.models.post_specs import PostProcessing, TopK
from batch_assets.models.registry import Registry
from batch_assets.models.release import Release
from batch_assets.models.writing import save_release
from batch_assets_tests.toys import DAY, NAME

FEATURES = 16
ITEMS, LONGEST, K = 50, 32, 5
GROUP_ROWS = 65_536

ROAD = r"""
import json, re, sys
from pathlib import Path

from batch_assets_tests.steps import take, validate_rows, score_rows
from batch_assets.lake.day_run import DayRun
from batch_assets.lake.sources import DeltaSource, ParquetSource, ReadContext
from batch_assets.lake.tables import Lake
from batch_assets.models.registry import Registry
from batch_assets.scoring.device import find_device
from batch_assets.scoring.engines.local import LocalEngine
from batch_assets.snapshots.publish import publish_day
from batch_assets.snapshots.store import SnapshotStore
from batch_assets.spec import GateLimits, Serving


def peak_of(step):
    # Not ru_maxrss: Linux lets a child begin with that of its parent.
    Path("/proc/self/clear_refs").write_text("5")
    before = status("VmRSS")
    step()
    grown[step.__name__] = status("VmHWM") - before
    road.append(status("VmHWM"))


def status(name):
    text = Path("/proc/self/status").read_text()
    return int(re.search(name + r":\s+(\d+) kB", text)[1]) / 1024


def copy():
    take(
        lake,
        DeltaSource(kind="delta", table="days", day_column=None)
        if pinned
        else ParquetSource(kind="parquet", glob="days/*.parquet"),
        ReadContext(day, "UTC", contract.key.name, base=root, project=root),
        newest=day,
        schema=contract.raw_schema(),
        check=lambda schema: contract.check_schema(schema, "the source"),
        shards=shards,
        row_group_rows=group_rows,
    )


def validate():
    validate_rows(lake, day, contract, row_group_rows=group_rows)


def score():
    score_rows(
        lake,
        release,
        day,
        LocalEngine(find_device("cpu"), workers=2),
        chunk_rows=65_536,
        gates=GateLimits(),
    )


def publish():
    run, store = DayRun(lake, day), SnapshotStore(root, "toy")
    publish_day(run, registry, store, gates=GateLimits(), serving=Serving())


root, day, shards = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
pinned = sys.argv[4] == "pinned"
lake, registry, group_rows = Lake(root, "toy"), Registry(root), 16_384
release = registry.resolve("toy")
contract = release.contract
grown, road, start = {}, [], status("VmRSS")
for step in (copy, validate, score, publish):
    peak_of(step)
print(json.dumps(grown | {"road": max(road) - start}))
"""


class Wide(torch.nn.Module):
    """The mean of all features, through a sigmoid."""

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return torch.sigmoid(features.mean(dim=1))


def write_wide(folder: Path) -> Release:
    return save_release(
        folder,
        name=NAME,
        module=Wide(),
        contract=Contract.model_validate(
            {
                "key": {"name": "user_id", "dtype": "int64"},
                "features": [
                    {"name": f"f{number}", "dtype": "float32"}
                    for number in range(FEATURES)
                ],
                "outputs": [{"name": "score", "min": 0, "max": 1}],
            }
        ),
        golden_inputs=torch.rand(8, FEATURES),
        reference={},
    )


def wide_rows(random: np.random.Generator, rows: int) -> dict[str, Any]:
    columns = random.random((FEATURES, rows), dtype=np.float32)
    return {f"f{number}": column for number, column in enumerate(columns)}


class Counts(torch.nn.Module):
    """How often each item is in a history."""

    def forward(self, items: torch.Tensor, history_mask: torch.Tensor) -> torch.Tensor:
        counts = torch.zeros(items.shape[0], ITEMS)
        return counts.scatter_add(1, items, history_mask.float())


def write_counts(folder: Path) -> Release:
    history = {
        "kind": "sequence",
        "name": "history",
        "columns": [{"name": "items", "vocabulary": "items"}],
        "max_length": LONGEST,
    }
    ranking = {"kind": "ranking", "name": "next", "vocabulary": "items", "k": K}
    return save_release(
        folder,
        name=NAME,
        module=Counts(),
        contract=Contract.model_validate(
            {
                "key": {"name": "user_id", "dtype": "int64"},
                "features": [],
                "inputs": [history],
                "vocabularies": {"items": range(ITEMS)},
                "outputs": [ranking],
            }
        ),
        golden_inputs={"items": [np.arange(n) for n in range(1, 9)]},
        post=PostProcessing(
            gives=("scores",), stages=(TopK(of="scores", into="next", k=K),)
        ),
        model_format="safetensors",
        import_path=f"{__name__}:Counts",
    )


def histories(random: np.random.Generator, rows: int) -> dict[str, Any]:
    """Half as long as they may be, on average."""
    ends = np.concatenate([[0], random.integers(0, LONGEST + 1, rows).cumsum()])
    items = random.integers(0, ITEMS, ends[-1])
    return {"items": pa.ListArray.from_arrays(ends.astype(np.int32), pa.array(items))}


@dataclass(frozen=True)
class Kind:
    """What a day is of: a release, its rows, and how many of them a shard has."""

    write_release: Callable[[Path], Release]
    columns: Callable[[np.random.Generator, int], dict[str, Any]]
    shard_rows: int


# So many that even of a pinned source, whose pieces hold a row group for each shard, the
# smaller day has several: memory rises until then. A row of histories is larger.
SHARDS = 16
KINDS = {
    "numbers": Kind(write_wide, wide_rows, 62_500),
    "histories": Kind(write_counts, histories, 50_000),
}


def write_day(path: Path, kind: Kind, schema: pa.Schema, rows: int) -> None:
    random = np.random.default_rng(0)
    path.parent.mkdir(parents=True)
    with pq.ParquetWriter(path, schema) as writer:
        for start in range(0, rows, GROUP_ROWS):
            count = min(GROUP_ROWS, rows - start)
            keys = {"user_id": np.arange(start, start + count)}
            columns = keys | kind.columns(random, count)
            writer.write_table(pa.table(columns, schema=schema))


def growth(root: Path, kind: Kind, shards: int, how: str) -> dict[str, float]:
    """How far memory rose in each step and on the whole road, in MiB, in a process."""
    release = kind.write_release(root / "made")
    schema, rows = release.contract.raw_schema(), shards * kind.shard_rows
    write_day(root / "days" / "day.parquet", kind, schema, rows)
    if how == "pinned":
        convert_to_deltalake(root / "days")
    registry = Registry(root)
    registry.add(release.folder)
    registry.approve(NAME, release.digest, why="the tests need it", by="ada")
    found = subprocess.run(
        [sys.executable, "-c", ROAD, str(root), DAY, str(shards), how],
        capture_output=True,
        text=True,
        check=False,
    )
    assert found.returncode == 0, found.stderr
    return json.loads(found.stdout)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.timeout(3_600)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("how", ["copied", "pinned"])
def test_memory_follows_the_chunk_and_not_the_day(
    tmp_path: Path, how: str, kind: str
) -> None:
    one = growth(tmp_path / "one", KINDS[kind], SHARDS, how)
    four = growth(tmp_path / "four", KINDS[kind], 4 * SHARDS, how)

    print(f"\n{kind}, {how}: {one}, {four}")  # noqa: T201
    assert four["road"] <= 1.25 * one["road"], (one, four)
