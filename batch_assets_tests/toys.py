"""A toy pipeline: a contract, a model that honours it, rows, and the first steps.

Every builder is deterministic: equal arguments give equal bytes.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from deltalake import DeltaTable, write_deltalake

from batch_assets.lake.parts import read_columns
from batch_assets.lake.raw import Copied
from batch_assets.lake.sources import (
    DeltaSource,
    ParquetSource,
    ReadContext,
    Source,
)
from batch_assets.lake.tables import Lake
from batch_assets.lake.texts import NOT_UTF8
from batch_assets.models.contract import Contract
from batch_assets.models.formats import golden_batch
from batch_assets.models.release import Release
from batch_assets.models.writing import save_release
from batch_assets.quality.rules import RowRules
from batch_assets.quality.validation import Validated
from batch_assets.scoring.device import CPU_INSTRUCTIONS
from batch_assets.spec import PipelineSpec
from batch_assets_tests.steps import take, validate_rows

NAME = "toy"
DAY = "2026-01-05"
SHARDS = 4
ROW_GROUP_ROWS = 100
PLANS = ("free", "pro")


class ToyRisk(torch.nn.Module):
    """A logistic model; a missing number counts as zero."""

    def __init__(self, scale: float = 1.0) -> None:
        super().__init__()
        weights = torch.tensor([0.02, -0.004, 0.8, -1.1]) * scale
        self.weights = torch.nn.Parameter(weights, requires_grad=False)
        self.bias = torch.nn.Parameter(torch.tensor([-0.5]), requires_grad=False)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        known = torch.nan_to_num(features, nan=0.0)
        # Term by term: a matrix product adds up in another order for another layout of
        # the rows, on some CPUs, and tests compare bits.
        terms = [known[:, at] * self.weights[at] for at in range(4)]
        return torch.sigmoid(sum(terms, self.bias))


class MatrixRisk(ToyRisk):
    """The same by a matrix product, whose precision torch may lower."""

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        known = torch.nan_to_num(features, nan=0.0)
        return torch.sigmoid(known @ self.weights + self.bias)


def needs_cpu_with(precision: str) -> pytest.MarkDecorator:
    """Skips where the CPU has no instructions for a precision."""
    flags = CPU_INSTRUCTIONS[precision]
    there = any(torch.cpu.get_capabilities().get(flag) for flag in flags)
    return pytest.mark.skipif(not there, reason=f"no {precision} in this CPU")


def make_contract(key_dtype: str = "int64", **changes: Any) -> Contract:
    """The toy contract; `changes` replace `key`, `features` or `outputs`."""
    return Contract.model_validate(
        {
            "key": {"name": "user_id", "dtype": key_dtype},
            "features": [
                {"name": "age", "dtype": "int16", "min": 0, "max": 120},
                {
                    "name": "visits",
                    "dtype": "float32",
                    "nullable": True,
                    "min": 0,
                    "max": 1000,
                },
                {"name": "plan", "dtype": "string", "categories": PLANS},
                {"name": "active", "dtype": "bool"},
            ],
            "outputs": [{"name": "risk", "dtype": "float32", "min": 0, "max": 1}],
        }
        | changes
    )


def make_rows(
    n: int, *, seed: int = 0, first: int = 1, key_dtype: str = "int64"
) -> pa.Table:
    """Valid raw rows with the keys first .. first+n-1, in any order."""
    random = np.random.default_rng(seed)
    keys: Any = random.permutation(n) + first
    if key_dtype == "string":
        keys = [f"user-{key:07d}" for key in keys]
    return pa.table(
        {
            "user_id": keys,
            "age": random.integers(0, 121, n),
            "visits": pa.array(
                random.uniform(0, 1000, n).astype(np.float32),
                mask=random.random(n) < 0.1,
            ),
            "plan": np.asarray(PLANS)[random.integers(0, 2, n)].tolist(),
            "active": random.random(n) < 0.5,
        },
        schema=make_contract(key_dtype).raw_schema(),
    )


def features_of(rows: pa.Table, contract: Contract) -> torch.Tensor:
    """Raw rows as the model gets them, float32 (rows, features)."""
    import polars as pl

    frame = RowRules(contract).to_features(pl.DataFrame(rows))
    columns = frame.select(contract.feature_names).to_numpy()
    return torch.from_numpy(np.ascontiguousarray(columns))


def expected_risk(rows: pa.Table) -> np.ndarray:
    """What the toy model says of raw rows, in their order."""
    contract = make_contract(str(rows["user_id"].type))
    with torch.inference_mode():
        return ToyRisk()(features_of(rows, contract)).numpy()


def golden_tensors(release: Release) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """The golden rows of a release of features alone, (rows, features), and outputs."""
    rows, outputs = golden_batch(release)
    return torch.from_numpy(np.ascontiguousarray(rows.features).T), outputs


def write_toy_release(
    folder: Path, *, name: str = NAME, key_dtype: str = "int64", **changes: Any
) -> Release:
    """Write the toy release; `changes` go to `save_release`."""
    contract = make_contract(key_dtype)
    history = make_rows(2_000, seed=1, key_dtype=key_dtype)
    arguments: dict[str, Any] = {
        "name": name,
        "module": ToyRisk(),
        "contract": contract,
        "golden_inputs": features_of(make_rows(16, key_dtype=key_dtype), contract),
        "reference": {"risk": expected_risk(history)},
        "reference_days": np.arange(len(history)) % 5,
        "about": {"author": "the toy maker"},
    }
    return save_release(folder, **(arguments | changes))


def write_toy_release_as(model_format: str, folder: Path, **changes: Any) -> Release:
    """The toy release in one of the formats; `changes` go to `save_release`."""
    if model_format == "safetensors":
        changes = {"import_path": "batch_assets_tests.toys:ToyRisk"} | changes
    return write_toy_release(folder, model_format=model_format, **changes)


def make_spec(**changes: Any) -> PipelineSpec:
    """A pipeline over `days/{{ day }}.parquet`, small enough to have several chunks."""
    return PipelineSpec.model_validate(
        {
            "name": NAME,
            "start_day": "2026-01-01",
            "source": {"kind": "parquet", "glob": "days/{{ day }}.parquet"},
            "model": {"name": NAME},
            "shards": SHARDS,
            "row_group_rows": ROW_GROUP_ROWS,
            "chunk_rows": 2 * ROW_GROUP_ROWS,
        }
        | changes
    )


def write_source(project: Path, rows: pa.Table, *, day: str = DAY) -> Path:
    """Put a day's rows where `make_spec`'s source looks for them."""
    path = project / "days" / f"{day}.parquet"
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(rows, path)
    return path


def copy_rows(
    lake: Lake,
    rows: pa.Table,
    *,
    day: str = DAY,
    contract: Contract | None = None,
    project: Path | None = None,
    source: Source | None = None,
    **changes: Any,
) -> Copied:
    """Commit rows as a day of `raw_features`; `changes` go to `copy_day`."""
    project = project or project_of(lake)
    write_source(project, rows, day=day)
    source = source or ParquetSource(kind="parquet", glob="days/{{ day }}.parquet")
    context = context_of(project, day)
    arguments = copying(contract or make_contract())
    return take(lake, source, context, **(arguments | changes))


def pin_rows(
    lake: Lake,
    rows: pa.Table,
    *,
    day: str = DAY,
    contract: Contract | None = None,
    files: int = 3,
    project: Path | None = None,
    **changes: Any,
) -> Copied:
    """Pin rows as a day of `raw_features`, in a Delta table of so many files a day."""
    project = project or project_of(lake)
    if not (project / "events").exists():
        write_events(lake, rows, day=day, files=files, project=project)
    arguments = copying(contract or make_contract())
    source = DeltaSource(kind="delta", table="events")
    return take(lake, source, context_of(project, day), **(arguments | changes))


def project_of(lake: Lake) -> Path:
    return lake.folder.parent.parent / "project"


def context_of(
    project: Path, day: str = DAY, *, timezone: str = "UTC", key: str = "user_id"
) -> ReadContext:
    """A day to read, of a source in the project's folder."""
    return ReadContext(day, timezone, key, base=project, project=project)


def copying(contract: Contract) -> dict[str, Any]:
    """The arguments of `copy_day` beside the lake, the source and its context."""
    return {
        "newest": DAY,
        "schema": contract.raw_schema(),
        "check": lambda schema: contract.check_schema(schema, "the source"),
        "shards": SHARDS,
        "row_group_rows": ROW_GROUP_ROWS,
    }


def write_events(
    lake: Lake,
    rows: pa.Table,
    *,
    day: str = DAY,
    files: int = 1,
    project: Path | None = None,
    mode: Any = "append",
) -> DeltaTable:
    """Write rows of a day into the Delta table `events`, a version for each file."""
    path = (project or project_of(lake)) / "events"
    each = max(-(-len(rows) // files), 1)
    for start in range(0, max(len(rows), 1), each):
        some = rows.slice(start, each)
        some = some.append_column("day", pa.repeat(day, len(some)))
        write_deltalake(path, some, partition_by=["day"], mode=mode)
    return DeltaTable(path)


def validate(
    lake: Lake, *, day: str = DAY, contract: Contract | None = None, **changes: Any
) -> Validated:
    """Validate a day; `changes` go to `validate_day`."""
    arguments = {"row_group_rows": ROW_GROUP_ROWS} | changes
    return validate_rows(lake, day, contract or make_contract(), **arguments)


def read_day(lake: Lake, table: str, day: str = DAY) -> pa.Table:
    """The committed rows of a day of a table, by key."""
    parts = getattr(lake, table).parts(day)
    tables = [read_columns(part.path) for part in parts]
    rows = pa.concat_tables(tables).sort_by("user_id")
    # Beside the columns of the table, a raw part has one that tells of its texts.
    return rows.select([name for name in rows.column_names if name != NOT_UTF8])


def not_utf8(texts: Sequence[bytes | None]) -> pa.Array:
    """Text as some writers leave it: bytes of another encoding under the name of UTF-8."""
    held = pa.array(texts, pa.binary())
    return pa.Array.from_buffers(pa.string(), len(held), held.buffers())
