"""Whether a night is so far from the size of those measured that its plan is a guess."""

import statistics
from collections.abc import Sequence

from batch_assets.planner.estimate import NIGHTS, ROAD, StageRun

# From so many times the rows of every measured night on, or so small a part of them.
FAR = 10


def is_of_another_size(runs: Sequence[StageRun], rows: int) -> bool:
    """Tell whether a night has 10 times the rows of every measured one, or a tenth."""
    measured = [run.rows for run in runs if run.stage == ROAD[0]]
    if not measured:
        return False
    return rows > FAR * max(measured) or rows * FAR < min(measured)


def both_ends(
    runs: Sequence[StageRun], rows: int, stages: Sequence[str]
) -> tuple[float, float]:
    """Return the seconds of some stages of a night, by either extreme.

    Returns:
        If all that nights took is fixed, and if all of it goes by the row; the shorter
        first.
    """
    fixed = by_row = 0.0
    for stage in stages:
        some = sorted((run for run in runs if run.stage == stage), key=lambda r: r.day)
        told = [run for run in some[-NIGHTS:] if run.rows]
        if not told:
            continue
        fixed += statistics.median(run.seconds for run in told)
        by_row += statistics.median(run.seconds / run.rows for run in told) * rows
    return min(fixed, by_row), max(fixed, by_row)
