"""Models that get stuck on purpose; light to import, for each process that does so.

`home` is the process of the tests: away from it, in the model's own process, some
misbehave in another way.
"""

import os
import signal
import time
from pathlib import Path

import torch

# Ages at which the model misbehaves, and those at which it does so in one place only.
LOOPS, STUBBORN, RAISES, LEAVES = 101, 102, 103, 104
SLOW_AT_HOME, DIES_AWAY, LEAVES_AWAY = 111, 112, 113
NAPS, SPINS, STRAYS = 105, 106, 107
OUT_OF_RANGE = 108
NAP_SECONDS, SPIN_SECONDS = 0.3, 1.5
# Longer than any limit in a test, and soon over.
STUBBORN_SECONDS = 4


class Risk(torch.nn.Module):
    """A logistic model; a missing number counts as zero."""

    def __init__(self) -> None:
        super().__init__()
        weights = torch.tensor([0.02, -0.004, 0.8, -1.1])
        self.weights = torch.nn.Parameter(weights, requires_grad=False)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return torch.sigmoid(torch.nan_to_num(features, nan=0.0) @ self.weights)


class Stuck(Risk):
    """A logistic model, but for some ages."""

    def __init__(self, home: int) -> None:
        super().__init__()
        self.home = home

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        ages = set(features[:, 0].tolist())
        at_home = os.getpid() == self.home
        while LOOPS in ages or (at_home and {DIES_AWAY, LEAVES_AWAY} & ages):
            time.sleep(0.001)
        if STUBBORN in ages or (at_home and SLOW_AT_HOME in ages):
            time.sleep(STUBBORN_SECONDS)  # One call: nothing interrupts it.
        if RAISES in ages:
            msg = "no risk at that age"
            raise ValueError(msg)
        if LEAVES in ages:
            raise SystemExit(3)
        if DIES_AWAY in ages:
            os.kill(os.getpid(), signal.SIGSEGV)
        if LEAVES_AWAY in ages:
            os._exit(7)
        return super().forward(features)


class Breaking(Stuck):
    """Fails on all rows of a process once it had one of an age, as a CUDA device does."""

    broken = False

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        Breaking.broken |= OUT_OF_RANGE in features[:, 0].tolist()
        if Breaking.broken:
            msg = "CUDA error: device-side assert triggered"
            raise RuntimeError(msg)
        return super().forward(features)


class Homesick(Stuck):
    """Can't be built away from home."""

    def __init__(self, home: int) -> None:
        if os.getpid() != home:
            msg = "no place like home"
            raise ValueError(msg)
        super().__init__(home)


class Sleepy(Risk):
    """Takes a minute to be built away from home."""

    def __init__(self, home: int) -> None:
        time.sleep(0 if os.getpid() == home else 60)
        super().__init__()


class Moody(Stuck):
    """Stuck, or for some ages only slow, greedy, or out of its range."""

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        ages = set(features[:, 0].tolist())
        if NAPS in ages:
            time.sleep(NAP_SECONDS)
        end = time.monotonic() + SPIN_SECONDS
        while SPINS in ages and time.monotonic() < end:
            pass  # With the interpreter's lock.
        risk = super().forward(features)
        return torch.where(features[:, 0] == STRAYS, torch.nan, risk)


def children() -> set[int]:
    """The model's processes of this process that are there, running or not reaped."""
    pids = set()
    for status in Path("/proc").glob("[0-9]*/status"):
        try:
            text = status.read_text(encoding="utf-8")
            command = (status.parent / "cmdline").read_bytes()
        except OSError:
            continue
        if f"PPid:\t{os.getpid()}\n" in text and b"model_process" in command:
            pids.add(int(status.parent.name))
    return pids
