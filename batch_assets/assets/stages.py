"""How long the stages of a night take, as they are made: kept in the lake, and plotted.

Nothing here may fail a night: what can't be kept is a warning in its log.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import dagster as dg

from batch_assets.assets.pipeline import Pipeline
from batch_assets.deadlines import (
    keep_estimate,
    read_known,
    settle_estimates,
    stage_runs,
)
from batch_assets.lake.day_run import DayRun
from batch_assets.lake.stages import (
    StageMetric,
    StageState,
    keep_stage,
    stage_metrics,
    write_state,
)
from batch_assets.planner.clock import NightTimes
from batch_assets.planner.estimate import ROAD, cost_per_million_rows, slowest
from batch_assets.planner.status import duration
from batch_assets.scoring.engines.base import Engine
from batch_assets.scoring.night import Night

# How often a stage at work says how far it is.
SAYS_SECONDS = 30.0


class Stage:
    """A stage of a day at work; its numbers are there once it has ended."""

    def __init__(
        self,
        context: dg.AssetExecutionContext,
        pipeline: Pipeline,
        run: DayRun,
        name: str,
    ) -> None:
        self._context, self._pipeline, self._name = context, pipeline, name
        self._given = run
        self._began, self._said = time.monotonic(), time.monotonic()
        now = datetime.now(UTC)
        self._state = StageState(
            stage=name, run=context.run.run_id, started_at=now, at=now
        )
        self._metric: StageMetric | None = None

    @property
    def run(self) -> DayRun:
        """The day that is made, whose progress is kept, too."""
        return replace(self._given, progress=self._count)

    def ran(
        self,
        job: str,
        rows: int,
        device_share: float | None = None,
        *,
        unchanged: bool,
    ) -> None:
        """Say what the stage has done; if it found it done, it is no measure.

        Args:
            job: the job of what it made.
            rows: that it went through.
            device_share: the share of the time in which the device computed.
            unchanged: whether all was there already.
        """
        if unchanged:
            return
        at = self._state.started_at
        self._metric = StageMetric(
            self._given.day, job, self._name, at, 0.0, rows, device_share
        )

    @property
    def metadata(self) -> dict[str, Any]:
        """What Dagster plots of a stage that really ran: its seconds, and its rate."""
        metric = self._metric
        if metric is None or not metric.seconds:
            return {}
        return {
            "seconds": metric.seconds,
            "rows_per_second": metric.rows / metric.seconds,
        }

    @property
    def scoring_metadata(self) -> dict[str, Any]:
        """What is plotted of scoring, beside how long the scoring itself took."""
        metric = self._metric
        if metric is None:
            return {}
        spec = self._pipeline.spec
        cost = cost_per_million_rows(metric.seconds, metric.rows, spec.cost_per_hour)
        share = metric.device_share
        return {
            "stage_seconds": metric.seconds,
            **({} if share is None else {"device_share": share}),
            **({} if cost is None else {"cost_per_million_rows": cost}),
        }

    def begin(self) -> None:
        if self._name not in ROAD:
            return
        lake, day = self._given.lake, self._given.day
        with unfailing(self._context, f"that {self._name} of {day} has begun"):
            write_state(lake, day, self._state)
            if self._pipeline.spec.ready_by:
                keep_estimate(lake, day, self._name, self._state.started_at)

    def end(self) -> None:
        lake, day = self._given.lake, self._given.day
        seconds = time.monotonic() - self._began
        if self._metric:
            self._metric = replace(self._metric, seconds=seconds)
        with unfailing(self._context, f"how long {self._name} of {day} took"):
            if self._name in ROAD:
                write_state(lake, day, None)
            if self._metric:
                keep_stage(lake, self._metric)

    def broke(self, error: BaseException) -> None:
        if self._name not in ROAD:
            return
        said = " ".join(str(error).split()) or type(error).__name__
        self._state = self._state.model_copy(
            update={"at": datetime.now(UTC), "failed": said}
        )
        with unfailing(self._context, f"that {self._name} broke"):
            write_state(self._given.lake, self._given.day, self._state)

    def _count(self, rows: int) -> None:
        self._given.progress(rows)
        if self._name not in ROAD:
            return
        now, state = datetime.now(UTC), self._state
        counted = {"rows": state.rows + rows, "at": now}
        if state.counted_from is None:
            counted |= {"before": rows, "counted_from": now}
        self._state = state.model_copy(update=counted)
        if time.monotonic() - self._said < SAYS_SECONDS:
            return
        self._said = time.monotonic()
        with unfailing(self._context, f"how far {self._name} is"):
            write_state(self._given.lake, self._given.day, self._state)


@contextmanager
def measured(
    context: dg.AssetExecutionContext, pipeline: Pipeline, run: DayRun, name: str
) -> Iterator[Stage]:
    """Measure a stage of a day, and say meanwhile that it is at work; under its claim.

    Args:
        context: of the asset.
        pipeline: the pipeline.
        run: the day that is made.
        name: of the stage: that of its asset.
    """
    stage = Stage(context, pipeline, run, name)
    stage.begin()
    try:
        yield stage
    except BaseException as error:
        stage.broke(error)
        raise
    stage.end()


@contextmanager
def unfailing(context: dg.AssetExecutionContext, what: str) -> Iterator[None]:
    """Let no error through: a night is worth more than what is told of it."""
    try:
        yield
    except Exception as error:  # noqa: BLE001 storage, Delta and Arrow have no base
        context.log.warning("%s could not be kept: %s", what, error)


def device_share(night: Night, engine: Engine) -> float | None:
    """Return the share of the time of scoring in which the device computed.

    Of a CUDA device it is the time in which any stream computed; of a CPU the workers'
    time in the model.
    """
    seconds = night.timing.score
    if not seconds:
        return None
    if usage := engine.usage:
        return usage.busy_seconds / seconds
    if not night.timing.model:
        return None
    return night.timing.model / (seconds * engine.workers)


def night_metadata(
    context: dg.AssetExecutionContext,
    pipeline: Pipeline,
    run: DayRun,
    rows: int,
    *,
    swapped: bool,
) -> dict[str, Any]:
    """Return what is plotted of a whole night: its time, its cost, and its deadline.

    Args:
        context: of the asset.
        pipeline: the pipeline.
        run: the day that was published.
        rows: of its predictions.
        swapped: whether it is served from now on.
    """
    metadata: dict[str, Any] = {}
    with unfailing(context, f"what the night of {run.day} took"):
        kept = stage_metrics(run.lake, run.day, run.day)
        stages = [one for one in kept if one.stage in ROAD]
        if {one.stage for one in stages} == set(ROAD):
            seconds = sum(one.seconds for one in stages)
            metadata["night_seconds"] = seconds
            price = pipeline.spec.cost_per_hour
            cost = cost_per_million_rows(seconds, rows, price)
            if cost is not None:
                metadata["night_cost_per_million_rows"] = cost
        times = NightTimes.of(pipeline.spec)
        if times and swapped:
            metadata |= _beside_deadline(context, times, run)
    return metadata


def _beside_deadline(
    context: dg.AssetExecutionContext, times: NightTimes, run: DayRun
) -> dict[str, Any]:
    now, day = datetime.now(UTC), run.day
    metadata: dict[str, Any] = {}
    error = settle_estimates(run.lake, day, now)
    if error is not None:
        metadata["estimate_error_seconds"] = error
    # A backfill of an older day is no late night.
    if times.due(now) != day:
        return metadata
    minutes = (times.deadline(day) - now).total_seconds() / 60
    metadata["minutes_before_deadline"] = minutes
    if minutes < 0 and (late := _late_stage(run)):
        metadata["late_stage"] = late
        context.log.warning("%s is late by %.0f minutes: %s", day, -minutes, late)
    return metadata


def _late_stage(run: DayRun) -> str | None:
    """Return which stage took most longer than it usually does."""
    tonight = stage_runs(run.lake, run.day, run.day)
    found = slowest(tonight, read_known(run.lake, run.day).rates)
    if found is None:
        return None
    run_of_stage, usual = found
    took = duration(run_of_stage.seconds)
    return f"{run_of_stage.stage} took {took}, usually {duration(usual)}"
