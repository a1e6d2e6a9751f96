"""Do pieces of work on the cores of this process. It knows nothing of the work."""

import os
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from queue import SimpleQueue
from threading import Event
from typing import Protocol, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")
Report = Callable[[int], None]


class ParallelMap(Protocol):
    """Does pieces of work as `on_cores` does, here or on other machines."""

    def __call__(
        self,
        work: Callable[[Item, Report], Result],
        items: Sequence[Item],
        progress: Report = ...,
    ) -> list[Result]: ...


class _StoppedError(Exception):
    """Another piece has failed, or somebody interrupted."""


def on_cores(
    work: Callable[[Item, Report], Result],
    items: Sequence[Item],
    progress: Report = lambda rows: None,
) -> list[Result]:
    """Do work for each item, a thread for each core; return the results in their order.

    The first error, or an interrupt, ends it: pieces in flight stop at their next
    report, and when this raises no thread is left.

    Args:
        work: gets an item, and what to call with each number of rows that it has done.
        items: the pieces.
        progress: called with those numbers, in the calling thread.
    """
    events: SimpleQueue[int | Future[Result]] = SimpleQueue()
    stopped = Event()

    def report(rows: int) -> None:
        if stopped.is_set():
            raise _StoppedError
        events.put(rows)

    with ThreadPoolExecutor(len(os.sched_getaffinity(0)), "core") as pool:
        try:
            futures = [pool.submit(work, item, report) for item in items]
            for future in futures:
                future.add_done_callback(events.put)
            left = len(futures)
            while left:
                event = events.get()
                if isinstance(event, int):
                    progress(event)
                else:
                    event.result()
                    left -= 1
        except BaseException:
            stopped.set()
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return [future.result() for future in futures]
