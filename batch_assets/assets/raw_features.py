"""`raw_features`: the source's rows of a day, as they were when the night began."""

from datetime import UTC, datetime
from typing import Any

import dagster as dg
import pyarrow as pa
from pydantic import Field

from batch_assets.assets.columns import computed_from, raw_notes
from batch_assets.assets.partitions import day_of, for_each_day
from batch_assets.assets.pipeline import Pipeline, day_run, total_metadata
from batch_assets.assets.source_tables import from_source, in_words, source_keys
from batch_assets.assets.stages import measured
from batch_assets.assets.table_metadata import in_order, table_metadata
from batch_assets.assets.upstream import with_rows
from batch_assets.lake.raw import Copied, RawSettings, copy_day, pin_of
from batch_assets.lake.side_tables import copy_side_tables
from batch_assets.lake.sources import ReadContext, Source
from batch_assets.lake.tables import Lake
from batch_assets.models.contract import Contract
from batch_assets.resources import StorageResource
from batch_assets.schedules import newest_day
from batch_assets.scoring.side_items import must_name_tables
from batch_assets.spec import PipelineSpec


class RawFeaturesConfig(dg.Config):
    """How one run takes its rows."""

    force: bool = Field(
        default=False,
        description="Of a source without history, take what it holds now for a day that "
        "is long over. The day's books, its version and this catalog are marked with it.",
    )


def build_raw_features(pipeline: Pipeline) -> dg.AssetsDefinition:
    spec = pipeline.spec
    kinds = spec.source.shown_as, "deltalake"

    @dg.asset(
        **pipeline.look("raw_features", *kinds, table=True),
        deps=source_keys(pipeline, _sources_of(spec)),
    )
    @for_each_day
    def raw_features(
        context: dg.AssetExecutionContext,
        config: RawFeaturesConfig,
        storage: StorageResource,
    ) -> dg.MaterializeResult:
        """The source's rows of one day, cut into shards by their key.

        They are copied whole; a version of a Delta table, which can't change, is pinned,
        and only its keys are written down.

        The columns are compared with the contract of the approved release before a row
        is read: a missing, extra or retyped column stops the night here.
        """
        day = day_of(context)
        lake = storage.lake(spec.name)
        release = storage.registry().resolve(spec.model.name)
        contract = release.contract
        must_name_tables(spec.side_tables, release, spec.serving.fallback)
        what, newest = f"the source of {spec.name}", newest_day(spec, datetime.now(UTC))
        read, sources = read_context(pipeline, day, contract), _sources_of(spec)
        with (
            with_rows(context, pipeline, sources, read) as (given, (source, *others)),
            day_run(context, lake, "raw_features", None) as run,
            measured(context, pipeline, run, "raw_features") as stage,
        ):
            copied = copy_day(
                stage.run,
                source,
                given,
                _settings_of(spec, contract),
                check=lambda found: contract.check_schema(found, what),
                newest=newest,
                force=config.force,
            )
            side = dict(zip(spec.side_tables, others, strict=True))
            beside = copy_side_tables(
                lake, side, given, newest=newest, force=config.force
            )
            stage.ran(copied.job, copied.total.rows, unchanged=copied.unchanged)
        if copied.forced_at:
            context.log.warning(
                "%s has rows that were taken at %s, when the day was over",
                day,
                copied.forced_at,
            )
        shown = _metadata(pipeline, lake, read, contract, copied) | stage.metadata
        shown |= {f"side_table_{name}": rows for name, rows in beside.items()}
        version = dg.DataVersion(copied.job)
        return dg.MaterializeResult(metadata=in_order(shown), data_version=version)

    return raw_features


def _sources_of(spec: PipelineSpec) -> list[Source]:
    return [spec.source, *spec.side_tables.values()]


def read_context(pipeline: Pipeline, day: str, contract: Contract) -> ReadContext:
    """Return for which day, and from where, a source of a pipeline is read."""
    return ReadContext(
        day,
        pipeline.spec.timezone,
        contract.key.name,
        base=pipeline.base,
        project=pipeline.project,
    )


def _settings_of(spec: PipelineSpec, contract: Contract) -> RawSettings:
    return RawSettings(
        contract.raw_schema(), spec.shards, spec.row_group_rows, spec.allow_empty
    )


def _metadata(
    pipeline: Pipeline,
    lake: Lake,
    read: ReadContext,
    contract: Contract,
    copied: Copied,
) -> dict[str, Any]:
    schema, pin = contract.raw_schema(), pin_of(copied.parts)
    if pin:
        schema = pa.schema([schema.field(contract.key.name)])
    source, rows = pipeline.spec.source, copied.total.rows
    origins = source.origins(read, schema.names)
    notes = computed_from(raw_notes(contract), in_words(origins))
    upstream = from_source(pipeline, source, origins)
    metadata = {
        "in_short": f"{rows:,} rows of {read.day}, in {len(copied.parts):,} shards",
        **table_metadata(lake.raw_features, rows, schema, notes, upstream),
        **total_metadata("raw", copied.total),
        "shards": len(copied.parts),
        "job": copied.job,
        "unchanged": copied.unchanged,
    }
    if copied.forced_at:
        metadata["forced_at"] = dg.MetadataValue.timestamp(copied.forced_at)
    if pin:
        metadata |= {"pinned": pin.table, "pinned_version": pin.version}
    return metadata
