"""Options that are a quantity with a unit: rows, how long, how often.

Each is read to the letter: what could be meant otherwise is refused.
"""

import math
import re
from collections.abc import Callable

import click

THOUSANDS = {"": 1, "K": 10**3, "M": 10**6, "B": 10**9}
SECONDS = {"h": 3600.0, "m": 60.0, "s": 1.0}
MOST_ROWS = 10**13

NUMBER = r"\d+(?:\.\d+)?"


def rows_of(text: str) -> int:
    """Read a number of rows: `500000000`, `500_000_000`, `500M`, `1.5B`.

    Raises:
        ValueError: it is none, or no whole number above 0.
    """
    found = re.fullmatch(r"((?:\d+(?:_\d+)*)(?:\.\d+)?)([KMB]?)", text)
    if not found:
        msg = f"rows are written 500000000, 500M or 1.5B (K, M, B), got '{text}'"
        raise ValueError(msg)
    number, unit = found[1].replace("_", ""), THOUSANDS[found[2]]
    whole, _, part = number.partition(".")
    # Not through a float: 10 billion rows are not one row more or less.
    scale: int = 10 ** len(part)
    rows, rest = divmod(int(whole + part) * unit, scale)
    if rest or not 0 < rows <= MOST_ROWS:
        msg = f"rows are a whole number from 1 to {MOST_ROWS:,}, got '{text}'"
        raise ValueError(msg)
    return rows


def seconds_of(text: str) -> float:
    """Read how long something takes: `6h`, `90m`, `45s`, `1h30m`; in seconds.

    Raises:
        ValueError: it is none, or not above 0.
    """
    found = re.fullmatch(rf"(?:({NUMBER})h)?(?:({NUMBER})m)?(?:({NUMBER})s)?", text)
    if not found or not any(found.groups()):
        msg = f"how long is written 6h, 90m, 45s or 1h30m, got '{text}'"
        raise ValueError(msg)
    seconds = sum(
        float(number) * unit
        for number, unit in zip(found.groups(), SECONDS.values(), strict=True)
        if number
    )
    if not 0 < seconds <= 366 * 24 * 3600:
        msg = f"how long is more than 0 s and at most a year, got '{text}'"
        raise ValueError(msg)
    return seconds


def per_hour_of(text: str) -> float:
    """Read how often something happens: `0.05/h`; in an hour.

    Raises:
        ValueError: it is not that.
    """
    found = re.fullmatch(rf"({NUMBER})/h", text)
    if not found:
        msg = f"how often is written for an hour of a device, as 0.05/h, got '{text}'"
        raise ValueError(msg)
    return float(found[1])


def above_0(text: str) -> float:
    """Read a number above 0.

    Raises:
        ValueError: it is none.
    """
    number = _number(text)
    if not 0 < number < math.inf:
        msg = f"it is a number above 0, got '{text}'"
        raise ValueError(msg)
    return number


def share_of(text: str) -> float:
    """Read a share from 0 up to, but not, 1.

    Raises:
        ValueError: it is none.
    """
    share = _number(text)
    if not 0 <= share < 1:
        msg = f"it is the share of the price that is saved, from 0 to below 1, got '{text}'"
        raise ValueError(msg)
    return share


def _number(text: str) -> float:
    """What is no number is NaN, which is within no limits."""
    try:
        return float(text)
    except ValueError:
        return math.nan


class Quantity(click.ParamType[float]):
    """A quantity, read by a function that says what is wrong."""

    def __init__(self, name: str, read: Callable[[str], float]) -> None:
        self.name, self._read = name, read

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        if not isinstance(value, str):
            return float(value)  # type: ignore[arg-type]  # A default is read already.
        try:
            return self._read(value.strip())
        except ValueError as error:
            self.fail(str(error), param, ctx)


ROWS, DURATION = Quantity("rows", rows_of), Quantity("duration", seconds_of)
PER_HOUR, ABOVE_0 = Quantity("rate", per_hour_of), Quantity("number", above_0)
SHARE = Quantity("share", share_of)
