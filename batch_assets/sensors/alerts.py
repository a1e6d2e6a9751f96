"""The sensors of a pipeline that declares alerts: two look at runs, one at what is served.

The command line calls the same sensors, so that a night without a daemon is told of, too.
"""

from collections.abc import Callable
from datetime import UTC, datetime

import dagster as dg

from batch_assets.alerts.conditions import CONDITIONS, Condition, Watched, look
from batch_assets.alerts.notifier import Notifier, Outcome
from batch_assets.resources import StorageResource
from batch_assets.sensors.deadlines import deadline_conditions
from batch_assets.sensors.runs import FinishedRun
from batch_assets.spec import PipelineSpec
from batch_assets.spec.alerts import AlertsSpec
from batch_assets.storage import StoragePath

# What every sensor bears: the alerts as declared, for whoever has the definitions alone.
# They name variables and hold no secret.
DECLARED = "batch_assets/alerts"
FAILED, DONE, WATCH = "failed_run_alerts", "done_run_alerts", "alerts_watch"
STATUSES = {
    FAILED: dg.DagsterRunStatus.FAILURE,
    DONE: dg.DagsterRunStatus.SUCCESS,
}
# A condition lasts for hours; what did not arrive is tried again as often.
EVERY_SECONDS = 180
# Dagster's own are stopped until somebody starts them, because they start runs. These start
# nothing, and there are none where the YAML declares no alerts: who has declared them, and
# then forgets a switch in the UI, would find out on the night that nobody was called.
STATUS = dg.DefaultSensorStatus.RUNNING


def build_sensors(spec: PipelineSpec) -> list[dg.SensorDefinition]:
    """Build the sensors of a pipeline; none, if it declares no alerts."""
    if spec.alerts is None:
        return []
    runs = [_build_run_sensor(spec, spec.alerts, name) for name in STATUSES]
    return [*runs, _build_watch(spec, spec.alerts)]


def _build_run_sensor(
    spec: PipelineSpec, alerts: AlertsSpec, name: str
) -> dg.RunStatusSensorDefinition:
    what = {
        FAILED: "Tells of runs that failed, and of gates that are shut.",
        DONE: "Tells of checks that warn, and of what is well again.",
    }

    @dg.run_status_sensor(
        STATUSES[name],
        name=f"{spec.name}_{name}",
        description=what[name],
        default_status=STATUS,
        # A night of `dg launch` is of no code location.
        monitor_all_code_locations=True,
        metadata=_metadata(alerts),
    )
    def sensor(
        context: dg.RunStatusSensorContext, storage: StorageResource
    ) -> dg.SkipReason:
        run, instance = context.dagster_run, context.instance
        root, now = storage.path, datetime.now(UTC)
        found = FinishedRun.read(spec, root, run, instance, now).findings()
        notifier = Notifier(root, spec.name, alerts)
        return _said(notifier.tell(found.raised.values(), found.over))

    return sensor


def _build_watch(spec: PipelineSpec, alerts: AlertsSpec) -> dg.SensorDefinition:
    kinds = ", ".join(kind for condition in CONDITIONS for kind in condition.kinds)

    @dg.sensor(
        name=f"{spec.name}_{WATCH}",
        description=f"Looks at what must hold at any time ({kinds}), and tries again what "
        "did not arrive.",
        minimum_interval_seconds=EVERY_SECONDS,
        default_status=STATUS,
        metadata=_metadata(alerts),
    )
    def sensor(
        context: dg.SensorEvaluationContext, storage: StorageResource
    ) -> dg.SkipReason:
        more = deadline_conditions(spec, context.instance)
        return _said(watch(spec, storage.path, more=more))

    return sensor


def watch(
    spec: PipelineSpec,
    root: StoragePath,
    now: Callable[[], datetime] = lambda: datetime.now(UTC),
    more: tuple[Condition, ...] = (),
) -> list[Outcome]:
    """Look at all conditions of a pipeline once, and tell what is news.

    Args:
        spec: of the pipeline, with its alerts.
        root: where everything lies.
        now: tells the time.
        more: conditions beside those that hold of every pipeline.
    """
    assert spec.alerts is not None
    notifier = Notifier(root, spec.name, spec.alerts, now)
    state, _ = notifier.record.read()
    watched = Watched(spec, root, now(), state.open.keys())
    raised, over = look(watched, CONDITIONS + more)
    return notifier.tell(raised, over)


def _metadata(alerts: AlertsSpec) -> dict[str, dg.JsonMetadataValue]:
    return {DECLARED: dg.MetadataValue.json(alerts.model_dump(mode="json"))}


def _said(outcomes: list[Outcome]) -> dg.SkipReason:
    """Say what was sent, where Dagster shows why nothing was started."""
    if not outcomes:
        return dg.SkipReason("nothing is news")
    arrived = sum(outcome.arrived for outcome in outcomes)
    failed = [f"{o.receiver}: {o.why}" for o in outcomes if not o.arrived]
    said = f"{arrived:,} of {len(outcomes):,} messages arrived"
    return dg.SkipReason("; ".join([said, *failed]))
