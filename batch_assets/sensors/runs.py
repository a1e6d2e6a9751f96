"""What a run of Dagster says of a pipeline: what is to be told, and what is well again.

One cause is one alert: a gate that is shut fails its check, and whoever asks it again, and
the run; it is told of once. It knows not who is told.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import dagster as dg
from dagster import DagsterEvent, DagsterEventType, DagsterInstance

from batch_assets.alerts import commands
from batch_assets.alerts.alert import Alert, Identity, Served
from batch_assets.alerts.words import Number
from batch_assets.assets.step_errors import (
    gate_error_of,
    is_failed_check,
    is_of_release,
    reason_of,
)
from batch_assets.quality.gates import GATES
from batch_assets.snapshots.store import SnapshotStore
from batch_assets.spec import PipelineSpec
from batch_assets.spec.alerts import AlertKind
from batch_assets.storage import StoragePath

PARTITION, WILL_RETRY = "dagster/partition", "dagster/will_retry"
RANGE = "dagster/asset_partition_range_start", "dagster/asset_partition_range_end"
EVENTS = {
    DagsterEventType.ASSET_CHECK_EVALUATION,
    DagsterEventType.STEP_FAILURE,
    DagsterEventType.STEP_SUCCESS,
    DagsterEventType.RUN_FAILURE,
}
# A line of a GateError, as `must_be_open` writes it.
SHUT = re.compile(r"^- (\w+): (.+)$", re.MULTILINE)
SERVING, RELEASE = "serving_snapshot", "model_release"


@dataclass
class Findings:
    """What was found in a run: alerts, and identities of what is well."""

    raised: dict[Identity, Alert] = field(default_factory=dict)
    over: set[Identity] = field(default_factory=set)

    def add(self, alert: Alert) -> None:
        """Raise an alert, unless its like is there already."""
        self.raised.setdefault(alert.identity, alert)

    def forget(self, *kinds: AlertKind) -> None:
        """Raise nothing of some kinds."""
        for identity in [one for one in self.raised if one.kind in kinds]:
            del self.raised[identity]

    def is_told(self, alert: Alert) -> bool:
        """Tell whether another step has failed for the same reason."""
        return any(
            (other.kind, other.details) == (alert.kind, alert.details)
            for other in self.raised.values()
        )


@dataclass(frozen=True)
class FinishedRun:
    """A run that is over, as one pipeline sees it."""

    spec: PipelineSpec
    root: StoragePath
    run: dg.DagsterRun
    events: list[DagsterEvent]
    now: datetime

    @classmethod
    def read(
        cls,
        spec: PipelineSpec,
        root: StoragePath,
        run: dg.DagsterRun,
        instance: DagsterInstance,
        now: datetime,
    ) -> "FinishedRun":
        """Take what a run has left in the instance."""
        entries = instance.all_logs(run.run_id, of_type=EVENTS)
        events = [entry.dagster_event for entry in entries if entry.dagster_event]
        return cls(spec, root, run, events, now)

    @property
    def day(self) -> str | None:
        """The day that it was for; `first...last` of a range."""
        tags = self.run.tags
        first, last = (tags.get(name) for name in RANGE)
        if first and last and first != last:
            return f"{first}...{last}"
        return tags.get(PARTITION) or first

    def concerns_pipeline(self) -> bool:
        """Tell whether it is of this pipeline at all."""
        name = self.spec.name
        own = {f"{name}_{job}" for job in ("job", "replay_job", "outcomes_job")}
        selected = {
            *(self.run.asset_selection or ()),
            *(check.asset_key for check in self.run.asset_check_selection or ()),
        }
        return self.run.job_name in own or any(k.path[0] == name for k in selected)

    def findings(self) -> Findings:
        """Return what is to be told of it, and what is well."""
        found = Findings()
        if not self.concerns_pipeline():
            return found
        for evaluation in self._evaluations():
            self._judge(found, evaluation)
        for event in self._of_type(DagsterEventType.STEP_FAILURE):
            self._add_failure(found, event)
        for event in self._of_type(DagsterEventType.STEP_SUCCESS):
            self._add_success(found, self._step(event))
        if self.run.status == dg.DagsterRunStatus.SUCCESS:
            found.over.add(self._identity("run_failed", self.run.job_name))
        elif not list(self._of_type(DagsterEventType.STEP_FAILURE)):
            self._add_run_failure(found)
        if self.run.tags.get(WILL_RETRY) == "true":
            # Nobody is woken up for what Dagster does again by itself; a gate stays shut.
            found.forget("run_failed", "sink_lags")
        found.over -= found.raised.keys()
        return found

    # Checks.

    def _evaluations(self) -> Iterator[dg.AssetCheckEvaluation]:
        """The checks of this pipeline; of a range, those of its days."""
        own = [
            evaluation
            for event in self._of_type(DagsterEventType.ASSET_CHECK_EVALUATION)
            for evaluation in [event.asset_check_evaluation_data]
            if evaluation.asset_key.path[0] == self.spec.name
        ]
        of_days = {e.asset_check_key for e in own if e.partition}
        # A range has a verdict of all days beside those of each.
        yield from (e for e in own if e.partition or e.asset_check_key not in of_days)

    def _judge(self, found: Findings, evaluation: dg.AssetCheckEvaluation) -> None:
        name, asset = evaluation.check_name, evaluation.asset_key.path[-1]
        day = evaluation.partition or self.day
        shut = self._identity("gate_shut", name, day)
        warned = self._identity("check_warned", name, day)
        sink = self._sink_of(asset)
        lags = Identity("sink_lags", self.spec.name, None, sink or "")
        stops = evaluation.severity == dg.AssetCheckSeverity.ERROR
        if evaluation.passed:
            found.over |= {shut, warned, *([lags] if sink else [])}
            return
        found.over.add(warned if stops else shut)
        message = evaluation.description or "it gives no reason"
        if sink:
            found.add(self._sink_alert(sink, message, _numbers_of(evaluation)))
            return
        found.add(
            self._alert(
                shut if stops else warned,
                message,
                commands.of_gate(self.spec.name, asset, name, day),
                _numbers_of(evaluation),
            )
        )

    # Steps.

    def _add_failure(self, found: Findings, event: DagsterEvent) -> None:
        error, step = event.step_failure_data.error, self._step(event)
        if step is None or error is None or is_failed_check(error):
            return
        if gates := gate_error_of(error):
            # Who asks a gate again finds it shut for the check's own reason.
            for gate, why in SHUT.findall(gates):
                identity = self._identity("gate_shut", gate)
                asset = next((g.asset for g in GATES if g.name == gate), "")
                command = commands.of_gate(self.spec.name, asset, gate, self.day)
                found.add(self._alert(identity, why, command, {}))
            return
        message = reason_of(step, error)
        if sink := self._sink_of(step):
            found.add(self._sink_alert(sink, message, {}))
            return
        job, cause = self.run.job_name, RELEASE if is_of_release(error) else step
        command = commands.of_step(self.spec.name, job, cause, self.day)
        identity = self._identity("run_failed", step)
        alert = self._alert(identity, message, command, {"run_id": self.run.run_id})
        if not found.is_told(alert):
            found.add(alert)

    def _add_success(self, found: Findings, step: str | None) -> None:
        if step is None:
            return
        found.over.add(self._identity("run_failed", step))
        if step == SERVING:
            # The publisher has asked every gate that blocks, from the files.
            found.over |= {
                self._identity("gate_shut", gate.name)
                for gate in GATES
                if gate.blocking
            }

    def _add_run_failure(self, found: Findings) -> None:
        """No step says why: its process died, or it never began."""
        events = list(self._of_type(DagsterEventType.RUN_FAILURE))
        said = next((event.message for event in events if event.message), None)
        job = self.run.job_name
        command = commands.of_step(self.spec.name, job, "", self.day)
        message = said or f"run {self.run.run_id} ended without a reason"
        identity = self._identity("run_failed", job)
        found.add(self._alert(identity, message, command, {"run_id": self.run.run_id}))

    # What an alert is made of.

    def _alert(
        self,
        identity: Identity,
        message: str,
        command: str,
        numbers: dict[str, Number],
    ) -> Alert:
        first, _, _ = message.strip().partition("\n")
        return Alert(
            *identity,
            summary=first,
            details=message,
            numbers=numbers,
            served=Served.of(SnapshotStore(self.root, self.spec.name), self.now),
            next_command=command,
            at=self.now,
        )

    def _sink_alert(self, sink: str, message: str, numbers: dict[str, Number]) -> Alert:
        # As whoever looks at the sinks would: it is the same alert.
        identity = Identity("sink_lags", self.spec.name, None, sink)
        command = commands.of_sink(self.spec.name)
        return self._alert(identity, message, command, numbers)

    def _identity(
        self, kind: AlertKind, subject: str, day: str | None = None
    ) -> Identity:
        return Identity(kind, self.spec.name, day or self.day, subject)

    def _sink_of(self, asset: str) -> str | None:
        names = {f"{sink.name}_snapshot": sink.name for sink in self.spec.sinks}
        return names.get(asset)

    def _step(self, event: DagsterEvent) -> str | None:
        """The step without the pipeline's name; None if it is of another pipeline."""
        prefix = f"{self.spec.name}__"
        key = event.step_key or ""
        return key.removeprefix(prefix) if key.startswith(prefix) else None

    def _of_type(self, kind: DagsterEventType) -> Iterator[DagsterEvent]:
        return (event for event in self.events if event.event_type == kind)


def _numbers_of(evaluation: dg.AssetCheckEvaluation) -> dict[str, Number]:
    """The numbers and facts that a check has judged by."""
    values: dict[str, Any] = {n: v.value for n, v in evaluation.metadata.items()}
    return {
        name: value
        for name, value in values.items()
        if isinstance(value, int | float | str) and not isinstance(value, bool)
    }
