"""A sensor for each pipeline with a deadline: it warns before the deadline is missed.

What it looks at is what is served, never what was materialised: a backfill of an older
day materialises, too.
"""

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime

import dagster as dg
from dagster import DagsterEventType, DagsterInstance

from batch_assets.alerts.alert import Alert, Served
from batch_assets.alerts.conditions import Condition, Watched
from batch_assets.alerts.words import Number
from batch_assets.assets.step_errors import is_failed_check, reason_of
from batch_assets.deadlines import NightRun, RunState, deadline_statuses
from batch_assets.lake.tables import Lake
from batch_assets.planner.clock import NightTimes
from batch_assets.planner.status import DeadlineStatus
from batch_assets.resources import StorageResource
from batch_assets.sensors.runs import PARTITION
from batch_assets.snapshots.store import SnapshotStore
from batch_assets.spec import PipelineSpec
from batch_assets.spec.alerts import AlertKind

EVERY_SECONDS = 300
ALERTS: dict[str, AlertKind] = {
    "at_risk": "deadline_at_risk",
    "missed": "deadline_missed",
}
# In the metadata of the sensor: when the nights begin, and by when they are to be ready.
NIGHT_TIMES = "night_times"
# Of a day's newest runs; those of other pipelines have the same day.
LOOK_BACK = 100
STATES: dict[dg.DagsterRunStatus, RunState] = {
    dg.DagsterRunStatus.QUEUED: "queued",
    dg.DagsterRunStatus.NOT_STARTED: "queued",
    dg.DagsterRunStatus.STARTING: "queued",
    dg.DagsterRunStatus.MANAGED: "queued",
    dg.DagsterRunStatus.STARTED: "running",
    dg.DagsterRunStatus.SUCCESS: "done",
    dg.DagsterRunStatus.FAILURE: "failed",
    dg.DagsterRunStatus.CANCELING: "gone",
    dg.DagsterRunStatus.CANCELED: "gone",
}


def sensor_name(pipeline: str) -> str:
    """Return the name of a pipeline's sensor."""
    return f"{pipeline}_deadline_sensor"


def deadline_sensors(spec: PipelineSpec) -> list[dg.SensorDefinition]:
    """Build the sensor of a pipeline's deadline, if it has one."""
    times = NightTimes.of(spec)
    if times is None:
        return []

    @dg.sensor(
        name=sensor_name(spec.name),
        minimum_interval_seconds=EVERY_SECONDS,
        # Without its schedule it watches only nights that somebody began.
        default_status=dg.DefaultSensorStatus.RUNNING,
        metadata={NIGHT_TIMES: times.model_dump_json()},
        description=f"Warns while {spec.name} may not be served by {times.ready_by} "
        f"{times.timezone}, and says which stage is late.",
    )
    def sensor(
        context: dg.SensorEvaluationContext, storage: StorageResource
    ) -> dg.SkipReason:
        statuses = watch(
            context.instance,
            times,
            storage.lake(spec.name),
            storage.snapshots(spec.name),
            datetime.now(UTC),
        )
        for status in statuses:
            if status.kind in ("at_risk", "missed"):
                context.log.warning(_with_command(status))
        said = "; ".join(_with_command(status) for status in statuses)
        return dg.SkipReason(said or f"no day of {spec.name} is due")

    return [sensor]


def deadline_conditions(
    spec: PipelineSpec, instance: DagsterInstance
) -> tuple[Condition, ...]:
    """Return what alerts look at of a pipeline's deadline, if it has one."""
    times = NightTimes.of(spec)
    if times is None:
        return ()

    def look(watched: Watched) -> list[Alert]:
        lake = Lake(watched.root, spec.name)
        statuses = watch(instance, times, lake, watched.store, watched.now)
        return [alert for status in statuses for alert in _alerts(status, watched)]

    return (Condition(look, tuple(ALERTS.values())),)


def _alerts(status: DeadlineStatus, watched: Watched) -> list[Alert]:
    """Return what is to be told of a deadline.

    A deadline that is missed was at risk before: that is not well again by being worse.
    """
    if status.kind not in ALERTS:
        return []
    late = (watched.now - status.deadline).total_seconds()
    alert = Alert(
        kind=ALERTS[status.kind],
        pipeline=status.pipeline,
        day=status.day,
        subject="ready_by",
        summary=status.message.partition("\n")[0],
        details=status.message,
        numbers={
            "deadline": f"{status.deadline:%Y-%m-%d %H:%M %Z}",
            **({"late_by_seconds": late} if late > 0 else {}),
            **_times_of(status),
        },
        served=Served.of(watched.store, watched.now),
        next_command=status.next_command or "",
        at=watched.now,
    )
    before = replace(alert, kind=ALERTS["at_risk"])
    return [alert, *([before] if before.identity in watched.open else [])]


def _times_of(status: DeadlineStatus) -> dict[str, Number]:
    """Return when it is expected, and how long its stage has taken and usually does."""
    at = status.expected_ready_at
    found: dict[str, Number | None] = {
        "expected_ready": f"{at:%Y-%m-%d %H:%M %Z}" if at else None,
        "stage": status.stage,
        "stage_seconds": status.stage_seconds,
        "stage_usually_seconds": status.usual_seconds,
    }
    return {name: number for name, number in found.items() if number is not None}


def watch(
    instance: DagsterInstance,
    times: NightTimes,
    lake: Lake,
    store: SnapshotStore,
    now: datetime,
) -> list[DeadlineStatus]:
    """Return the status of each deadline of a pipeline that is watched now."""
    day = times.due(now)
    return deadline_statuses(
        times,
        lake,
        store,
        now,
        scheduled=is_scheduled(instance, times),
        run=newest_run(instance, times.pipeline, day) if day else None,
    )


def is_scheduled(instance: DagsterInstance, times: NightTimes) -> bool:
    """Tell whether somebody has started what begins the nights, and not stopped it."""
    return any(
        state.instigator_name == times.begun_by and state.status.value == "RUNNING"
        for state in instance.all_instigator_state()
    )


def newest_run(instance: DagsterInstance, pipeline: str, day: str) -> NightRun | None:
    """Return the newest run of a day that makes what is served, if there is any."""
    runs = instance.get_runs(dg.RunsFilter(tags={PARTITION: day}), limit=LOOK_BACK)
    for run in runs:
        if not _makes_the_night(run, pipeline):
            continue
        state = STATES.get(run.status, "running")
        failures = _failures(instance, run.run_id) if state == "failed" else ()
        why = "; ".join(dict.fromkeys(failures))
        if state == "gone":
            why = f"its run {run.run_id} was cancelled"
        return NightRun(run.run_id, state, why)
    return None


def _makes_the_night(run: dg.DagsterRun, pipeline: str) -> bool:
    """Tell whether a run is a night of a pipeline, or a piece of one."""
    if run.job_name in (f"{pipeline}_job", f"{pipeline}_replay_job"):
        return True
    served = dg.AssetKey([pipeline, "serving_snapshot"])
    return served in (run.asset_selection or ())


def _failures(instance: DagsterInstance, run_id: str) -> Iterator[str]:
    """Say why a run failed: each check that blocked it, or else what its steps raised."""
    events = instance.all_logs(
        run_id,
        of_type={
            DagsterEventType.ASSET_CHECK_EVALUATION,
            DagsterEventType.STEP_FAILURE,
        },
    )
    for entry in events:
        event = entry.dagster_event
        if event is None:
            continue
        if event.event_type == DagsterEventType.ASSET_CHECK_EVALUATION:
            check = event.asset_check_evaluation_data
            if not check.passed and check.severity == dg.AssetCheckSeverity.ERROR:
                yield f"{check.check_name}: {check.description}"
            continue
        error = event.step_failure_data.error
        if error and not is_failed_check(error):
            yield " ".join(reason_of(event.step_key or "", error).split())


def _with_command(status: DeadlineStatus) -> str:
    command = f". Next: {status.next_command}" if status.next_command else ""
    return f"{status.message.rstrip('.')}{command}"
