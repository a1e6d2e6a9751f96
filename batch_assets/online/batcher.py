"""Many callers' items become batches: as full as they get in a time that is short.

A batch is made when `max_batch_size` items wait, or when the first of them has waited
`max_wait_ms`; while one is scored, the next fills up. It is scored in a thread of its
own, so the event loop goes on. It knows neither HTTP nor models, nor what an item is.
"""

import asyncio
import math
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Generic, TypeVar

Item = TypeVar("Item")
Answer = TypeVar("Answer")


class FullError(Exception):
    """No room for more items; `retry_after` is in seconds."""

    def __init__(self, waiting: int, asked: int, room: int, retry_after: float) -> None:
        super().__init__(
            f"{waiting} rows wait already and {asked} came on top, of {room} that may"
        )
        self.retry_after = retry_after


class ClosedError(Exception):
    """It takes no more items."""


@dataclass(frozen=True)
class Batch:
    """What a batch was: its items, and the seconds it took and its first item waited."""

    items: int
    seconds: float
    waited: float


@dataclass(frozen=True, eq=False)
class _Waiting(Generic[Item, Answer]):
    item: Item
    answer: asyncio.Future[Answer]
    since: float = field(default_factory=time.monotonic)


class Batcher(Generic[Item, Answer]):
    """Scores items in batches, first come, first served; for one event loop.

    An item that `score` fails on fails alone: the batch is halved until it is by itself.
    """

    def __init__(
        self,
        score: Callable[[list[Item]], Sequence[Answer | Exception]],
        *,
        max_batch_size: int,
        max_wait_ms: float,
        max_queue: int,
        blames: type[Exception] = Exception,
        observe: Callable[[Batch], None] = lambda batch: None,
    ) -> None:
        """Nothing runs before the first item comes.

        Args:
            score: blocks; gives an answer, or an error, for each item, in their order.
            max_batch_size: how many items `score` gets at most.
            max_wait_ms: how long an item waits for others while the thread is free.
            max_queue: how many items may wait, those that are being scored aside.
            blames: what `score` raises if one of the items may be at fault. Another error
                is everybody's: nobody is asked again.
            observe: is told of each batch.

        Raises:
            ValueError: a size is below 1, or a wait below 0.
        """
        if max_batch_size < 1 or max_queue < 1 or not 0 <= max_wait_ms < math.inf:
            msg = (
                "max_batch_size and max_queue are 1 or more, max_wait_ms 0 or more; "
                f"got {max_batch_size}, {max_queue}, {max_wait_ms}"
            )
            raise ValueError(msg)
        self._score = score
        self._max_batch_size = max_batch_size
        self._max_wait = max_wait_ms / 1000
        self._max_queue = max_queue
        self._blames = blames
        self._observe = observe
        # In order, and left at once by whoever gives up: nobody is stepped over twice.
        self._waiting: OrderedDict[_Waiting[Item, Answer], None] = OrderedDict()
        self._changed = asyncio.Event()
        self._closed = False
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="batcher")
        self._runner: asyncio.Task[None] | None = None
        # What a batch took of late.
        self._seconds = 0.0

    @property
    def waiting(self) -> int:
        """How many items wait, those aside that are being scored."""
        return len(self._waiting)

    async def submit(self, items: Sequence[Item]) -> list[Answer | BaseException]:
        """Answers, or the errors of single items, in the order of the items.

        Whoever stops waiting takes back what is not yet scored; nobody else notices.

        Raises:
            FullError: there is no room for all of them; none was taken.
            ClosedError: none was taken.
        """
        if self._closed:
            raise ClosedError
        waiting = len(self._waiting)
        if waiting + len(items) > self._max_queue:
            batches = math.ceil(waiting / self._max_batch_size)
            raise FullError(
                waiting, len(items), self._max_queue, self._seconds * batches
            )
        loop = asyncio.get_running_loop()
        entries = [_Waiting[Item, Answer](i, loop.create_future()) for i in items]
        self._waiting.update((one, None) for one in entries)
        if self._runner is None:
            self._runner = asyncio.create_task(self._run())
        if not waiting or len(self._waiting) >= self._max_batch_size:
            self._changed.set()
        try:
            return await asyncio.gather(
                *(one.answer for one in entries), return_exceptions=True
            )
        finally:
            for one in entries:
                self._waiting.pop(one, None)

    async def close(self) -> None:
        """Take no more items, and answer those that are there. It may be called twice."""
        self._closed = True
        self._changed.set()
        if self._runner is not None:
            # Whoever stops waiting for it does not end it.
            await asyncio.shield(self._runner)
        self._thread.shutdown(wait=False)

    async def _run(self) -> None:
        try:
            while batch := await self._next():
                await self._answer(batch)
        finally:
            # Whatever ended it, nobody is left waiting for ever.
            self._closed = True
            _fail(list(self._waiting))

    async def _next(self) -> list[_Waiting[Item, Answer]]:
        """The next batch; an empty one when it is closed and all are answered."""
        while True:
            self._changed.clear()
            if not self._waiting:
                if self._closed:
                    return []
                await self._changed.wait()
                continue
            first = next(iter(self._waiting))
            left = first.since + self._max_wait - time.monotonic()
            full = len(self._waiting) >= self._max_batch_size
            if full or left <= 0 or self._closed:
                if batch := self._take():
                    return batch
                continue
            with suppress(TimeoutError):
                async with asyncio.timeout(left):
                    await self._changed.wait()

    def _take(self) -> list[_Waiting[Item, Answer]]:
        batch: list[_Waiting[Item, Answer]] = []
        while self._waiting and len(batch) < self._max_batch_size:
            one, _ = self._waiting.popitem(last=False)
            if not one.answer.done():  # Or its caller is just about to leave.
                batch.append(one)
        return batch

    async def _answer(self, batch: list[_Waiting[Item, Answer]]) -> None:
        begin = time.monotonic()
        loop = asyncio.get_running_loop()
        items = [one.item for one in batch]
        try:
            answers = await loop.run_in_executor(self._thread, self._halving, items)
        except BaseException:
            _fail(batch)
            raise
        for one, answer in zip(batch, answers, strict=True):
            if one.answer.done():  # Its caller is gone.
                continue
            if isinstance(answer, Exception):
                one.answer.set_exception(answer)
            else:
                one.answer.set_result(answer)
        seconds = time.monotonic() - begin
        self._seconds = (self._seconds + seconds) / 2 if self._seconds else seconds
        self._observe(Batch(len(batch), seconds, begin - batch[0].since))

    def _halving(self, items: list[Item]) -> list[Answer | Exception]:
        try:
            answers = list(self._score(items))
        except Exception as error:  # noqa: BLE001
            if len(items) == 1 or not isinstance(error, self._blames):
                return [error] * len(items)
            middle = len(items) // 2
            return self._halving(items[:middle]) + self._halving(items[middle:])
        if len(answers) != len(items):
            msg = f"{len(answers)} answers came for {len(items)} items"
            return [RuntimeError(msg)] * len(items)
        return answers


def _fail(some: list[_Waiting[Item, Answer]]) -> None:
    for one in some:
        if not one.answer.done():
            one.answer.set_exception(ClosedError())
