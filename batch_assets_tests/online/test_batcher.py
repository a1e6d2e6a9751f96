"""A batcher loses nobody, mixes nobody up, waits no longer than it said, and blocks nothing."""

import asyncio
import threading
import time
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from batch_assets.online.batcher import Batch, Batcher, ClosedError, FullError

# An hour: a flush that comes is not one by time.
NEVER = 3_600_000.0
PATIENCE = 60.0


def run(main: Coroutine[Any, Any, Any]) -> Any:
    async def in_time() -> Any:
        async with asyncio.timeout(PATIENCE):
            return await main

    return asyncio.run(in_time())


def doubled(items: list[int]) -> list[int]:
    return [2 * item for item in items]


class Gate:
    """Doubles once it is opened, and remembers the batches that it was asked for."""

    def __init__(self, score: Callable[[list[int]], Sequence[Any]] = doubled) -> None:
        self.batches: list[list[int]] = []
        self.entered, self.open = threading.Event(), threading.Event()
        self._score = score

    def __call__(self, items: list[int]) -> Sequence[Any]:
        self.batches.append(items)
        self.entered.set()
        assert self.open.wait(PATIENCE)
        return self._score(items)


def make(score: Callable[[list[int]], Sequence[Any]], **changes: Any) -> Batcher:
    settings = {"max_batch_size": 4, "max_wait_ms": 1.0, "max_queue": 100}
    return Batcher(score, **(settings | changes))


async def until(condition: Callable[[], bool]) -> None:
    while not condition():
        await asyncio.sleep(0.001)


async def hold(batcher: Batcher, gate: Gate, item: int = 0) -> asyncio.Task[Any]:
    """An item that is being scored, so that all others wait."""
    task = asyncio.create_task(batcher.submit([item]))
    await until(gate.entered.is_set)
    return task


# When a batch is made


def test_a_full_batch_does_not_wait() -> None:
    seen: list[Batch] = []

    async def main() -> None:
        batcher = make(doubled, max_wait_ms=NEVER, observe=seen.append)
        answers = await asyncio.gather(*(batcher.submit([n]) for n in range(8)))
        assert answers == [[2 * n] for n in range(8)]
        await batcher.close()

    run(main())
    assert [batch.items for batch in seen] == [4, 4]


def test_a_lonely_item_waits_as_long_as_was_said_and_no_longer() -> None:
    async def main() -> float:
        batcher = make(doubled, max_wait_ms=100)
        begin = time.monotonic()
        assert await batcher.submit([21]) == [42]
        taken = time.monotonic() - begin
        await batcher.close()
        return taken

    assert 0.1 <= run(main()) < 20  # Never is minutes.


def test_the_wait_is_counted_from_the_first_item_not_from_the_last() -> None:
    seen: list[Batch] = []

    async def main() -> None:
        batcher = make(
            doubled, max_batch_size=1_000, max_wait_ms=150, observe=seen.append
        )
        tasks = []
        for n in range(60):
            tasks.append(asyncio.create_task(batcher.submit([n])))
            await asyncio.sleep(0.01)
        await asyncio.gather(*tasks)
        await batcher.close()

    run(main())
    assert len(seen) >= 3
    assert max(batch.waited for batch in seen) < 0.45


def test_what_comes_while_a_batch_is_scored_is_the_next_batch() -> None:
    gate = Gate()

    async def main() -> None:
        batcher = make(gate, max_wait_ms=0)
        first = await hold(batcher, gate)
        later = [asyncio.create_task(batcher.submit([n])) for n in (1, 2, 3)]
        await until(lambda: batcher.waiting == 3)
        gate.open.set()
        await asyncio.gather(first, *later)
        await batcher.close()

    run(main())
    assert gate.batches == [[0], [1, 2, 3]]


def test_batches_are_first_come_first_served() -> None:
    gate = Gate()

    async def main() -> None:
        batcher = make(gate)
        tasks = [await hold(batcher, gate)]
        for n in range(1, 12):
            tasks.append(asyncio.create_task(batcher.submit([n])))
            await asyncio.sleep(0)
        gate.open.set()
        await asyncio.gather(*tasks)
        await batcher.close()

    run(main())
    assert [n for batch in gate.batches for n in batch] == list(range(12))


@given(
    requests=st.lists(st.lists(st.integers(), max_size=9), min_size=1, max_size=30),
    size=st.integers(1, 12),
    wait=st.sampled_from([0.0, 0.5, 3.0]),
)
@settings(deadline=None, max_examples=60)
def test_everybody_gets_their_own_answers_in_batches_of_the_size(
    requests: list[list[int]], size: int, wait: float
) -> None:
    batches: list[int] = []

    def score(items: list[int]) -> list[tuple[str, int]]:
        batches.append(len(items))
        return [("of", item) for item in items]

    async def main() -> None:
        batcher = make(score, max_batch_size=size, max_wait_ms=wait, max_queue=300)
        answers = await asyncio.gather(*(batcher.submit(r) for r in requests))
        assert answers == [[("of", item) for item in r] for r in requests]
        await batcher.close()

    run(main())
    assert sum(batches) == sum(len(r) for r in requests)
    assert all(1 <= batch <= size for batch in batches)


# The loop


def test_the_loop_goes_on_while_a_batch_is_scored() -> None:
    async def main() -> float:
        batcher = make(lambda items: (time.sleep(6), doubled(items))[1])
        task = asyncio.create_task(batcher.submit([1]))
        longest = 0.0
        while not task.done():
            before = time.monotonic()
            await asyncio.sleep(0.001)
            longest = max(longest, time.monotonic() - before)
        assert await task == [2]
        await batcher.close()
        return longest

    assert run(main()) < 4


# Room


def test_what_does_not_fit_is_refused_whole_and_told_when_to_come_back() -> None:
    gate = Gate()

    async def main() -> None:
        batcher = make(gate, max_queue=5)
        gate.open.set()
        await batcher.submit([0])
        gate.open.clear()
        gate.entered.clear()
        tasks = [await hold(batcher, gate)]
        tasks += [asyncio.create_task(batcher.submit([n])) for n in (1, 2, 3)]
        await until(lambda: batcher.waiting == 3)
        with pytest.raises(FullError, match="3 rows wait already and 3 came") as full:
            await batcher.submit([4, 5, 6])
        assert full.value.retry_after > 0
        assert batcher.waiting == 3
        tasks.append(asyncio.create_task(batcher.submit([7, 8])))
        await until(lambda: batcher.waiting == 5)
        gate.open.set()
        await asyncio.gather(*tasks)
        assert await batcher.submit([9]) == [18]
        await batcher.close()

    run(main())
    assert not {4, 5, 6} & {n for batch in gate.batches for n in batch}


@pytest.mark.parametrize(
    "wrong",
    [
        {"max_batch_size": 0},
        {"max_queue": 0},
        {"max_wait_ms": -1},
        {"max_wait_ms": float("nan")},
    ],
)
def test_a_size_that_makes_no_sense_is_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="1 or more"):
        make(doubled, **wrong)


# Faults


class PoisonError(Exception):
    """What one item does to its batch."""


def poisoned(items: list[int]) -> list[int]:
    if any(item < 0 for item in items):
        raise PoisonError(items)
    return doubled(items)


@given(
    st.lists(st.integers(-3, 50), min_size=1, max_size=40),
    st.integers(1, 16),
)
@settings(deadline=None, max_examples=60)
def test_a_bad_item_fails_alone(items: list[int], size: int) -> None:
    async def main() -> list[list[Any]]:
        batcher = make(poisoned, max_batch_size=size)
        answers = await asyncio.gather(*(batcher.submit([item]) for item in items))
        await batcher.close()
        return answers

    for item, (answer,) in zip(items, run(main()), strict=True):
        if item < 0:
            assert isinstance(answer, PoisonError)
            assert answer.args == ([item],)
        else:
            assert answer == 2 * item


def test_an_error_that_is_no_items_fault_is_everybodys_and_asked_once() -> None:
    gate = Gate(lambda items: (_ for _ in ()).throw(OSError("no model")))
    gate.open.set()

    async def main() -> list[Any]:
        batcher = make(gate, blames=PoisonError)
        answers = await batcher.submit([1, 2, 3, 4])
        await batcher.close()
        return answers

    assert [str(answer) for answer in run(main())] == ["no model"] * 4
    assert len(gate.batches) == 1


def test_errors_that_are_returned_go_to_their_items_alone() -> None:
    def score(items: list[int]) -> list[int | Exception]:
        return [PoisonError(item) if item == 2 else item for item in items]

    async def main() -> list[Any]:
        batcher = make(score)
        answers = await batcher.submit([1, 2, 3])
        await batcher.close()
        return answers

    one, two, three = run(main())
    assert (one, three) == (1, 3)
    assert isinstance(two, PoisonError)


def test_too_few_answers_are_nobodys() -> None:
    async def main() -> list[Any]:
        batcher = make(lambda items: items[1:])
        answers = await batcher.submit([1, 2])
        await batcher.close()
        return answers

    assert [str(a) for a in run(main())] == ["1 answers came for 2 items"] * 2


def test_after_a_fault_the_next_batch_is_scored() -> None:
    async def main() -> None:
        batcher = make(poisoned)
        (answer,) = await batcher.submit([-1])
        assert isinstance(answer, PoisonError)
        assert await batcher.submit([3]) == [6]
        await batcher.close()

    run(main())


# Those who leave


def test_whoever_leaves_is_not_scored_and_takes_no_room_and_nobody_else_notices() -> (
    None
):
    gate = Gate()

    async def main() -> None:
        batcher = make(gate, max_queue=4)
        first = await hold(batcher, gate)
        stay, leave = (asyncio.create_task(batcher.submit(i)) for i in ([1, 2], [3, 4]))
        await until(lambda: batcher.waiting == 4)
        leave.cancel()
        await asyncio.wait([leave])
        assert leave.cancelled()
        assert batcher.waiting == 2
        late = asyncio.create_task(batcher.submit([5, 6]))
        await until(lambda: batcher.waiting == 4)
        gate.open.set()
        assert await asyncio.gather(first, stay, late) == [[0], [2, 4], [10, 12]]
        await batcher.close()

    run(main())
    assert gate.batches == [[0], [1, 2, 5, 6]]


def test_whoever_leaves_while_being_scored_takes_nobody_along() -> None:
    gate = Gate()

    async def main() -> None:
        batcher = make(gate, max_batch_size=2, max_wait_ms=NEVER)
        leave = asyncio.create_task(batcher.submit([1]))
        stay = asyncio.create_task(batcher.submit([2]))
        await until(gate.entered.is_set)
        leave.cancel()
        await asyncio.wait([leave])
        gate.open.set()
        assert await stay == [4]
        await batcher.close()

    run(main())


def test_everybody_leaving_leaves_a_batcher_that_works() -> None:
    gate = Gate()

    async def main() -> None:
        batcher = make(gate)
        tasks = [await hold(batcher, gate)]
        tasks += [asyncio.create_task(batcher.submit([n])) for n in range(50)]
        await until(lambda: batcher.waiting == 50)
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        assert batcher.waiting == 0
        gate.open.set()
        assert await batcher.submit([1]) == [2]
        await batcher.close()

    run(main())


# The end


def test_closing_answers_all_that_are_there_and_takes_no_more() -> None:
    gate = Gate()

    async def main() -> None:
        batcher = make(gate, max_wait_ms=NEVER)
        tasks = [asyncio.create_task(batcher.submit([n, n + 100])) for n in range(13)]
        await until(gate.entered.is_set)
        closing = asyncio.create_task(batcher.close())
        await asyncio.sleep(0)
        with pytest.raises(ClosedError):
            await batcher.submit([1])
        gate.open.set()
        answers = await asyncio.gather(*tasks)
        assert answers == [[2 * n, 2 * n + 200] for n in range(13)]
        await closing
        await batcher.close()

    run(main())


def test_closing_flushes_a_batch_that_still_waits_for_others() -> None:
    async def main() -> None:
        batcher = make(doubled, max_wait_ms=NEVER)
        task = asyncio.create_task(batcher.submit([1]))
        await until(lambda: batcher.waiting == 1)
        await batcher.close()
        assert await task == [2]

    run(main())


def test_one_that_was_never_asked_can_be_closed() -> None:
    async def main() -> None:
        batcher = make(doubled)
        await batcher.close()
        with pytest.raises(ClosedError):
            await batcher.submit([1])

    run(main())


class Over(BaseException):
    """No error of any item, and none of the batch: scoring itself is over."""


def test_if_scoring_is_over_everybody_is_told() -> None:
    gate = Gate(lambda items: (_ for _ in ()).throw(Over))

    async def main() -> list[Any]:
        batcher = make(gate)
        tasks = [await hold(batcher, gate)]
        tasks += [asyncio.create_task(batcher.submit([n])) for n in range(9)]
        await until(lambda: batcher.waiting == 9)
        gate.open.set()
        found = await asyncio.gather(*tasks)
        with pytest.raises(ClosedError):
            await batcher.submit([1])
        with pytest.raises(Over):
            await batcher.close()
        return found

    assert [type(answer) for (answer,) in run(main())] == [ClosedError] * 10


# All at once


def test_a_storm_of_callers_who_come_and_leave_loses_and_mixes_up_nobody() -> None:
    async def patient(batcher: Batcher, items: list[int]) -> list[Any]:
        while True:
            try:
                return await batcher.submit(items)
            except FullError:
                await asyncio.sleep(0.01)

    async def caller(batcher: Batcher, number: int) -> int:
        answered = 0
        for turn in range(10):
            items = [number * 1_000 + turn * 10 + n for n in range(number % 3 + 1)]
            if (number + turn) % 11 == 0:
                items[0] = -items[0] - 1
            task = asyncio.create_task(patient(batcher, items))
            if (number + turn) % 7 == 0:
                await asyncio.sleep(0)
                task.cancel()
                await asyncio.wait([task])
                continue
            for item, answer in zip(items, await task, strict=True):
                if item < 0:
                    assert isinstance(answer, PoisonError)
                else:
                    assert answer == 2 * item
                answered += 1
        return answered

    async def main() -> None:
        batcher = make(poisoned, max_batch_size=16, max_queue=100)
        answered = await asyncio.gather(*(caller(batcher, n) for n in range(100)))
        assert sum(answered) > 1_500
        assert batcher.waiting == 0
        await batcher.close()

    run(main())
