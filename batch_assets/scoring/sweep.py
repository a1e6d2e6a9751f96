"""How many rows a model should get at once: measured where it scores.

Each number of rows is tried as the engine would: all its workers at once, on the
release's own golden rows, warmed up first. It knows no day and no chunk, and not where
what is found is kept.
"""

import os
import re
import statistics
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
import torch

from batch_assets.models.formats import golden_batch
from batch_assets.models.input_rows import InputRows, longest_of
from batch_assets.models.release import Release
from batch_assets.scoring.device import Device
from batch_assets.scoring.device_errors import out_of_memory
from batch_assets.scoring.native import MOST_ROWS
from batch_assets.scoring.scorer import Scorer
from batch_assets.scoring.sweep_results import NEAR_BEST, Point, Sweep

REPEATS = 3
# Of a few runs each, some size is the fastest by chance alone.
FINALS, FINAL_SHARE = 4, 0.9
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
# A sweep takes no longer, unless it is asked to go to the edge of memory; a third of it
# is for the runs that are repeated.
MOST_SECONDS = 60.0
DOUBLING_SHARE = 2 / 3
# So many doublings that are no faster, and more rows bring nothing.
FLAT_SIZES = 3
MEBI = 1 << 20


@dataclass(frozen=True)
class Effort:
    """How long a sweep tries, and how far it goes.

    Attributes:
        seconds: it ends after about so long, and before that where more rows bring
            nothing; if None, it goes to the edge of memory, however long that takes.
        repeats: runs of each size; their median counts.
        finals: more runs of those sizes that may be the knee.
        run_seconds: the least that a run takes.
        max_rows: the largest batch to try; as the kind of device, if None.
    """

    seconds: float | None = MOST_SECONDS
    repeats: int = REPEATS
    finals: int = FINALS
    run_seconds: float = RUN_SECONDS
    max_rows: int | None = None


def sweep(
    release: Release,
    device: Device,
    workers: int,
    effort: Effort = Effort(),
    *,
    tried: Callable[[Point], None] = lambda point: None,
) -> Sweep:
    """Measure batches of 1, 2, 4, … rows, until more rows bring nothing.

    Args:
        release: opened by the registry.
        device: where to run.
        workers: how many threads score at once, as in a night.
        effort: how long it may take, and how far it goes.
        tried: called with each point as it is found.

    Raises:
        GoldenBatchError: the release is not itself on this device.
        RuntimeError: a single row does not fit, or the model fails on its golden rows.
    """
    trial = _Trial(Scorer(release, device), workers)
    # From here on: to compile a model may take longer than to measure it.
    clock = Clock(effort.seconds)
    largest = effort.max_rows or MAX_ROWS[device.kind]
    if device.compiled:
        largest = min(largest, MOST_ROWS)
    with trial:
        sizes, edge = _double(trial, largest, effort.run_seconds, clock, tried)
        # Again in turns: a machine that slows down does so for every size.
        for turn in range(effort.repeats + effort.finals - 1):
            in_the_final = turn >= effort.repeats - 1
            for size in _near_best(sizes) if in_the_final else sizes:
                if clock.over():
                    break
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


class Clock:
    """What is left of the time of a sweep; of none, there is always enough."""

    def __init__(self, seconds: float | None) -> None:
        self.seconds = seconds
        self._begin = self._step = time.perf_counter()

    def over(self) -> bool:
        """Whether the time is gone."""
        if self.seconds is None:
            return False
        return time.perf_counter() - self._begin > self.seconds

    def no_time_for_next(self) -> bool:
        """Whether a step of twice the last one would take too long."""
        now = time.perf_counter()
        last, self._step = now - self._step, now
        if self.seconds is None:
            return False
        return now - self._begin + 2 * last > DOUBLING_SHARE * self.seconds


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
    trial: "_Trial",
    largest: int,
    run_seconds: float,
    clock: Clock,
    tried: Callable[[Point], None],
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
        if clock.seconds is not None and (flat := _flat_from(sizes)):
            return sizes, f"more than {flat:,} rows are no faster"
        if clock.no_time_for_next():
            edge = f"{rows * 2:,} rows would take longer than {clock.seconds:.0f} s"
            return sizes, edge
        seconds, best = workers * rows / rate, max(size.rates[0] for size in sizes)
        if device.kind == "cpu" and seconds > SLOW_SECONDS and rate < best:
            edge = f"{rows:,} rows take {seconds:.1f} s and are no faster than fewer"
            return sizes, edge
        rows *= 2
    return sizes, f"no batch of more than {largest:,} rows was tried"


def _near_best(sizes: Sequence[_Size]) -> list[_Size]:
    rates = [size.point.rows_per_second for size in sizes]
    return [
        size
        for size, rate in zip(sizes, rates, strict=True)
        if rate >= FINAL_SHARE * max(rates)
    ]


def _flat_from(sizes: Sequence[_Size]) -> int | None:
    """From how many rows on the last doublings brought nothing, if they did not."""
    before, last = sizes[:-FLAT_SIZES], sizes[-FLAT_SIZES:]
    if not before:
        return None
    best = max(before, key=lambda size: size.rates[0])
    most = best.rates[0] * (1 + NEAR_BEST)
    return None if any(size.rates[0] > most for size in last) else best.rows


class _Trial:
    """All workers at once, on batches made of the golden rows."""

    def __init__(self, scorer: Scorer, workers: int) -> None:
        self.device, self.workers = scorer.device, workers
        self._scorer = scorer
        golden = scorer.tokenised(golden_batch(scorer.release)[0])
        self._golden = _longest(golden, scorer.release)
        self._pool = ThreadPoolExecutor(
            workers, "sweep", initializer=torch.set_num_threads, initargs=(1,)
        )
        self._batches: list[InputRows] = []

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
        if not self._batches or len(self._batches[0]) != rows:
            self._batches = []  # Before the next are made, not after.
            at = np.arange(rows) % len(self._golden)
            self._batches = [self._golden.take(at) for _ in range(self.workers)]

    def _seconds(self, calls: int) -> float:
        def work(batch: InputRows) -> None:
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


def _longest(rows: InputRows, release: Release) -> InputRows:
    """Of rows with sequences the longest: by them a batch is bounded."""
    lengths = longest_of(rows, release.contract)
    if lengths is None:
        return rows
    return rows.take(np.flatnonzero(lengths == lengths.max()))


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
