"""`<sink>_snapshot`: the served version in a remote store, one asset for each sink."""

from contextlib import closing

import dagster as dg

from batch_assets.assets.partitions import day_of, for_each_day
from batch_assets.assets.pipeline import Pipeline, sole_run
from batch_assets.assets.stages import measured
from batch_assets.lake.day_run import DayRun
from batch_assets.resources import StorageResource
from batch_assets.sinks.factory import open_sink
from batch_assets.sinks.sync import sync_sink
from batch_assets.spec import EXPERIMENTAL, Target


def build_remote_snapshot(pipeline: Pipeline, target: Target) -> dg.AssetsDefinition:
    spec = pipeline.spec
    experiment = EXPERIMENTAL.get(target.kind)

    @dg.asset(
        **pipeline.look(f"{target.name}_snapshot", target.kind),
        deps=[pipeline.key("serving_snapshot")],
        description=f"The served version in {target.kind}: loaded shard by shard, read "
        "back whole, then swapped in. It follows what is served on disk."
        + (f" Experimental: {experiment}." if experiment else ""),
    )
    @for_each_day
    def remote_snapshot(
        context: dg.AssetExecutionContext, storage: StorageResource
    ) -> dg.MaterializeResult:
        lake, name = storage.lake(spec.name), f"{target.name}_snapshot"
        with (
            sole_run(context, lake) as guard,
            measured(
                context, pipeline, DayRun(lake, day_of(context), guard), name
            ) as stage,
            closing(open_sink(target, spec.name)) as sink,
        ):
            followed = sync_sink(
                sink, storage.snapshots(spec.name), keep=target.keep, guard=guard
            )
            context.log.info("%s: %s", sink.address, followed.why)
            if experiment:
                context.log.warning("%s is experimental: %s", target.name, experiment)
            loaded = followed.loaded_shards > 0
            stage.ran(followed.version, followed.rows, unchanged=not loaded)
        return dg.MaterializeResult(
            metadata=stage.metadata
            | {
                "place": sink.address,
                "served_version": followed.version,
                "served_rows": followed.rows,
                "swapped": followed.swapped,
                "why": followed.why,
                "loaded_shards": followed.loaded_shards,
                "seconds": followed.seconds,
                "dropped": followed.dropped,
            }
        )

    return remote_snapshot
