"""How many rows a model should get at once: measured where it scores, and kept.

Each number of rows is tried as the engine would: all its workers at once, on the
release's own golden rows, warmed up first. What is found is kept for the release, the
device and the precision under `<root>/sweeps/`. It knows no day and no chunk.
"""

import hashlib
import json
import logging
import os
import re
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Self

import numpy as np
import torch

from batch_assets.models.formats import golden_batch
from batch_assets.models.release import Release
from batch_assets.scoring.device import Device
from batch_assets.scoring.native import MOST_ROWS
from batch_assets.scoring.scorer import Scorer, out_of_memory
from batch_assets.storage import StoragePath, local, write_whole

# The smallest batch whose rate is at most this share below the best is the knee.
NEAR_BEST = 0.03
REPEATS = 3
# A run of a batch size takes at least this long, or one batch.
RUN_SECONDS = 0.1
# A CPU has no edge of its own that a process would live to tell of: the sweep ends
# before a batch could take this share of the free memory, or at this many rows, which
# is more than any chunk gives.
FREE_SHARE = 0.5
MAX_ROWS = {"cpu": 1 << 20, "cuda": 1 << 28}
# And where batches take so long and are no faster than smaller ones: twice the rows of
# a heavy model would take twice the minutes, to say the same.
SLOW_SECONDS = 1.0
MEBI = 1 << 20
# Where sweeps lie under a root.
SWEEPS = "sweeps"

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Point:
    """A batch size, with its rows per second and the MiB that its batches took."""

    batch_rows: int
    rows_per_second: float
    memory_mb: float | None


@dataclass(frozen=True)
class Sweep:
    """The curve of a release on a device.

    `edge` says why it ends where it ends; `precision`, whether it was compiled too.
    """

    model: str
    digest: str
    device: str
    precision: str
    workers: int
    torch: str
    at: float
    edge: str
    points: tuple[Point, ...]

    @property
    def best(self) -> Point:
        return max(self.points, key=lambda point: point.rows_per_second)

    @property
    def knee(self) -> Point:
        """The smallest batch that is nearly as fast as the best."""
        enough = self.best.rows_per_second * (1 - NEAR_BEST)
        return min(
            (point for point in self.points if point.rows_per_second >= enough),
            key=lambda point: point.batch_rows,
        )


def sweep(
    release: Release,
    device: Device,
    workers: int,
    *,
    repeats: int = REPEATS,
    run_seconds: float = RUN_SECONDS,
    max_rows: int | None = None,
    tried: Callable[[Point], None] = lambda point: None,
) -> Sweep:
    """Measure batches of 1, 2, 4, … rows, until memory ends; or gain, on a CPU.

    Args:
        release: opened by the registry.
        device: where to run.
        workers: how many threads score at once, as in a night.
        repeats: runs of each size; their median counts.
        run_seconds: the least that a run takes.
        max_rows: the largest batch to try.
        tried: called with each point as it is found.

    Raises:
        GoldenBatchError: the release is not itself on this device.
        RuntimeError: a single row does not fit, or the model fails on its golden rows.
    """
    trial = _Trial(Scorer(release, device), workers)
    largest = max_rows or MAX_ROWS[device.kind]
    if device.compiled:
        largest = min(largest, MOST_ROWS)
    with trial:
        sizes, edge = _double(trial, largest, run_seconds, tried)
        # Again in turns: a machine that slows down does so for every size.
        for _ in range(repeats - 1):
            for size in sizes:
                size.rates.append(trial.rate(size.rows, size.calls))
    return Sweep(
        model=release.name,
        digest=release.digest,
        device=device.label,
        precision=device.computes_in,
        workers=workers,
        torch=torch.__version__,
        at=time.time(),
        edge=edge,
        points=tuple(size.point for size in sizes),
    )


@dataclass
class _Size:
    """A batch size on trial: batches of a run, MiB, and rows per second of each run."""

    rows: int
    calls: int
    memory: float | None
    rates: list[float]

    @property
    def point(self) -> Point:
        return Point(self.rows, statistics.median(self.rates), self.memory)


def _double(
    trial: "_Trial", largest: int, run_seconds: float, tried: Callable[[Point], None]
) -> tuple[list[_Size], str]:
    """Try 1, 2, 4, … rows once each; say why it ended."""
    sizes: list[_Size] = []
    workers, device = trial.workers, trial.device
    rows = 1
    while rows <= largest:
        needed = _needed(sizes[-1].memory, device) if sizes else None
        if needed:
            return sizes, f"{rows:,} rows would need {needed:,.0f} MiB or more"
        try:
            memory = trial.memory(rows)
            calls, rate = trial.calibrated(rows, run_seconds)
        except (MemoryError, RuntimeError) as error:
            if not sizes or not out_of_memory(error):
                raise
            return sizes, f"out of memory at {rows:,} rows"
        sizes.append(_Size(rows, calls, memory, [rate]))
        tried(sizes[-1].point)
        seconds, best = workers * rows / rate, max(size.rates[0] for size in sizes)
        if device.kind == "cpu" and seconds > SLOW_SECONDS and rate < best:
            edge = f"{rows:,} rows take {seconds:.1f} s and are no faster than fewer"
            return sizes, edge
        rows *= 2
    return sizes, f"no batch of more than {largest:,} rows was tried"


class _Trial:
    """All workers at once, on batches made of the golden rows."""

    def __init__(self, scorer: Scorer, workers: int) -> None:
        self.device, self.workers = scorer.device, workers
        self._scorer = scorer
        self._golden = np.ascontiguousarray(golden_batch(scorer.release)[0].numpy().T)
        self._pool = ThreadPoolExecutor(
            workers, "sweep", initializer=torch.set_num_threads, initargs=(1,)
        )
        self._batches: list[np.ndarray] = []

    def memory(self, rows: int) -> float | None:
        """MiB that a batch takes on all workers; it also warms them up."""
        self._batch(rows)
        memory = _Memory(self.device)
        self._seconds(1)
        return memory.taken()

    def calibrated(self, rows: int, seconds: float) -> tuple[int, float]:
        """How many batches take so long, and the rows per second."""
        self._batch(rows)
        calls = 1
        while (took := self._seconds(calls)) < seconds:
            calls = max(calls + 1, int(calls * min(1.2 * seconds / took, 16)))
        return calls, self.workers * calls * rows / took

    def rate(self, rows: int, calls: int) -> float:
        """Rows per second of so many batches; the first one is not counted."""
        self._batch(rows)
        self._seconds(1)
        return self.workers * calls * rows / self._seconds(calls)

    def _batch(self, rows: int) -> None:
        if not self._batches or self._batches[0].shape[1] != rows:
            self._batches = []  # Before the next are made, not after.
            at = np.arange(rows) % self._golden.shape[1]
            self._batches = [self._golden[:, at] for _ in range(self.workers)]

    def _seconds(self, calls: int) -> float:
        def work(batch: np.ndarray) -> None:
            for _ in range(calls):
                # It waits for the device: the outputs are on the host when it returns.
                self._scorer.forward(batch)

        start = time.perf_counter()
        list(self._pool.map(work, self._batches))
        return time.perf_counter() - start

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *raised: object) -> None:
        self._pool.shutdown()
        if self.device.kind == "cuda":
            torch.cuda.empty_cache()


def _needed(last: float | None, device: Device) -> float | None:
    """MiB that twice the last batch would take, if a CPU should rather not try."""
    if device.kind == "cuda" or last is None:
        return None
    free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / MEBI
    return 2 * last if 2 * last > free * FREE_SHARE else None


class _Memory:
    """The most memory since it was made, in MiB, over what there was then."""

    def __init__(self, device: Device) -> None:
        self._device = device
        if device.kind == "cuda":
            torch.cuda.synchronize(device.torch)
            torch.cuda.reset_peak_memory_stats(device.torch)
            self._before: float | None = (
                torch.cuda.memory_allocated(device.torch) / MEBI
            )
        else:
            self._before = _resident("VmRSS") if _forget_peak() else None

    def taken(self) -> float | None:
        if self._before is None:
            return None
        if self._device.kind == "cuda":
            peak = torch.cuda.max_memory_allocated(self._device.torch) / MEBI
        else:
            peak = _resident("VmHWM")
        return round(max(peak - self._before, 0.0), 1)


def _forget_peak() -> bool:
    """Let Linux count this process's peak anew; other systems do not tell."""
    try:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    except OSError:
        return False
    return True


def _resident(name: str) -> float:
    text = Path("/proc/self/status").read_text(encoding="ascii", errors="replace")
    line = re.search(rf"^{name}:\s+(\d+) kB", text, re.MULTILINE)
    return int(line[1]) / 1024 if line else 0.0


class Sweeps:
    """The sweeps under a root: the newest of each release, device and precision."""

    def __init__(self, root: StoragePath) -> None:
        # A machine's own: of an object store, they lie here.
        self._folder = local(root) / SWEEPS

    def keep(self, curve: Sweep) -> Path:
        """Write a sweep, in one step, in place of an older one."""
        path = self._path(curve.model, curve.digest, curve.device, curve.precision)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, json.dumps(asdict(curve), indent=1).encode() + b"\n")
        return path

    def find(self, release: Release, device: Device) -> Sweep | None:
        """Read the sweep of a release on a device, if there is one that can be read."""
        path = self._path(
            release.name, release.digest, device.label, device.computes_in
        )
        try:
            fields = json.loads(path.read_text(encoding="utf-8"))
            points = tuple(Point(**point) for point in fields.pop("points"))
            curve = Sweep(**fields, points=points)
            return curve if curve.knee.batch_rows > 0 else None
        except FileNotFoundError:
            return None
        except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
            # A night does not fail for want of a hint.
            log.warning("%s can't be read and is ignored: %s", path, error)
            return None

    def tuned(self, release: Release, device: Device) -> Device:
        """Give a device the knee of its sweep, unless a size was set by hand."""
        if device.batch_rows_from != "default":
            return device
        curve = self.find(release, device)
        if curve is None:
            return device
        return replace(
            device, batch_rows=curve.knee.batch_rows, batch_rows_from="sweep"
        )

    def _path(self, model: str, digest: str, device: str, precision: str) -> Path:
        name, precision = (
            re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")
            for text in (device, precision)
        )
        # Two names that look the same as a file are two devices all the same.
        mark = hashlib.sha256(device.encode()).hexdigest()[:8]
        return self._folder / model / f"{digest}-{name}-{mark}-{precision}.json"
