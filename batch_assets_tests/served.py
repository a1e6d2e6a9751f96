"""Versions made of numbers that tell which version they are of, without a night.

They are built, proved and swapped by the code that publishes; only the evidence of a
night is left out.
"""

import itertools
from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from batch_assets.lake.page_layout import NUMBERS
from batch_assets.lake.part_writer import PartWriter
from batch_assets.lake.parts import Part
from batch_assets.lake.receipts import PredictionsReceipt
from batch_assets.lake.reconciliation import ControlTotal
from batch_assets.lake.shards import content, cut, hash_keys
from batch_assets.snapshots.build import build_version
from batch_assets.snapshots.flattening import assembled
from batch_assets.snapshots.forms import Form, LabelForm, RankingForm, VectorForm
from batch_assets.snapshots.manifest import SnapshotManifest
from batch_assets.snapshots.publish import swap
from batch_assets.snapshots.store import CURRENT, SnapshotStore

FIRST = date(2026, 1, 1)
OUTPUTS = ("number", "mixed")
VERDICTS = ("safe", "unsafe", "review")
ITEMS = tuple(2**40 + 3 * n for n in range(50))
FORMS: tuple[Form, ...] = (
    LabelForm(name="verdict", classes=VERDICTS),
    VectorForm(name="profile", size=3),
    RankingForm(name="next_items", k=3, spare=2, items=ITEMS),
)


def mixed(keys: np.ndarray, number: int) -> np.ndarray:
    """An output of each key that no other version has for it, int64 (rows,)."""
    return keys.astype(np.int64) * 1_000_003 + number


def table_of(number: int, keys: Any, outputs: dict[str, Any] | None = None) -> pa.Table:
    """The rows of a version; of integer keys, `OUTPUTS` if none are given."""
    keys = keys if isinstance(keys, pa.Array) else pa.array(keys)
    if outputs is None:
        numbers = np.full(len(keys), number, np.int32)
        outputs = {"number": numbers, "mixed": mixed(keys.to_numpy(), number)}
    return pa.table({"user_id": keys, **outputs})


def formed(number: int, keys: np.ndarray) -> dict[str, np.ndarray]:
    """The columns of a version with a label, a vector and a ranking that tell the same."""
    first = (keys.astype(np.int64) * 7 + number) % len(ITEMS)
    columns = {
        "number": np.full(len(keys), number, np.int32),
        "mixed": mixed(keys, number),
        "verdict": ((keys + number) % len(VERDICTS)).astype(np.int32),
    }
    columns |= {f"profile.{at}": (first + at / 2).astype(np.float32) for at in range(3)}
    columns |= {f"next_items.{at}": (first + at) % len(ITEMS) for at in range(5)}
    return columns | {
        f"next_items_scores.{at}": np.full(len(keys), number - at / 4, np.float32)
        for at in range(5)
    }


def told(number: int, key: int, denied: int | None = None) -> dict[str, Any]:
    """What a reader gets of a key of such a version, but for an item that is denied."""
    first = (key * 7 + number) % len(ITEMS)
    ranked = [(ITEMS[(first + at) % len(ITEMS)], number - at / 4) for at in range(5)]
    return {
        "number": number,
        "mixed": key * 1_000_003 + number,
        "verdict": VERDICTS[(key + number) % len(VERDICTS)],
        "profile": [first + at / 2 for at in range(3)],
        "next_items": [pair for pair in ranked if pair[0] != denied][:3],
    }


def make_parts(
    folder: Path, rows: pa.Table, shards: int, plan: SnapshotManifest
) -> list[Part]:
    """Predictions as a night leaves them, sealed, with receipts."""
    hashes, parts = hash_keys(rows["user_id"]), {}
    for shard, shard_rows, its in cut(rows, hashes, shards):
        parts[shard] = (shard_rows, its)
    empty = (rows.slice(0, 0), hashes[:0])
    made = []
    for shard in range(shards):
        shard_rows, its = parts.get(shard, empty)
        outputs = [shard_rows[name].to_numpy() for name in shard_rows.column_names[1:]]
        receipt = PredictionsReceipt(
            plan.day,
            shard,
            0,
            "job",
            ControlTotal.of_hashes(its),
            content=content(its, outputs),
        )
        path = folder / f"shard={shard}" / "part.parquet"
        written = assembled(shard_rows, plan)
        with PartWriter(
            path, written.schema, row_group_rows=65_536, layout=NUMBERS
        ) as writer:
            writer.write(written)
            made.append(writer.finish(receipt))
    return made


def build(
    snapshots: SnapshotStore | Path,
    number: int,
    keys: Any,
    *,
    shards: int = 4,
    outputs: dict[str, Any] | None = None,
    forms: tuple[Form, ...] = (),
    age: timedelta = timedelta(0),
    stale_after: float = 3600.0,
    raw_rows: int | None = None,
) -> SnapshotManifest:
    """A version of the day `FIRST` plus `number`, whole on disk and not served."""
    store = SnapshotStore.at(snapshots)
    store.folder.mkdir(parents=True, exist_ok=True)
    day = (FIRST + timedelta(days=number)).isoformat()
    rows = table_of(number, keys, outputs)
    version = _free(store, f"{day}-{number:012x}")
    building = store.folder / f".building-{version}"
    plan = SnapshotManifest(
        pipeline=store.pipeline,
        version=version,
        day=day,
        created_at=datetime.now(UTC) - age,
        stale_after_seconds=stale_after,
        key="user_id",
        key_dtype="string" if pa.types.is_string(rows["user_id"].type) else "int64",
        outputs=tuple(rows.column_names[1:]),
        model_name="toy",
        model_version=f"{number:064x}",
        job="job",
        predictions=version,
        files=(),
        parent=store.current(),
        forms=forms,
    )
    parts = make_parts(store.folder / ".parts" / version, rows, shards, plan)
    each = {p.receipt.shard: p.receipt.total.rows for p in parts}
    if raw_rows is not None:
        each = {0: raw_rows}
    earlier = [(store.version_folder(m.version), m) for m in store.versions()]
    manifest = build_version(building, plan, parts, each, earlier[::-1])
    building.rename(store.version_folder(version))
    return manifest


def serve(
    snapshots: SnapshotStore | Path, number: int, keys: Any, **changes: Any
) -> SnapshotManifest:
    """A version, built and swapped in as a night's is, if nothing speaks against."""
    store = SnapshotStore.at(snapshots)
    manifest = build(store, number, keys, **changes)
    with store.lock():
        swap(store, manifest.version, "the tests need it", lambda: None)
    return manifest


def set_current(snapshots: SnapshotStore | Path, text: str) -> None:
    """Write CURRENT by hand, whatever it says."""
    folder = SnapshotStore.at(snapshots).folder
    beside = folder / "by-hand"
    beside.write_text(text, encoding="utf-8")
    beside.replace(folder / CURRENT)


def _free(store: SnapshotStore, name: str) -> str:
    names: Sequence[str] = [m.version for m in store.versions()]
    tries = itertools.chain([name], (f"{name}-{n}" for n in itertools.count(2)))
    return next(free_name for free_name in tries if free_name not in names)
