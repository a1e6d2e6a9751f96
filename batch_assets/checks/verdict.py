"""A verdict of a gate as a Dagster check. It judges nothing itself."""

import warnings
from collections.abc import Callable

import dagster as dg

from batch_assets.assets.night import Pipeline
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
            return result_of(judge(context, storage, context.partition_key))

    return check


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
