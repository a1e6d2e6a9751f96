"""A night's chunks on devices that may be taken away, many times over.

Each device takes the next chunk. One that is taken away loses its chunk, which another
does again, and comes back after a while. It knows neither rows nor money.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from batch_assets.errors import PipelineError

# Nights that are simulated, and how many chunks these may have in all: a plan of 10
# billion rows takes seconds, not minutes.
RUNS, LEAST_RUNS, MOST_CHUNKS = 200, 20, 1_000_000
LOW, HIGH = 5, 95
SEED = 20_260_101
# A chunk that takes so many times as long as a device is there is done once in 20 tries.
LONGEST = 3.0


@dataclass(frozen=True)
class Scoring:
    """Chunks, each with the seconds that it takes on a device.

    `spread` is the standard deviation of the logarithm of what a chunk takes.
    """

    seconds: Sequence[float]
    spread: float = 0.0


@dataclass(frozen=True)
class Preemption:
    """How often a device is taken away, a second, and how long until another is there.

    `attempts` is how often a chunk may be lost before the night stops; None if it never
    does.
    """

    rate: float = 0.0
    replace_seconds: float = 0.0
    attempts: int | None = None


@dataclass(frozen=True)
class Simulated:
    """What came of the nights: `median`, `low` and `high` seconds, and what was lost."""

    median: float
    low: float
    high: float
    redone_share: float
    failed_share: float
    runs: int


def simulate(
    scoring: Scoring,
    devices: int,
    preemption: Preemption = Preemption(),
    *,
    runs: int | None = None,
) -> Simulated:
    """Simulate nights of these chunks on so many devices.

    Args:
        scoring: the chunks; none take no time.
        devices: how many, 1 or more.
        preemption: how they are taken away.
        runs: how many nights; as many as are quick, if left out.

    Raises:
        PipelineError: devices are taken away before they have done a chunk.
    """
    count = len(scoring.seconds)
    if not count:
        return Simulated(0.0, 0.0, 0.0, 0.0, 0.0, 0)
    if (longest := max(scoring.seconds)) * preemption.rate > LONGEST:
        msg = (
            f"a chunk takes a device {longest:,.0f} s, and one is taken away every "
            f"{1 / preemption.rate:,.0f} s: hardly any would be done. Make chunks "
            "smaller (chunk_rows), or take devices that stay"
        )
        raise PipelineError(msg)
    if runs is None:
        runs = max(min(RUNS, MOST_CHUNKS // count), LEAST_RUNS)
    if not scoring.spread and not preemption.rate:
        runs = 1  # They are all the same.
    nights = _Nights(scoring, devices, preemption, runs)
    ends = nights.ends()
    low, median, high = np.percentile(ends, [LOW, 50, HIGH])
    return Simulated(
        float(median),
        float(low),
        float(high),
        nights.lost / (count * runs),
        float(nights.failed.mean()),
        runs,
    )


class _Nights:
    """So many nights side by side: arrays have a row for each."""

    def __init__(
        self, scoring: Scoring, devices: int, preemption: Preemption, runs: int
    ) -> None:
        self._random = np.random.default_rng(SEED)
        self._scoring, self._preemption = scoring, preemption
        self._row = np.arange(runs)
        # More than there are chunks would have nothing to do.
        self._free = np.zeros((runs, min(devices, len(scoring.seconds))))
        self.lost = 0
        self.failed = np.zeros(runs, dtype=bool)

    def ends(self) -> np.ndarray:
        """When the last chunk of each night is done, in seconds (runs,)."""
        runs, rate = len(self._row), self._preemption.rate
        done = np.zeros(runs)
        # Largest first, as an engine begins them.
        left = [
            np.tile(np.array(sorted(self._scoring.seconds, reverse=True)), (runs, 1)).T
        ]
        since = [np.zeros_like(left[0])]
        attempt = 0
        while left:
            attempt += 1
            seconds, ready = left.pop(), since.pop()
            lost_seconds, lost_at = [], []
            for chunk, earliest in zip(seconds, ready, strict=True):
                took = chunk * self._jitter(runs)
                at = np.argmin(self._free, axis=1)
                begin = np.maximum(self._free[self._row, at], earliest)
                real = chunk > 0
                gone = self._random.exponential(1 / rate, runs) if rate else None
                lost = (gone < took) & real if gone is not None else None
                if lost is None or gone is None or not lost.any():
                    end = np.where(real, begin + took, self._free[self._row, at])
                    self._free[self._row, at] = end
                    done = np.maximum(done, np.where(real, end, 0.0))
                    continue
                end = np.where(lost, begin + gone, begin + took)
                back = np.where(lost, end + self._preemption.replace_seconds, end)
                before = self._free[self._row, at]
                self._free[self._row, at] = np.where(real, back, before)
                done = np.maximum(done, np.where(real & ~lost, end, 0.0))
                lost_seconds.append(np.where(lost, chunk, 0.0))
                lost_at.append(np.where(lost, end, 0.0))
                self.lost += int(lost.sum())
                if self._preemption.attempts == attempt:
                    self.failed |= lost
            if lost_seconds:
                again, at_once = _compact(np.array(lost_seconds), np.array(lost_at))
                left.append(again)
                since.append(at_once)
        return done

    def _jitter(self, runs: int) -> np.ndarray | float:
        spread = self._scoring.spread
        if not spread:
            return 1.0
        # Its mean is 1: the rate that was measured is that of all chunks.
        return self._random.lognormal(-(spread**2) / 2, spread, runs)


def _compact(seconds: np.ndarray, at: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Move what each night has lost to the front, and drop what is of no night."""
    order = np.argsort(seconds == 0, axis=0, kind="stable")
    most = int((seconds > 0).sum(axis=0).max())
    rows = order[:most]
    return np.take_along_axis(seconds, rows, 0), np.take_along_axis(at, rows, 0)
