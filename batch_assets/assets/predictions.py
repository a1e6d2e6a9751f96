"""`predictions` with `dead_letters`: each validated row is in one of the two."""

from collections.abc import Iterator
from typing import Any

import dagster as dg
from pydantic import Field

from batch_assets.assets.model_release import released_digest
from batch_assets.assets.partitions import day_of, for_each_day
from batch_assets.assets.pipeline import (
    Pipeline,
    sole_run,
    table_metadata,
    total_metadata,
)
from batch_assets.incremental.reuse import Incremental
from batch_assets.progress import tracked
from batch_assets.resources import EngineResource, GpuResource, StorageResource
from batch_assets.scoring.chunk import dead_letter_schema
from batch_assets.scoring.device import Device
from batch_assets.scoring.night import Night, score_night
from batch_assets.scoring.replay import Replayed, release_of, replay_day
from batch_assets.scoring.usage import Usage

PREDICTIONS = "What the release says of each key, with the release on every row."
# In the metadata of a materialization that was a replay.
REPLAYED = "replayed_rows"
DEAD_LETTERS = "Rows that the model could not score, kept whole, with the reason."


class ScoringConfig(dg.Config):
    """What a run of `predictions` may be asked for in the launchpad."""

    replay_dead_letters: bool = Field(
        default=False,
        description="Score only the day's dead letters again, with the day's own release.",
    )


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
        required_resource_keys=pipeline.needs("storage", "gpu", "engine"),
    )
    @for_each_day
    def predictions(
        context: dg.AssetExecutionContext, config: ScoringConfig
    ) -> Iterator[dg.MaterializeResult]:
        storage: StorageResource = context.resources.storage
        gpu: GpuResource = context.resources.gpu
        engines: EngineResource = context.resources.engine
        day = day_of(context)
        lake = storage.lake(spec.name)
        if config.replay_dead_letters:
            model, digest = release_of(lake, day)
            rows = lake.dead_letters.rows_by_day().get(day)
        else:
            model, digest = spec.model.name, released_digest(context.instance, pipeline)
            rows = lake.validated_features.rows_by_day().get(day)
        release = storage.registry().require(model, digest)
        with (
            sole_run(context, lake) as guard,
            engines.scoring(spec, day, release, storage, gpu) as engine,
            tracked(f"{day} predictions", rows, context.log.info) as progress,
        ):
            arguments: dict[str, Any] = {
                "chunk_rows": spec.chunk_rows,
                "chunk_seconds": spec.chunk_seconds,
                "guard": guard,
                "progress": progress,
            }
            done: Night | Replayed
            if config.replay_dead_letters:
                done = replay_day(lake, release, day, engine, **arguments)
                did = {REPLAYED: done.found.rows, "rescued_rows": done.rescued.rows}
            else:
                done = score_night(
                    lake,
                    release,
                    day,
                    engine,
                    precision=engine.device.computes_in,
                    gates=spec.gates,
                    incremental=Incremental(spec.full_every, spec.rescored_share)
                    if spec.incremental
                    else None,
                    arithmetic=engine.device.arithmetic,
                    **arguments,
                )
                did = {
                    "resumed_chunks": done.resumed_chunks,
                    **speed(done, engine.workers),
                }
                did["unchanged"] = done.unchanged
                if spec.incremental:
                    did |= reuse_metadata(done)
            wall = 0.0 if isinstance(done, Replayed) else done.seconds
            did_on_device = usage_metadata(engine.usage, wall)
        facts: dict[str, Any] = {
            "engine": engines.of(spec).kind,
            "job": done.job,
            "model": release.name,
            "digest": release.digest,
            **did,
        }
        yield dg.MaterializeResult(
            asset_key=pipeline.key("dead_letters"),
            metadata={
                **table_metadata(
                    lake.dead_letters.path,
                    dead_letter_schema(release.contract),
                    done.dead_letters.rows,
                ),
                **total_metadata("dead", done.dead_letters),
                **facts,
            },
            data_version=dg.DataVersion(done.content),
        )
        yield dg.MaterializeResult(
            asset_key=pipeline.key("predictions"),
            metadata={
                **table_metadata(
                    lake.predictions.path,
                    release.contract.prediction_schema(),
                    done.total.rows,
                ),
                **total_metadata("scored", done.total),
                "dead_letters": done.dead_letters.rows,
                **device_metadata(engine.device),
                **did_on_device,
                "batch_rows": engine.batch_rows,
                "batch_rows_from": engine.device.batch_rows_from,
                **facts,
            },
            data_version=dg.DataVersion(done.content),
        )

    return predictions


def speed(night: Night, workers: int) -> dict[str, Any]:
    """How fast the rows went, and what the time went to, where any were scored now."""
    if night.unchanged or not night.seconds:
        return {}
    shares = night.shares(workers)
    return {
        "where_the_time_went": dg.MetadataValue.md(
            ", ".join(f"{share:.0%} {stage}" for stage, share in shares.items())
        ),
        **{f"{stage}_share": share for stage, share in shares.items()},
        "workers": workers,
        "rows_per_second": night.rows_per_second,
        "seconds": night.seconds,
        "load_seconds": night.load_seconds,
        "model_seconds": night.model_seconds,
    }


def reuse_metadata(night: Night) -> dict[str, Any]:
    """Which rows took over the prediction of the night before, and why."""
    return {
        **total_metadata("carried", night.carried),
        "rescored_rows": night.rescored_rows,
        "built_on": night.decision.built_on or "nothing: every row is scored",
        "why": night.decision.why,
    }


def device_metadata(device: Device) -> dict[str, Any]:
    """On what the rows were scored."""
    return {
        "device": device.kind if device.kind == "cpu" else f"cuda:{device.index}",
        "device_name": device.name,
        "device_memory_gb": round(device.memory / 2**30, 1),
        "precision": device.precision,
        "compiled": device.compiled is not None,
    }


def usage_metadata(usage: Usage | None, seconds: float) -> dict[str, Any]:
    """How much of a CUDA device was used, where one was; `seconds` are wall time."""
    if usage is None:
        return {}
    busy = {"device_busy_share": usage.busy_seconds / seconds} if seconds else {}
    return {
        "device_peak_allocated_mib": round(usage.peak_allocated_mib, 1),
        "device_peak_reserved_mib": round(usage.peak_reserved_mib, 1),
        **busy,
    }
