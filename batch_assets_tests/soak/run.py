"""The service for an hour at a rate, with trouble beside it: `make soak`.

A real `batch-assets serve` answers clients of another process while versions are swapped
in and rolled back, a Redis that follows them is killed again and again, slow clients hold
connections, and bodies come that are too large or no JSON. In the end: no answer mixes
versions, no good request failed, memory did not grow, the sink serves what is served.
Versions are built and sinks filled at the lowest priority: in production that is another
machine's work.
"""

import argparse
import contextlib
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np

from batch_assets.sinks.declared import declare_sinks
from batch_assets.sinks.operations import prove_sinks, sync_sinks
from batch_assets.snapshots.operations import rollback, unblock
from batch_assets.snapshots.retention import collect
from batch_assets.snapshots.store import SnapshotStore
from batch_assets.spec.sinks import RedisTarget
from batch_assets_tests.served import serve
from batch_assets_tests.servers import redis_server
from batch_assets_tests.services import serving
from batch_assets_tests.toys import NAME

URL = "SOAK_REDIS_URL"
WHY = "the soak"
SWAP_EVERY, SINK_LIVES = 5.0, 20.0
# What a reader may hold of a version before, and what an allocator may keep.
GROWTH, SLACK_BYTES = 1.05, 16 << 20
LOWEST_PRIORITY = 19
# By then a client that sends too slowly, and one that never reads, are thrown out.
THROWN_OUT = 60.0


@dataclass
class Trouble:
    """What was done to the service meanwhile."""

    swaps: int = 0
    rollbacks: int = 0
    sink_kills: int = 0
    sink_syncs: int = 0
    sink_errors: int = 0
    memory: list[int] = field(default_factory=list)
    machine_load: list[float] = field(default_factory=list)
    stopped: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Soaked:
    """A whole soak: the load, what clients saw, what was done, what the service took.

    Attributes:
        service_cpu: the share of a core that it ran, and for which it waited.
        machine_load: how many ran or waited on the whole machine: the mean and the most.
        memory_mb: anonymous memory, the median of each quarter, and the most.
    """

    seconds: float
    connections: int
    slow_clients: int
    load: dict[str, Any]
    swaps: int
    rollbacks: int
    sink_kills: int
    sink_syncs: int
    service_cpu: dict[str, float]
    machine_load: dict[str, float]
    memory_mb: dict[str, Any]
    problems: list[str]


def soak(
    root: Path, *, seconds: float, rate: float, connections: int, slow: int, keys: int
) -> Soaked:
    """Soak the service; what came of it, with its problems, if there are any."""
    store = SnapshotStore(root, NAME)
    serve(store, 1, np.arange(keys))
    declare_sinks(store, [RedisTarget(kind="redis", url_env=URL)])
    trouble, over = Trouble(), threading.Event()
    with (
        serving(root) as server,
        _beside(trouble, over, lambda: _swap(store, keys, trouble, over)),
        _beside(trouble, over, lambda: _kill_sinks(store, trouble, over)),
        _beside(trouble, over, lambda: _weigh(server.process.pid, trouble, over)),
    ):
        host, _, port = server.url.removeprefix("http://").partition(":")
        asked = {
            "keys": keys,
            "rate": rate,
            "seconds": seconds,
            "connections": connections,
            "slow": slow,
        }
        options = [f"--{name}={value}" for name, value in asked.items()]
        command = [sys.executable, "-m", "batch_assets_tests.soak.client", host, port]
        done = subprocess.run(
            [*command, *options], stdout=subprocess.PIPE, text=True, check=True
        )
        load = json.loads(done.stdout)
        is_alive = server.process.poll() is None
        cpu = _cpu_of(server.process.pid) if is_alive else {}
        over.set()
    whole = _sink_is_whole(store)
    problems = _problems(load, trouble) + _kept_slow_ones(load, seconds)
    problems += [] if is_alive else ["the service ended"]
    problems += [] if whole is None else [whole]
    return Soaked(
        seconds=seconds,
        connections=connections,
        slow_clients=slow,
        load=load,
        swaps=trouble.swaps,
        rollbacks=trouble.rollbacks,
        sink_kills=trouble.sink_kills,
        sink_syncs=trouble.sink_syncs,
        service_cpu={name: round(took / seconds, 3) for name, took in cpu.items()},
        machine_load={
            "mean": round(float(np.mean(trouble.machine_load)), 1),
            "most": round(max(trouble.machine_load), 1),
        },
        memory_mb=_memory(trouble.memory),
        problems=problems,
    )


def _problems(load: dict[str, Any], trouble: Trouble) -> list[str]:
    problems = [f"{load['wrongs']} wrong: {load['wrong']}"] if load["wrongs"] else []
    problems += trouble.stopped
    if load["versions"] < 2 or trouble.swaps + trouble.rollbacks < 2:
        problems.append(f"{load['versions']} versions were seen: nothing was swapped")
    begin, end = _first_and_last(trouble.memory)
    if end > begin * GROWTH + SLACK_BYTES:
        problems.append(f"memory grew from {begin:,} to {end:,} bytes")
    return problems


def _kept_slow_ones(load: dict[str, Any], seconds: float) -> list[str]:
    slow = load["slow"]
    if seconds < THROWN_OUT or not slow["came"] or (slow["sending"] and slow["unread"]):
        return []
    return [f"slow clients were not thrown out, or not of both kinds: {slow}"]


@contextmanager
def _beside(trouble: Trouble, over: threading.Event, work: Any) -> Iterator[None]:
    """Do something beside the load until it is over; why it ended before goes on record."""

    def watched() -> None:
        try:
            work()
        except Exception as error:  # noqa: BLE001 - whatever it is, the soak shows it
            trouble.stopped.append(f"{type(error).__name__}: {error}")

    thread = threading.Thread(target=watched)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def _swap(
    store: SnapshotStore, keys: int, trouble: Trouble, over: threading.Event
) -> None:
    """Swap a version in, and take every third one back."""
    os.nice(LOWEST_PRIORITY)  # Of this thread, and of those that it starts.
    number = 1
    while not over.wait(SWAP_EVERY):
        number += 1
        serve(store, number, np.arange(keys))
        trouble.swaps += 1
        if number % 3 == 0:
            rollback(store, why=WHY)
            unblock(store, why=WHY)
            trouble.rollbacks += 1
        collect(store, 3, timedelta(0))


def _kill_sinks(store: SnapshotStore, trouble: Trouble, over: threading.Event) -> None:
    """Let a Redis follow what is served, and kill it in the middle of that."""
    os.nice(LOWEST_PRIORITY)
    while not over.is_set():
        with redis_server() as redis:
            os.environ[URL] = redis.url
            end = time.monotonic() + SINK_LIVES
            killer = threading.Timer(SINK_LIVES * 0.9, redis.process.kill)
            killer.start()
            while time.monotonic() < end and not over.is_set():
                for outcome in sync_sinks(store):
                    trouble.sink_syncs += outcome.result is not None
                    trouble.sink_errors += outcome.error is not None
                over.wait(0.2)
            killer.cancel()
            trouble.sink_kills += redis.process.poll() is not None


def _sink_is_whole(store: SnapshotStore) -> str | None:
    """Let an empty Redis follow once more; say what is wrong with what it serves."""
    with redis_server() as redis:
        os.environ[URL] = redis.url
        errors = [outcome.error for outcome in sync_sinks(store) if outcome.error]
        proved = [version for _, version in prove_sinks(store)]
    if errors or proved != [store.current()]:
        return f"the sink serves {proved}, not {store.current()}: {errors}"
    return None


def _weigh(pid: int, trouble: Trouble, over: threading.Event) -> None:
    """Note the anonymous memory of the service, each second; files that it maps are not."""
    while not over.wait(1.0):
        with contextlib.suppress(OSError):
            lines = Path(f"/proc/{pid}/status").read_text("ascii").splitlines()
            (line,) = [line for line in lines if line.startswith("RssAnon:")]
            trouble.memory.append(int(line.split()[1]) << 10)
            trouble.machine_load.append(os.getloadavg()[0])


def _cpu_of(pid: int) -> dict[str, float]:
    """Return for how many seconds the threads of a process ran, and waited for a core."""
    threads = Path(f"/proc/{pid}/task").glob("*/schedstat")
    each = [one.read_text("ascii").split()[:2] for one in threads]
    ran, waited = np.array(each, float).sum(0) / 1e9
    return {"ran": float(ran), "waited": float(waited)}


def _first_and_last(memory: list[int]) -> tuple[float, float]:
    """Return the medians of the second and of the last quarter: the first is warming up."""
    quarter = max(1, len(memory) // 4)
    begin = memory[quarter : 2 * quarter] or memory
    return float(np.median(begin)), float(np.median(memory[-quarter:]))


def _memory(memory: list[int]) -> dict[str, Any]:
    quarters = [np.median(one) for one in np.array_split(memory, 4)]
    return {
        "quarters": [round(float(one) / 1e6, 1) for one in quarters],
        "most": round(max(memory) / 1e6, 1),
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=3600)
    parser.add_argument("--rate", type=float, default=2000)
    parser.add_argument("--connections", type=int, default=500)
    parser.add_argument("--slow", type=int, default=50)
    parser.add_argument("--keys", type=int, default=50_000)
    with tempfile.TemporaryDirectory() as folder:
        soaked = soak(Path(folder), **vars(parser.parse_args()))
    sys.stdout.write(json.dumps(asdict(soaked), indent=1) + "\n")
    sys.exit(bool(soaked.problems))
