"""Score chunks in threads of this process: one single-threaded worker per core.

Decoding, matrix products and encoding release the interpreter's lock, so workers that
each run whole chunks overlap by themselves. It is the reference that every other
engine must equal.
"""

import os
from collections.abc import Generator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait

import torch

from batch_assets.models.release import Release
from batch_assets.scoring.chunk import score_chunk
from batch_assets.scoring.chunk_task import ChunkTask, Scored, in_turn
from batch_assets.scoring.device import Device
from batch_assets.scoring.scorer import Scorer
from batch_assets.scoring.usage import Usage

# Less than the 30 seconds that Kubernetes gives between SIGTERM and SIGKILL.
GRACE_SECONDS = 20.0


class LocalEngine:
    """A pool of threads over `score_chunk`."""

    def __init__(
        self,
        device: Device,
        workers: int | None = None,
        *,
        grace_seconds: float = GRACE_SECONDS,
    ) -> None:
        """Choose the number of workers.

        Args:
            device: where the model runs.
            workers: how many chunks are in flight; the cores of this process, or three
                per CUDA device, if left out.
            grace_seconds: how long chunks in flight may go on when a run ends early.
        """
        self.device = device
        self.grace_seconds = grace_seconds
        self._scorer: Scorer | None = None
        cores = len(os.sched_getaffinity(0))
        self.workers = workers or (cores if device.kind == "cpu" else 3)

    @property
    def batch_rows(self) -> int:
        """Rows that the model gets at once: fewer than asked if memory ran out."""
        return self._scorer.batch_rows if self._scorer else self.device.batch_rows

    @property
    def usage(self) -> Usage | None:
        """How much of a CUDA device the loaded release has used."""
        return self._scorer.usage if self._scorer else None

    def load(self, release: Release) -> None:
        """Load the release and replay its golden batch."""
        self._scorer = Scorer(release, self.device)

    def run(self, tasks: Sequence[ChunkTask]) -> Generator[Scored, None, None]:
        """Score chunks; yield each as it is done, in any order.

        The first error, an interrupt, or a caller that closes the generator ends the
        run: chunks in flight get the grace period, the others never start.
        """
        scorer = self._scorer
        if scorer is None:
            msg = "an engine loads a release before it runs"
            raise RuntimeError(msg)
        threads = torch.get_num_threads()
        # Set in each worker too: torch counts its threads per calling thread.
        torch.set_num_threads(1)
        pool = ThreadPoolExecutor(
            self.workers, "scorer", initializer=torch.set_num_threads, initargs=(1,)
        )
        waiting = iter(in_turn(tasks))
        running: set[Future[Scored]] = set()
        try:
            while True:
                while len(running) < self.workers and (task := next(waiting, None)):
                    running.add(pool.submit(score_chunk, task, scorer))
                if not running:
                    return
                done, running = wait(running, return_when=FIRST_COMPLETED)
                for future in done:
                    yield future.result()
        finally:
            late = running
            try:
                late = wait(running, timeout=self.grace_seconds).not_done
            finally:
                if late:
                    # Whoever is still at it gives up at its next batch, or sooner.
                    scorer.abandon()
                pool.shutdown(wait=not late, cancel_futures=True)
                torch.set_num_threads(threads)
