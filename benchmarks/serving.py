"""`make bench-serving`: five stores of the same keys, built and asked, as one table.

A night of this project makes the predictions. Each store is built from them and asked
for keys at random in a process that does nothing else; the stores take turns, round by
round. Then this project's reader is asked again while a publisher works beside it.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from contextlib import nullcontext
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from batch_assets import Snapshot
from batch_assets.lake.day_run import DayRun
from batch_assets.lake.delta_table import digest_of
from batch_assets.lake.raw import RawSettings, copy_day
from batch_assets.lake.sources import ParquetSource, ReadContext
from batch_assets.lake.tables import Lake
from batch_assets.models.contract import Contract, Feature, KeySpec
from batch_assets.models.output_specs import Output
from batch_assets.models.registry import Registry
from batch_assets.models.writing import save_release
from batch_assets.quality.validation import validate_day
from batch_assets.scoring.device import find_device
from batch_assets.scoring.engines.local import LocalEngine
from batch_assets.scoring.night import score_day
from batch_assets.scoring.plan import ScoringSettings
from batch_assets.snapshots.manifest import SnapshotManifest
from batch_assets.snapshots.publish import publish_day
from batch_assets.snapshots.retention import collect
from batch_assets.snapshots.store import SnapshotStore
from batch_assets.spec import GateLimits, Serving
from benchmarks.rankings import measure_rankings
from benchmarks.stores import BatchAssets, DuckDb, Lmdb, Redis, Sqlite, Store, missing
from benchmarks.tables import machine, print_tables, with_tables

HERE = Path(__file__).parent
BEGIN, END = "<!-- serving -->", "<!-- end of serving -->"
NAME, DAY = "subscribers", "2026-01-05"
FEATURES, OUTPUTS, SHARDS = 4, 20, 16
ROUNDS = 3
BESIDE_SECONDS = 10
WARM_LOOKUPS = 20_000
# Keys are spread, so that no store can guess where one lies.
SPREAD = 7
STORES = ["batch_assets", "duckdb", "sqlite", "lmdb", "redis"]


class Wide(torch.nn.Module):
    """Twenty outputs of four features."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.weights = torch.nn.Parameter(torch.randn(FEATURES, OUTPUTS))

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return torch.sigmoid(features @ self.weights)


def prepare(root: Path, rows: int) -> None:
    """A root with one scored day, nothing published."""
    contract = Contract(
        key=KeySpec(name="user_id", dtype="int64"),
        features=tuple(Feature(name=f"f{n}", dtype="float32") for n in range(FEATURES)),
        outputs=tuple(Output(name=f"o{n:02d}", min=0, max=1) for n in range(OUTPUTS)),
    )
    release = save_release(
        root / "release",
        name=NAME,
        module=Wide(),
        contract=contract,
        golden_inputs=torch.rand(8, FEATURES),
        reference={},
    )
    registry = Registry(root)
    registry.add(release.folder)
    registry.approve(NAME, release.digest, why="the benchmark's own")
    random = np.random.default_rng(0)
    features = random.random((FEATURES, rows), dtype=np.float32)
    keys = random.permutation(SPREAD * rows)[:rows]
    days = root / "days"
    days.mkdir()
    table = pa.table([keys, *features], schema=contract.raw_schema())
    pq.write_table(table, days / f"{DAY}.parquet")
    lake = Lake(root, NAME)
    run = DayRun(lake, DAY)
    copy_day(
        run,
        ParquetSource(kind="parquet", glob="days/*.parquet"),
        ReadContext(DAY, "UTC", "user_id", base=root, project=root),
        RawSettings(contract.raw_schema(), SHARDS, 131_072),
        check=lambda schema: contract.check_schema(schema, "the source"),
        newest=DAY,
    )
    validate_day(run, contract, row_group_rows=131_072)
    engine = LocalEngine(find_device("cpu"))
    score_day(run, release, engine, ScoringSettings(GateLimits(), 262_144))


def predictions(root: Path) -> tuple[np.ndarray, np.ndarray]:
    """The keys, sorted, and their outputs, (rows, outputs)."""
    paths = Lake(root, NAME).predictions.paths(DAY)
    rows = pa.concat_tables(pq.read_table(path, partitioning=None) for path in paths)
    keys = rows["user_id"].to_numpy()
    order = np.argsort(keys)
    outputs = np.column_stack([rows[f"o{n:02d}"].to_numpy() for n in range(OUTPUTS)])
    return keys[order], np.ascontiguousarray(outputs[order])


def store_of(name: str, folder: Path, root: Path) -> Store:
    if name != "batch_assets":
        kinds: list[Any] = [DuckDb, Sqlite, Lmdb, Redis]
        return next(kind(folder) for kind in kinds if kind.name == name)
    parts = Lake(root, NAME).predictions.parts(DAY)
    plan = SnapshotManifest(
        pipeline=NAME,
        version=f"{DAY}-benchmark",
        day=DAY,
        created_at=datetime.now(UTC),
        stale_after_seconds=3600,
        key="user_id",
        key_dtype="int64",
        outputs=tuple(f"o{n:02d}" for n in range(OUTPUTS)),
        model_name=parts[0].receipt.model,
        model_version=parts[0].receipt.release,
        job=parts[0].receipt.job,
        predictions=digest_of(parts),
        files=(),
    )
    return BatchAssets(folder, plan, parts)


def measure(name: str, folder: Path, root: Path) -> dict[str, Any]:
    """One store, built and asked; its answers are compared with what was predicted."""
    keys, outputs = predictions(root)
    store = store_of(name, folder, root)
    with store.running() if isinstance(store, Redis) else nullcontext():
        begin = time.perf_counter()
        store.build(keys, outputs)
        seconds = time.perf_counter() - begin
        with store.opened() as get:
            check(get, keys, outputs)
            timed = lookups(get, keys, store.lookups)
        return {
            "build_rows_per_s": round(len(keys) / seconds),
            "bytes": store.size(),
            **timed,
            "version": store.version,
        }


def check(get: Any, keys: np.ndarray, outputs: np.ndarray) -> None:
    """Refuse to time a store that answers wrongly."""
    for at in range(0, len(keys), max(len(keys) // 1_000, 1)):
        found = get(int(keys[at]))
        values = list(found.values()) if isinstance(found, dict) else list(found)
        if not np.array_equal(np.asarray(values, np.float32), outputs[at]):
            msg = f"{keys[at]} is {values}, expected {outputs[at]}"
            raise RuntimeError(msg)
    if get(-5) is not None:
        msg = "a key that is not there was found"
        raise RuntimeError(msg)


def lookups(get: Any, keys: np.ndarray, count: int) -> dict[str, float]:
    """Microseconds of single lookups of keys at random, each timed alone."""
    random = np.random.default_rng(1)
    for key in random.choice(keys, min(WARM_LOOKUPS, count)).tolist():
        get(key)
    clock, took = time.perf_counter_ns, []
    for key in random.choice(keys, count).tolist():
        begin = clock()
        get(key)
        took.append(clock() - begin)
    cuts = np.percentile(np.asarray(took) / 1_000, [50, 99, 99.9])
    names = ("p50_us", "p99_us", "p999_us")
    return {name: round(float(cut), 2) for name, cut in zip(names, cuts, strict=True)}


def publish(root: Path, snapshots: Path) -> float:
    """Rows a second of a whole publish: gates, bytes, build, proof, gates, swap."""
    begin = time.perf_counter()
    published = publish_day(
        DayRun(Lake(root, NAME), DAY),
        Registry(root),
        SnapshotStore.at(snapshots),
        gates=GateLimits(),
        serving=Serving(),
    )
    assert published.current is not None
    return published.current.rows / (time.perf_counter() - begin)


def measure_publish(root: Path, folder: Path) -> dict[str, Any]:
    """The second publish of a process: the first also pays for imports."""
    for number in range(2):
        rate = publish(root, folder / str(number))
    return {"publish_rows_per_s": round(rate)}


def measure_beside(root: Path, folder: Path) -> dict[str, Any]:
    """Lookups while another process builds, proves and swaps versions one by one."""
    store = store_of("batch_assets", folder, root)
    keys, outputs = predictions(root)
    store.build(keys, outputs)
    publisher = subprocess.Popen([*MODULE, "--republish", str(folder), str(root)])
    with Snapshot(folder, poll_seconds=0.1) as snapshot:
        seen, rounds = {snapshot.version}, []
        while publisher.poll() is None:
            rounds.append(lookups(snapshot.get, keys, 100_000))
            seen.add(snapshot.version)
    if publisher.returncode or len(seen) < 2 or snapshot.problem:
        msg = f"{publisher.returncode}, {snapshot.problem}, versions: {seen}"
        raise RuntimeError(msg)
    return {
        f"{name}_publishing": statistics.median(one[name] for one in rounds)
        for name in ("p99_us", "p999_us")
    }


def republish(folder: Path, root: Path) -> None:
    """Build the same rows again and again, none linked, and serve each."""
    store = store_of("batch_assets", folder, root)
    assert isinstance(store, BatchAssets)
    end = time.monotonic() + BESIDE_SECONDS
    number = 0
    while time.monotonic() < end:
        number += 1
        store.serve(f"{DAY}-benchmark-{number}")
        collect(SnapshotStore.at(folder), keep=7, keep_for=timedelta(0))


MODULE = [sys.executable, "-m", "benchmarks.serving"]


def run(rows: int) -> dict[str, Any]:
    """All of it: `{"machine": …, STORE: {…}}`."""
    rounds: dict[str, list[dict[str, Any]]] = defaultdict(list)
    with tempfile.TemporaryDirectory(prefix="batch-assets-serving-") as made:
        root = Path(made) / "root"
        root.mkdir()
        prepare(root, rows)
        for number in range(ROUNDS):
            for name in (*STORES, "publish", "beside", "rankings"):
                folder = Path(made) / f"{name}-{number}"
                found = subprocess.run(
                    [*MODULE, "--one", name, str(folder), str(root)],
                    check=True,
                    stdout=subprocess.PIPE,
                )
                said = json.loads(found.stdout)
                mine = name if name in STORES else "batch_assets"
                rounds[f"{mine} {name}"].append(said)
                say(f"{name}: {said}")
                shutil.rmtree(folder, ignore_errors=True)
    results: dict[str, Any] = {
        "machine": machine() | {"rows": rows, "outputs": OUTPUTS}
    }
    for label, runs in rounds.items():
        store = results.setdefault(label.split()[0], {})
        for name, first in runs[0].items():
            middle = first
            if not isinstance(first, str):
                middle = statistics.median(one[name] for one in runs)
            store[name] = middle
    return results


def show(results: dict[str, Any]) -> str:
    """The table, in Markdown: it is read on a terminal and in the README."""
    at, ours = results["machine"], results["batch_assets"]
    lines = [
        f"{at['cpu']}, {at['cores']} cores, {at['memory_gb']} GB; Python {at['python']}; "
        f"{at['rows']:,} integer keys, {at['outputs']} float32 outputs.",
        "",
        "| store | build, rows/s | MB | p50, µs | p99, µs | p99.9, µs | version |",
        "|---|--:|--:|--:|--:|--:|---|",
    ]
    lines += [
        f"| {name} | {s['build_rows_per_s']:,.0f} | {s['bytes'] / 1e6:,.0f} "
        f"| {s['p50_us']:,.1f} | {s['p99_us']:,.1f} | {s['p999_us']:,.1f} "
        f"| {s['version']} |"
        for name, s in results.items()
        if name in STORES
    ]
    lines += [
        "",
        "| batch_assets | |",
        "|---|--:|",
        f"| a whole publish, rows/s | {ours['publish_rows_per_s']:,.0f} |",
        f"| p99 while one is published, µs | {ours['p99_us_publishing']:,.1f} |",
        f"| p99.9 while one is published, µs | {ours['p999_us_publishing']:,.1f} |",
        "| a ranking of 20 items, in times of 20 numbers (at most 1.5) "
        f"| {ours['ranking_ratio']:.2f} |",
    ]
    return "\n".join(lines) + "\n"


def say(text: str) -> None:
    sys.stderr.write(f"{time.strftime('%H:%M:%S')} {text}\n")


def one(name: str, folder: Path, root: Path) -> dict[str, Any]:
    if name == "publish":
        return measure_publish(root, folder)
    if name == "beside":
        return measure_beside(root, folder)
    if name == "rankings":
        return measure_rankings(folder)
    return measure(name, folder, root)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--into", type=Path, default=HERE, help="where results go")
    parser.add_argument("--one", nargs=3, help="a store, its folder, the root")
    parser.add_argument("--republish", nargs=2, help="the store's folder, the root")
    asked = parser.parse_args()
    if asked.one:
        name, folder, root = asked.one
        said = json.dumps(one(name, Path(folder), Path(root)))
        os.write(1, said.encode())
        return
    if asked.republish:
        folder, root = asked.republish
        republish(Path(folder), Path(root))
        return
    if what := missing():
        sys.exit(f"{what}, then run this again. Nothing was measured.")
    results = run(asked.rows)
    asked.into.mkdir(parents=True, exist_ok=True)
    text = json.dumps(results, indent=2) + "\n"
    (asked.into / "serving.json").write_text(text, encoding="utf-8")
    readme = asked.into / "README.md"
    if readme.is_file():
        whole = with_tables(readme.read_text("utf-8"), show(results), BEGIN, END)
        readme.write_text(whole, encoding="utf-8")
    print_tables(show(results))


if __name__ == "__main__":
    main()
