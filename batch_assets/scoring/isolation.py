"""A time limit on the model: rows without an answer in time are a fault like any other.

Python can't end a thread that is stuck in the model. So the model answers in a thread
of its own, the thread of a worker, which is left behind when it is late. From then
on it answers in a process of its own, which is killed when it is late. This knows no
file and no chunk, and does not look for the row at fault.
"""

import atexit
import ctypes
import dataclasses
import functools
import logging
import os
import queue
import signal
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Protocol, Self

import numpy as np
import torch

from batch_assets.errors import ScoringError
from batch_assets.models.release import Release, open_release
from batch_assets.scoring.device import Device
from batch_assets.scoring.scorer import Abandoned, Scorer, Spent

# No span gets less, however few its rows: a first call and a busy machine take seconds.
FLOOR_SECONDS = 10.0
# What an interrupted thread gets to end in; longer would be added to each hang.
INTERRUPT_SECONDS = 1.0
# To import torch, hash the release and load it; the same was done minutes ago.
START_SECONDS = 600.0
# How soon a worker that waits for the model sees that the run is over.
TICK_SECONDS = 0.5
# Not `multiprocessing.Process`: that would run the caller's main module again in the
# child, and a script without a `__main__` guard would score its night a second time.
BOOT = (
    "import sys; sys.path[:] = sys.argv[2:]; "
    f"from {__name__} import serve; serve(int(sys.argv[1]))"
)

Outputs = tuple[dict[str, np.ndarray], Spent]

log = logging.getLogger(__name__)


class FaultError(Exception):
    """The model has no outputs for these rows; the message is the reason.

    It is not in the tree of `errors.py`: no fault stops a night by itself.
    """


class LateError(FaultError):
    """The model gave no answer in time."""

    def __init__(self, seconds: float) -> None:
        super().__init__(f"TimeoutError: no answer within {seconds:,.1f} s")


class Loads(Protocol):
    """What a process loads: a scorer's release, or one that nobody here has loaded."""

    @property
    def release(self) -> Release: ...
    @property
    def device(self) -> Device: ...
    @property
    def batch_rows(self) -> int: ...
    @property
    def abandoned(self) -> bool: ...


class TimedScorer:
    """A scorer that answers in time or raises why not; for one thread and one chunk.

    What it answers is what the scorer answers, to the bit.
    """

    def __init__(self, scorer: Scorer, max_seconds: float, rows: int) -> None:
        """Set the limit.

        Args:
            scorer: may be shared with other threads.
            max_seconds: how long `rows` rows may take; fewer get their share of it, but
                no less than `FLOOR_SECONDS` unless `max_seconds` is less.
            rows: of the whole chunk.
        """
        self._scorer = scorer
        self._max_seconds = max_seconds
        self._rows = rows
        self._process: ModelProcess | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._process is not None:
            self._process.close()

    def score(self, features: np.ndarray) -> Outputs:
        """Score rows, as `Scorer.score` does.

        Raises:
            FaultError: the model raised, was late, or ended its process.
            ScoringError: the model can't be loaded in a process of its own.
            Abandoned: the run is over.
        """
        limit = self.limit(features.shape[1])
        if self._process is None:
            with suppress(LateError):
                return _in_model_thread(self._scorer, features, limit)
            # The machine may only have been slow: the same rows, the whole limit again.
            log.warning(
                "%s %s gave no answer for %d rows within %.1f s; it is asked again, "
                "and for the rest of the chunk, in a process of its own",
                self._scorer.release.name,
                self._scorer.release.short,
                features.shape[1],
                limit,
            )
            self._process = ModelProcess(self._scorer)
        try:
            return self._process.score(features, limit)
        except ScoringError as error:
            msg = (
                f"the model was late, and could not be asked again in a process of its "
                f"own: {error} Nothing was committed; run the day again."
            )
            raise ScoringError(msg) from error

    def limit(self, rows: int) -> float:
        """How many seconds the model has for so many rows."""
        share = self._max_seconds * rows / max(self._rows, 1)
        return max(share, min(self._max_seconds, FLOOR_SECONDS))


@dataclass(frozen=True)
class _Request:
    """What a thread is to score, and where its answer goes.

    Each has a queue of its own: an answer that comes late reaches nobody.
    """

    scorer: Scorer
    features: np.ndarray
    answer: queue.SimpleQueue[Outputs | BaseException]

    def serve(self) -> None:
        try:
            self.answer.put(self.scorer.score(self.features))
        # Whatever it was, the worker waits for it and is the one to judge.
        except BaseException as error:  # noqa: BLE001
            self.answer.put(error)


class _InterruptedError(BaseException):
    """Ends a thread; no Exception, so that a model's own handlers let it pass."""


class _ModelThread:
    """A thread that asks the model for one worker, so that the worker need not wait.

    It is kept from span to span and from chunk to chunk, because a scorer's stream and
    pinned buffer belong to a thread.
    """

    def __init__(self) -> None:
        self._requests: queue.SimpleQueue[_Request | None] = queue.SimpleQueue()
        # A daemon, and not of a pool: the end of the interpreter waits for neither.
        self._thread = threading.Thread(
            target=_serve_requests,
            args=(self._requests, torch.get_num_threads()),
            name=f"model of {threading.current_thread().name}",
            daemon=True,
        )
        self._thread.start()
        # The thread does not hold its thread: it ends when the worker lets go.
        weakref.finalize(self, self._requests.put, None)

    def score(self, scorer: Scorer, features: np.ndarray, limit: float) -> Outputs:
        request = _Request(scorer, features, queue.SimpleQueue())
        self._requests.put(request)
        try:
            for seconds in _waits(scorer, limit):
                with suppress(queue.Empty):
                    return _outputs(request.answer.get(timeout=seconds))
        except Abandoned:
            self._abandon()
            raise
        self._abandon()
        raise LateError(limit)

    def _abandon(self) -> None:
        """End the thread if it runs Python; leave it behind if it is stuck elsewhere."""
        ctypes.pythonapi.PyThreadState_SetAsyncExc(
            ctypes.c_ulong(self._thread.ident or 0), ctypes.py_object(_InterruptedError)
        )
        self._requests.put(None)  # It may have answered just now.
        self._thread.join(INTERRUPT_SECONDS)
        if self._thread.is_alive():
            _exit_past_stuck_threads()
            log.warning(
                "a thread is stuck in the model outside of Python, where nothing can "
                "interrupt it: it may hold a core until this process ends"
            )


def _waits(scorer: Loads, limit: float) -> Iterator[float]:
    """A wait in short pieces, so that the end of the run ends it too."""
    until = time.monotonic() + limit
    while (left := until - time.monotonic()) > 0:
        if scorer.abandoned:
            raise Abandoned
        yield min(left, TICK_SECONDS)


def _outputs(answer: Outputs | BaseException) -> Outputs:
    if isinstance(answer, Exception):
        raise FaultError(_reason(answer)) from answer
    if isinstance(answer, BaseException):
        raise answer
    return answer


class _Here(threading.local):
    """The thread of the worker that asks."""

    thread: _ModelThread | None = None


_here = _Here()


def _in_model_thread(scorer: Scorer, features: np.ndarray, limit: float) -> Outputs:
    thread, _here.thread = _here.thread or _ModelThread(), None
    try:
        outputs = thread.score(scorer, features, limit)
    except LateError:
        raise
    except FaultError:
        _here.thread = thread
        raise
    # Only one that has answered is asked again.
    _here.thread = thread
    return outputs


def _serve_requests(requests: queue.SimpleQueue[_Request | None], threads: int) -> None:
    # Counted per thread; the first question in a thread resets the count.
    torch.get_num_threads()
    torch.set_num_threads(threads)
    with suppress(_InterruptedError):
        while (request := requests.get()) is not None:
            request.serve()
            del request  # Its rows are not kept until the next one comes.


@functools.cache
def _exit_past_stuck_threads() -> None:
    """Let this process exit with its own code although a thread is stuck in torch.

    At exit, C++ takes down what that thread still uses, and the process aborts instead.
    The last handler to be registered runs first: after all of Python's, before torch's,
    and with the exit code. There is nothing left to do then but to leave.
    """
    libc = ctypes.CDLL(None)
    if hasattr(libc, "on_exit"):  # Of glibc.
        leave = ctypes.cast(libc._exit, ctypes.c_void_p)
        atexit.register(libc.on_exit, leave, None)


class ModelProcess:
    """A release in a process that is killed when it is late, and started again.

    It verifies and loads the release itself, which counts in no limit.
    """

    def __init__(self, scorer: Loads, threads: int | None = None) -> None:
        """Remember what to load; nothing is started before it is asked.

        Args:
            scorer: as which it scores.
            threads: how many the model computes with; those of this thread if left out.
        """
        self._scorer = scorer
        release = scorer.release
        # As the scorer would go on: batches of another size can change the last bits.
        device = dataclasses.replace(scorer.device, batch_rows=scorer.batch_rows)
        self._order = _Order(
            release.folder,
            release.digest,
            device,
            torch.get_num_threads() if threads is None else threads,
        )
        self._running: _Running | None = None

    def start(self) -> None:
        """Have the process loaded, and proved on its golden batch.

        Raises:
            ScoringError: the process does not come up.
        """
        self._up()

    def score(self, features: np.ndarray, limit: float) -> Outputs:
        """Score rows within `limit` seconds.

        Raises:
            FaultError: the model raised, was late, or ended its process.
            ScoringError: the process does not come up.
        """
        running = self._up()
        try:
            running.connection.send(features)
            if not self._heard(running, limit):
                self.close()
                raise LateError(limit)
            answer: Outputs | str = running.connection.recv()
        except (EOFError, ConnectionError) as error:
            msg = f"the model's process ended with {running.last_words()}"
            raise FaultError(msg) from error
        if isinstance(answer, str):
            raise FaultError(answer)
        return answer

    def close(self) -> None:
        """End the process, wherever it is stuck."""
        if self._running is not None:
            self._running.kill()
            self._running = None

    def _up(self) -> "_Running":
        """The process, when it is ready."""
        if self._running is not None:
            if self._running.process.poll() is None:
                return self._running
            self.close()  # It ended after it had answered: no row's fault.
        self._running = running = _Running.start()
        try:
            running.connection.send(self._order)
            if not self._heard(running, START_SECONDS):
                raise self._not_up(f"was not ready within {START_SECONDS:.0f} s")
            failed: str | None = running.connection.recv()
        except (EOFError, ConnectionError) as error:
            raise self._not_up(f"ended with {running.last_words()}") from error
        if failed is not None:
            raise self._not_up(f"says: {failed}")
        return running

    def _heard(self, running: "_Running", limit: float) -> bool:
        waits = _waits(self._scorer, limit)
        return any(running.connection.poll(seconds) for seconds in waits)

    def _not_up(self, why: str) -> ScoringError:
        self.close()
        release = self._scorer.release
        return ScoringError(
            f"the process of {release.name} {release.short} {why}. No row is at fault "
            "for that."
        )


@dataclass(frozen=True)
class _Running:
    """A process that is there, and the way to talk to it."""

    process: subprocess.Popen[bytes]
    connection: Connection

    @classmethod
    def start(cls) -> Self:
        here, there = Pipe()
        with there:
            process = subprocess.Popen(
                [sys.executable, "-P", "-c", BOOT, str(there.fileno()), *sys.path],
                stdin=subprocess.PIPE,
                pass_fds=[there.fileno()],
                # A Ctrl-C is for the parent to answer: here it would look like a crash.
                start_new_session=True,
            )
        return cls(process, here)

    def last_words(self) -> str:
        """How a process that closed its connection ended."""
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(INTERRUPT_SECONDS)  # It may not be quite gone.
        self.kill()
        code = self.process.returncode
        return f"signal {-code}" if code < 0 else f"exit code {code}"

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()
        self.connection.close()
        if self.process.stdin is not None:
            self.process.stdin.close()


@dataclass(frozen=True)
class _Order:
    """What a process needs to become a scorer."""

    folder: Path
    digest: str
    device: Device
    threads: int

    def scorer(self) -> Scorer:
        torch.set_num_threads(self.threads)
        return Scorer(open_release(self.folder, self.digest), self.device)


def serve(descriptor: int) -> None:
    """Be the model's process: load what is ordered, then answer until told no more.

    Args:
        descriptor: of the connection to the parent.
    """
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)  # The parent decides when this ends.
    threading.Thread(target=_end_with_parent, daemon=True).start()
    connection = Connection(descriptor)
    with suppress(EOFError, ConnectionError):
        try:
            scorer = connection.recv().scorer()
        # It goes to the parent as text: not every exception survives the way.
        except Exception as error:  # noqa: BLE001
            connection.send(_reason(error))
            return
        connection.send(None)
        while True:
            connection.send(_answer(scorer, connection.recv()))


def _answer(scorer: Scorer, features: np.ndarray) -> Outputs | str:
    try:
        return scorer.score(features)
    except Exception as error:  # noqa: BLE001
        return _reason(error)


def _end_with_parent() -> None:
    # The parent alone holds the other end, so the end of input is its own end.
    while os.read(0, 1):
        pass
    os._exit(1)


def _reason(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"
