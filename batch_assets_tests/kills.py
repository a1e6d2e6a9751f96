"""A thousand kills: nights of every kind on every engine, each killed somewhere on its road.

    python -m batch_assets_tests.kills --kills 1000 --minutes 60

A night goes from its source to what is served. It is killed at a step or at a moment that
its number tells, and then made again: what readers see in between is the day before or
the whole day, and what the second run leaves is that of an undisturbed one, to the byte.
What has been done is kept in a file, so that a campaign goes on where it ended. It is
that of this very code: of other code it begins anew.
"""

import argparse
import hashlib
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from batch_assets.lake.parts import open_part
from batch_assets_tests.crash import EVERY_KIND, HOUSE, seen
from batch_assets_tests.faults.nights import BEFORE, TABLES, Stage, staged
from batch_assets_tests.toys import DAY, NAME

STATE = HOUSE / ".kills"
# Of so many kills in turn, these are of each kind of night and engine. Ray and Spark take
# seconds where one machine takes a fraction of one.
LANES = {
    ("features", "local"): 52,
    ("histories", "local"): 26,
    ("texts", "local"): 18,
    ("features", "ray"): 2,
    ("histories", "ray"): 1,
    ("features", "spark"): 1,
}
TURN = [lane for lane, count in LANES.items() for _ in range(count)]
AT_ONCE = 2
ENGINES = ("local", "ray", "spark")


@dataclass(frozen=True)
class Case:
    """One night: of what, on which engine, and how it is killed."""

    number: int
    kind: str
    engine: str
    again: bool
    place: float
    twice: bool
    by_step: bool

    @classmethod
    def of(cls, number: int) -> "Case":
        """The case of a number, the same for ever."""
        draw = random.Random(number)
        kind, engine = random.Random(number // len(TURN)).sample(TURN, len(TURN))[
            number % len(TURN)
        ]
        return cls(
            number,
            kind,
            engine,
            again=draw.random() < 0.4,
            place=draw.random(),
            twice=draw.random() < 0.1,
            by_step=draw.random() < 0.6,
        )


@dataclass(frozen=True)
class Done:
    """What came of a case, as a line of the state says it."""

    number: int
    kind: str
    engine: str
    kills: int
    seconds: float
    failed: str | None = None


class State:
    """What is done: a file of lines, of one version of the code."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.path = folder / f"{code_digest()[:16]}.jsonl"
        self._lock = threading.Lock()
        lines = (
            self.path.read_text("utf-8").splitlines(True) if self.path.exists() else []
        )
        # Of a campaign that was killed itself the last line may be torn.
        whole = [line for line in lines if line.endswith("\n")]
        if whole != lines:
            self.path.write_text("".join(whole), "utf-8")
        self.done = {one.number: one for one in (Done(**json.loads(x)) for x in whole)}

    def add(self, one: Done) -> None:
        with self._lock, self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(asdict(one)) + "\n")
            self.done[one.number] = one

    @property
    def kills(self) -> int:
        with self._lock:
            return sum(one.kills for one in self.done.values() if not one.failed)

    @property
    def failed(self) -> list[Done]:
        with self._lock:
            return [one for one in self.done.values() if one.failed]

    def left(self) -> Iterator[Case]:
        """Cases that are to be done, those that failed once among them; without an end."""
        number = 0
        while True:
            if number not in self.done or self.done[number].failed:
                yield Case.of(number)
            number += 1


def code_digest() -> str:
    """Names the code of the package, whatever git knows of it."""
    digest = hashlib.sha256()
    for path in sorted((HOUSE / "batch_assets").rglob("*.py")):
        digest.update(str(path.relative_to(HOUSE)).encode() + path.read_bytes())
    return digest.hexdigest()


class Campaign:
    """Stages by kind, made when the first night of a kind is to be killed."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self._folder, self._stack = folder, stack
        self._stages: dict[str, Stage] = {}
        self._seconds: dict[tuple[str, str], float] = {}
        self._lock = threading.Lock()
        # Of engines that start processes of their own, one night at a time.
        self._alone = {engine: threading.Lock() for engine in ENGINES[1:]}

    def stage_of(self, case: Case) -> tuple[Stage, float]:
        """Return what nights of a kind start from, and how long one takes on an engine."""
        with self._lock:
            if case.kind not in self._stages:
                staging = staged(self._folder / case.kind, EVERY_KIND[case.kind])
                self._stages[case.kind] = self._stack.enter_context(staging)
            stage = self._stages[case.kind]
            lane = case.kind, case.engine
            if lane not in self._seconds:
                root = stage.root()
                ended = night(stage, root, case.engine)
                assert ended.well, ended
                stage.must_be_whole(root)
                self._seconds[lane] = ended.seconds
            return stage, self._seconds[lane]

    def survive(self, case: Case) -> int:
        """Kill a night, look at what there is, make it again; how often it was killed."""
        with self._alone.get(case.engine, nullcontext()):
            return self._survive(case, *self.stage_of(case))

    def _survive(self, case: Case, stage: Stage, seconds: float) -> int:
        root = stage.root(again=case.again)
        before = stage.before[case.again]
        steps, draw, killed = stage.undisturbed.steps, random.Random(case.number), 0
        for _ in range(1 + case.twice):
            kill: dict[str, Any] = {"die_after": case.place * seconds}
            if case.by_step:
                kill = {"die_at": 1 + int(case.place * len(steps))}
            ended = night(stage, root, case.engine, **kill)
            assert ended.killed == signal.SIGKILL or ended.well, ended
            killed += bool(ended.killed)
            for table in TABLES:
                rows = seen(root, table)
                for part in (root / "lake" / NAME / table).rglob("*.parquet"):
                    open_part(part)  # under its name, it is whole
                torn = [x for x in (before[table], stage.whole[table]) if same(rows, x)]
                assert torn, f"{table} is neither as before nor whole"
            assert stage.must_serve_a_whole_version(root) in (BEFORE, DAY)
            case = Case(**{**asdict(case), "place": draw.random()})
        ended = night(stage, root, case.engine)
        assert ended.well, ended
        stage.must_be_whole(root)
        shutil.rmtree(root)
        return killed


def night(stage: Stage, root: Path, engine: str, **kill: Any) -> Any:
    changes = {"engine": engine, "publish": DAY, "both": True, "claim": "a-run"}
    return stage.zygote.night(root, **changes, **kill)


def same(rows: Any, other: Any) -> bool:
    return rows is other if rows is None or other is None else bool(rows.equals(other))


@contextmanager
def running(wanted: set[str]) -> Iterator[None]:
    """A Ray that the nights share, where any is to run on it."""
    with ExitStack() as stack:
        if "ray" in wanted:
            import ray

            from batch_assets_tests.engines import running_ray

            stack.enter_context(running_ray())
            os.environ["RAY_ADDRESS"] = ray.get_runtime_context().gcs_address
        yield


def told(state: State, seconds: float) -> str:
    """What was done, by kind and engine, in the words of the docs."""
    by_lane: Counter[str] = Counter()
    spent: Counter[str] = Counter()
    for one in state.done.values():
        by_lane[f"{one.kind} on {one.engine}"] += one.kills
        spent[f"{one.kind} on {one.engine}"] += one.seconds  # type: ignore[assignment]
    lines = [
        f"  {lane:22} {kills:5} kills, {spent[lane] / max(kills, 1):5.1f} s each"
        for lane, kills in by_lane.most_common()
    ]
    head = (
        f"{state.kills:,} kills survived, {len(state.failed)} not; {seconds:.0f} s now"
    )
    return "\n".join([head, *lines])


def main(arguments: list[str] | None = None) -> int:
    """Kill until there are enough, or the time is over; 1 if any night did not survive."""
    parser = argparse.ArgumentParser(description=__doc__, add_help=True)
    parser.add_argument("--kills", type=int, default=1000)
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--state", type=Path, default=STATE)
    parser.add_argument("--engines", default=",".join(ENGINES))
    asked = parser.parse_args(arguments)
    begin = time.monotonic()
    end, engines = begin + 60 * asked.minutes, set(asked.engines.split(","))
    if odd := engines - set(ENGINES):
        parser.error(
            f"no engine is {', '.join(odd)}; expected some of {', '.join(ENGINES)}"
        )
    state = State(asked.state)
    cases, turn = state.left(), threading.Lock()
    scratch = os.environ.get("PYTEST_DEBUG_TEMPROOT")
    with (
        tempfile.TemporaryDirectory(dir=scratch, ignore_cleanup_errors=True) as folder,
        running(engines),
        ExitStack() as stack,
    ):
        campaign = Campaign(Path(folder), stack)

        def work() -> None:
            while state.kills < asked.kills and time.monotonic() < end:
                with turn:
                    case = next(c for c in cases if c.engine in engines)
                since = time.monotonic()
                try:
                    kills, failed = campaign.survive(case), None
                except Exception as error:  # noqa: BLE001 - the others are to go on
                    kills, failed = 0, f"{type(error).__name__}: {error}"
                    print(f"{case}: {failed}", file=sys.stderr, flush=True)  # noqa: T201
                seconds = time.monotonic() - since
                state.add(
                    Done(case.number, case.kind, case.engine, kills, seconds, failed)
                )

        with ThreadPoolExecutor(AT_ONCE) as pool:
            for one in [pool.submit(work) for _ in range(AT_ONCE)]:
                one.result()
    print(told(state, time.monotonic() - begin))  # noqa: T201
    if state.kills < asked.kills:
        print(f"The time is over; say it again to go on to {asked.kills:,}.")  # noqa: T201
    return 1 if state.failed else 0


if __name__ == "__main__":
    sys.exit(main())
