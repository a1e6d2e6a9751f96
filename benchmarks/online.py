"""`make bench-online`: the HTTP service under load, on loopback.

Lookups come at a fixed rate, in an open loop (`benchmarks.load`), alone and beside rows
that are scored at another. Scoring is driven to its limit by wrk: 128 clients,
each with a row at a time, once with batches of one row and once with batches. Servers
and loads are processes of their own, and take turns.
"""

import argparse
import json
import os
import platform
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from rich.console import Console
from rich.table import Table

from batch_assets.lake.day_run import DayRun
from batch_assets.lake.tables import Lake
from batch_assets.models.registry import Registry
from batch_assets.scoring.device import find_device
from batch_assets.scoring.engines.local import LocalEngine
from batch_assets.scoring.night import score_day
from batch_assets.scoring.plan import ScoringSettings
from batch_assets.snapshots.publish import publish_day
from batch_assets.snapshots.store import SnapshotStore
from batch_assets.spec import GateLimits, Serving
from benchmarks.model import FEATURES, NAMES
from benchmarks.work import CHUNK_ROWS, DAY, PIPELINE, prepare

HERE = Path(__file__).parent
KEYS = 1_000_000
RATE = 1_000
SCORED_RATE = 200
SECONDS = 30
CLIENTS = 128
WRK_SECONDS = 10
ROUNDS = 3
# The weights of the heavy model are 20 MB, more than a core's caches: one row reads as
# many of them as 64 rows do.
ONE_BY_ONE = ("--max-batch-size", "1", "--max-wait-ms", "0")
BATCHES = ("--max-batch-size", "64", "--max-wait-ms", "5")


@dataclass(frozen=True)
class Scoring:
    """How fast rows were scored, one in a request; milliseconds are the client's."""

    rows_per_s: float
    p50_ms: float
    p99_ms: float
    rows_per_batch: float


def publish(root: Path, rows: int, size: str) -> None:
    """A night of a size of model, published, and its release approved for online."""
    prepare(root, rows)
    lake, registry, gates = Lake(root, PIPELINE), Registry(root), GateLimits()
    release = registry.resolve(size)
    registry.approve(size, release.digest, channel="online", why="benchmark")
    score_day(
        DayRun(lake, DAY),
        release,
        LocalEngine(find_device("cpu")),
        ScoringSettings(gates, CHUNK_ROWS),
    )
    run, store = DayRun(lake, DAY), SnapshotStore(root, PIPELINE)
    publish_day(run, registry, store, gates=gates, serving=Serving())


@contextmanager
def serving(root: Path, *options: str) -> Iterator[str]:
    """`batch-assets serve` in a process of its own, ready, at a free port."""
    command = [sys.executable, "-m", "batch_assets.cli.start", "serve", PIPELINE]
    with subprocess.Popen(
        [*command, "--port", "0", *options],
        env=os.environ | {"BATCH_ASSETS_ROOT": str(root)},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as process:
        assert process.stdout
        url = process.stdout.readline().strip()
        while True:
            try:
                if httpx.get(f"{url}/readyz", timeout=5).is_success:
                    break
            except httpx.TransportError:
                pass
            time.sleep(0.1)
        try:
            yield url
        finally:
            process.terminate()
            process.wait(60)


@contextmanager
def load(at: str, rate: int, *options: str) -> Iterator[Callable[[], dict[str, Any]]]:
    """Requests at a rate, from a process of their own; gives what tells of them."""
    asked = ["--keys", str(KEYS), "--rate", str(rate), "--seconds", str(SECONDS)]
    with subprocess.Popen(
        [sys.executable, "-m", "benchmarks.load", at, *asked, *options],
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        yield lambda: json.loads(process.communicate()[0])


def look_up(url: str) -> dict[str, Any]:
    """Lookups at the rate."""
    with load(f"{url}/v1/{PIPELINE}/keys/{{key}}", RATE) as told:
        return told()


def look_up_and_score(url: str, bodies: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Lookups at the rate, and beside them rows at theirs."""
    scoring = (f"{url}/v1/{PIPELINE}/score", SCORED_RATE, "--bodies", str(bodies))
    with load(*scoring) as told:
        return look_up(url), told()


def write_requests(bodies: Path, script: Path) -> None:
    """Rows of random features, one in a request: as lines, and as wrk reads them."""
    rng = np.random.default_rng(5)
    requests = []
    for key in range(500):
        features = rng.standard_normal(FEATURES).astype(np.float32).tolist()
        row = {"user_id": KEYS + key} | dict(zip(NAMES, features, strict=True))
        requests.append(json.dumps({"rows": [row]}))
    bodies.write_text("\n".join(requests), encoding="utf-8")
    quoted = ",".join(f"[===[{request}]===]" for request in requests)
    script.write_text(
        f"local bodies = {{{quoted}}}\n"
        "local next = 0\n"
        'wrk.method = "POST"\n'
        "request = function()\n"
        "  next = next % #bodies + 1\n"
        "  return wrk.format(nil, nil, nil, bodies[next])\n"
        "end\n",
        encoding="utf-8",
    )


def wrk(url: str, script: Path, seconds: int) -> str:
    return subprocess.run(
        [
            *("wrk", "--threads", "1", "--connections", str(CLIENTS), "--latency"),
            *("--duration", f"{seconds}s", "--timeout", "30s"),
            *("--script", str(script), f"{url}/v1/{PIPELINE}/score"),
        ],
        check=True,
        capture_output=True,
        text=True,
    ).stdout


def score(url: str, script: Path) -> Scoring:
    """Rows as fast as they are scored, once the server is warm."""
    wrk(url, script, 2)
    before = counted(url)
    said = wrk(url, script, WRK_SECONDS)
    after = counted(url)
    if "Non-2xx" in said or "Socket errors" in said:
        msg = f"not every request was answered with a score:\n{said}"
        raise RuntimeError(msg)
    batches, rows = (b - a for a, b in zip(before, after, strict=True))
    return Scoring(
        rows_per_s=float(re.search(r"Requests/sec:\s+([\d.]+)", said)[1]),
        p50_ms=milliseconds(said, "50%"),
        p99_ms=milliseconds(said, "99%"),
        rows_per_batch=round(rows / batches, 1),
    )


def milliseconds(said: str, percentile: str) -> float:
    number, unit = re.search(rf"\s{percentile}\s+([\d.]+)(us|ms|s)", said).groups()
    return float(number) * {"us": 1e-3, "ms": 1, "s": 1e3}[unit]


def counted(url: str) -> tuple[float, float]:
    """How many batches there were, and rows in them."""
    text = httpx.get(f"{url}/metrics").text
    return tuple(
        float(re.search(rf"batch_assets_batch_rows_{what}{{.*}} (\S+)", text)[1])
        for what in ("count", "sum")
    )


def medians(rounds: list[Scoring]) -> dict[str, float]:
    names = ("rows_per_s", "p50_ms", "p99_ms", "rows_per_batch")
    return {n: statistics.median(getattr(r, n) for r in rounds) for n in names}


def measure(folder: Path) -> dict[str, Any]:
    small, heavy = folder / "small", folder / "heavy"
    bodies, script = folder / "rows.jsonl", folder / "rows.lua"
    write_requests(bodies, script)
    publish(small, KEYS, "small")
    publish(heavy, 2_000, "heavy")
    with serving(small) as url:
        wrk(url, script, 2)
        alone = look_up(url)
        beside, scored = look_up_and_score(url, bodies)
    rounds: dict[str, list[Scoring]] = {"one_by_one": [], "batches": []}
    for _ in range(ROUNDS):
        for name, options in (("one_by_one", ONE_BY_ONE), ("batches", BATCHES)):
            with serving(heavy, *options) as url:
                rounds[name].append(score(url, script))
    ratios = [
        b.rows_per_s / a.rows_per_s
        for a, b in zip(rounds["one_by_one"], rounds["batches"], strict=True)
    ]
    return {
        "machine": f"{find_device('cpu').name}, {os.cpu_count()} cores; Python "
        f"{platform.python_version()}",
        "keys": KEYS,
        "lookups": alone,
        "lookups_beside_scores": beside,
        "scores_beside_lookups": scored,
        "scoring_heavy": {name: medians(found) for name, found in rounds.items()},
        "batching_gain": round(statistics.median(ratios), 1),
    }


def show(found: dict[str, Any]) -> None:
    console = Console()
    table = Table("", "rate/s", "server p50, p99, p99.9 ms", "client ms")
    for name in ("lookups", "lookups_beside_scores", "scores_beside_lookups"):
        load = found[name]
        times = [
            ", ".join(f"{v:.3f}" for v in load[side].values())
            for side in ("server_ms", "client_ms")
        ]
        table.add_row(name, f"{load['rate']:,.0f}", *times)
    console.print(table)
    table = Table("scoring, heavy model", "rows/s", "rows/batch", "p50 ms", "p99 ms")
    for name, one in found["scoring_heavy"].items():
        table.add_row(
            name,
            f"{one['rows_per_s']:,.0f}",
            f"{one['rows_per_batch']:.1f}",
            f"{one['p50_ms']:,.0f}",
            f"{one['p99_ms']:,.0f}",
        )
    console.print(table)
    console.print(f"batching: {found['batching_gain']} times the rows a second")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=HERE / "online.json")
    asked = parser.parse_args()
    if shutil.which("wrk") is None:
        sys.exit("make bench-online needs wrk: apt-get install wrk")
    with tempfile.TemporaryDirectory(prefix="bench-online-") as folder:
        found = measure(Path(folder))
    asked.out.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    show(found)


if __name__ == "__main__":
    main()
