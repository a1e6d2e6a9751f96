"""`make bench-cuda`: what a CUDA device could do, and what a night makes of it, as a table.

Three models score the same generated subscribers: with the rows resident on the device,
across the bus, by a hand-written loop of threads without books, and as a night, as set by
default and with more workers. Nothing is asserted: the figures are of the machine. It
needs no more than the package's own environment, and ends within four minutes: what there
is no time for is left out of the table.
"""

import argparse
import queue
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import torch

from batch_assets.lake.day_run import DayRun
from batch_assets.lake.parts import Part, open_part
from batch_assets.lake.receipts import Receipt
from batch_assets.lake.tables import Lake
from batch_assets.models.registry import Registry
from batch_assets.scoring.chunk_rows import read_rows
from batch_assets.scoring.device import Device, find_device
from batch_assets.scoring.engines.local import LocalEngine
from batch_assets.scoring.night import Night, score_day
from batch_assets.scoring.plan import ScoringSettings
from batch_assets.scoring.precision import CAST_TO, set_float32_products
from batch_assets.spec import GateLimits
from benchmarks.column import CORES
from benchmarks.model import CUDA_SIZES, FEATURES, Size, make_model
from benchmarks.work import (
    CHUNK_ROWS,
    COMPACT_PIPELINE,
    DAY,
    PIPELINE,
    make_contract,
    prepare,
)

SECONDS = 230.0
ROWS = 8_000_000
# Of models that do more for a row: a night of them must end, too.
FEWER = {"heavy": 4, "sequences": 8}
# Batches of the resident model; the fastest counts.
RESIDENT_ROWS = (16_384, 65_536, 262_144)
RESIDENT_SECONDS = 0.4
CPU_ROWS = 1_024
BUS_BYTES = 1 << 28
REPEATS = 3
PRECISIONS = ("float32", "tf32", "bfloat16")
ROW_BYTES = 4 * FEATURES


@dataclass
class Table:
    """What was measured, in million rows a second, by what and by model."""

    deadline: float
    figures: dict[tuple[str, str], str]

    def put(self, what: str, model: str, measure: Callable[[], float | str]) -> None:
        """Measure, if there is time; print as it comes."""
        if time.monotonic() > self.deadline:
            found = "no time"
        else:
            try:
                value = measure()
                found = value if isinstance(value, str) else f"{value / 1e6:,.2f}"
            # One that a device can't do takes no other figure away.
            except Exception as error:  # noqa: BLE001
                found = f"failed: {type(error).__name__}: {error}".splitlines()[0]
        self.figures[what, model] = found
        say(f"{what}, {model}: {found}")

    def show(self) -> str:
        models = list(dict.fromkeys(model for _, model in self.figures))
        rows = list(dict.fromkeys(what for what, _ in self.figures))
        lines = [f"| M rows/s | {' | '.join(models)} |", "|---|" + "--:|" * len(models)]
        for what in rows:
            cells = [self.figures.get((what, model), "") for model in models]
            lines.append(f"| {what} | {' | '.join(cells)} |")
        return "\n".join(lines)


def say(text: str) -> None:
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()


@dataclass(frozen=True)
class Machine:
    """The device, the prepared rows and the releases."""

    root: Path
    kind: str

    @property
    def device(self) -> torch.device:
        return find_device(self.kind).torch

    def parts(self, pipeline: str = PIPELINE) -> list[Part[Receipt]]:
        return list(Lake(self.root, pipeline).validated_features.parts(DAY))

    def synchronize(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


def decoded(machine: Machine, pipeline: str) -> float:
    """Rows a second of reading the validated files on every core, nothing else."""
    contract, parts = make_contract(), machine.parts(pipeline)
    tasks = [(part, group) for part in parts for group in range(len(part.groups))]

    def read(task: tuple[Part[Receipt], int]) -> int:
        part, group = task
        _, file = open_part(part.path)
        with file:
            keys, _ = read_rows(part, file, contract, [group])
        return len(keys)

    def once() -> float:
        with ThreadPoolExecutor(CORES) as pool:
            begin = time.perf_counter()
            done = sum(pool.map(read, tasks))
            return done / (time.perf_counter() - begin)

    return statistics.median(once() for _ in range(REPEATS))


def bus(machine: Machine) -> float:
    """Rows a second from pinned memory to the device."""
    pinned = machine.device.type == "cuda"
    host = torch.empty(BUS_BYTES // 4, dtype=torch.float32, pin_memory=pinned)
    there = torch.empty_like(host, device=machine.device)

    def once() -> float:
        machine.synchronize()
        begin = time.perf_counter()
        for _ in range(4):
            there.copy_(host, non_blocking=True)
        machine.synchronize()
        return 4 * BUS_BYTES / ROW_BYTES / (time.perf_counter() - begin)

    once()
    return statistics.median(once() for _ in range(REPEATS))


def resident(machine: Machine, size: Size, precision: str) -> float:
    """Rows a second of the model alone, with its rows on the device; the best batch."""
    if machine.device.type == "cuda":
        set_float32_products("tf32" if precision == "tf32" else "ieee")
    model = make_model(size).to(machine.device)
    autocast = torch.autocast(
        machine.device.type,
        CAST_TO.get(precision, torch.bfloat16),
        enabled=precision in CAST_TO,
    )

    at_once = 8

    def once(rows: int) -> float:
        features = torch.randn(FEATURES, rows, device=machine.device).T
        with torch.inference_mode(), autocast:
            model(features)
            machine.synchronize()
            calls, begin = 0, time.perf_counter()
            while time.perf_counter() - begin < RESIDENT_SECONDS:
                for _ in range(at_once):
                    model(features)
                machine.synchronize()
                calls += at_once
            return calls * rows / (time.perf_counter() - begin)

    if machine.device.type == "cpu":
        # What a device does in a moment takes a CPU minutes.
        at_once = 1
        return once(CPU_ROWS)
    return max(once(rows) for rows in RESIDENT_ROWS)


def loop(machine: Machine, size: Size, rows: int, out: Path) -> float:
    """Rows a second of a loop of threads: read, send, score, fetch, write; no books."""
    contract, model = make_contract(), make_model(size).to(machine.device)
    cuda = machine.device.type == "cuda"
    waiting: queue.SimpleQueue[tuple[int, Part[Receipt], int]] = queue.SimpleQueue()
    left = rows
    for part in machine.parts():
        for group, count in enumerate(part.groups):
            if left > 0:
                waiting.put((waiting.qsize(), part, group))
                left -= count

    def work() -> None:
        torch.set_num_threads(1)
        stream = torch.cuda.Stream(machine.device) if cuda else None
        with torch.inference_mode(), torch.cuda.stream(stream):
            while True:
                try:
                    number, part, group = waiting.get_nowait()
                except queue.Empty:
                    return
                _, file = open_part(part.path)
                with file:
                    keys, rows = read_rows(part, file, contract, [group], pinned=cuda)
                there = torch.from_numpy(rows.features).to(machine.device)
                label, confidence = model(there.T)
                columns = {
                    "user_id": keys,
                    "label": label.cpu().numpy(),
                    "confidence": confidence.cpu().numpy(),
                }
                pq.write_table(pa.table(columns), out / f"{number}.parquet")

    out.mkdir()
    begin = time.perf_counter()
    with ThreadPoolExecutor(CORES) as pool:
        # Whoever fails is heard: a loop that stopped early would look fast.
        for worker in [pool.submit(work) for _ in range(CORES)]:
            worker.result()
    seconds = time.perf_counter() - begin
    shutil.rmtree(out)
    return (rows - max(left, 0)) / seconds


def night(machine: Machine, size: Size, device: Device, workers: int | None) -> Night:
    """Score the day, as a night does without Dagster."""
    lake, registry = Lake(machine.root, PIPELINE), Registry(machine.root)
    for table in (lake.predictions, lake.dead_letters):
        shutil.rmtree(table.path, ignore_errors=True)
    engine = LocalEngine(device.for_chunks(CHUNK_ROWS), workers)
    release = registry.resolve(size.name)
    settings = ScoringSettings(GateLimits(), CHUNK_ROWS)
    return score_day(DayRun(lake, DAY), release, engine, settings)


def night_figure(
    machine: Machine, size: Size, precision: str, workers: int | None
) -> str:
    """Rows a second of a night, with the share of the time that the device computed."""
    device = find_device(machine.kind, precision)
    done = night(machine, size, device, workers)
    shares = done.timing.shares(workers or LocalEngine(device).workers)
    where = " ".join(f"{stage} {share:.2f}" for stage, share in shares.items())
    return f"{done.rows_per_second / 1e6:,.2f} ({where})"


def measure(machine: Machine, table: Table, workers: list[int]) -> None:
    table.put("bus, pinned", "any", lambda: bus(machine))
    table.put("decode, fast", "any", lambda: decoded(machine, PIPELINE))
    table.put("decode, compact", "any", lambda: decoded(machine, COMPACT_PIPELINE))
    for size in CUDA_SIZES.values():
        rows = sum(sum(part.groups) for part in machine.parts())
        rows //= FEWER.get(size.name, 1)
        for precision in PRECISIONS:
            if precision == "tf32" and machine.device.type == "cpu":
                continue

            def alone(size: Size = size, precision: str = precision) -> float:
                return resident(machine, size, precision)

            table.put(f"resident, {precision}", size.name, alone)
        set_float32_products("ieee")

        def by_loop(size: Size = size, rows: int = rows) -> float:
            return loop(machine, size, rows, machine.root / "loop")

        table.put("loop", size.name, by_loop)
        for number in (None, *workers):

            def as_night(size: Size = size, number: int | None = number) -> str:
                return night_figure(machine, size, "float32", number)

            what = "default" if number is None else f"{number} workers"
            table.put(f"night, {what}", size.name, as_night)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--rows", type=int, default=ROWS)
    parser.add_argument("--seconds", type=float, default=SECONDS)
    parser.add_argument("--folder", type=Path, help="where the rows lie meanwhile")
    asked = parser.parse_args()
    begin = time.monotonic()
    device = find_device(asked.device)
    with tempfile.TemporaryDirectory(dir=asked.folder, prefix="bench-cuda-") as folder:
        machine = Machine(Path(folder), asked.device)
        say(f"generating {asked.rows:,} rows")
        prepare(machine.root, asked.rows, shards=max(2 * CORES, 8), sizes=CUDA_SIZES)
        say(f"prepared in {time.monotonic() - begin:.0f} s")
        table = Table(begin + asked.seconds, {})
        measure(machine, table, [n for n in sorted({8, 12, 16, CORES}) if n <= CORES])
        machine_name = f"{device.name}, {CORES} cores, torch {torch.__version__}"
        sys.stdout.write(f"{machine_name}\n\n{table.show()}\n")


if __name__ == "__main__":
    main()
