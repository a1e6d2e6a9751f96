"""The second of two nights, scored whole and built on the first, in turns.

It is no column of its own: it tells the seconds of both, over the same rows in the same
process. The first night is scored before, which warms the process up. It leaves the
predictions of the last night that was built on the first.
"""

import json
import shutil
import statistics
import sys
import time

from batch_assets.incremental.reuse import Incremental
from batch_assets.lake.tables import Lake
from batch_assets.scoring.device import find_device
from batch_assets.scoring.engines.local import LocalEngine
from batch_assets.scoring.night import Night
from benchmarks.column import Work, arguments, open_work
from benchmarks.columns.local import night_of, release_of
from benchmarks.work import DAY, NEXT_DAY, PIPELINE

REPEATS = 3


def score(work: Work, day: str, incremental: Incremental | None) -> tuple[Night, float]:
    """A night, and its seconds."""
    engine = LocalEngine(find_device("cpu"))
    release = release_of(work)
    start = time.perf_counter()
    night = night_of(engine, work, release, day, incremental)
    return night, time.perf_counter() - start


def main() -> None:
    asked = arguments()
    work = open_work(asked.root, asked.out, asked.size, None)
    predictions = Lake(work.root, PIPELINE).predictions
    first = work.root / "first_night"
    for folder in (work.out, predictions.path, first):
        shutil.rmtree(folder, ignore_errors=True)
    work.out.mkdir(parents=True)
    score(work, DAY, None)
    shutil.copytree(predictions.path, first)
    took: dict[bool, list[float]] = {False: [], True: []}
    for _ in range(REPEATS):
        for built_on, seconds in took.items():
            # Both are new: nothing of the night is there, and the first night is.
            shutil.rmtree(predictions.path)
            shutil.copytree(first, predictions.path)
            night, spent = score(work, NEXT_DAY, Incremental() if built_on else None)
            seconds.append(spent)
            sys.stderr.write(f"{spent:.3f} s, {night.carried.rows:,} rows carried\n")
    for number, part in enumerate(night.parts):
        (work.out / f"{number}.parquet").symlink_to(part.path)
    found = {
        "seconds": statistics.median(took[True]),
        "full_seconds": statistics.median(took[False]),
        # Within a round, as of the columns: the speed of a shared machine drifts.
        "ratio": statistics.median(
            built_on / whole
            for built_on, whole in zip(took[True], took[False], strict=True)
        ),
        "rows": night.total.rows,
        "carried": night.carried.rows,
        "version": f"{REPEATS} nights each",
    }
    sys.stdout.write(f"\n{json.dumps(found)}\n")


if __name__ == "__main__":
    main()
