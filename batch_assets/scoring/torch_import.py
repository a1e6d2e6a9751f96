"""Import torch where a night first needs it, and let no signal end that halfway.

An error that is raised while torch sets up its own C++ aborts the whole process; Dagster
raises one where a signal ends a night.
"""

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

HELD = (signal.SIGINT, signal.SIGTERM)


def import_torch() -> None:
    """Import torch; signals that end a night wait for it."""
    if "torch" not in sys.modules:
        with signals_held():
            import torch  # noqa: F401


@contextmanager
def signals_held() -> Iterator[None]:
    """Let signals that end a process wait until this is left.

    Python calls their handlers in its first thread alone: no other is interrupted.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    came: list[int] = []
    before = {
        number: signal.signal(number, lambda number, _: came.append(number))
        for number in HELD
        # One that is not of Python can't be put back.
        if signal.getsignal(number) is not None
    }
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        for held in dict.fromkeys(came):
            signal.raise_signal(held)
