"""Days that are scored and published, with rows that are not, of numbers or of rankings."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa

from batch_assets.lake.day_run import DayRun
from batch_assets.lake.tables import Lake
from batch_assets.models.registry import Registry
from batch_assets.models.release import Release
from batch_assets.scoring.device import find_device
from batch_assets.scoring.engines.local import LocalEngine
from batch_assets.snapshots.history import Block
from batch_assets.snapshots.publish import Published, publish_day
from batch_assets.snapshots.store import BLOCKED, CURRENT, SnapshotStore
from batch_assets.spec import GateLimits, Serving
from batch_assets_tests import histories
from batch_assets_tests.rankings import contract_with_spare, write_with_spare
from batch_assets_tests.steps import score_rows
from batch_assets_tests.toys import (
    DAY,
    NAME,
    copy_rows,
    make_contract,
    make_rows,
    validate,
    write_toy_release,
)

ROWS = 400
BEFORE, NEXT = "2026-01-04", "2026-01-06"
HIGH = 0.85
OPEN = GateLimits(max_quarantine_share=0.1, max_dead_letter_share=0.3, min_coverage=0.6)


def narrow(folder: Path, **changes: Any) -> Release:
    """The toy release with an output that ends below 1: each day has dead letters."""
    outputs = [{"name": "risk", "dtype": "float32", "min": 0, "max": HIGH}]
    contract = make_contract(changes.pop("key_dtype", "int64"), outputs=outputs)
    return write_toy_release(folder, contract=contract, **changes)


def raw_rows(day: str, key_dtype: str = "int64") -> pa.Table:
    """A day's rows, two of which belong to quarantine."""
    rows = make_rows(ROWS, seed=int(day[-2:]), key_dtype=key_dtype)
    ages = pa.array([200, -1, *rows["age"].to_pylist()[2:]], pa.int16())
    return rows.set_column(1, "age", ages)


def write_rankings(folder: Path, **changes: Any) -> Release:
    """Rankings that hold more than they show, labels and vectors; each day has dead letters."""
    arguments = {
        "name": NAME,
        "contract": contract_with_spare(at_least=histories.K),
        "model_format": "safetensors",  # To trace it would take seconds.
        "import_path": "batch_assets_tests.histories:Histories",
    }
    return write_with_spare(folder, **arguments | changes)


def raw_histories(day: str) -> pa.Table:
    """A day's rows, of which two belong to quarantine and of eight too few items are left."""
    rows = histories.make_rows(ROWS, seed=int(day[-2:]))
    records = rows.to_pylist()
    for record in records[:2]:
        record["device"] = -1
    for record in records[2:10]:
        record["seen_items"] = list(histories.ITEMS[1:])
    return pa.Table.from_pylist(records, rows.schema)


@dataclass(frozen=True)
class Kind:
    """What is published: how its release and a day's rows are made."""

    write_release: Callable[..., Release]
    rows: Callable[[str], pa.Table]


KINDS = {
    "numbers": Kind(narrow, raw_rows),
    "rankings": Kind(write_rankings, raw_histories),
}


def score_days(root: Path, release: Release, rows: dict[str, pa.Table]) -> None:
    """Approve a release, and score days of rows with it."""
    root.mkdir()
    approved(root, release)
    lake, contract = Lake(root, NAME), release.contract
    for day, day_rows in rows.items():
        copy_rows(lake, day_rows, day=day, contract=contract)
        validate(lake, day=day, contract=contract)
        score(lake, release, day)


def score(lake: Lake, release: Release, day: str) -> None:
    score_rows(
        lake,
        release,
        day,
        LocalEngine(find_device("cpu"), workers=1),
        chunk_rows=100,
        gates=OPEN,
    )


def approved(root: Path, release: Release) -> Release:
    registry = Registry(root)
    registry.add(release.folder)
    registry.approve(NAME, release.digest, why="the tests need it", by="ada")
    return release


def root_of(lake: Lake) -> Path:
    return lake.folder.parent.parent


def snapshots_of(lake: Lake) -> SnapshotStore:
    return SnapshotStore(root_of(lake), lake.pipeline)


def publish(lake: Lake, day: str = DAY, **changes: Any) -> Published:
    serving = Serving(keep=changes.pop("keep", 7), keep_minutes=0)
    arguments: dict[str, Any] = {"gates": OPEN, "serving": serving}
    run = DayRun(lake, day, guard=changes.pop("guard", lambda: None))
    registry = Registry(root_of(lake))
    return publish_day(run, registry, snapshots_of(lake), **(arguments | changes))


def block(store: SnapshotStore) -> None:
    """As a rollback does, for an hour."""
    at = datetime.now(UTC)
    until = at + timedelta(hours=1)
    new_block = Block(at=at, until=until, by="ada", why="odd scores", version=None)
    store.overwrite(BLOCKED, new_block.model_dump_json())


def served(lake: Lake) -> dict[str, bytes]:
    """CURRENT and every byte of the version that it names."""
    store = snapshots_of(lake)
    version = store.current()
    assert version is not None
    paths = [store.folder / CURRENT, *store.version_folder(version).iterdir()]
    return {str(path.relative_to(store.folder)): path.read_bytes() for path in paths}


def revoke(lake: Lake, release: Release, tmp_path: Path) -> None:
    Registry(root_of(lake)).revoke(NAME, release.digest, why="it was wrong", by="bob")


def publish_nights(
    root: Path, release: Release, rows: pa.Table, *days: str
) -> SnapshotStore:
    """Approve a release; score and publish equal rows for some days."""
    lake, registry = Lake(root, NAME), Registry(root)
    approved(root, release)
    gates, store = GateLimits(), SnapshotStore(root, NAME)
    for day in days:
        copy_rows(lake, rows, day=day, contract=release.contract)
        validate(lake, day=day, contract=release.contract)
        engine = LocalEngine(find_device("cpu"), workers=1)
        score_rows(lake, release, day, engine, chunk_rows=100, gates=gates)
        run = DayRun(lake, day)
        publish_day(run, registry, store, gates=gates, serving=Serving())
    return store
