"""When a pipeline runs: each day is a partition, scored after it has ended."""

from datetime import date, datetime, time, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import dagster as dg

from batch_assets.spec import OutcomesSpec, PipelineSpec

SWEEP, OUTCOMES = "batch_size_sweep", "outcomes"
COMPARISON = "release_comparison"
# The tag of a pipeline whose nights take something over from the night before.
IN_ORDER = "batch_assets/in_order"
# The tag of every run of a pipeline's jobs, by which the UI filters runs.
PIPELINE = "batch_assets/pipeline"


def day_partitions(spec: PipelineSpec) -> dg.DailyPartitionsDefinition:
    """Return a partition for each day that can be scored."""
    end = spec.end_day
    return dg.DailyPartitionsDefinition(
        start_date=datetime.combine(spec.start_day, time()),
        # Dagster's end is one past the last.
        end_date=datetime.combine(end + timedelta(days=1), time()) if end else None,
        timezone=spec.timezone,
    )


def newest_day(spec: PipelineSpec, now: datetime) -> str:
    """Return the day that ended last in the pipeline's time zone.

    Args:
        spec: the pipeline.
        now: an instant.
    """
    return str(now.astimezone(ZoneInfo(spec.timezone)).date() - timedelta(days=1))


def nightly(spec: PipelineSpec) -> dg.Definitions:
    """Build the job that does one day's night, its schedule, and the job of a replay.

    The jobs run in one process, because a killed worker must not leave a child on the
    device. The schedule is stopped until somebody starts it.
    """
    tags = {PIPELINE: spec.name}
    later = [SWEEP, COMPARISON, *([OUTCOMES] if spec.outcomes else [])]
    # A sweep takes the device for minutes, and is worth it once for each release.
    # Outcomes are not known by then, and releases are compared when somebody asks.
    selection: dg.AssetSelection = dg.AssetSelection.groups(
        spec.name
    ) - dg.AssetSelection.assets(*([spec.name, name] for name in later))
    if spec.upstream_assets and not spec.waits:
        # With all that they need: one that is named is not made of what is old.
        named = dg.AssetSelection.assets(*spec.upstream_assets)
        selection |= named.upstream().materializable()
    job = dg.define_asset_job(
        f"{spec.name}_job",
        selection=selection,
        description=f"One night of {spec.name}: from source to served snapshot.",
        tags=tags | ({IN_ORDER: "true"} if spec.incremental else {}),
        executor_def=dg.in_process_executor,
    )
    # What follows from dead letters that can be scored after all.
    names = ["predictions", "dead_letters", "serving_snapshot", "night_report"]
    names += [f"{sink.name}_snapshot" for sink in spec.sinks]
    op = {"config": {"replay_dead_letters": True}}
    replay = dg.define_asset_job(
        f"{spec.name}_replay_job",
        selection=dg.AssetSelection.assets(*([spec.name, name] for name in names)),
        description=f"Scores only the dead letters of one day of {spec.name} again, "
        "with the day's own release, and serves what came of it.",
        config={"ops": {f"{spec.name}__predictions": op}},
        tags=tags,
        executor_def=dg.in_process_executor,
    )
    jobs = [job, replay]
    # What waits for others' assets is begun by a sensor, and never by two.
    schedules = [] if spec.waits else [_schedule(spec, job)]
    if spec.outcomes:
        judging = dg.define_asset_job(
            f"{spec.name}_{OUTCOMES}_job",
            selection=dg.AssetSelection.assets([spec.name, OUTCOMES]),
            description=f"Takes what really happened on a day of {spec.name}, and judges "
            "its predictions by it.",
            tags=tags,
            executor_def=dg.in_process_executor,
        )
        jobs.append(judging)
        schedules.append(_outcomes_schedule(spec, spec.outcomes, judging.name))
    return dg.Definitions(jobs=jobs, schedules=schedules)


def _schedule(spec: PipelineSpec, job: Any) -> Any:
    """Build the schedule of the nights."""
    minute, hour = (int(part) for part in spec.schedule.split()[:2])
    return dg.build_schedule_from_partitioned_job(
        job,
        name=f"{spec.name}_schedule",
        description=f"Scores the day that has ended, at {hour:02d}:{minute:02d} "
        f"{spec.timezone}.",
        minute_of_hour=minute,
        hour_of_day=hour,
    )


def _outcomes_schedule(
    spec: PipelineSpec, outcomes: OutcomesSpec, job_name: str
) -> dg.ScheduleDefinition:
    """Build the schedule that takes a day's outcomes once they are known."""

    @dg.schedule(
        job_name=job_name,
        name=f"{spec.name}_{OUTCOMES}_schedule",
        cron_schedule=outcomes.schedule,
        execution_timezone=spec.timezone,
        description="Takes the outcomes of the day that ended "
        f"{outcomes.after_days} days before the last one.",
    )
    def schedule(
        context: dg.ScheduleEvaluationContext,
    ) -> dg.RunRequest | dg.SkipReason:
        newest = date.fromisoformat(newest_day(spec, context.scheduled_execution_time))
        day = newest - timedelta(days=outcomes.after_days)
        first, last = spec.start_day, spec.end_day or newest
        if not first <= day <= last:
            return dg.SkipReason(f"{day} is no day of {spec.name}")
        return dg.RunRequest(run_key=str(day), partition_key=str(day))

    return schedule
