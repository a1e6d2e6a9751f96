"""A time limit on the model: rows without an answer in time are a fault like any other.

Python can't end a thread that is stuck in the model. So the model answers in a thread
of its own beside each worker, which is left behind when it is late. From then on it
answers in a process of its own, which is killed when it is late. So it does when a row
broke what this process has on a CUDA device: here no row would get an answer any more.
This knows no file and no chunk, and does not look for the row at fault.
"""

import atexit
import ctypes
import functools
import logging
import queue
import threading
import weakref
from contextlib import suppress
from dataclasses import dataclass
from typing import Self

import numpy as np
import torch

from batch_assets.errors import ScoringError
from batch_assets.models.input_rows import InputRows
from batch_assets.scoring.device_errors import lost_device
from batch_assets.scoring.faults import FaultError, LateError, reason_of
from batch_assets.scoring.model_process import ModelProcess, Outputs, waits
from batch_assets.scoring.scorer import Abandoned, Scorer

# No span gets less, however few its rows: a first call and a busy machine take seconds.
FLOOR_SECONDS = 10.0
# What an interrupted thread gets to end in; longer would be added to each hang.
INTERRUPT_SECONDS = 1.0

log = logging.getLogger(__name__)


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
        self._process = ModelProcess(scorer) if scorer.lost_device else None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._process is not None:
            self._process.close()

    def score(self, rows: np.ndarray | InputRows) -> Outputs:
        """Score rows, as `Scorer.score` does.

        Raises:
            FaultError: the model raised, was late, or ended its process.
            ScoringError: the model can't be loaded in a process of its own.
            Abandoned: the run is over.
        """
        rows = InputRows.of(rows)
        limit = self.limit(len(rows))
        if self._process is None:
            try:
                return _in_model_thread(self._scorer, rows, limit)
            except FaultError as fault:
                if not self._may_be_of_the_process(fault):
                    raise
                # The same rows, the whole limit again.
                log.warning(
                    "%s %s failed on %d rows: %s. It is asked again, and for the rest of "
                    "the %s, in a process of its own",
                    self._scorer.release.name,
                    self._scorer.release.short,
                    len(rows),
                    fault,
                    "night" if self._scorer.lost_device else "chunk",
                )
            self._process = ModelProcess(self._scorer)
        try:
            return self._process.score(rows, limit)
        except ScoringError as error:
            msg = (
                f"the model failed, and could not be asked again in a process of its "
                f"own: {error} Nothing was committed; run the day again."
            )
            raise ScoringError(msg) from error

    def _may_be_of_the_process(self, fault: FaultError) -> bool:
        """Whether the same rows may have an answer in another process."""
        if lost_device(str(fault)):
            self._scorer.lose_device()
            _exit_past_torch()
            return True
        # The machine may only have been slow.
        return isinstance(fault, LateError)

    def limit(self, rows: int) -> float:
        """Return how many seconds the model has for so many rows."""
        share = self._max_seconds * rows / max(self._rows, 1)
        return max(share, min(self._max_seconds, FLOOR_SECONDS))


@dataclass(frozen=True)
class _Request:
    """What a thread is to score, and where its answer goes.

    Each has a queue of its own: an answer that comes late reaches nobody.
    """

    scorer: Scorer
    rows: InputRows
    answer: queue.SimpleQueue[Outputs | BaseException]

    def serve(self) -> None:
        try:
            self.answer.put(self.scorer.score(self.rows))
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

    def score(self, scorer: Scorer, rows: InputRows, limit: float) -> Outputs:
        request = _Request(scorer, rows, queue.SimpleQueue())
        self._requests.put(request)
        try:
            for seconds in waits(scorer, limit):
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
            _exit_past_torch()
            log.warning(
                "a thread is stuck in the model outside of Python, where nothing can "
                "interrupt it: it may hold a core until this process ends"
            )


def _outputs(answer: Outputs | BaseException) -> Outputs:
    if isinstance(answer, Exception):
        raise FaultError(reason_of(answer)) from answer
    if isinstance(answer, BaseException):
        raise answer
    return answer


class _Here(threading.local):
    """The thread of the worker that asks."""

    thread: _ModelThread | None = None


_here = _Here()


def _in_model_thread(scorer: Scorer, rows: InputRows, limit: float) -> Outputs:
    thread, _here.thread = _here.thread or _ModelThread(), None
    try:
        outputs = thread.score(scorer, rows, limit)
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
def _exit_past_torch() -> None:
    """Let this process exit with its own code although torch can't end in order.

    At exit, C++ takes down what a stuck thread still uses, and asks a device that is
    lost: the process aborts instead.
    The last handler to be registered runs first: after all of Python's, before torch's,
    and with the exit code. There is nothing left to do then but to leave.
    """
    libc = ctypes.CDLL(None)
    if hasattr(libc, "on_exit"):  # Of glibc.
        leave = ctypes.cast(libc._exit, ctypes.c_void_p)
        atexit.register(libc.on_exit, leave, None)
