"""When something runs, and by when it is to be done, as a YAML says it: once a day."""

import re

# A YAML of version 1.1 makes 630 of 10:30.
HOUR, DAY = 60, 24 * 60


def daily(schedule: str) -> str:
    """Refuse a cron that does not run exactly once a day."""
    if not re.match(r"^[0-5]?\d ([01]?\d|2[0-3]) \* \* \*$", schedule):
        msg = f"a schedule runs once a day and reads 'MINUTE HOUR * * *', got '{schedule}'"
        raise ValueError(msg)
    return schedule


def clock_time(text: object) -> object:
    """Refuse what is no time of day, as `06:00`."""
    said = f"a time of day is written HH:MM in quotes, such as '06:00', got '{text}'"
    if isinstance(text, int) and not isinstance(text, bool) and HOUR <= text < DAY:
        meant = f"{text // HOUR:02d}:{text % HOUR:02d}"
        msg = f"{said}, which YAML makes of {meant} without quotes: write '{meant}'"
        raise ValueError(msg)
    if text is not None and not (
        isinstance(text, str)
        and re.fullmatch(r"([01]\d|2[0-3]):[0-5]\d", text, re.ASCII)
    ):
        raise ValueError(said)
    return text


def minute_of(schedule: str) -> int:
    """Return the minute of the day at which a daily cron runs."""
    minute, hour = schedule.split()[:2]
    return int(hour) * HOUR + int(minute)


def minute_of_clock(text: str) -> int:
    """Return the minute of the day of a time such as `06:00`."""
    return int(text[:2]) * HOUR + int(text[3:])


def is_next_morning(schedule: str, ready_by: str) -> bool:
    """Tell whether a night that begins on one date is to be ready on the next.

    Raises:
        ValueError: a night that begins then can never be ready by then.
    """
    begins, ready = minute_of(schedule), minute_of_clock(ready_by)
    if ready > begins:
        return False
    if ready < begins and begins >= DAY // 2:
        return True
    msg = (
        f"the night begins at {begins // HOUR:02d}:{begins % HOUR:02d} (`schedule`), so it "
        f"can't be ready by {ready_by} of the same date: begin earlier, or say a later "
        "`ready_by`. Only a night that begins at 12:00 or later is ready on the next date"
    )
    raise ValueError(msg)
