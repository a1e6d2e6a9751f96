"""Numbers as a person reads them at night: thousands, shares, units, and never NaN."""

import math
from collections.abc import Mapping

Number = float | int | str | None

# What a number counts, if its name ends so.
UNITS = {
    *("bytes", "chunks", "columns", "days", "deviations", "hours", "items", "minutes"),
    *("nights", "releases", "rows", "shards", "versions"),
}
SHARES = ("share", "coverage")
DURATIONS = ("seconds", "age")
SIZES = (("day", 86_400), ("hour", 3_600), ("minute", 60), ("second", 1))


def told_numbers(numbers: Mapping[str, Number]) -> dict[str, str]:
    """Write numbers, each under its name without what is said by its unit."""
    # A limit is of what stands beside it.
    is_share = any(name.split("_")[-1] in SHARES for name in numbers)
    return dict(_told(name, number, is_share) for name, number in numbers.items())


def spoken(seconds: float) -> str:
    """Write how long something takes or how old it is, in its two largest units."""
    rest, parts = max(0, round(seconds)), []
    for unit, size in SIZES:
        count, rest = divmod(rest, size)
        if count:
            parts.append(f"{count:,} {unit}{'' if count == 1 else 's'}")
    return " ".join(parts[:2]) or "0 seconds"


def _told(name: str, number: Number, is_share: bool) -> tuple[str, str]:
    *before, last = name.split("_")
    label = " ".join([*before, last])
    if number is None or (isinstance(number, float) and not math.isfinite(number)):
        return label, "not known"
    if isinstance(number, str):
        return label, number
    if last in SHARES or (last == "limit" and is_share):
        return label, f"{_plain(100 * number)} %"
    if last in DURATIONS:
        return " ".join(before) or label, spoken(number)
    if last in UNITS:
        unit = last.removesuffix("s") if number == 1 else last
        return " ".join(before) or label, f"{_plain(number)} {unit}"
    return label, _plain(number)


def _plain(number: float) -> str:
    """Write a number with thousands, and four digits that tell it from others."""
    if number == round(number):
        return f"{number:,.0f}"
    return f"{number:,.1f}" if abs(number) >= 1_000 else f"{number:.4g}"
