"""A sensor for each pipeline that waits for assets of others: it begins a night once they
are there for its day.

It stands in for the schedule, so a night has one that begins it. It begins none before the
time of the schedule, none twice, and none that somebody has begun by hand. A day that still
waits when the next is due goes on waiting, for a week; an older one is a backfill.
"""

from datetime import UTC, datetime, timedelta
from typing import Any

import dagster as dg
from dagster import DagsterInstance

from batch_assets.assets.upstream import Upstream, in_words
from batch_assets.planner.clock import NightClock
from batch_assets.schedules import PIPELINE
from batch_assets.sensors.deadlines import newest_run
from batch_assets.spec import PipelineSpec
from batch_assets.strict import StrictModel

EVERY_SECONDS = 60
# So long a day waits; of one day on which it never came, every later one would be asked.
PATIENCE = timedelta(days=7)


class Cursor(StrictModel):
    """The newest day that the sensor has seen due, and those that have not begun."""

    newest: str
    waiting: tuple[str, ...] = ()


def wait_sensors(spec: PipelineSpec) -> list[dg.SensorDefinition]:
    """Build the sensor of a pipeline that waits for others, if it does."""
    if not spec.waits:
        return []
    clock = NightClock.of_nights(spec)

    @dg.sensor(
        name=clock.begun_by,
        job_name=f"{spec.name}_job",
        minimum_interval_seconds=EVERY_SECONDS,
        description=f"Scores the day that has ended once {' and '.join(spec.upstream_assets)} "
        f"of it are there, from {spec.schedule} {spec.timezone} on (cron).",
    )
    def sensor(context: dg.SensorEvaluationContext) -> dg.SensorResult:
        repository = context.repository_def
        assert repository is not None  # Dagster hands it to every sensor that it runs.
        return tick(
            spec,
            repository.asset_graph,
            context.instance,
            context.cursor,
            datetime.now(UTC),
        )

    return [sensor]


def tick(
    spec: PipelineSpec,
    graph: Any,
    instance: DagsterInstance,
    cursor: str | None,
    now: datetime,
) -> dg.SensorResult:
    """Return which nights begin now, and what the others wait for.

    Args:
        spec: the pipeline.
        graph: of the assets of the code location.
        instance: where what was made is known.
        cursor: what this returned before.
        now: an instant.

    Raises:
        PipelineError: Dagster can't tell which partitions are of a day.
    """
    due = NightClock.of_nights(spec).due(now)
    known = Cursor.model_validate_json(cursor) if cursor else None
    days = _days_between(known, due)
    raw, served = (
        dg.AssetKey([spec.name, name]) for name in ("raw_features", "serving_snapshot")
    )
    upstream = Upstream(spec, graph, raw)
    made = instance.get_materialized_partitions(served) if days else set()
    begun, waiting, said = [], [], []
    for day in days:
        run = newest_run(instance, spec.name, day)
        if day in made or (run and run.state == "done"):
            continue
        if run and run.state in ("queued", "running"):
            waiting.append(day)
            said.append(f"{day} is being made by run {run.run}")
        elif missing := upstream.missing(instance, spec.upstream_assets, day):
            waiting.append(day)
            said.append(f"{day} waits: {in_words(missing)}")
        else:
            begun.append(day)
    newest = max([day for day in (known and known.newest, due) if day], default=None)
    return dg.SensorResult(
        run_requests=[
            dg.RunRequest(run_key=day, partition_key=day, tags={PIPELINE: spec.name})
            for day in begun
        ],
        skip_reason=None
        if begun
        else "; ".join(said) or f"every day of {spec.name} that is due has begun",
        cursor=Cursor(newest=newest, waiting=tuple(waiting)).model_dump_json()
        if newest
        else None,
    )


def _days_between(known: Cursor | None, due: str | None) -> list[str]:
    """Return the days that have not begun, the oldest first.

    When it is turned on, the day that is due is the first; those before are a backfill.
    """
    days = set(known.waiting) if known else set()
    if due:
        last = datetime.fromisoformat(due)
        day = datetime.fromisoformat(known.newest) if known else last - timedelta(1)
        while day < last:
            day += timedelta(days=1)
            days.add(str(day.date()))
        days = {one for one in days if datetime.fromisoformat(one) > last - PATIENCE}
    return sorted(days)
