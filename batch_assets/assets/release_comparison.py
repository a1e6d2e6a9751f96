"""`release_comparison`: two releases on the same past days, and which of them was right."""

from collections.abc import Iterator
from datetime import UTC, datetime

import dagster as dg
from pydantic import Field

from batch_assets.assets.partitions import one_of_a_range
from batch_assets.assets.pipeline import Pipeline, as_spec, day_run
from batch_assets.errors import LakeError
from batch_assets.lake.tables import Lake
from batch_assets.models.comparisons import Comparison
from batch_assets.models.release import Release
from batch_assets.quality.performance.comparison import (
    Side,
    compare_day,
    differences_of,
)
from batch_assets.resources import EngineResource, GpuResource, StorageResource
from batch_assets.scoring.challenger import score_challenger
from batch_assets.storage import this_user


class ReleaseComparisonConfig(dg.Config):
    """Which releases are compared, and on which days."""

    champion: str = Field(
        default="", description="The digest of the one, or the beginning of it."
    )
    challenger: str = Field(default="", description="The digest of the other.")
    days: list[str] = Field(
        default_factory=list, description="Days that were scored, as `2026-01-05`."
    )


COMPARES = (
    "Two releases on the same days: how alike they are, and who was right. A release whose "
    "predictions of a day are not there scores it, into tables of its own. It is no part of "
    "a night: `batch-assets release compare` asks for it, and without days there is nothing "
    "to compare."
)


def build_release_comparison(pipeline: Pipeline) -> dg.AssetsDefinition:
    spec = pipeline.spec
    look = pipeline.look("release_comparison", "pytorch", partitioned=False)

    @dg.multi_asset(
        name=f"{spec.name}__release_comparison",
        specs=[
            as_spec(
                look,
                deps=[pipeline.key("predictions")],
                description=COMPARES,
                skippable=True,
            )
        ],
        pool="gpu",
        required_resource_keys=pipeline.needs("storage", "gpu", "engine"),
    )
    def release_comparison(
        context: dg.AssetExecutionContext, config: ReleaseComparisonConfig
    ) -> Iterator[dg.MaterializeResult]:
        if not config.days:
            # Whoever materialises all assets of a pipeline asks for no comparison.
            context.log.info("no days are named, so there is nothing to compare")
            return
        registry = context.resources.storage.registry()
        releases = [
            registry.verify(spec.model.name, digest)
            for digest in (config.champion, config.challenger)
        ]
        days = []
        for day in config.days:
            with one_of_a_range(day):
                old, new = (_side(context, pipeline, day, one) for one in releases)
            days.append(compare_day(day, old, new, spec.outcomes))
            context.log.info("%s is compared", day)
        found = Comparison(
            at=datetime.now(UTC),
            by=this_user(),
            pipeline=spec.name,
            model=spec.model.name,
            champion=releases[0].digest,
            challenger=releases[1].digest,
            days=tuple(days),
            differences=differences_of(days, spec.outcomes),
        )
        digest = registry.comparisons(spec.model.name).keep(found)
        yield dg.MaterializeResult(
            asset_key=look["key"],
            metadata={
                "comparison": digest,
                "finding": found.finding,
                "champion": found.champion,
                "challenger": found.challenger,
                "days": len(days),
                **{f"{d.metric}_difference": d.difference for d in found.differences},
            },
        )

    return release_comparison


def _side(
    context: dg.AssetExecutionContext, pipeline: Pipeline, day: str, release: Release
) -> Side:
    """What a release says of a day: as it lies there, or scored now."""
    storage: StorageResource = context.resources.storage
    gpu: GpuResource = context.resources.gpu
    engines: EngineResource = context.resources.engine
    spec = pipeline.spec
    lake = storage.lake(spec.name)
    if _scored_by(lake, day) == release.digest:
        return Side(lake, release.contract)
    if not lake.validated_features.paths(day):
        msg = (
            f"{spec.name} has no validated features of {day} to compare releases on: run "
            f"the day first, with batch-assets run {spec.name} --day {day}"
        )
        raise LakeError(msg)
    with (
        day_run(context, lake, f"{release.short} to compare", None) as run,
        engines.scoring(spec, day, release, storage, gpu) as engine,
    ):
        own, night = score_challenger(run, release, engine, pipeline.scoring_settings)
    return Side(own.lake, release.contract, night.rows_per_second or None)


def _scored_by(lake: Lake, day: str) -> str | None:
    parts = lake.predictions.parts(day)
    return parts[0].receipt.release if parts else None
