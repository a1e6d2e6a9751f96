"""How far off plans of past nights would have been: worked out, and kept."""

from dataclasses import asdict, dataclass

import pyarrow as pa

from batch_assets.deadlines import stage_runs
from batch_assets.errors import PipelineError
from batch_assets.lake.metrics import PLAN
from batch_assets.lake.tables import Lake
from batch_assets.launch.planned_night import AFTER_ALL_NIGHTS
from batch_assets.planner.estimate import ERROR_NIGHTS, error_bounds
from batch_assets.planner.past_plans import (
    PastPlan,
    StageError,
    off_by_share,
    past_plans,
    stage_errors,
)


@dataclass(frozen=True)
class CheckReport:
    """The plans of past nights beside what these took.

    `off_by_share` is the median of the last 28 errors, whichever way; `low_share` and
    `high_share` are their 5th and 95th percentile, None of too few. The `left_out` days
    tell nothing: a stage is missing, or was run again later.
    """

    pipeline: str
    nights: list[PastPlan]
    stages: list[StageError]
    off_by_share: float | None
    low_share: float | None
    high_share: float | None
    left_out: list[str]


def check_plans(lake: Lake) -> CheckReport:
    """Plan the past nights of a pipeline, each from those before it, and keep the errors.

    Raises:
        PipelineError: no two nights were measured.
        CommitError: the errors can't be written.
    """
    runs = stage_runs(lake, "", AFTER_ALL_NIGHTS)
    nights, left_out = past_plans(runs)
    if not nights:
        days = len({run.day for run in runs})
        msg = (
            f"{lake.pipeline} has {days} measured nights, and it takes two that ran "
            "whole to plan one from the other: run more nights"
        )
        raise PipelineError(msg)
    for night in nights:
        row = pa.Table.from_pylist([asdict(night)], schema=PLAN)
        lake.plan_metrics.write(night.day, row)
    errors = [night.error_share for night in nights][-ERROR_NIGHTS:]
    bounds = error_bounds(errors)
    return CheckReport(
        lake.pipeline,
        nights,
        stage_errors(runs, [night.day for night in nights]),
        off_by_share(errors),
        bounds[0] if bounds else None,
        bounds[1] if bounds else None,
        left_out,
    )
