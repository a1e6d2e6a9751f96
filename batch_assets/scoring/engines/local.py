"""Score chunks in threads of this process: one single-threaded worker per core.

Decoding, matrix products and encoding release the interpreter's lock, so workers that
each run whole chunks overlap by themselves. It is the reference that every other
engine must equal.
"""

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait

import torch

from batch_assets.models.release import Release
from batch_assets.scoring.chunk import ChunkTask, Scored, score_chunk
from batch_assets.scoring.device import Device
from batch_assets.scoring.scorer import Scorer


class LocalEngine:
    """A pool of threads over `score_chunk`."""

    def __init__(self, device: Device, workers: int | None = None) -> None:
        """Choose the number of workers.

        Args:
            device: where the model runs.
            workers: how many chunks are in flight; the cores of this process, or three
                per CUDA device, if left out.
        """
        self.device = device
        self._scorer: Scorer | None = None
        cores = len(os.sched_getaffinity(0))
        self.workers = workers or (cores if device.kind == "cpu" else 3)

    def load(self, release: Release) -> None:
        """Load the release and replay its golden batch."""
        self._scorer = Scorer(release, self.device)

    def run(self, tasks: Sequence[ChunkTask]) -> Iterator[Scored]:
        """Score chunks; yield each as it is done, in any order.

        The first error ends the run: chunks in flight finish, the others never start.
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
        try:
            waiting = iter(tasks)
            running: set[Future[Scored]] = set()
            while True:
                while len(running) < self.workers and (task := next(waiting, None)):
                    running.add(pool.submit(score_chunk, task, scorer))
                if not running:
                    return
                done, running = wait(running, return_when=FIRST_COMPLETED)
                for future in done:
                    yield future.result()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
            torch.set_num_threads(threads)
