"""`raw_features`: the source's rows of a day, as they were when the night began."""

import dagster as dg
import pyarrow as pa

from batch_assets.assets.days import day_of, for_each_day
from batch_assets.assets.night import (
    Pipeline,
    sole_run,
    table_metadata,
    tally_metadata,
)
from batch_assets.lake.raw import copy_day, pin_of
from batch_assets.progress import tracked
from batch_assets.resources import StorageResource


def build_raw_features(pipeline: Pipeline) -> dg.AssetsDefinition:
    spec = pipeline.spec

    @dg.asset(**pipeline.look("raw_features", spec.source.kind, "deltalake"))
    @for_each_day
    def raw_features(
        context: dg.AssetExecutionContext, storage: StorageResource
    ) -> dg.MaterializeResult:
        """The source's rows of one day, cut into shards by their key.

        They are copied whole; a version of a Delta table, which can't change, is pinned,
        and only its keys are written down.

        The columns are compared with the contract of the approved release before a row
        is read: a missing, extra or retyped column stops the night here.
        """
        day = day_of(context)
        lake = storage.lake(spec.name)
        contract = storage.registry().resolve(spec.model.name).contract
        with (
            sole_run(context, lake) as guard,
            tracked(f"{day} raw_features", None, context.log.info) as progress,
        ):
            copied = copy_day(
                lake,
                spec.source,
                day,
                base=pipeline.base,
                project=pipeline.project,
                key=contract.key.name,
                schema=contract.raw_schema(),
                check=lambda schema: contract.check_schema(
                    schema, f"the source of {spec.name}"
                ),
                shards=spec.shards,
                row_group_rows=spec.row_group_rows,
                allow_empty=spec.allow_empty,
                guard=guard,
                progress=progress,
            )
        schema, pin = contract.raw_schema(), pin_of(copied.parts)
        if pin:
            schema = pa.schema([schema.field(contract.key.name)])
        return dg.MaterializeResult(
            metadata={
                **table_metadata(lake.raw_features.path, schema, copied.tally.rows),
                **tally_metadata("raw", copied.tally),
                "shards": len(copied.parts),
                "job": copied.job,
                "unchanged": copied.unchanged,
                **({"pinned": pin.table, "pinned_version": pin.version} if pin else {}),
            },
            data_version=dg.DataVersion(copied.job),
        )

    return raw_features
