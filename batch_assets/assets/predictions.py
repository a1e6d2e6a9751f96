"""`predictions` with `dead_letters`: each validated row is in one of the two."""

from collections.abc import Iterator

import dagster as dg
from pydantic import Field

from batch_assets.assets.model_release import released_digest
from batch_assets.assets.night_pictures import dead_letter_pictures, score_pictures
from batch_assets.assets.partitions import day_of, for_each_day
from batch_assets.assets.pipeline import Pipeline, as_spec, day_run
from batch_assets.assets.scoring_metadata import (
    dead_letters_metadata,
    engine_metadata,
    predictions_metadata,
    run_metadata,
)
from batch_assets.assets.stages import Stage, device_share, measured
from batch_assets.assets.table_metadata import in_order
from batch_assets.resources import EngineResource, GpuResource, StorageResource
from batch_assets.scoring.engines.base import Engine
from batch_assets.scoring.night import Night, score_day
from batch_assets.scoring.replay import Replayed, release_of, replay_day
from batch_assets.snapshots.fallback_table import fallback_of

PREDICTIONS = "What the release says of each key, with the release on every row."
DEAD_LETTERS = "Rows that the model could not score, kept whole, with the reason."


class ScoringConfig(dg.Config):
    """What a run of `predictions` may be asked for in the launchpad."""

    replay_dead_letters: bool = Field(
        default=False,
        description="Score only the day's dead letters again, with the day's own release.",
    )


def build_predictions(pipeline: Pipeline) -> dg.AssetsDefinition:
    spec = pipeline.spec

    @dg.multi_asset(
        name=f"{spec.name}__predictions",
        can_subset=True,  # Both are made; who selects one need not name the other.
        specs=[
            _spec_of(pipeline, "predictions", PREDICTIONS),
            _spec_of(pipeline, "dead_letters", DEAD_LETTERS),
        ],
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
        day, lake = day_of(context), storage.lake(spec.name)
        replay = config.replay_dead_letters
        if replay:
            model, digest = release_of(lake, day)
            rows = lake.dead_letters.rows_by_day().get(day)
        else:
            model, digest = spec.model.name, released_digest(context.instance, pipeline)
            rows = lake.validated_features.rows_by_day().get(day)
        release = storage.registry().require(model, digest)
        settings = pipeline.scoring_settings
        fallback_of(lake, day, spec.serving.fallback, release.contract)  # Or it stops.
        with (
            day_run(context, lake, "predictions", rows) as run,
            measured(context, pipeline, run, "predictions") as stage,
            engines.scoring(spec, day, release, storage, gpu) as engine,
        ):
            done: Night | Replayed = (
                replay_day(stage.run, release, engine, settings)
                if replay
                else score_day(stage.run, release, engine, settings)
            )
            _measure(stage, done, engine)
            # What is known of the device is known while the engine is there.
            on = engine_metadata(engine, done)
            ran = {"engine": engines.of(spec).kind} | run_metadata(
                release, done, engine.workers, incremental=spec.incremental
            )
        about = predictions_metadata(pipeline, lake, release, done) | ran | on
        about |= stage.scoring_metadata | score_pictures(context, release, done)
        dead = dead_letters_metadata(pipeline, lake, release, done) | ran
        dead |= dead_letter_pictures(context, lake, day)
        for name, metadata in (("dead_letters", dead), ("predictions", about)):
            yield dg.MaterializeResult(
                asset_key=pipeline.key(name),
                metadata=in_order(metadata),
                data_version=dg.DataVersion(done.data_version),
            )

    return predictions


def _spec_of(pipeline: Pipeline, name: str, description: str) -> dg.AssetSpec:
    look = pipeline.look(name, "pytorch", "deltalake", table=True)
    deps = [pipeline.key("validated_features"), pipeline.key("model_release")]
    return as_spec(look, deps=deps, description=description)


def _measure(stage: Stage, done: Night | Replayed, engine: Engine) -> None:
    """Say what a night has scored; a replay is of a few rows, and no measure of one."""
    if isinstance(done, Night):
        share, rows = device_share(done, engine), done.scored_rows
        stage.ran(done.job, rows, share, unchanged=done.unchanged)
