"""`serving_snapshot`: the version that is looked up in the morning."""

import dagster as dg

from batch_assets.assets.night import Pipeline, sole_run
from batch_assets.resources import StorageResource
from batch_assets.serving.publish import publish_day


def build_serving_snapshot(pipeline: Pipeline) -> dg.AssetsDefinition:
    spec = pipeline.spec

    @dg.asset(
        **pipeline.look("serving_snapshot", "arrow"),
        deps=[pipeline.key("predictions")],
    )
    def serving_snapshot(
        context: dg.AssetExecutionContext, storage: StorageResource
    ) -> dg.MaterializeResult:
        """One checked, immutable version of a day's predictions, and what is served.

        Every gate of the day is judged again from the files before anything is built.
        It goes forward only: an older day never replaces a newer one.
        """
        day = context.partition_key
        lake = storage.lake(spec.name)
        with sole_run(context, lake) as guard:
            published = publish_day(
                lake,
                storage.registry(),
                storage.snapshots(spec.name),
                day,
                gates=spec.gates,
                keep=spec.serving.keep,
                guard=guard,
            )
        context.log.info("%s: %s", day, published.why)
        snapshots = storage.snapshots(spec.name)
        manifest = published.manifest
        return dg.MaterializeResult(
            metadata={
                "dagster/uri": str(snapshots),
                "dagster/partition_row_count": lake.predictions.rows_by_day()[day],
                "version": published.version,
                "served_version": manifest.version,
                "served_day": manifest.day,
                "served_rows": manifest.rows,
                "published": published.swapped,
                "why": published.why,
                "shards": len(manifest.files),
                "bytes": sum(file.size for file in manifest.files),
                "gates_passed": sum(v.passed for v in published.verdicts),
            }
        )

    return serving_snapshot
