"""When something runs, as a YAML says it: once a day."""

import re


def daily(schedule: str) -> str:
    """Refuse a cron that does not run exactly once a day."""
    if not re.match(r"^[0-5]?\d ([01]?\d|2[0-3]) \* \* \*$", schedule):
        msg = f"a schedule runs once a day and reads 'MINUTE HOUR * * *', got '{schedule}'"
        raise ValueError(msg)
    return schedule
