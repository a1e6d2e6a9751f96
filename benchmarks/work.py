"""The work that every column of the benchmark does: generated subscribers, two models.

The data is generated, from a fixed seed. It knows no engine.
"""

import argparse
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from batch_assets.lake.raw import copy_day
from batch_assets.lake.sources import ParquetSource
from batch_assets.lake.tables import Lake
from batch_assets.models.contract import Contract
from batch_assets.models.registry import Registry
from batch_assets.models.release import Release
from batch_assets.models.writing import write_release
from batch_assets.quality.validation import validate_day

DAY = "2026-01-05"
FEATURES = 64
LABELS = 3
SHARDS = 8
ROW_GROUP_ROWS = 65_536
SOURCE_ROWS = 1 << 18


@dataclass(frozen=True)
class Size:
    """A model's shape: its hidden layers, and the floating-point operations of a row."""

    name: str
    hidden: tuple[int, ...]

    @property
    def flop(self) -> int:
        widths = (FEATURES, *self.hidden, LABELS)
        return sum(2 * a * b for a, b in zip(widths, widths[1:], strict=False))


SIZES = {
    "small": Size("small", (256, 256)),
    "heavy": Size("heavy", (1024, 1536, 1536, 768)),
}


class Mlp(torch.nn.Module):
    """A classifier: the label, and how sure it is of it."""

    def __init__(self, size: Size) -> None:
        super().__init__()
        widths = (FEATURES, *size.hidden)
        layers: list[torch.nn.Module] = []
        for before, after in zip(widths, widths[1:], strict=False):
            layers += [torch.nn.Linear(before, after), torch.nn.ReLU()]
        self.layers = torch.nn.Sequential(*layers, torch.nn.Linear(widths[-1], LABELS))

    def forward(self, features: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        confidence, label = torch.softmax(self.layers(features), dim=1).max(dim=1)
        return label, confidence


def make_contract() -> Contract:
    return Contract.model_validate(
        {
            "key": {"name": "user_id", "dtype": "int64"},
            "features": [
                {"name": f"f{i:02d}", "dtype": "float32"} for i in range(FEATURES)
            ],
            "outputs": [
                {"name": "label", "dtype": "int64", "min": 0, "max": LABELS - 1},
                {"name": "confidence", "dtype": "float32", "min": 0, "max": 1},
            ],
        }
    )


def make_release(folder: Path, size: Size) -> Release:
    """The same bytes each time: the weights come from a seed."""
    torch.manual_seed(7)
    module = Mlp(size).eval()
    inputs = torch.randn(4_096, FEATURES)
    with torch.inference_mode():
        label, confidence = module(inputs)
    return write_release(
        folder,
        name=size.name,
        module=module,
        contract=make_contract(),
        golden_inputs=inputs[:64],
        reference={"label": label.numpy(), "confidence": confidence.numpy()},
        about={"data": "generated"},
    )


def write_source(folder: Path, rows: int) -> None:
    """Subscribers with keys in no order, in files of `SOURCE_ROWS`."""
    folder.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(11)
    keys = random.permutation(rows)
    schema = make_contract().raw_schema()
    for number, start in enumerate(range(0, rows, SOURCE_ROWS)):
        mine = keys[start : start + SOURCE_ROWS]
        features = random.standard_normal((FEATURES, len(mine)), dtype=np.float32)
        table = pa.table([pa.array(mine), *map(pa.array, features)], schema=schema)
        pq.write_table(
            table, folder / f"{number:04d}.parquet", use_dictionary=["user_id"]
        )


def prepare(root: Path, rows: int) -> Lake:
    """Write the source and validate it, so that every column reads the same files."""
    for size in SIZES.values():
        release = make_release(root / "releases" / size.name, size)
        registry = Registry(root)
        registry.add(release.folder)
        registry.approve(size.name, release.digest, channel="batch", why="benchmark")
    write_source(root / "source", rows)
    lake, contract = Lake(root, "bench"), make_contract()
    copy_day(
        lake,
        ParquetSource(kind="parquet", glob=str(root / "source" / "*.parquet")),
        DAY,
        base=root,
        project=root,
        key=contract.key.name,
        schema=contract.raw_schema(),
        check=lambda schema: contract.check_schema(schema, "the source"),
        shards=SHARDS,
        row_group_rows=ROW_GROUP_ROWS,
    )
    validate_day(lake, DAY, contract, row_group_rows=ROW_GROUP_ROWS)
    return lake


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("root", type=Path)
    parser.add_argument("--rows", type=int, default=4_000_000)
    asked = parser.parse_args()
    prepare(asked.root.resolve(), asked.rows)
