"""How numbers, times and values are written, so that each reads the same everywhere."""

import math
import re
from datetime import UTC, datetime
from typing import Any

LONGEST = 48
NOT_A_NUMBER, INFINITE, MISSING = "not a number", "infinite", "missing"
_ODD = re.compile(r"(?<![\w.'\"-])([+-]?)(nan|inf|infinity)(?![\w'\"])", re.IGNORECASE)


def count(number: int, what: str) -> str:
    """Write how many there are: `1 row`, `1,200 rows`."""
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def number(value: float | None, digits: int = 4) -> str:
    """Write a number with so many digits that count, or all of those before its point."""
    if value is None:
        return MISSING
    if math.isnan(value):
        return NOT_A_NUMBER
    if math.isinf(value):
        return INFINITE if value > 0 else f"minus {INFINITE}"
    if value == round(value) and abs(value) < 1e15:
        return f"{round(value):,}"
    if 1e-4 <= abs(value) < 1e15:
        places = max(0, digits - 1 - math.floor(math.log10(abs(value))))
        text = f"{value:,.{places}f}"
        return text.rstrip("0").rstrip(".") if "." in text else text
    return f"{value:.{digits}g}"


def share(part: float, whole: float = 1) -> str:
    """Write a share in percent; of nothing it is 0 %, and a little is not written as none."""
    if not whole or math.isnan(part):
        return "0 %"
    percent = 100 * part / whole
    if 0 < percent < 0.01:
        return "below 0.01 %"
    if 99.99 < percent < 100:
        return "above 99.99 %"
    return f"{percent:.2f} %" if percent % 1 else f"{percent:.0f} %"


def seconds(value: float) -> str:
    """Write how long something took."""
    if value < 1:
        return f"{value * 1000:.0f} ms"
    if value < 120:
        return f"{value:.1f} s"
    minutes, rest = divmod(round(value), 60)
    if minutes < 120:
        return f"{minutes} min {rest} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours:,} h {minutes} min"


def moment(at: datetime) -> str:
    """Write a time in UTC."""
    return f"{at.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"


def value(given: Any) -> str:
    """Write a value of a row in a few characters."""
    if given is None:
        return MISSING
    if isinstance(given, bool):
        return "true" if given else "false"
    if isinstance(given, int):
        return f"{given:,}"
    if isinstance(given, float):
        return number(given)
    if isinstance(given, list | tuple):
        more = f", … {len(given):,} in all" if len(given) > 3 else ""
        return f"[{', '.join(value(one) for one in given[:3])}{more}]"
    return shortened(str(given))


def shortened(text: str, longest: int = LONGEST) -> str:
    """Cut text that is too long, and show what can't be seen as a space."""
    text = "".join(one if one.isprintable() else " " for one in text)
    return text if len(text) <= longest else f"{text[: longest - 1]}…"


def plain(text: str) -> str:
    """Say `not a number` where Python's words for such numbers are in a sentence."""

    def said(found: re.Match[str]) -> str:
        if found[2].lower() == "nan":
            return NOT_A_NUMBER
        return f"minus {INFINITE}" if found[1] == "-" else INFINITE

    return _ODD.sub(said, text)
