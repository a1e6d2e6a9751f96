"""A pool of Ray actors: each loads the release once, and does item after item.

The one file that knows Ray. Descriptors go to the actors and outcomes come back; no row
goes through the object store. An actor is asked for no more than it has threads, and one
that dies is replaced by another, wherever Ray has room.
"""

import math
import os
import time
from collections import Counter, deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from contextlib import AbstractContextManager, contextmanager
from typing import Any, Literal

from batch_assets.errors import ConfigError, EngineError
from batch_assets.parallel import Report
from batch_assets.scoring.engines.workers import (
    Outcome,
    must_answer,
    outcome_of,
    own_signals,
)
from batch_assets.spec import Ray
from batch_assets.storage import StoragePath

# Where a Ray listens if its address does not say.
PORT = 6379
# Threads of an actor on a whole GPU, as many as one machine has for a CUDA device.
GPU_THREADS = 3
# How long the first actor may take to come up: a cluster may have to grow for it.
START_SECONDS = 600.0
# How often the driver looks at the clock meanwhile.
TICK_SECONDS = 1.0


class _Worker:
    """What an actor is: a process that does items, as many at once as it has threads."""

    def here(self) -> None:
        """Answer once this is up."""

    def do(
        self, work: Callable[[Any, Report], Any], number: int, item: object
    ) -> Outcome:
        return outcome_of(work, number, item)


@contextmanager
def ray_pool(
    settings: Ray, *, device: str, grace_seconds: float
) -> Iterator["RayPool"]:
    """Open a pool on the cluster of the settings, or on a Ray of its own here.

    A Ray that this process is connected to already is used, and left connected.

    Args:
        settings: of the YAML.
        device: `auto`, `cpu` or `cuda`.
        grace_seconds: how long items in flight may go on when the work ends early.

    Raises:
        EngineError: Ray is not installed, not reachable, or has no room for a worker.
        ConfigError: the device can't be had so.
    """
    ray = _ray()
    ours = not ray.is_initialized()
    if ours:
        if settings.resource:
            msg = (
                f"the resource '{settings.resource}' has not connected to a cluster, so "
                "there is no Ray to score on. Let it connect (dagster-ray: `lifecycle`)."
            )
            raise EngineError(msg)
        _connect(ray, settings)
    try:
        pool = RayPool(ray, settings, device=device, grace_seconds=grace_seconds)
        try:
            yield pool
        finally:
            pool.close()
    finally:
        if ours:
            ray.shutdown()


class RayPool:
    """Actors, started when there is work for them, and kept until they are dismissed."""

    def __init__(
        self, ray: Any, settings: Ray, *, device: str, grace_seconds: float
    ) -> None:
        self._ray, self._grace_seconds = ray, grace_seconds
        self._attempts = settings.attempts
        gpus_there = ray.cluster_resources().get("GPU", 0)
        self._gpus = _gpus_per_worker(settings.gpus_per_worker, device, gpus_there)
        self.device: Literal["cpu", "cuda"] = "cuda" if self._gpus else "cpu"
        self._threads = settings.cpus_per_worker or (
            GPU_THREADS if self._gpus >= 1 else 1
        )
        self._size = settings.workers or self._room()
        # An actor is here once for each thread that has nothing to do.
        self._free: deque[Any] = deque()
        self._starting: dict[Future[None], Any] = {}
        self._workers_up: list[Any] = []

    def do(
        self, work: Callable[[Any, Report], Any], items: Sequence[Any]
    ) -> Generator[Outcome, None, None]:
        """Yield what came of each item, as it is done, in any order."""
        ray = self._ray
        shared = ray.put(work)
        waiting = deque(range(len(items)))
        # Waited for as futures: a signal that Ray answers inside itself is lost to us.
        running: dict[Future[Outcome], tuple[Any, int]] = {}
        deaths: Counter[int] = Counter()
        up = time.monotonic()
        try:
            while waiting or running:
                self._start_workers(len(waiting))
                while waiting and self._free:
                    actor, number = self._free.popleft(), waiting.popleft()
                    asked = actor.do.remote(shared, number, items[number])
                    running[asked.future()] = actor, number
                asked_for: list[Future[Any]] = [*running, *self._starting]
                done, _ = wait(asked_for, TICK_SECONDS, FIRST_COMPLETED)
                for future in done.intersection(self._starting):
                    self._take_on(future)
                for future in done.intersection(running):
                    actor, number = running.pop(future)
                    try:
                        outcome = future.result()
                    except ray.exceptions.RayTaskError as error:
                        msg = (
                            f"a worker can't do {items[number]!s:.200}: "
                            f"{_last_words(error)}. Nothing was committed."
                        )
                        raise EngineError(msg) from error
                    except ray.exceptions.RayError as error:
                        self._discard(actor)
                        deaths[number] += 1
                        if deaths[number] >= self._attempts:
                            raise self._failed(items[number], error) from error
                        waiting.appendleft(number)
                        continue
                    if actor in self._workers_up:
                        self._free.append(actor)
                    yield outcome
                if self._workers_up:
                    up = time.monotonic()
                elif time.monotonic() - up > START_SECONDS:
                    msg = (
                        f"no worker has come up for {START_SECONDS:.0f} s. Each asks for "
                        f"{self._asks()}; the cluster has {self._has()}. Nothing was "
                        "committed; run the day again when there is room, or ask for "
                        "less under `engine`."
                    )
                    raise EngineError(msg)
        finally:
            if running:
                self._let_finish(running)

    def close(self) -> None:
        """End every actor."""
        for actor in [*self._workers_up, *self._starting.values()]:
            self._ray.kill(actor)
        self._workers_up, self._starting, self._free = [], {}, deque()

    def _start_workers(self, waiting: int) -> None:
        """Start actors for what waits, up to as many as there may be."""
        coming = len(self._free) + len(self._starting) * self._threads
        wanted = math.ceil(max(waiting - coming, 0) / self._threads)
        room = self._size - len(self._workers_up) - len(self._starting)
        for _ in range(min(wanted, room)):
            actor = (
                self._ray.remote(_Worker)
                .options(
                    num_cpus=self._threads,
                    num_gpus=self._gpus,
                    max_concurrency=self._threads,
                    # One that died is not started again where it was.
                    max_restarts=0,
                )
                .remote()
            )
            self._starting[actor.here.remote().future()] = actor

    def _take_on(self, up: Future[None]) -> None:
        """Take an actor on that has come up."""
        actor = self._starting.pop(up)
        try:
            up.result()
        except self._ray.exceptions.RayError as error:
            if self._workers_up:
                return  # The others go on, and another is started if it is needed.
            msg = (
                f"a worker does not come up: {_last_words(error)}. Nothing was begun. "
                "Every node of the cluster needs this Python and batch-assets with "
                "torch; see docs/engines.md."
            )
            raise EngineError(msg) from error
        self._workers_up.append(actor)
        self._free.extend([actor] * self._threads)

    def _discard(self, actor: Any) -> None:
        """Forget an actor that died, or that Ray can't reach any more."""
        if actor in self._workers_up:
            self._workers_up.remove(actor)
            # What Ray takes for dead must not go on.
            self._ray.kill(actor)
        self._free = deque(other for other in self._free if other is not actor)

    def _let_finish(self, running: dict[Future[Outcome], tuple[Any, int]]) -> None:
        """Give what is in flight the grace period; end the actors that are late."""
        late = set(running)
        try:
            late = wait(running, timeout=self._grace_seconds).not_done
        finally:
            for future in late:
                self._discard(running[future][0])
            self._free.extend(
                actor
                for future, (actor, _) in running.items()
                if future not in late and actor in self._workers_up
            )

    def _failed(self, item: object, error: Exception) -> EngineError:
        return EngineError(
            f"{self._attempts} workers died on {item!s:.200}, one after the other; the "
            f"last: {_last_words(error)}. Nothing was committed. If it is memory, give "
            "a worker more of it or smaller chunks (chunk_rows); then run the day again."
        )

    def _room(self) -> int:
        """How many workers the nodes that are there have room for."""
        room = 0
        for node in self._ray.nodes():
            if node["Alive"]:
                resources = node["Resources"]
                workers = resources.get("CPU", 0) // self._threads
                if self._gpus:
                    # Rounded: 0.1 is no binary fraction.
                    gpus = math.floor(round(resources.get("GPU", 0) / self._gpus, 6))
                    workers = min(workers, gpus)
                room += int(workers)
        if not room:
            msg = (
                f"the cluster has room for no worker: each asks for {self._asks()}, and "
                f"there is {self._has()} in all. Ask for less under `engine`, or set "
                "`workers` if the cluster grows with what is asked for."
            )
            raise EngineError(msg)
        return room

    def _asks(self) -> str:
        gpus = f" and {self._gpus:g} GPUs" if self._gpus else ""
        return f"{self._threads} CPUs{gpus}"

    def _has(self) -> str:
        resources = self._ray.cluster_resources()
        return f"{resources.get('CPU', 0):g} CPUs and {resources.get('GPU', 0):g} GPUs"


def _gpus_per_worker(asked: float | None, device: str, gpus: float) -> float:
    if device.startswith("cuda:"):
        msg = (
            f"device '{device}' names a GPU of this machine, but on Ray it is Ray that "
            "hands them out: set device to 'cuda', and gpus_per_worker under `engine`"
        )
        raise ConfigError(msg)
    if device == "cpu":
        if asked:
            msg = f"device is 'cpu', but `engine` asks for {asked:g} GPUs per worker"
            raise ConfigError(msg)
        return 0
    if device == "cuda" or asked:
        return asked or 1
    return 1 if gpus else 0


def _ray() -> Any:
    # Asked once for each machine by Ray, and this project phones nowhere.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray
    except ModuleNotFoundError as error:
        msg = (
            f"engine 'ray' needs a package that is not installed: {error.name}. "
            "pip install 'batch-assets[ray]'"
        )
        raise EngineError(msg) from error
    return ray


def _connect(ray: Any, settings: Ray) -> None:
    address = settings.address or os.environ.get("RAY_ADDRESS") or "local"
    own = {"include_dashboard": False} if address == "local" else {}
    try:
        if address not in ("local", "auto"):
            must_answer(address, port=PORT)
        with own_signals():
            ray.init(address=address, **own)
    # It raises whatever its many ways to connect raise.
    except Exception as error:
        named = "address" if settings.address else "RAY_ADDRESS"
        msg = (
            f"no Ray can be reached at {address} ({named}): {_last_words(error)}. "
            "Nothing was begun. Start the cluster or mend the address; without one, a "
            "Ray is started on this machine."
        )
        raise EngineError(msg) from error


def _last_words(error: BaseException) -> str:
    """Ray writes its errors in many lines."""
    return " ".join(str(error).split())[:500] or type(error).__name__


def open_pool(
    settings: Ray, folder: StoragePath, *, device: str, grace_seconds: float
) -> AbstractContextManager[RayPool]:
    """Open the pool as the factory asks every engine for it; it needs no folder."""
    return ray_pool(settings, device=device, grace_seconds=grace_seconds)
