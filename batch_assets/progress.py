"""Show how far long work is: a bar on a terminal, log lines elsewhere.

It knows rows and seconds, not what the work is.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

LOG_SECONDS = 10.0
# Dagster redirects the process's own streams while a step runs, so whoever has a
# terminal says so beforehand, with a console on a copy of it.
_terminal: ContextVar[Console | None] = ContextVar("terminal", default=None)


@contextmanager
def shown_on(console: Console) -> Iterator[None]:
    """Draw bars on a console, if it is a terminal, while this is entered."""
    token = _terminal.set(console if console.is_terminal else None)
    try:
        yield
    finally:
        _terminal.reset(token)


@contextmanager
def tracked(
    what: str, rows: int | None, log: Callable[[str], None]
) -> Iterator[Callable[[int], None]]:
    """Follow work that goes through rows; give what to call with each number done.

    Args:
        what: a few words.
        rows: how many there are in all, if that is known.
        log: takes a line, where there is no terminal.
    """
    console = _terminal.get()
    if console is None:
        yield _Lines(what, rows, log).add
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("rows"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task(what, total=rows)
        yield lambda done: bar.update(task, advance=done)


class _Lines:
    """A line when a stretch of time has passed; none for work that is short."""

    def __init__(self, what: str, rows: int | None, log: Callable[[str], None]) -> None:
        self._what, self._rows, self._log = what, rows, log
        self._done = 0
        self._begin = self._last = time.monotonic()

    def add(self, rows: int) -> None:
        self._done += rows
        now = time.monotonic()
        if now - self._last < LOG_SECONDS:
            return
        self._last = now
        rate = self._done / (now - self._begin)
        line = f"{self._what}: {self._done:,} rows, {rate:,.0f} rows/s"
        if self._rows and rate:
            left = (self._rows - self._done) / rate
            line += f", {self._done / self._rows:.0%}, {left:,.0f} s left"
        self._log(line)
