"""Work on the cores: in order, and over as soon as a piece of it fails."""

import _thread
import threading
import time

import pytest

from batch_assets.parallel import on_cores


def threads() -> list[str]:
    return [t.name for t in threading.enumerate() if t.name.startswith("core")]


def test_results_come_in_the_order_of_the_items():
    def work(item: int, report) -> int:
        time.sleep(0.02 * (3 - item))
        return item * item

    assert on_cores(work, [1, 2, 3]) == [1, 4, 9]


def test_pieces_run_at_once(monkeypatch):
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {0, 1, 2})
    together = threading.Barrier(3, timeout=10)

    on_cores(lambda item, report: together.wait(), [1, 2, 3])


def test_progress_is_told_in_the_calling_thread():
    seen = []

    def work(item: int, report) -> None:
        report(item)
        report(1)

    on_cores(work, [5, 7], lambda rows: seen.append((rows, threading.get_ident())))

    assert sorted(rows for rows, _ in seen) == [1, 1, 5, 7]
    assert {thread for _, thread in seen} == {threading.get_ident()}


def endless(item: int, report) -> None:
    while True:
        time.sleep(0.01)
        report(0)


def test_the_first_error_ends_the_pieces_in_flight(monkeypatch):
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {0, 1})
    begun = []

    def work(item: int, report) -> None:
        begun.append(item)
        if item == 1:
            msg = "no"
            raise ValueError(msg)
        endless(item, report)

    with pytest.raises(ValueError, match="no"):
        on_cores(work, [0, 1, 2, 3, 4])

    assert threads() == []
    assert 4 not in begun


def test_an_interrupt_ends_the_pieces_in_flight():
    timer = threading.Timer(0.2, _thread.interrupt_main)
    timer.start()

    with pytest.raises(KeyboardInterrupt):
        on_cores(endless, [1, 2, 3])

    assert threads() == []


def test_progress_that_raises_ends_it():
    def stop(rows: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        on_cores(endless, [1, 2], stop)

    assert threads() == []


def test_no_items_have_no_results():
    assert on_cores(endless, []) == []
