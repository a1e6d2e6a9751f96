"""What a ranking of twenty items costs a lookup, beside twenty numbers.

Two versions of the same generated keys, one with each, are asked in turns by one process.
"""

import time
from pathlib import Path
from typing import Any

import numpy as np

from batch_assets import Snapshot
from batch_assets.snapshots.forms import RankingForm
from batch_assets.snapshots.manifest import MANIFEST
from batch_assets_tests.served import build, serve, set_current

KEYS, CATALOGUE, K = 100_000, 5_000, 20
TURNS, LOOKUPS = 15, 5_000


def measure_rankings(folder: Path) -> dict[str, Any]:
    """Median over the turns of how many times the other's median a lookup takes."""
    random, keys = np.random.default_rng(0), np.arange(KEYS)
    form = RankingForm(name="next", k=K, items=tuple(range(10**6, 10**6 + CATALOGUE)))
    items, scores = form.parts
    numbers = {f"o{n:02d}": random.random(KEYS, np.float32) for n in range(K)}
    serve(folder / "numbers", 1, keys, outputs=numbers)
    ranked = {name: random.integers(0, CATALOGUE, KEYS, np.int32) for name in items}
    ranked |= zip(scores, numbers.values(), strict=True)
    made = build(folder / "rankings", 1, keys, outputs=ranked)
    # They lie on disk as numbers do; the manifest says which of them are one ranking.
    named = folder / "rankings" / f"v={made.version}" / MANIFEST
    named.write_text(made.model_copy(update={"forms": (form,)}).dumps())
    set_current(folder / "rankings", made.version)
    with (
        Snapshot(folder / "rankings") as ranking,
        Snapshot(folder / "numbers") as plain,
    ):
        ratios = []
        for turn in range(TURNS + 1):
            asked = random.choice(keys, LOOKUPS).tolist()
            took = [_median(snapshot.get, asked) for snapshot in (ranking, plain)]
            if turn:  # The first warms both.
                ratios.append(took[0] / took[1])
    return {"ranking_ratio": round(float(np.median(ratios)), 2)}


def _median(get: Any, keys: list[int]) -> float:
    """Nanoseconds of a lookup, of each timed alone, with its outputs."""
    clock, took = time.perf_counter_ns, []
    for key in keys:
        begin = clock()
        _ = get(key).outputs
        took.append(clock() - begin)
    return float(np.median(took))
