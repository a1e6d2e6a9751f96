"""`make bench-scale`: what one chunk, one shard and one past night cost the driver.

Each is measured with the code that a night runs, at three sizes, so that it shows whether
twice as many cost twice or four times as much; then a night of ten billion rows on 1,000
devices is reckoned from it. Rows are few and generated: what grows with them is `make
bench`'s matter.
"""

import argparse
import json
import math
import tempfile
import time
import tracemalloc
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
from deltalake import CommitProperties
from deltalake.transaction import AddAction

from batch_assets.lake import known_parts
from batch_assets.lake.commits import ScoringCommit
from batch_assets.lake.day_run import DayRun
from batch_assets.lake.delta_table import Table
from batch_assets.lake.page_layout import NUMBERS
from batch_assets.lake.part_writer import PartWriter
from batch_assets.lake.parts import Part
from batch_assets.lake.profiles import Profile
from batch_assets.lake.receipts import OutputSummary, PredictionsReceipt
from batch_assets.lake.reconciliation import ControlTotal
from batch_assets.lake.tables import Lake
from batch_assets.scoring.chunk_task import ChunkTask, Scored
from batch_assets.scoring.done_chunks import DoneChunks
from batch_assets.scoring.failed_shards import run_shards
from batch_assets.spec import PipelineSpec
from benchmarks.tables import machine, print_tables, with_tables

HERE = Path(__file__).parent
README, KEPT = HERE / "README.md", HERE / "scale.json"
BEGIN, END = "<!-- scale -->", "<!-- end of scale -->"

# The night that is reckoned: its rows, in chunks of the default size, and the rest.
ROWS, DEVICES, SHARDS, NIGHTS = 10_000_000_000, 1_000, 1_000, 365
CHUNKS = math.ceil(ROWS / PipelineSpec.model_fields["chunk_rows"].default)
SIZES = (1_000, 2_000, 4_000)
PAST_NIGHTS, PAST_CHUNKS = (5, 10, 20), 2_000
WORKERS = (250, 500, 1_000)
# A device of the textbook: batches of 256 rows in 50 ms.
DEVICE_RATE = 256 / 0.05
DAY, JOB, SHA = date(2026, 1, 1), "0" * 64, "f" * 64
FEATURES, BINS = 64, 12
# How often a night looks for a day in the log of its predictions, at how many versions of
# them, and how often it asks again for the receipts of a day; counted in a night of the
# demo.
LOOKS, VERSIONS, AGAIN = 25, 5, 28
# The other tables of rows have a file for each shard.
OTHER_TABLES = 4
SCHEMA = pa.schema(
    [
        ("user_id", pa.int64()),
        ("risk", pa.float32()),
        ("model_name", pa.string()),
        ("model_version", pa.string()),
    ]
)
COMMIT = ScoringCommit(JOB, "model", SHA, scored=1, dead=0)


@dataclass(frozen=True)
class Constant:
    """What was measured at each size, and the size that a large night has."""

    name: str
    unit: str
    at: int
    of: dict[int, float]

    @property
    def power(self) -> float:
        """How it grows: 1 if twice as many cost twice as much, 2 if four times."""
        sizes = sorted(self.of)
        first, last = sizes[0], sizes[-1]
        if not self.of[first] or not self.of[last]:
            return 0.0
        return math.log(self.of[last] / self.of[first]) / math.log(last / first)

    @property
    def projected(self) -> float:
        """What it is of a night of ten billion rows, by the growth that was seen.

        What seems to grow slower than its number has a fixed part: it is taken to grow as
        fast, since how large that part is can't be told.
        """
        last = max(self.of)
        power = min(max(self.power, 1.0), 2.0)
        return float(self.of[last] * (self.at / last) ** power)


def timed(work: Callable[[], Any]) -> float:
    """Return the processor's seconds of this process: others may be at work here."""
    begin = time.process_time()
    work()
    return time.process_time() - begin


def parts_of(table: Table[Any, Any], number: int) -> list[Part[PredictionsReceipt]]:
    """Write the parts of a night: ten rows each, with the receipt of a real chunk."""
    keys = pa.array(np.arange(10))
    strings = [pa.array([text] * 10) for text in ("model", SHA)]
    rows = pa.table([keys, pa.array(np.zeros(10, "f4")), *strings], schema=SCHEMA)
    counts = {
        f"feature_{at}": np.random.default_rng(at).integers(0, 9_999, (1, BINS), "i4")
        for at in range(FEATURES)
    }
    profile = Profile.of_counts("layout", (), counts)
    summary = OutputSummary(10, 1.0, 0.0, 1.0, list(range(20)))
    found = []
    for at in range(number):
        shard, chunk = at % SHARDS, at // SHARDS
        receipt = PredictionsReceipt(
            str(DAY),
            shard,
            chunk,
            JOB,
            ControlTotal.of(keys),
            model="model",
            release=SHA,
            contract=SHA,
            validated=f"{JOB[:16]}-{chunk:05d}.parquet",
            row_groups=(chunk, chunk + 1),
            content=at,
            outputs={"risk": summary},
            profile=profile,
        )
        path = table.part_path(str(DAY), shard, JOB, chunk)
        with PartWriter(path, SCHEMA, row_group_rows=10, layout=NUMBERS) as writer:
            writer.write(rows)
            found.append(writer.finish(receipt))
    return found


class Instant:
    """An engine that has scored all chunks already: what is left is the driver's work."""

    def __init__(self, parts: Sequence[Part[PredictionsReceipt]]) -> None:
        seconds = dict.fromkeys(("read", "copy", "compute", "write"), 0.1)
        self._scored = [Scored(part, None, seconds, 0.1) for part in parts]

    def load(self, release: Any) -> None:
        """There is nothing to load."""

    def run(self, tasks: Sequence[ChunkTask]) -> Iterator[Scored]:
        """Yield every chunk at once."""
        yield from self._scored


def tasks_of(lake: Lake, parts: Sequence[Part[PredictionsReceipt]]) -> list[ChunkTask]:
    """Return the tasks that such parts are made by."""
    day = str(DAY)
    return [
        ChunkTask(
            day=day,
            shard=part.shard,
            chunk=part.receipt.chunk,
            job=JOB,
            validated=lake.validated_features.part_path(day, part.shard, JOB, 0),
            row_groups=part.receipt.row_groups,
            rows=10,
            predictions=part.path,
            dead_letters=lake.dead_letters.part_path(day, part.shard, JOB, 0),
            max_faults=0,
        )
        for part in parts
    ]


def of_chunks(folder: Path) -> Iterator[Constant]:
    """Measure what the driver does for each chunk of a night."""
    scored: dict[str, dict[int, float]] = {
        name: {} for name in ("done", "commit", "receipts", "again", "memory", "log")
    }
    for number in SIZES:
        lake = Lake(folder / str(number), "scale")
        parts = parts_of(lake.predictions, number)
        tasks = tasks_of(lake, parts)
        plan: Any = SimpleNamespace(
            day=str(DAY), tasks=tasks, max_dead=0, rows=10, most_failed=0
        )
        run, engine = DayRun(lake, str(DAY)), Instant(parts)

        def count() -> None:
            run_shards(run, plan, engine, tasks, DoneChunks(plan))  # noqa: B023

        def commit() -> None:
            run.commit(lake.predictions, parts, SCHEMA, COMMIT)  # noqa: B023

        scored["done"][number] = timed(count)
        scored["commit"][number] = timed(commit)
        log_folder = lake.predictions.path / "_delta_log"
        log = sum(file.stat().st_size for file in log_folder.iterdir())
        scored["log"][number] = log / 2**20

        def receipts() -> None:
            lake.predictions.parts(str(DAY))  # noqa: B023

        def unknown() -> None:
            known_parts._days.clear()
            receipts()

        scored["receipts"][number] = timed(unknown)
        scored["again"][number] = timed(receipts)
        known_parts._days.clear()
        tracemalloc.start()
        before, _ = tracemalloc.get_traced_memory()
        kept = [lake.predictions.parts(str(DAY)), tasks_of(lake, parts)]
        after, _ = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        scored["memory"][number] = (after - before) / 2**20
        del kept
    yield Constant("chunks are counted as they are done", "s", CHUNKS, scored["done"])
    yield Constant("a day is committed", "s", CHUNKS, scored["commit"])
    yield Constant("a day's receipts are read", "s", CHUNKS, scored["receipts"])
    yield Constant("they are asked for again", "s", CHUNKS, scored["again"])
    yield Constant("tasks and receipts in the driver", "MiB", CHUNKS, scored["memory"])
    yield Constant("a commit in the log", "MiB", CHUNKS, scored["log"])


def of_history(folder: Path) -> Iterator[Constant]:
    """Measure what past nights cost whoever looks for one day of a table."""
    table = Lake(folder, "history").predictions
    table._create(SCHEMA)
    listed: dict[int, float] = {}
    memory: dict[int, float] = {}
    chunks, nights = PAST_CHUNKS, 0
    for number in PAST_NIGHTS:
        for night in range(nights, number):
            _add_night(table, str(DAY + timedelta(days=night)), chunks)
        nights = number
        day = str(DAY + timedelta(days=night))

        def look() -> None:
            for _ in range(LOOKS // VERSIONS):
                table.paths(day)  # noqa: B023

        listed[number * chunks] = 0.0
        for _ in range(VERSIONS):
            _add_night(table, "2025-12-31", 1)
            listed[number * chunks] += timed(look)
        tracemalloc.start()
        table.paths(day)
        memory[number * chunks] = tracemalloc.get_traced_memory()[1] / 2**20
        tracemalloc.stop()
    at = NIGHTS * CHUNKS
    what = f"a day is looked for, {LOOKS} times at {VERSIONS} versions, as in a night"
    yield Constant(what, "s", at, listed)
    yield Constant("what Python holds meanwhile", "MiB", at, memory)


def _add_night(table: Table[Any, Any], day: str, chunks: int) -> None:
    """Commit a night whose files nobody opens."""
    opened = table._open()
    assert opened is not None
    actions = [
        AddAction(
            path=f"day={day}/shard={at % SHARDS}/{JOB[:16]}-{at // SHARDS:05d}.parquet",
            size=1_000,
            partition_values={"day": day, "shard": str(at % SHARDS)},
            modification_time=0,
            data_change=True,
            stats='{"numRecords": 10}',
        )
        for at in range(chunks)
    ]
    opened.create_write_transaction(
        actions,
        mode="append",
        schema=opened.schema(),
        partition_by=["day", "shard"],
        commit_properties=CommitProperties(custom_metadata={"batch_assets": "null"}),
    )


def of_shards() -> Iterator[Constant]:
    """Measure what a shard costs in the manifest that every reader opens."""
    from batch_assets.snapshots.manifest import ShardFile, SnapshotManifest

    size: dict[int, float] = {}
    parsed: dict[int, float] = {}
    for number in SIZES:
        file = ShardFile(
            name="shard=000.arrow",
            size=10**9,
            sha256=SHA,
            rows=10**7,
            keys=2**63,
            content=2**63,
            raw_rows=10**7,
        )
        manifest = SnapshotManifest(
            pipeline="scale",
            version=f"{DAY}-{SHA[:12]}",
            day=str(DAY),
            created_at="2026-01-01T00:00:00Z",
            stale_after_seconds=1,
            key="user_id",
            key_dtype="int64",
            outputs=("risk",),
            model_name="model",
            model_version=SHA,
            job=JOB,
            predictions=SHA,
            files=(file,) * number,
        )
        data = manifest.dumps().encode()
        size[number] = len(data) / 2**20
        parsed[number] = timed(lambda: SnapshotManifest.loads(data))  # noqa: B023
    yield Constant("the manifest", "MiB", SHARDS, size)
    yield Constant("the manifest is parsed", "s", SHARDS, parsed)


def of_devices() -> Iterator[Constant]:
    """Measure what it costs to wait for the first of so many workers, for all chunks."""
    took: dict[int, float] = {}
    for number in WORKERS:
        futures: list[Future[None]] = [Future() for _ in range(number)]
        futures[0].set_result(None)

        def once(futures: list[Future[None]] = futures) -> None:
            for _ in range(20):
                wait(futures, 1.0, FIRST_COMPLETED)

        took[number] = timed(once) / 20 * CHUNKS
    yield Constant("the driver waits for workers, chunk by chunk", "s", DEVICES, took)


def measure() -> dict[str, dict[str, Any]]:
    """Measure every constant."""
    with tempfile.TemporaryDirectory(prefix="batch-assets-scale-") as name:
        folder = Path(name)
        constants = [
            *of_chunks(folder),
            *of_history(folder),
            *of_shards(),
            *of_devices(),
        ]
    return {
        one.name: {
            "unit": one.unit,
            "at": one.at,
            "power": one.power,
            "projected": one.projected,
            "of": {str(size): value for size, value in one.of.items()},
        }
        for one in constants
    }


def show(results: dict[str, Any]) -> str:
    """The table of a README."""
    info = results["machine"]
    lines = [
        f"{info['cpu']}, {info['cores']} cores; Python {info['python']}. A night of "
        f"{ROWS:,} rows in {CHUNKS:,} chunks, {SHARDS:,} shards, {DEVICES:,} devices, "
        f"{NIGHTS} nights of history.",
        "",
        "| what | measured at | is | grows as | of that night | before it was mended |",
        "|---|--:|--:|--:|--:|--:|",
    ]
    before = results.get("before", {})
    for name, one in results["now"].items():
        size = max(one["of"], key=int)
        unit = one["unit"]
        was = before.get(name)
        cells = [
            name,
            f"{int(size):,}",
            f"{one['of'][size]:,.3f} {unit}",
            f"n^{one['power']:.1f}",
            f"{one['projected']:,.1f} {unit}",
            f"{was['projected']:,.1f} {unit}" if was else "",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join([*lines, "", *_nights(results["now"], before)]) + "\n"


def _nights(now: dict[str, Any], before: dict[str, Any]) -> Iterator[str]:
    """Nights of other sizes: the driver's seconds, beside those of the model alone."""
    yield (
        f"What the one driver does in a night (it asks again for receipts {AGAIN} times), "
        f"beside the model alone on {DEVICES:,} devices of {DEVICE_RATE:,.0f} rows/s:"
    )
    yield ""
    yield "| rows | chunks | the model, s | the driver, s | before, s | driver, MiB |"
    yield "|--:|--:|--:|--:|--:|--:|"
    for rows in (100_000_000, 1_000_000_000, ROWS):
        share = rows / ROWS
        took, was = _driver(now, share, "s"), _driver(before, share, "s")
        cells = [
            f"{rows:,}",
            f"{math.ceil(CHUNKS * share):,}",
            f"{rows / DEVICES / DEVICE_RATE:,.0f}",
            f"{took:,.0f}",
            f"{was:,.0f}" if before else "",
            f"{_driver(now, share, 'MiB'):,.0f}",
        ]
        yield f"| {' | '.join(cells)} |"


def _driver(found: dict[str, Any], share: float, unit: str) -> float:
    """Add up what is of a unit, of a night with a share of the rows."""
    whole = 0.0
    for name, one in found.items():
        if one["unit"] == unit and "manifest" not in name and "log" not in name:
            power = min(max(one["power"], 1.0), 2.0)
            per_table = 1 + OTHER_TABLES * SHARDS / (CHUNKS * share)
            times = AGAIN if "asked for again" in name else 1.0
            if "looked for" in name or "committed" in name:
                times = per_table
            whole += one["projected"] * share**power * (times if unit == "s" else 1)
    return whole


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--as", dest="key", choices=["now", "before"], default="now")
    key = parser.parse_args().key
    kept = json.loads(KEPT.read_text(encoding="utf-8")) if KEPT.exists() else {}
    results = {**kept, "machine": machine(), key: measure()}
    results.setdefault("now", results[key])
    KEPT.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    text = README.read_text(encoding="utf-8")
    README.write_text(with_tables(text, show(results), BEGIN, END), encoding="utf-8")
    print_tables(show(results))


if __name__ == "__main__":
    main()
