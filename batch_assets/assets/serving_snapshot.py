"""`serving_snapshot`: the version that is looked up in the morning."""

from datetime import UTC, datetime, timedelta
from typing import Any

import dagster as dg
import pyarrow as pa

from batch_assets.assets.column_lineage import lineage_metadata, of_snapshot
from batch_assets.assets.columns import column_schema, prediction_notes
from batch_assets.assets.partitions import day_of, for_each_day
from batch_assets.assets.pipeline import Pipeline, sole_run
from batch_assets.assets.stages import measured, night_metadata
from batch_assets.assets.table_metadata import in_order
from batch_assets.lake.day_run import DayRun
from batch_assets.models.contract import Contract
from batch_assets.planner.clock import NightTimes
from batch_assets.resources import StorageResource
from batch_assets.sinks.declared import declare_sinks
from batch_assets.snapshots.manifest import SnapshotManifest
from batch_assets.snapshots.publish import publish_day
from batch_assets.spec import PipelineSpec
from batch_assets.spec.schedules import HOUR, is_next_morning, minute_of_clock


def build_serving_snapshot(pipeline: Pipeline) -> dg.AssetsDefinition:
    spec = pipeline.spec

    @dg.asset(
        **pipeline.look("serving_snapshot", "arrow"),
        deps=[pipeline.key("predictions")],
        freshness_policy=freshness_of(spec),
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
            run = DayRun(lake, day, guard)
            with measured(context, pipeline, run, "serving_snapshot") as stage:
                published = publish_day(
                    stage.run,
                    storage.registry(),
                    store,
                    gates=spec.gates,
                    serving=spec.serving,
                    why=f"run {context.run.run_id} of {day}",
                )
                rows = lake.predictions.rows_by_day()[day]
                stage.ran(published.version, rows, unchanged=not published.built)
            swapped = published.swapped
            night = night_metadata(context, pipeline, run, rows, swapped=swapped)
        declare_sinks(store, spec.sinks)
        log = context.log.info if swapped else context.log.warning
        log("%s: %s", day, published.why)
        metadata: dict[str, Any] = {
            "in_short": f"{rows:,} keys of {day}: {published.why}",
            "dagster/uri": str(store),
            "dagster/partition_row_count": rows,
            **_columns(pipeline, published.contract),
            "version": published.version,
            "published": swapped,
            "why": published.why,
            "gates_passed": sum(v.passed for v in published.verdicts),
            **stage.metadata,
            **night,
            **_served_metadata(published.current),
        }
        if at := lake.forced_at(day):
            metadata["forced_at"] = dg.MetadataValue.timestamp(at)
        return dg.MaterializeResult(metadata=in_order(metadata))

    return serving_snapshot


def _columns(pipeline: Pipeline, contract: Contract) -> dict[str, Any]:
    """What a reader gets: the release is of the version, not of a row."""
    upstream, schema = of_snapshot(pipeline, contract), contract.prediction_schema()
    answer = pa.schema([schema.field(name) for name in upstream])
    columns = column_schema(answer, prediction_notes(contract), partitioned=False)
    return {"dagster/column_schema": columns, **lineage_metadata(upstream)}


def _served_metadata(served: SnapshotManifest | None) -> dict[str, Any]:
    """Return what is shown of the version that CURRENT names."""
    if served is None:
        return {}
    shown: dict[str, Any] = {
        "served_version": served.version,
        "served_day": served.day,
        "served_rows": served.rows,
        "shards": len(served.files),
        "linked_shards": sum(f.linked_from is not None for f in served.files),
        "bytes": served.size,
        "coverage": served.coverage,
    }
    if served.kept_shards:
        shown["kept_shards"] = len(served.kept_shards)
    if served.overrides:
        shown["overridden"] = "; ".join(f"{one.gate} {one}" for one in served.overrides)
    return shown


def freshness_of(spec: PipelineSpec) -> dg.FreshnessPolicy | None:
    """Return the policy that the catalog shows; None without a deadline, or after the last.

    Dagster asks whether anything was materialised since the day has ended, of whichever
    day: what is served, the sensor looks at.
    """
    times = NightTimes.of(spec)
    if times is None:
        return None
    if spec.end_day and datetime.now(UTC) > times.deadline(str(spec.end_day)):
        return None
    minute = minute_of_clock(times.ready_by)
    next_morning = is_next_morning(times.schedule, times.ready_by)
    # From midnight on, or an hour earlier: one night a year is longer by that.
    window = timedelta(minutes=minute + HOUR, days=int(next_morning))
    return dg.FreshnessPolicy.cron(
        deadline_cron=f"{minute % HOUR} {minute // HOUR} * * *",
        lower_bound_delta=min(window, timedelta(days=1)),  # Dagster takes no more.
        timezone=times.timezone,
    )
