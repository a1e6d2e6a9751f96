"""How things look: tables that read the same in a log, and JSON that every parser reads."""

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any, Protocol

import click


class Told(Protocol):
    """What came of a day, as far as it is told in words."""

    @property
    def day(self) -> str: ...
    @property
    def warnings(self) -> list[str]: ...
    @property
    def errors(self) -> list[str]: ...


def print_table(heads: list[str], rows: Iterable[Sequence[str | None]]) -> None:
    """Print a plain table: it reads the same on a terminal, in a log and in a pipe."""
    cells = [heads, *([cell or "" for cell in row] for row in rows)]
    widths = [max(len(row[i]) for row in cells) for i in range(len(heads))]
    numeric = [
        all(row[i][:1].isdigit() or row[i] in ("-", "unchanged") for row in cells[1:])
        and i > 0
        for i in range(len(heads))
    ]
    for row in cells:
        line = "  ".join(
            cell.rjust(width) if right else cell.ljust(width)
            for cell, width, right in zip(row, widths, numeric, strict=True)
        )
        click.echo(line.rstrip())


def print_json(value: Any) -> None:
    """Print strict JSON: a feature that is no number becomes a string."""
    from pydantic_core import to_json

    text = to_json(
        value,
        indent=2,
        inf_nan_mode="strings",
        bytes_mode="base64",
        timedelta_mode="float",
        fallback=str,
    )
    click.echo(text)


def say(text: str, quiet: bool) -> None:
    """Print a line, unless what is printed is JSON."""
    if not quiet:
        click.echo(text)


def number_of(value: float | None) -> str:
    """Write a number of rows for a table."""
    return "-" if value is None else f"{round(value):,}"


def print_messages(reports: Iterable[Told]) -> None:
    """Print what days warn of, and why some of them failed."""
    for report in reports:
        for text in report.warnings:
            click.echo(f"{report.day} warns: {text}")
        for text in report.errors:
            click.echo(f"{report.day} failed: {text}", err=True)


def time_of(at: datetime | None, *, seconds: bool = False) -> str:
    """Write a time for a table."""
    if at is None:
        return "-"
    return f"{at:%Y-%m-%d %H:%M:%S}" if seconds else f"{at:%Y-%m-%d %H:%M}"
