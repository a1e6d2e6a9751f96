"""Work on other machines: what a worker does there, and what its driver makes of it.

A pool is an engine's workers: it does work on items somewhere and yields what came of
each. Scoring and validation are both such work. A worker gets descriptors, opens the
release by its digest and leaves files; what it says of them is small. Two attempts of
one chunk may be under way at once, and then the first to finish has made it. It knows
neither Ray nor Spark, and commits nothing.
"""

import functools
import os
import pickle
import socket
import threading
import traceback
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from signal import SIGINT, SIGTERM, getsignal, signal
from types import ModuleType
from typing import Any, Literal, Protocol, TypeVar
from urllib.parse import urlsplit

import torch

from batch_assets.errors import CorruptPartError, EngineError
from batch_assets.lake.parts import open_part
from batch_assets.models.registry import Registry
from batch_assets.models.release import Release, open_release
from batch_assets.parallel import Report
from batch_assets.scoring.chunk import score_chunk
from batch_assets.scoring.chunk_task import ChunkTask, Scored, in_turn
from batch_assets.scoring.compiled import COMPILED
from batch_assets.scoring.device import Device, asked_for, find_device
from batch_assets.scoring.resume import completed_chunk
from batch_assets.scoring.scorer import Scorer
from batch_assets.scoring.sweep_results import Sweeps
from batch_assets.scoring.usage import Usage
from batch_assets.storage import StoragePath, beside, is_local, local, put_file, put_new

# For a connection to an engine that is said to be there.
ANSWER_SECONDS = 10.0

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True)
class Outcome:
    """What came of one item, by its number: a result, or the error that was raised.

    `rows` is what the work has reported, `worker` names who did it.
    """

    number: int
    worker: str
    rows: int = 0
    result: Any = None
    error: Exception | None = None


class WorkerPool(Protocol):
    """The workers of an engine, wherever they are.

    `device` is what they are asked to score on. Whoever closes the
    generator ends the work: items in flight get the grace period, others never start.
    A worker that dies is replaced, and its item done again, a few times at most.
    """

    device: Literal["cpu", "cuda"]

    def do(
        self, work: Callable[[Any, Report], Any], items: Sequence[Any]
    ) -> Generator[Outcome, None, None]: ...


class RemoteEngine:
    """Scores chunks with a pool, each worker with a release that it has verified."""

    def __init__(
        self,
        pool: WorkerPool,
        *,
        precision: str,
        batch_rows: str,
        compile: bool,
        chunk_rows: int,
        root: StoragePath,
    ) -> None:
        """Say how the model runs; no worker is asked for before there are chunks.

        Args:
            pool: who scores.
            precision: of the model's arithmetic.
            batch_rows: `auto`, or how many rows the model gets at once.
            compile: whether the model is to be compiled, by each machine for itself.
            chunk_rows: the most rows of a chunk.
            root: where the sweeps are, and compiled code.
        """
        self._pool = pool
        self._seen: set[str] = set()
        self._release: Release | None = None
        self._config = partial(
            ScorerConfig,
            device=pool.device,
            precision=precision,
            batch_rows=batch_rows,
            compile=compile,
            chunk_rows=chunk_rows,
            root=root,
        )
        # As asked for; later, as the worker with the smallest batches has it.
        compiled = local(root) / COMPILED if compile else None
        self.device = asked_for(pool.device, precision, batch_rows, compiled)

    @property
    def batch_rows(self) -> int:
        """Rows that the model gets at once: fewer than asked if memory ran out."""
        return self.device.batch_rows

    @property
    def usage(self) -> Usage | None:
        """None: what other machines use of their devices is not gathered."""
        return None

    @property
    def workers(self) -> int:
        """How many have scored chunks, each one at a time."""
        return len(self._seen)

    def load(self, release: Release) -> None:
        """Choose the release; each worker verifies and loads it with its first chunk."""
        self._release = release

    def run(self, tasks: Sequence[ChunkTask]) -> Generator[Scored, None, None]:
        """Score chunks; yield each as it is done, in any order.

        The first error, an interrupt, or a caller that closes the generator ends the
        run.
        """
        if self._release is None:
            msg = "an engine loads a release before it runs"
            raise RuntimeError(msg)
        release = self._release
        config = self._config(release.folder, release.name, release.digest)
        devices: list[Device] = []
        attempts = [
            Attempt(task, _sealed_at(task.predictions)) for task in in_turn(tasks)
        ]
        with closing(_results(self._pool, ScoreChunk(config), attempts)) as outcomes:
            for outcome in outcomes:
                self._seen.add(outcome.worker)
                scored, device = outcome.result
                devices.append(device)
                self.device = min(devices, key=lambda d: d.batch_rows)
                yield scored


def parallel_map(
    pool: WorkerPool,
    work: Callable[[Item, Report], Result],
    items: Sequence[Item],
    progress: Report = lambda rows: None,
) -> list[Result]:
    """Do work for each item by a pool; return the results in order, as `on_cores`.

    Raises:
        EngineError: the pool came back without some of them.
    """
    results: dict[int, Result] = {}
    with closing(_results(pool, work, items)) as outcomes:
        for outcome in outcomes:
            results[outcome.number] = outcome.result
            progress(outcome.rows)
    if missing := len(items) - len(results):
        msg = (
            f"{missing} of {len(items)} pieces are missing, though the engine reported "
            "success. Nothing was committed; run the day again."
        )
        raise EngineError(msg)
    return [results[number] for number in range(len(items))]


def _results(
    pool: WorkerPool, work: Callable[[Any, Report], Any], items: Sequence[Any]
) -> Generator[Outcome, None, None]:
    """What a pool comes back with, each item once; the first error is raised."""
    seen: set[int] = set()
    with closing(pool.do(work, items)) as outcomes:
        for outcome in outcomes:
            if outcome.error:
                raise outcome.error
            if outcome.number not in seen:
                seen.add(outcome.number)
                yield outcome


def _version_of(module: ModuleType) -> str:
    """Without what says how it was built: a driver may have a build without CUDA."""
    return str(module.__version__).partition("+")[0]


@dataclass(frozen=True)
class ScorerConfig:
    """What it takes to become a scorer, wherever the release can be read."""

    folder: Path
    name: str
    digest: str
    device: str
    precision: str
    batch_rows: str
    compile: bool
    chunk_rows: int
    root: StoragePath
    torch_version: str = _version_of(torch)

    def scorer(self) -> Scorer:
        """Verify the release, load it, and replay its golden batch.

        Raises:
            EngineError: torch here is not the driver's.
            ReleaseError: the release is not what was registered.
        """
        if (version := _version_of(torch)) != self.torch_version:
            msg = (
                f"a worker on {socket.gethostname()} has torch {version}, the driver "
                f"{self.torch_version}: another version may give another output. Nothing was "
                "committed; let every node have the same."
            )
            raise EngineError(msg)
        if is_local(self.root):
            release = open_release(self.folder, self.digest)
        else:  # The driver's folder is a copy, of the driver's machine.
            release = Registry(self.root).verify(self.name, self.digest)
        compiled = local(self.root) / COMPILED if self.compile else None
        device = find_device(self.device, self.precision, self.batch_rows, compiled)
        tuned = Sweeps(self.root).tuned(release, device)
        return Scorer(release, tuned.for_chunks(self.chunk_rows))


@dataclass(frozen=True)
class Attempt:
    """A chunk to score; `instead_of` is the digest of the part that it may replace."""

    task: ChunkTask
    instead_of: str | None = None

    def __str__(self) -> str:
        return f"shard {self.task.shard}, chunk {self.task.chunk}"


@dataclass(frozen=True)
class ScoreChunk:
    """The work of scoring: a chunk becomes what it left, and the device it ran on."""

    config: ScorerConfig

    def on(self, device: str) -> "ScoreChunk":
        """Return the same, on another device than was asked for."""
        return ScoreChunk(replace(self.config, device=device))

    def __call__(self, attempt: Attempt, report: Report) -> tuple[Scored, Device]:
        # Counted per thread, and each thread of a worker is one core's.
        torch.set_num_threads(1)
        scorer = _scorer(self.config)
        scored = score_attempt(attempt, scorer)
        report(attempt.task.rows)
        return scored, replace(scorer.device, batch_rows=scorer.batch_rows)


_loading = threading.Lock()


def _scorer(config: ScorerConfig) -> Scorer:
    """This process's scorer; loaded once, however many threads ask."""
    with _loading:
        return _loaded(config)


# A worker may outlive a night, and Spark may give it another GPU with each task.
@functools.lru_cache(maxsize=8)
def _loaded(config: ScorerConfig) -> Scorer:
    return config.scorer()


def score_attempt(attempt: Attempt, scorer: Scorer) -> Scored:
    """Score a chunk beside its parts' names, and give it them unless it is done by now.

    Attempts of one job write the same rows, but not always the same bytes: another GPU
    has other last bits, and a row may hang only once. Whoever is second takes over what
    the first has left, so that what the driver was told of is what lies done.
    """
    task, release = attempt.task, scorer.release
    if done := _done_by_another(attempt, release):
        return done
    unnamed, dead_unnamed = beside(task.predictions), beside(task.dead_letters)
    attempted = replace(task, predictions=unnamed, dead_letters=dead_unnamed)
    try:
        scored = score_chunk(attempted, scorer)
        if done := _done_by_another(attempt, release):
            return done
        dead = scored.dead
        if dead:
            put_file(dead_unnamed, task.dead_letters)
            dead = replace(dead, path=task.dead_letters)
        if not put_new(unnamed, task.predictions):
            if done := _done_by_another(attempt, release):
                return done
            put_file(unnamed, task.predictions)
        part = replace(scored.part, path=task.predictions)
        return replace(scored, part=part, dead=dead)
    finally:
        unnamed.unlink(missing_ok=True)
        dead_unnamed.unlink(missing_ok=True)


def _done_by_another(attempt: Attempt, release: Release) -> Scored | None:
    """What lies done, if it is whole and not what this attempt is to replace."""
    done = completed_chunk(attempt.task, release)
    return done if done and done.part.sha256 != attempt.instead_of else None


def _sealed_at(path: StoragePath) -> str | None:
    """The digest of the part of that name, as far as its footer tells."""
    if not path.exists():
        return None
    with suppress(CorruptPartError):
        part, file = open_part(path)
        file.close()
        return part.sha256
    return None


def outcome_of(
    work: Callable[[Any, Report], Any], number: int, item: object
) -> Outcome:
    """Do one item, on a worker. No error leaves it: engines would try it again."""
    worker = f"{socket.gethostname()} {os.getpid()} {threading.get_ident()}"
    rows = 0

    def report(done: int) -> None:
        nonlocal rows
        rows += done

    try:
        result = work(item, report)
        return Outcome(number, worker, rows, result)
    except Exception as error:  # noqa: BLE001
        return Outcome(number, worker, rows, error=_portable(error, worker))


def _portable(error: Exception, worker: str) -> Exception:
    """An error that survives the way to the driver."""
    # The traceback does not.
    error.add_note(f"on worker {worker}:\n{traceback.format_exc()}")
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:  # noqa: BLE001
        return EngineError(f"{type(error).__name__}: {error}")
    return error


def must_answer(address: str, *, port: int) -> None:
    """Find out in seconds whether anything listens: engines try for minutes.

    Raises:
        OSError: nothing does.
    """
    place = urlsplit(address if "://" in address else f"//{address}")
    if place.hostname:
        with socket.create_connection(
            (place.hostname, place.port or port), timeout=ANSWER_SECONDS
        ):
            pass


@contextmanager
def own_signals() -> Iterator[None]:
    """Keep this process's handlers of signals: engines put their own in their place.

    Theirs would end the process at once, and chunks in flight would get no grace.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: getsignal(number) for number in (SIGINT, SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            if handler is not None:
                signal(number, handler)
