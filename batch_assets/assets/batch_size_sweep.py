"""`batch_size_sweep`: how many rows the release should get at once, as a curve."""

import dagster as dg

from batch_assets.assets.model_release import released_digest
from batch_assets.assets.pipeline import Pipeline, picture_metadata
from batch_assets.resources import GpuResource, StorageResource
from batch_assets.scoring.torch_import import import_torch

# Whoever turns the sensor on has each new release swept as soon as a night has used it.
NEW_RELEASE = dg.AutomationCondition.any_deps_match(
    dg.AutomationCondition.data_version_changed()
).with_label("the release is another")


def build_batch_size_sweep(pipeline: Pipeline) -> dg.AssetsDefinition:
    spec = pipeline.spec

    @dg.asset(
        **pipeline.look("batch_size_sweep", "pytorch", partitioned=False),
        deps=[pipeline.key("model_release")],
        automation_condition=NEW_RELEASE,
        pool="gpu",
    )
    def batch_size_sweep(
        context: dg.AssetExecutionContext, storage: StorageResource, gpu: GpuResource
    ) -> dg.MaterializeResult:
        """How fast the model is in batches of 1, 2, 4, … rows, until more bring nothing.

        The nights use the knee: the smallest batch within 3 % of the best. It is no
        part of a night; run it once for each release and device.
        """
        import_torch()
        from batch_assets.scoring.engines.local import LocalEngine
        from batch_assets.scoring.sweep import Effort, sweep
        from batch_assets.scoring.sweep_plot import draw
        from batch_assets.scoring.sweep_results import Sweeps
        from batch_assets.scoring.worker_sweep import with_workers

        digest = released_digest(context.instance, pipeline)
        release = storage.registry().require(spec.model.name, digest)
        with gpu.reserve(storage.path) as device:
            curve = sweep(
                release,
                device,
                LocalEngine(device).workers,
                tried=lambda point: context.log.info(
                    f"{point.batch_rows:,} rows a batch: "
                    f"{point.rows_per_second:,.0f} rows/s"
                ),
            )
            curve = with_workers(curve, release, device, Effort())
        path = Sweeps(storage.path).keep(curve)
        return dg.MaterializeResult(
            metadata={
                "dagster/uri": str(path),
                "curve": picture_metadata(
                    "rows per second over the rows of a batch", draw(curve)
                ),
                "knee_rows": curve.knee.batch_rows,
                "rows_per_second": curve.knee.rows_per_second,
                "best_rows": curve.best.batch_rows,
                "best_rows_per_second": curve.best.rows_per_second,
                "edge": curve.edge,
                "model": release.name,
                "digest": release.digest,
                "device": curve.device,
                "precision": curve.precision,
                "workers": curve.best_workers or curve.workers,
            }
        )

    return batch_size_sweep
