"""Progress: a bar on a terminal, lines elsewhere, and silence for short work."""

import io

import pytest
from rich.console import Console

from batch_assets import progress
from batch_assets.progress import shown_on, tracked


def work(rows: int | None = 100) -> list[str]:
    """Go through a hundred rows in four steps; give what was logged."""
    lines: list[str] = []
    with tracked("scoring", rows, lines.append) as add:
        for _ in range(4):
            add(25)
    return lines


def test_short_work_is_silent():
    assert work() == []


def test_long_work_says_how_far_it_is(monkeypatch):
    monkeypatch.setattr(progress, "LOG_SECONDS", 0.0)

    lines = work()

    assert len(lines) == 4
    assert lines[0].startswith("scoring: 25 rows, ")
    assert ", 25%, " in lines[0]
    assert lines[-1].startswith("scoring: 100 rows, ")
    assert lines[-1].endswith(" rows/s, 100%, 0 s left")


def test_work_of_unknown_length_names_no_end(monkeypatch):
    monkeypatch.setattr(progress, "LOG_SECONDS", 0.0)

    lines = work(rows=None)

    assert lines[-1].startswith("scoring: 100 rows, ")
    assert lines[-1].endswith(" rows/s")


def test_a_terminal_gets_a_bar_and_no_lines(monkeypatch):
    monkeypatch.setattr(progress, "LOG_SECONDS", 0.0)
    screen = io.StringIO()

    with shown_on(Console(file=screen, force_terminal=True, width=100)):
        lines = work()

    assert lines == []
    assert "scoring" in screen.getvalue()
    assert "100/100" in screen.getvalue()


def test_a_console_that_is_no_terminal_gets_lines(monkeypatch):
    monkeypatch.setattr(progress, "LOG_SECONDS", 0.0)
    screen = io.StringIO()

    with shown_on(Console(file=screen, force_terminal=False)):
        lines = work()

    assert (len(lines), screen.getvalue()) == (4, "")


def test_a_terminal_is_left_when_the_work_fails(monkeypatch):
    monkeypatch.setattr(progress, "LOG_SECONDS", 0.0)
    terminal = Console(file=io.StringIO(), force_terminal=True)

    with pytest.raises(KeyboardInterrupt), shown_on(terminal):
        raise KeyboardInterrupt

    assert len(work()) == 4
