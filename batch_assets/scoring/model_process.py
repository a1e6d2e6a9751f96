"""A release in a process of its own, which is killed when it is late.

It verifies and loads the release itself. It knows no file and no chunk.
"""

import dataclasses
import os
import signal
import subprocess
import sys
import threading
import time
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
from batch_assets.models.input_rows import InputRows
from batch_assets.models.release import Release, open_release
from batch_assets.scoring.device import Device
from batch_assets.scoring.device_errors import lost_device
from batch_assets.scoring.faults import FaultError, LateError, reason_of
from batch_assets.scoring.scorer import Abandoned, Scorer, Spent

# What a process that was told to end gets for it; longer would be added to each hang.
END_SECONDS = 1.0
# To import torch, hash the release and load it; the same was done minutes ago.
START_SECONDS = 600.0
# How soon whoever waits for the model sees that the run is over.
TICK_SECONDS = 0.5
# Not `multiprocessing.Process`: that would run the caller's main module again in the
# child, and a script without a `__main__` guard would score its night a second time.
BOOT = (
    "import sys; sys.path[:] = sys.argv[2:]; "
    f"from {__name__} import serve; serve(int(sys.argv[1]))"
)

Outputs = tuple[dict[str, np.ndarray], Spent]


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


def waits(scorer: Loads, limit: float) -> Iterator[float]:
    """Wait in short pieces, so that the end of the run ends it too."""
    until = time.monotonic() + limit
    while (left := until - time.monotonic()) > 0:
        if scorer.abandoned:
            raise Abandoned
        yield min(left, TICK_SECONDS)


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
        self._spec = _ProcessSpec(
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

    def score(self, rows: np.ndarray | InputRows, limit: float) -> Outputs:
        """Score rows within `limit` seconds.

        Raises:
            FaultError: the model raised, was late, or ended its process.
            ScoringError: the process does not come up.
        """
        running = self._up()
        try:
            running.connection.send(rows)
            if not self._heard(running, limit):
                self.close()
                raise LateError(limit)
            answer: Outputs | str = running.connection.recv()
        except (EOFError, ConnectionError) as error:
            msg = f"the model's process ended with {running.last_words()}"
            raise FaultError(msg) from error
        if isinstance(answer, str):
            if lost_device(answer):
                self.close()  # The next rows get a process that has a device.
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
            running.connection.send(self._spec)
            if not self._heard(running, START_SECONDS):
                raise self._not_up(f"was not ready within {START_SECONDS:.0f} s")
            failed: str | None = running.connection.recv()
        except (EOFError, ConnectionError) as error:
            raise self._not_up(f"ended with {running.last_words()}") from error
        if failed is not None:
            raise self._not_up(f"says: {failed}")
        return running

    def _heard(self, running: "_Running", limit: float) -> bool:
        pauses = waits(self._scorer, limit)
        return any(running.connection.poll(seconds) for seconds in pauses)

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
        parent_end, child_end = Pipe()
        with child_end:
            process = subprocess.Popen(
                [sys.executable, "-P", "-c", BOOT, str(child_end.fileno()), *sys.path],
                stdin=subprocess.PIPE,
                pass_fds=[child_end.fileno()],
                # A Ctrl-C is for the parent to answer: here it would look like a crash.
                start_new_session=True,
            )
        return cls(process, parent_end)

    def last_words(self) -> str:
        """How a process that closed its connection ended."""
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(END_SECONDS)  # It may not be quite gone.
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
class _ProcessSpec:
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
            connection.send(reason_of(error))
            return
        connection.send(None)
        while True:
            connection.send(_answer(scorer, connection.recv()))


def _answer(scorer: Scorer, rows: np.ndarray | InputRows) -> Outputs | str:
    try:
        return scorer.score(rows)
    except Exception as error:  # noqa: BLE001
        return reason_of(error)


def _end_with_parent() -> None:
    # The parent alone holds the other end, so the end of input is its own end.
    while os.read(0, 1):
        pass
    os._exit(1)
