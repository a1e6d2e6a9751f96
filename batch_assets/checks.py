"""The checks of a pipeline: each gate's verdict of a day, as Dagster shows it.

They are built from the tables of gates, and judge nothing themselves.
"""

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import date, timedelta
from itertools import groupby
from typing import Any, TypeVar

import dagster as dg

from batch_assets.assets.pipeline import Pipeline
from batch_assets.assets.scoring_metadata import REPLAYED
from batch_assets.lake.overrides import Overrides
from batch_assets.quality.changes import WEEKS
from batch_assets.quality.evidence import DayEvidence
from batch_assets.quality.gates import BEFORE_SCORING, GATES
from batch_assets.quality.judges.performance import OutcomeEvidence, outcome_gates
from batch_assets.quality.performance.history import read_history
from batch_assets.quality.verdict import Gate, Verdict, way_past
from batch_assets.resources import StorageResource
from batch_assets.sinks.gates import SinkEvidence, gate_of
from batch_assets.snapshots.gates import SNAPSHOT_GATES, SnapshotEvidence
from batch_assets.spec import OutcomesSpec, Target

# How many materializations of a day may be replays before its lineage is lost.
LOOK_BACK = 100

EvidenceT = TypeVar("EvidenceT")
Reader = Callable[[dg.AssetCheckExecutionContext, StorageResource, str], EvidenceT]


def build_checks(pipeline: Pipeline) -> list[dg.AssetChecksDefinition]:
    """Build a check of every gate that the pipeline has: those of an asset are one step."""
    spec = pipeline.spec
    of_days = [gate for gate in GATES if gate.when(spec)]
    outcomes = [spec.outcomes] if spec.outcomes else []
    return [
        *(
            _build_step(pipeline, list(gates), _day_evidence(pipeline, asset))
            for asset, gates in groupby(of_days, key=lambda gate: gate.asset)
        ),
        _build_step(pipeline, SNAPSHOT_GATES, _snapshot_evidence(pipeline)),
        *(
            _build_step(pipeline, outcome_gates(of), _outcome_evidence(pipeline, of))
            for of in outcomes
        ),
        *(
            _build_step(pipeline, [gate_of(sink.name)], _sink_evidence(pipeline, sink))
            for sink in spec.sinks
        ),
    ]


def _day_evidence(pipeline: Pipeline, asset: str) -> Reader[DayEvidence]:
    spec, scoring = pipeline.spec, asset not in BEFORE_SCORING

    def read(
        context: dg.AssetCheckExecutionContext, storage: StorageResource, day: str
    ) -> DayEvidence:
        lake, registry = storage.lake(spec.name), storage.registry()
        return replace(
            DayEvidence.of_day(lake, registry, day, spec.gates, scoring=scoring),
            graph_digest=lambda: graph_digest(context.instance, pipeline, day),
        )

    return read


def _snapshot_evidence(pipeline: Pipeline) -> Reader[SnapshotEvidence]:
    name = pipeline.spec.name
    return lambda _, storage, day: SnapshotEvidence(
        storage.lake(name), storage.snapshots(name), day
    )


def _sink_evidence(pipeline: Pipeline, sink: Target) -> Reader[SinkEvidence]:
    name = pipeline.spec.name
    return lambda _, storage, __: SinkEvidence(sink, name, storage.snapshots(name))


def _outcome_evidence(
    pipeline: Pipeline, outcomes: OutcomesSpec
) -> Reader[OutcomeEvidence]:
    name = pipeline.spec.name

    def read(_: object, storage: StorageResource, day: str) -> OutcomeEvidence:
        first = str(date.fromisoformat(day) - timedelta(weeks=WEEKS))
        history = read_history(storage.lake(name), outcomes, first, day)
        return OutcomeEvidence(day, outcomes, history)

    return read


def graph_digest(
    instance: dg.DagsterInstance, pipeline: Pipeline, day: str
) -> str | None:
    """Return the model's data version that Dagster recorded with the day's predictions.

    A replay takes the day's own release, whichever the graph has by then.
    """
    materializations = instance.fetch_materializations(
        dg.AssetRecordsFilter(pipeline.key("predictions"), asset_partitions=[day]),
        limit=LOOK_BACK,
    )
    scored = (
        record.asset_materialization
        for record in materializations.records
        if record.asset_materialization
        and REPLAYED not in record.asset_materialization.metadata
    )
    tags = getattr(next(scored, None), "tags", None) or {}
    model = pipeline.key("model_release").to_user_string()
    return tags.get(f"dagster/input_data_version/{model}")


def _build_step(
    pipeline: Pipeline, gates: Sequence[Gate[EvidenceT]], read: Reader[EvidenceT]
) -> dg.AssetChecksDefinition:
    """Build the checks of an asset's gates as one step, on the asset's partitions.

    What they judge by is read once for all of them, and a step costs Dagster as much as
    a gate does.
    """
    (asset,) = {gate.asset for gate in gates}
    key = pipeline.key(asset)
    with _partitions_of_checks():
        specs = [
            dg.AssetCheckSpec(
                gate.name,
                asset=key,
                description=gate.description,
                blocking=gate.blocking,
                partitions_def=pipeline.partitions,
            )
            for gate in gates
        ]

    @dg.multi_asset_check(
        name=f"{pipeline.spec.name}__{asset}_checks", specs=specs, can_subset=True
    )
    def checks(
        context: dg.AssetCheckExecutionContext, storage: StorageResource
    ) -> Iterator[dg.AssetCheckResult]:
        names = {check.name for check in context.selected_asset_check_keys}
        selected = [gate for gate in gates if gate.name in names]
        ranged = not context.has_partition_key
        days = context.partition_keys if ranged else [context.partition_key]
        verdicts: dict[str, dict[str, Verdict]] = {gate.name: {} for gate in selected}
        overrides = Overrides(storage.lake(pipeline.spec.name).folder)
        for day in days:
            evidence, in_force = read(context, storage, day), overrides.in_force(day)
            for gate in selected:
                verdict = gate.verdict(evidence).overridden(in_force)
                verdicts[gate.name][day] = _with_way_past(verdict, pipeline, day)
        for gate in selected:
            of_gate = verdicts[gate.name]
            result = (
                _result_of_range(context, pipeline, gate, of_gate)
                if ranged
                else result_of(of_gate[context.partition_key])
            )
            yield result._replace(asset_key=key, check_name=gate.name)

    return checks


@contextmanager
def _partitions_of_checks() -> Iterator[None]:
    """Give a check its partitions: the argument is still in preview.

    Without them a check on a partitioned asset shows whichever day ran last, and gates
    wrongly.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=dg.PreviewWarning)
        yield


def _with_way_past(verdict: Verdict, pipeline: Pipeline, day: str) -> Verdict:
    """Return the verdict with the command by which a person lets the day pass, if any."""
    past = way_past([verdict], pipeline.spec.name, day)
    moved_by = f"{verdict.moved_by.rstrip('.')}. {past}".rstrip(" .")
    return replace(verdict, moved_by=moved_by)


def _result_of_range(
    context: dg.AssetCheckExecutionContext,
    pipeline: Pipeline,
    gate: Gate[Any],
    verdicts: dict[str, Verdict],
) -> dg.AssetCheckResult:
    """Show what a gate says of each day of a range; return its one result for all."""
    for day, verdict in verdicts.items():
        # A run for a range has one result for all; this shows a day's own. The hint of
        # `log_event` leaves out that it takes one.
        event: Any = _of_day(pipeline.key(gate.asset), day, verdict)
        context.op_execution_context.log_event(event)
    return result_of(_of_all(gate, verdicts))


def _of_day(asset: dg.AssetKey, day: str, verdict: Verdict) -> dg.AssetCheckEvaluation:
    result = result_of(verdict)
    return dg.AssetCheckEvaluation(
        asset,
        verdict.gate,
        result.passed,
        result.metadata,
        severity=result.severity,
        description=result.description,
        partition=day,
    )


def _of_all(gate: Gate[Any], verdicts: dict[str, Verdict]) -> Verdict:
    """Return one verdict over the days of a range: it blocks if that of any day does."""
    shut = {day: verdict for day, verdict in verdicts.items() if not verdict.passed}
    return Verdict(
        not shut,
        "; ".join(f"{day}: {verdict.why}" for day, verdict in shut.items())
        or f"so it is on each of {len(verdicts)} days",
        {"days": float(len(verdicts)), "shut_days": float(len(shut))},
        blocks=any(verdict.blocks for verdict in shut.values()) or not shut,
        gate=gate.name,
        # Why each day was shut names what moves it already.
        moved_by="Each day is judged by itself",
    )


def result_of(verdict: Verdict) -> dg.AssetCheckResult:
    """Return the verdict with its numbers as plain floats, so that the UI plots them."""
    severity = (
        dg.AssetCheckSeverity.ERROR if verdict.blocks else dg.AssetCheckSeverity.WARN
    )
    return dg.AssetCheckResult(
        passed=verdict.passed,
        severity=severity,
        description=verdict.message,
        metadata={**verdict.numbers, **verdict.facts},
    )
