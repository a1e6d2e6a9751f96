"""`predictions` with `dead_letters`: each validated row is in one of the two."""

from collections.abc import Iterator
from typing import Any

import dagster as dg

from batch_assets.assets.model_release import released_digest
from batch_assets.assets.night import (
    Pipeline,
    sole_run,
    table_metadata,
    tally_metadata,
)
from batch_assets.progress import tracked
from batch_assets.resources import GpuResource, StorageResource
from batch_assets.scoring.chunk import dead_letter_schema
from batch_assets.scoring.device import Device
from batch_assets.scoring.engines.local import LocalEngine
from batch_assets.scoring.night import Night, score_night

PREDICTIONS = "What the release says of each key, with the release on every row."
DEAD_LETTERS = "Rows that the model could not score, kept whole, with the reason."


def build_predictions(pipeline: Pipeline) -> dg.AssetsDefinition:
    spec = pipeline.spec
    deps = [pipeline.key("validated_features"), pipeline.key("model_release")]

    def out(name: str, description: str) -> dg.AssetSpec:
        look = pipeline.look(name, "pytorch", "deltalake")
        return dg.AssetSpec(**look, deps=deps, description=description)

    @dg.multi_asset(
        name=f"{spec.name}__predictions",
        specs=[out("predictions", PREDICTIONS), out("dead_letters", DEAD_LETTERS)],
        pool="gpu",
    )
    def predictions(
        context: dg.AssetExecutionContext, storage: StorageResource, gpu: GpuResource
    ) -> Iterator[dg.MaterializeResult]:
        day = context.partition_key
        lake = storage.lake(spec.name)
        digest = released_digest(context.instance, pipeline)
        release = storage.registry().require(spec.model.name, digest)
        rows = lake.validated_features.rows_by_day().get(day)
        with (
            sole_run(context, lake) as guard,
            gpu.held() as device,
            tracked(f"{day} predictions", rows, context.log.info) as progress,
        ):
            night = score_night(
                lake,
                release,
                day,
                LocalEngine(device),
                chunk_rows=spec.chunk_rows,
                chunk_seconds=spec.chunk_seconds,
                precision=device.precision,
                gates=spec.gates,
                guard=guard,
                progress=progress,
            )
        facts: dict[str, Any] = {
            "job": night.job,
            "unchanged": night.unchanged,
            "model": release.name,
            "digest": release.digest,
        }
        yield dg.MaterializeResult(
            asset_key=pipeline.key("dead_letters"),
            metadata={
                **table_metadata(
                    lake.dead_letters.path,
                    dead_letter_schema(release.contract),
                    night.dead_letters.rows,
                ),
                **tally_metadata("dead", night.dead_letters),
                **facts,
            },
            data_version=dg.DataVersion(night.job),
        )
        yield dg.MaterializeResult(
            asset_key=pipeline.key("predictions"),
            metadata={
                **table_metadata(
                    lake.predictions.path,
                    release.contract.prediction_schema(),
                    night.tally.rows,
                ),
                **tally_metadata("scored", night.tally),
                "dead_letters": night.dead_letters.rows,
                "resumed_chunks": night.resumed_chunks,
                **speed(night),
                **device_metadata(device),
                **facts,
            },
            data_version=dg.DataVersion(night.job),
        )

    return predictions


def speed(night: Night) -> dict[str, Any]:
    """How fast the rows went, where any were scored now."""
    if night.unchanged or not night.seconds:
        return {}
    stages = {f"{name}_seconds": spent for name, spent in night.stages.items()}
    return {
        "rows_per_second": night.rows_per_second,
        "seconds": night.seconds,
        "load_seconds": night.load_seconds,
        **stages,
    }


def device_metadata(device: Device) -> dict[str, Any]:
    """On what the rows were scored."""
    return {
        "device": device.kind if device.kind == "cpu" else f"cuda:{device.index}",
        "device_name": device.name,
        "device_memory_gb": round(device.memory / 2**30, 1),
        "precision": device.precision,
        "batch_rows": device.batch_rows,
    }
