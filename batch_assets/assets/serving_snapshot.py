"""`serving_snapshot`: the version that is looked up in the morning."""

from typing import Any

import dagster as dg
import pyarrow as pa

from batch_assets.assets.column_lineage import lineage_metadata, of_snapshot
from batch_assets.assets.columns import column_schema, prediction_notes
from batch_assets.assets.partitions import day_of, for_each_day
from batch_assets.assets.pipeline import Pipeline, sole_run
from batch_assets.assets.table_metadata import in_order
from batch_assets.lake.day_run import DayRun
from batch_assets.models.contract import Contract
from batch_assets.resources import StorageResource
from batch_assets.sinks.declared import declare_sinks
from batch_assets.snapshots.publish import publish_day


def build_serving_snapshot(pipeline: Pipeline) -> dg.AssetsDefinition:
    spec = pipeline.spec

    @dg.asset(
        **pipeline.look("serving_snapshot", "arrow"),
        deps=[pipeline.key("predictions")],
    )
    @for_each_day
    def serving_snapshot(
        context: dg.AssetExecutionContext, storage: StorageResource
    ) -> dg.MaterializeResult:
        """One checked, immutable version of a day's predictions, and what is served.

        Every gate of the day is judged again from the files before anything is built.
        It goes forward only: an older day never replaces a newer one. While publishing
        is blocked, after a rollback, the version is built and not served.
        """
        day = day_of(context)
        lake, store = storage.lake(spec.name), storage.snapshots(spec.name)
        with sole_run(context, lake) as guard:
            published = publish_day(
                DayRun(lake, day, guard),
                storage.registry(),
                store,
                gates=spec.gates,
                serving=spec.serving,
                why=f"run {context.run.run_id} of {day}",
            )
        declare_sinks(store, spec.sinks)
        log = context.log.info if published.swapped else context.log.warning
        log("%s: %s", day, published.why)
        rows = lake.predictions.rows_by_day()[day]
        metadata: dict[str, Any] = {
            "in_short": f"{rows:,} keys of {day}: {published.why}",
            "dagster/uri": str(store),
            "dagster/partition_row_count": rows,
            **_columns(pipeline, published.contract),
            "version": published.version,
            "published": published.swapped,
            "why": published.why,
            "gates_passed": sum(v.passed for v in published.verdicts),
        }
        if at := lake.forced_at(day):
            metadata["forced_at"] = dg.MetadataValue.timestamp(at)
        if served := published.current:
            metadata |= {
                "served_version": served.version,
                "served_day": served.day,
                "served_rows": served.rows,
                "shards": len(served.files),
                "linked_shards": sum(f.linked_from is not None for f in served.files),
                "bytes": served.size,
                "coverage": served.coverage,
            }
        return dg.MaterializeResult(metadata=in_order(metadata))

    return serving_snapshot


def _columns(pipeline: Pipeline, contract: Contract) -> dict[str, Any]:
    """What a reader gets: the release is of the version, not of a row."""
    upstream, schema = of_snapshot(pipeline, contract), contract.prediction_schema()
    answer = pa.schema([schema.field(name) for name in upstream])
    columns = column_schema(answer, prediction_notes(contract), partitioned=False)
    return {"dagster/column_schema": columns, **lineage_metadata(upstream)}
