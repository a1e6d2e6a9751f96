"""`validated_features` with `quarantined_rows`: each raw row is in one of the two."""

from collections.abc import Iterator
from typing import Any

import dagster as dg

from batch_assets.assets.column_lineage import of_raw_rows
from batch_assets.assets.columns import raw_notes, validated_notes
from batch_assets.assets.night_pictures import quarantine_pictures
from batch_assets.assets.partitions import day_of, for_each_day
from batch_assets.assets.pipeline import Pipeline, as_spec, day_run, total_metadata
from batch_assets.assets.stages import measured
from batch_assets.assets.table_metadata import in_order, table_metadata
from batch_assets.lake.page_layout import layout_for
from batch_assets.lake.tables import Lake
from batch_assets.models.contract import Contract
from batch_assets.quality.pieces import quarantine_schema, validated_schema
from batch_assets.quality.validation import Validated, validate_day
from batch_assets.resources import EngineResource, StorageResource

VALIDATED = (
    "Rows that keep the contract, as the model gets them: float32, in its order."
)
QUARANTINED = "Rows that break a rule of the contract, kept whole, with the rules."


def build_validated_features(pipeline: Pipeline) -> dg.AssetsDefinition:
    spec = pipeline.spec

    def out(name: str, description: str) -> dg.AssetSpec:
        look = pipeline.look(name, "polars", "deltalake", table=True)
        deps = [pipeline.key("raw_features")]
        return as_spec(look, deps=deps, description=description)

    @dg.multi_asset(
        name=f"{spec.name}__validated_features",
        can_subset=True,  # Both are made; who selects one need not name the other.
        specs=[
            out("validated_features", VALIDATED),
            out("quarantined_rows", QUARANTINED),
        ],
        required_resource_keys=pipeline.needs("storage", "engine"),
    )
    @for_each_day
    def validated_features(
        context: dg.AssetExecutionContext,
    ) -> Iterator[dg.MaterializeResult]:
        storage: StorageResource = context.resources.storage
        engines: EngineResource = context.resources.engine
        day = day_of(context)
        lake = storage.lake(spec.name)
        contract = storage.registry().resolve(spec.model.name).contract
        rows = lake.raw_features.rows_by_day().get(day)
        with (
            day_run(context, lake, "validated_features", rows) as run,
            measured(context, pipeline, run, "validated_features") as stage,
            engines.mapping(spec, day, storage) as parallel_map,
        ):
            done = validate_day(
                stage.run,
                contract,
                row_group_rows=spec.row_group_rows,
                layout=layout_for(lake.folder, spec.layout),
                fingerprints=spec.incremental,
                parallel_map=parallel_map,
            )
            stage.ran(done.job, done.raw.rows, unchanged=done.unchanged)
        kind = engines.of(spec).kind
        shown = stage.metadata | quarantine_pictures(context, lake, day, done)
        yield from _results(pipeline, lake, contract, done, kind, shown)

    return validated_features


def _results(
    pipeline: Pipeline,
    lake: Lake,
    contract: Contract,
    done: Validated,
    engine: str,
    shown: dict[str, Any],
) -> Iterator[dg.MaterializeResult]:
    spec = pipeline.spec
    of_both: dict[str, Any] = {
        "engine": engine,
        "job": done.job,
        "unchanged": done.unchanged,
    }
    version = dg.DataVersion(done.job)
    bad, good = done.quarantine.rows, done.total.rows
    upstream = of_raw_rows(pipeline, contract)
    yield dg.MaterializeResult(
        asset_key=pipeline.key("quarantined_rows"),
        metadata=in_order(
            {
                "in_short": f"{bad:,} of {done.raw.rows:,} rows break a rule of the contract",
                **table_metadata(
                    lake.quarantined_rows,
                    bad,
                    quarantine_schema(contract),
                    raw_notes(contract),
                    upstream,
                ),
                **total_metadata("quarantined", done.quarantine),
                "rules": dg.MetadataValue.json(done.rules),
                **of_both,
            }
        ),
        data_version=version,
    )
    yield dg.MaterializeResult(
        asset_key=pipeline.key("validated_features"),
        metadata=in_order(
            {
                "in_short": f"{good:,} of {done.raw.rows:,} rows keep the contract",
                **table_metadata(
                    lake.validated_features,
                    good,
                    validated_schema(contract, fingerprints=spec.incremental),
                    validated_notes(contract),
                    upstream,
                ),
                **total_metadata("raw", done.raw),
                **total_metadata("validated", done.total),
                "quarantined_rows": done.quarantine.rows,
                "contract": contract.digest,
                **of_both,
                **shown,
            }
        ),
        data_version=version,
    )
