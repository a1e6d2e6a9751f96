"""Run a range of days: an outcome for each, whatever happens to one of them.

Days are served in their order, also where several are scored at a time: each of those in
a process of its own, up to where it would be served, and then run once more here, where
all but the serving is done already. So neither what is served, nor which versions were,
nor what a check says, depends on which day was done first. It prints nothing.
"""

import time
from collections.abc import Iterator
from dataclasses import replace

from batch_assets.errors import PipelineError
from batch_assets.launch.reports import DayOutcome, NightReport
from batch_assets.launch.runner import PipelineRunner
from batch_assets.launch.workers import DayWorkers


def days_between(runner: PipelineRunner, first: str, last: str | None) -> list[str]:
    """Return a pipeline's days from `first` to `last`, or to the newest that has ended.

    Raises:
        PipelineError: there is no such pipeline, or one of the days is none of its.
    """
    days = runner.days()
    if not days:
        msg = f"{runner.pipeline} has no day that has ended yet"
        raise PipelineError(msg)
    last = last or max(first, days[-1])
    outside = [day for day in (first, last) if day not in days]
    if outside:
        msg = (
            f"{runner.pipeline} has no day '{outside[0]}'; its days are {days[0]} to "
            f"{days[-1]}, the newest that has ended. Nothing was run"
        )
        raise PipelineError(msg)
    return [day for day in days if first <= day <= last]


def run_days(
    runner: PipelineRunner,
    days: list[str],
    *,
    engine: str | None = None,
    parallel: int = 1,
) -> Iterator[DayOutcome]:
    """Run days; give what came of each, in their order, until a signal interrupts.

    Args:
        runner: of the pipeline.
        days: the days, the oldest first.
        engine: the engine of these nights, if not that of the YAML.
        parallel: how many are scored at a time, each in a process of its own.

    Raises:
        PipelineError: there is no such pipeline, or its days must be run in order.
    """
    if parallel > 1 and runner.must_run_in_order():
        msg = (
            f"{runner.pipeline} is incremental: a night takes predictions over from the "
            "night before it, so its days are run one after the other. Leave --parallel "
            "out"
        )
        raise PipelineError(msg)
    count = parallel if parallel > 1 else 0
    with DayWorkers(runner.pipeline, engine, count) as workers:
        wait_for = workers.start(days)
        for day in days:
            scored = wait_for(day)
            if workers.stopped.is_set():
                report = replace(scored.report, success=False, interrupted=True)
                yield replace(scored, report=report)
                return
            if not scored.report.success:
                yield scored
                continue
            began = time.monotonic()
            served = runner.run_night(day, engine)
            seconds = scored.seconds + time.monotonic() - began
            report = _merged(scored.report, served) if count else served
            yield DayOutcome(report, seconds)
            if served.interrupted or workers.stopped.is_set():
                return


def _merged(scored: NightReport, served: NightReport) -> NightReport:
    """What came of a day that a worker has scored, and that was found unchanged here."""
    return replace(
        served,
        unchanged=scored.unchanged and served.unchanged,
        resumed_chunks=scored.resumed_chunks,
        rows_per_second=scored.rows_per_second,
    )
