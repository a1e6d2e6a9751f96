"""Which operation of storage meets which fault: told by a seed, the same in every run.

An operation is known by what it does, by the name of the file, and by how often that was
done to it: not by when, for the threads of a night take their turns as they like. What
differs from run to run (digests, unique names) is no part of the name.
"""

import random
import re
import threading
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

# UUIDs, digests and names that nobody else has; the numbers of a log's entries begin with
# zeros.
UNIQUE = re.compile(
    r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}|(?<![0-9a-f])(?!0{10})[0-9a-f]{10,}"
)
# Where the path of a file begins that is the same under every root.
ROOMS = re.compile(r".*/(?=(lake|models|snapshots)/)")


class Fault(StrEnum):
    """What an operation can meet.

    `FAIL`: it is refused, and nothing was done. `LOST`: it was done, and the answer says
    that it failed. `TEAR`: half of the bytes came, and it says it is done. `FLIP`: one
    bit is another, and it says it is done. `LIE`: nothing was done, and it says it is.
    `LATE`: it says it is done, and is a while later, after others that came after it.
    `DELAY`: it takes longer. `STALE`: what is read is what was there before. `CLOCK`: it
    does what it should, and the clock jumps meanwhile, by up to a day in either direction.
    """

    FAIL = "fail"
    LOST = "lost"
    TEAR = "tear"
    FLIP = "flip"
    LIE = "lie"
    LATE = "late"
    DELAY = "delay"
    STALE = "stale"
    CLOCK = "clock"


EVERY = tuple(Fault)
DAY_SECONDS = 86_400.0


def move_clock(seconds: float) -> None:
    """Let Python's wall clock be off. The log's own clock is out of reach."""
    real, real_ns = time.time, time.time_ns
    time.time = lambda: real() + seconds
    time.time_ns = lambda: real_ns() + int(seconds * 1e9)


@dataclass(frozen=True)
class FaultPlan:
    """Of so large a share of all operations, each meets one of these faults.

    With `at`, the operation that bears that label meets the first of them, once, and no
    other does.
    """

    seed: int
    share: float = 0.03
    faults: tuple[Fault, ...] = EVERY
    at: str | None = None

    def dumps(self) -> dict[str, object]:
        return {
            "seed": self.seed,
            "share": self.share,
            "faults": list(self.faults),
            "at": self.at,
        }

    @classmethod
    def loads(cls, plan: dict[str, object]) -> "FaultPlan":
        faults = tuple(Fault(name) for name in plan["faults"])  # type: ignore[attr-defined]
        return cls(**{**plan, "faults": faults})  # type: ignore[arg-type]


class Faults:
    """A plan at work: draws for each operation, and tells what was met."""

    def __init__(self, plan: FaultPlan) -> None:
        self.plan = plan
        self.labels: list[str] = []
        self.met: list[str] = []
        self._times: Counter[str] = Counter()
        self._lock = threading.Lock()

    def draw(self, operation: str, path: object, can: Sequence[Fault]) -> Fault | None:
        """Return the fault that an operation meets, of those that it can; mostly none."""
        name = UNIQUE.sub("*", ROOMS.sub("", str(path)))
        with self._lock:
            self._times[f"{operation} {name}"] += 1
            label = f"{operation} {name} {self._times[f'{operation} {name}']}"
            self.labels.append(label)
            fault = self._of(label, [one for one in self.plan.faults if one in can])
            if fault:
                self.met.append(f"{label}: {fault}")
        if fault is Fault.DELAY:
            time.sleep(random.Random(label).uniform(0, 0.05))
            return None
        if fault is Fault.CLOCK:
            move_clock(random.Random(label).uniform(-DAY_SECONDS, DAY_SECONDS))
            return None
        return fault

    def _of(self, label: str, possible: Sequence[Fault]) -> Fault | None:
        if not possible:
            return None
        if self.plan.at is not None:
            return possible[0] if label == self.plan.at else None
        draw = random.Random(f"{self.plan.seed} {label}")
        return draw.choice(possible) if draw.random() < self.plan.share else None
