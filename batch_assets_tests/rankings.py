"""A served pipeline whose rankings hold more than is shown, with or without a fallback."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from batch_assets import Ranking
from batch_assets.lake.day_run import DayRun
from batch_assets.lake.side_tables import copy_side_tables
from batch_assets.lake.sources import ParquetSource
from batch_assets.lake.tables import Lake
from batch_assets.models.contract import Contract
from batch_assets.models.post_specs import PostProcessing, TopK
from batch_assets.models.registry import Registry
from batch_assets.models.release import Release
from batch_assets.snapshots.publish import Published, publish_day
from batch_assets.snapshots.store import SnapshotStore
from batch_assets.spec import FallbackSpec, GateLimits, Serving
from batch_assets_tests.histories import (
    ITEMS,
    NAME,
    POST,
    K,
    make_contract,
    make_rows,
    write_histories,
)
from batch_assets_tests.nights import score
from batch_assets_tests.toys import DAY, context_of, copy_rows, project_of, validate

SPARE, ROWS = 4, 200
# A key that no night has.
NOBODY = 10**9
SOURCE = ParquetSource(kind="parquet", glob="popular-{{ day }}.parquet")
SPEC = FallbackSpec(table="popular", by="shop")


def contract_with_spare(**changes: Any) -> Contract:
    *others, _ = make_contract().outputs
    ranking = {"name": "next_items", "vocabulary": "items", "k": K, "spare": SPARE}
    return make_contract(
        outputs=(*others, Ranking(**(ranking | {"at_least": 0} | changes)))
    )


def write_with_spare(folder: Path, **changes: Any) -> Release:
    *others, ranking = POST.stages
    assert isinstance(ranking, TopK)
    longer = TopK(**ranking.model_dump() | {"k": K + SPARE})
    post = PostProcessing(gives=POST.gives, stages=(*others, longer))
    arguments = {"contract": contract_with_spare(), "post": post} | changes
    return write_histories(folder, **arguments)


def popular(**changes: Any) -> dict[str, Any]:
    """What two shops, and all others, get: one row each, as predictions have them."""
    shops = ["north", "south", None]
    table = {
        "shop": shops,
        "risk": [0.5, 0.25, 0.125],
        "verdict": ["safe", "review", "unsafe"],
        "confidence": [0.5] * 3,
        "band": ["low"] * 3,
        "profile": [[1.0, 2.0, 3.0]] * 3,
        # Fewer than are held, and more than are shown.
        "next_items": [list(ITEMS[at : at + 7]) for at in (0, 10, 20)],
        "next_items_scores": [[1.0 - n / 10 for n in range(7)]] * 3,
    }
    return table | changes


def approve(root: Path, release: Release) -> None:
    registry = Registry(root)
    registry.add(release.folder)
    registry.approve(NAME, release.digest, why="the tests need it", by="ada")


def take(lake: Lake, table: dict[str, Any], day: str = DAY) -> None:
    project = project_of(lake)
    project.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(table), project / f"popular-{day}.parquet")
    copy_side_tables(
        lake, {"popular": SOURCE}, context_of(project, day), newest=day, force=True
    )


def score_night(lake: Lake, release: Release, day: str = DAY) -> None:
    copy_rows(lake, make_rows(ROWS), day=day, contract=release.contract)
    validate(lake, day=day, contract=release.contract)
    score(lake, release, day=day)


def publish(
    lake: Lake, day: str = DAY, fallback: FallbackSpec | None = None
) -> Published:
    root = lake.folder.parent.parent
    return publish_day(
        DayRun(lake, day),
        Registry(root),
        SnapshotStore(root, NAME),
        gates=GateLimits(),
        serving=Serving(fallback=fallback),
    )


def items_of(answer: Any, name: str = "next_items") -> list[Any]:
    return [item for item, _ in answer.outputs[name]]
