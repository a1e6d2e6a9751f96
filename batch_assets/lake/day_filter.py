"""Which rows of a column are of a day, in the pipeline's time zone.

It knows columns and their types, and nothing of tables or files.
"""

from datetime import UTC, date, datetime, time, timedelta
from zoneinfo import ZoneInfo

import pyarrow as pa
import pyarrow.compute as pc

from batch_assets.errors import SourceError

A_DAY = r"^\d{4}-\d{2}-\d{2}$"


def of_day(column: pa.Field, day: str, timezone: str) -> pc.Expression:
    """Return the filter of a day's rows.

    A date or text is the day itself; a timestamp without a zone is a clock on a wall in
    the pipeline's; one with a zone is an instant between two midnights there, which may
    be 23 or 25 hours apart.

    Args:
        column: its name and type.
        day: as `2026-01-05`.
        timezone: in which the day begins and ends.

    Raises:
        SourceError: the column's type tells no day.
    """
    dtype, field = column.type, pc.field(column.name)
    if pa.types.is_timestamp(dtype):
        first = date.fromisoformat(day)
        begin, end = (
            pa.scalar(_midnight(midnight_of, dtype, timezone), type=dtype)
            for midnight_of in (first, first + timedelta(days=1))
        )
        return (field >= begin) & (field < end)
    if pa.types.is_date(dtype):
        return field == pa.scalar(date.fromisoformat(day), type=dtype)
    if is_text(dtype):
        return field == pa.scalar(day)
    msg = (
        f"the day_column '{column.name}' is {dtype}, which tells no day: expected a date, "
        "a timestamp, or text as '2026-01-05'. Write the table with such a column, or "
        "take the rows by a query"
    )
    raise SourceError(msg)


def nearly_of_day(name: str, day: str) -> pc.Expression:
    """Return the filter of text that begins with the day and goes on, as '2026-01-05T13:00'.

    As a range, so that files without such rows are left out by their statistics.
    """
    after = day[:-1] + chr(ord(day[-1]) + 1)
    return (pc.field(name) > pa.scalar(day)) & (pc.field(name) < pa.scalar(after))


def of_no_day(name: str) -> pc.Expression:
    """Return the filter of text that is no day at all, as '20260105'."""
    return ~pc.match_substring_regex(pc.field(name), A_DAY)


def is_text(dtype: pa.DataType) -> bool:
    """Return whether a type is one of Arrow's for text."""
    return bool(
        pa.types.is_string(dtype)
        or pa.types.is_large_string(dtype)
        or pa.types.is_string_view(dtype)
    )


def _midnight(day: date, dtype: pa.TimestampType, timezone: str) -> datetime:
    if dtype.tz is None:
        return datetime.combine(day, time())
    # In UTC: where there was no midnight, this is the moment that the clocks went on.
    return datetime.combine(day, time(), ZoneInfo(timezone)).astimezone(UTC)
