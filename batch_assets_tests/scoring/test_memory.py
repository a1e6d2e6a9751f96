"""Memory follows the chunk, not the day: four times the rows, in as many more shards."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from deltalake import convert_to_deltalake

from batch_assets.models.contract import Contract
from batch_assets.models.registry import Registry
from batch_assets.models.writing import save_release
from batch_assets_tests.toys import DAY, NAME

FEATURES = 16
GROUP_ROWS = 65_536
SHARD_ROWS = 250_000

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


def write_day(path: Path, rows: int) -> None:
    random = np.random.default_rng(0)
    schema = pa.schema(
        [("user_id", pa.int64())]
        + [(f"f{number}", pa.float32()) for number in range(FEATURES)]
    )
    path.parent.mkdir(parents=True)
    with pq.ParquetWriter(path, schema) as writer:
        for start in range(0, rows, GROUP_ROWS):
            count = min(GROUP_ROWS, rows - start)
            keys = np.arange(start, start + count)
            columns = random.random((FEATURES, count), dtype=np.float32)
            writer.write_table(pa.table([keys, *columns], schema=schema))


def growth(root: Path, rows: int, how: str) -> dict[str, float]:
    """How far memory rose in each step and on the whole road, in MiB, in a process."""
    write_day(root / "days" / "day.parquet", rows)
    if how == "pinned":
        convert_to_deltalake(root / "days")
    release = save_release(
        root / "made",
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
    registry = Registry(root)
    registry.add(release.folder)
    registry.approve(NAME, release.digest, why="the tests need it", by="ada")
    shards = str(rows // SHARD_ROWS)
    found = subprocess.run(
        [sys.executable, "-c", ROAD, str(root), DAY, shards, how],
        capture_output=True,
        text=True,
        check=False,
        timeout=240,
    )
    assert found.returncode == 0, found.stderr
    return json.loads(found.stdout)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("how", ["copied", "pinned"])
def test_memory_follows_the_chunk_and_not_the_day(tmp_path: Path, how: str) -> None:
    one = growth(tmp_path / "one", 1_000_000, how)
    four = growth(tmp_path / "four", 4_000_000, how)

    assert four["road"] <= 1.25 * one["road"], (one, four)
