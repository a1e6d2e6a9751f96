"""One run that makes one day of a pipeline: what every step of it is given.

It knows the tables, and nothing of who started the run.
"""

from collections.abc import Callable
from dataclasses import dataclass

from batch_assets.lake.tables import Lake


@dataclass(frozen=True)
class DayRun:
    """A day that is being made.

    Attributes:
        lake: the pipeline's tables.
        day: as `2026-01-05`.
        guard: raises if this run may not commit any more; called before each commit.
        progress: called with each number of rows that is done.
    """

    lake: Lake
    day: str
    guard: Callable[[], None] = lambda: None
    progress: Callable[[int], None] = lambda rows: None
