"""`shadow_predictions`: what a challenger says of a night, beside the approved release."""

from collections.abc import Iterator
from typing import Any

import dagster as dg

from batch_assets.assets.column_lineage import of_predictions
from batch_assets.assets.columns import prediction_notes
from batch_assets.assets.partitions import day_of, for_each_day
from batch_assets.assets.pipeline import Pipeline, as_spec, day_run
from batch_assets.assets.table_metadata import in_order, table_metadata
from batch_assets.errors import (
    BooksError,
    ContractError,
    DeviceError,
    EngineError,
    LakeError,
    ReleaseError,
    ScoringError,
)
from batch_assets.quality.performance.agreement import described
from batch_assets.quality.performance.comparison import Side, compare_day
from batch_assets.resources import EngineResource, GpuResource, StorageResource
from batch_assets.scoring.challenger import score_challenger, shards_of
from batch_assets.spec import Shadow

CHECK = "the_challenger_scores_its_rows"
# What a challenger may be wrong in, and no night is stopped for.
ITS_OWN = (
    BooksError,
    ContractError,
    DeviceError,
    EngineError,
    LakeError,
    ReleaseError,
    ScoringError,
)


def build_shadow_predictions(pipeline: Pipeline, shadow: Shadow) -> dg.AssetsDefinition:
    spec, key = pipeline.spec, pipeline.key("shadow_predictions")
    share = shards_of(shadow.share, spec.shards)
    asked = f"{len(share)} of {spec.shards} shards" if share else "every row"

    @dg.multi_asset(
        name=f"{spec.name}__shadow_predictions",
        specs=[
            as_spec(
                pipeline.look("shadow_predictions", "pytorch", "deltalake"),
                # After what is served: it never waits for a challenger.
                deps=[pipeline.key(n) for n in ("serving_snapshot", "predictions")],
                description=f"What release {shadow.release[:12]} says of {asked}. It is "
                "in tables of its own, and never served.",
                skippable=True,
            )
        ],
        check_specs=[
            dg.AssetCheckSpec(
                CHECK,
                asset=key,
                description="The challenger has scored what it was asked.",
            )
        ],
        pool="gpu",
        required_resource_keys=pipeline.needs("storage", "gpu", "engine"),
    )
    @for_each_day
    def shadow_predictions(
        context: dg.AssetExecutionContext,
    ) -> Iterator[dg.MaterializeResult | dg.AssetCheckResult]:
        try:
            metadata, version = _scored(context, pipeline, shadow, share)
        except ITS_OWN as error:
            context.log.warning("the challenger failed: %s", error)
            yield dg.AssetCheckResult(
                asset_key=key,
                check_name=CHECK,
                passed=False,
                severity=dg.AssetCheckSeverity.WARN,
                description=f"{error}. The night is served as ever",
            )
            return
        yield dg.MaterializeResult(
            asset_key=key,
            metadata=metadata,
            data_version=dg.DataVersion(version),
            check_results=[
                dg.AssetCheckResult(
                    check_name=CHECK,
                    passed=True,
                    description=f"{metadata['dagster/partition_row_count']:,} rows",
                )
            ],
        )

    return shadow_predictions


def _scored(
    context: dg.AssetExecutionContext,
    pipeline: Pipeline,
    shadow: Shadow,
    shards: range | None,
) -> tuple[dict[str, Any], str]:
    """Score the day with the challenger; return what is shown of it, and its version."""
    storage: StorageResource = context.resources.storage
    gpu: GpuResource = context.resources.gpu
    engines: EngineResource = context.resources.engine
    spec, day = pipeline.spec, day_of(context)
    lake, registry = storage.lake(spec.name), storage.registry()
    receipt = lake.predictions.parts(day)[0].receipt
    champion = registry.verify(receipt.model, receipt.release)
    challenger = registry.verify(spec.model.name, shadow.release)
    with (
        day_run(context, lake, "shadow predictions", None) as run,
        engines.scoring(spec, day, challenger, storage, gpu) as engine,
    ):
        own, night = score_challenger(
            run, challenger, engine, pipeline.scoring_settings, shards
        )
    compared = compare_day(
        day,
        Side(lake, champion.contract),
        Side(own.lake, challenger.contract, night.rows_per_second or None),
        None,
    )
    contract = challenger.contract
    shown = {
        **table_metadata(
            own.lake.predictions,
            night.total.rows,
            contract.prediction_schema(),
            prediction_notes(contract),
            of_predictions(pipeline, contract),
        ),
        **dict(described(compared.agreement)),
        "dead_letters": night.dead_letters.rows,
        "rows_per_second": night.rows_per_second,
        "digest": challenger.digest,
        "champion": champion.digest,
        "unchanged": night.unchanged,
    }
    return in_order(shown), night.data_version
