"""A verdict of a gate as a Dagster check. It judges nothing itself."""

import warnings
from collections.abc import Callable
from typing import Any

import dagster as dg

from batch_assets.assets.pipeline import Pipeline
from batch_assets.quality.verdict import Verdict
from batch_assets.resources import StorageResource

Judge = Callable[[dg.AssetCheckExecutionContext, StorageResource, str], Verdict]


def build_check(
    pipeline: Pipeline, asset: str, name: str, judge: Judge, *, blocking: bool
) -> dg.AssetChecksDefinition:
    """A check of an asset's partition; its docstring is the judge's."""
    with warnings.catch_warnings():
        # Without its partitions a check on a partitioned asset shows whichever day ran
        # last, and gates wrongly; the argument is still in preview.
        warnings.filterwarnings("ignore", category=dg.PreviewWarning)

        @dg.asset_check(
            asset=pipeline.key(asset),
            name=name,
            description=(judge.__doc__ or "").strip(),
            blocking=blocking,
            partitions_def=pipeline.partitions,
        )
        def check(
            context: dg.AssetCheckExecutionContext, storage: StorageResource
        ) -> dg.AssetCheckResult:
            if context.has_partition_key:
                return result_of(judge(context, storage, context.partition_key))
            verdicts = {
                day: judge(context, storage, day) for day in context.partition_keys
            }
            for day, verdict in verdicts.items():
                # A run for a range has one result for all; this shows a day's own. The
                # hint of `log_event` leaves out that it takes one.
                shown: Any = _of_day(pipeline.key(asset), name, day, verdict)
                context.op_execution_context.log_event(shown)
            return result_of(_of_all(verdicts))

    return check


def _of_day(
    asset: dg.AssetKey, name: str, day: str, verdict: Verdict
) -> dg.AssetCheckEvaluation:
    result = result_of(verdict)
    return dg.AssetCheckEvaluation(
        asset,
        name,
        result.passed,
        result.metadata,
        severity=result.severity,
        description=result.description,
        partition=day,
    )


def _of_all(verdicts: dict[str, Verdict]) -> Verdict:
    """One verdict over the days of a range: it blocks if that of any day does."""
    shut = {day: found for day, found in verdicts.items() if not found.passed}
    name = next(iter(verdicts.values())).gate
    return Verdict(
        name,
        not shut,
        "; ".join(f"{day}: {found.why}" for day, found in shut.items())
        or f"so it is on each of {len(verdicts)} days",
        {"days": float(len(verdicts)), "shut_days": float(len(shut))},
        # What each day said, names it already.
        moved_by="Each day is judged by itself",
        blocks=any(found.blocks for found in shut.values()) or not shut,
    )


def result_of(verdict: Verdict) -> dg.AssetCheckResult:
    """The verdict with its numbers as plain floats, so that the UI plots them."""
    severity = (
        dg.AssetCheckSeverity.ERROR if verdict.blocks else dg.AssetCheckSeverity.WARN
    )
    return dg.AssetCheckResult(
        passed=verdict.passed,
        severity=severity,
        description=verdict.told,
        metadata={**verdict.numbers, **verdict.facts},
    )
