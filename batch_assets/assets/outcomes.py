"""`outcomes`: what really happened, and how good the predictions of the day were."""

from datetime import UTC, date, datetime, timedelta
from typing import Any

import dagster as dg
from pydantic import Field

from batch_assets.assets.columns import computed_from, outcome_notes
from batch_assets.assets.partitions import day_of, for_each_day
from batch_assets.assets.pipeline import Pipeline, day_run, picture_metadata
from batch_assets.assets.raw_features import read_context
from batch_assets.assets.source_tables import from_source, in_words, source_keys
from batch_assets.assets.table_metadata import in_order, table_metadata
from batch_assets.assets.upstream import with_rows
from batch_assets.errors import BatchAssetsError, LakeError
from batch_assets.lake.day_run import DayRun
from batch_assets.lake.parts import Part
from batch_assets.lake.raw import Copied, RawSettings, copy_day
from batch_assets.lake.receipts import PredictionsReceipt
from batch_assets.lake.sources import ReadContext
from batch_assets.lake.tables import Lake
from batch_assets.models.contract import Contract
from batch_assets.models.release import Release
from batch_assets.quality.performance.columns import check_outcomes, outcome_schema
from batch_assets.quality.performance.comparison import Side, compare_day
from batch_assets.quality.performance.history import (
    BETTER,
    History,
    read_history,
    write_performance,
)
from batch_assets.quality.performance.realised import Performance, performance_of
from batch_assets.resources import StorageResource
from batch_assets.schedules import newest_day
from batch_assets.spec import OutcomesSpec

# So many days are drawn.
DRAWN = timedelta(days=400)


class OutcomesConfig(dg.Config):
    """How one run takes its outcomes."""

    force: bool = Field(
        default=False,
        description="Of a source without history, take what it holds now for an older day.",
    )


def build_outcomes(pipeline: Pipeline, spec: OutcomesSpec) -> dg.AssetsDefinition:
    look = pipeline.look("outcomes", spec.source.shown_as, "deltalake", table=True)
    deps = [pipeline.key("predictions"), *source_keys(pipeline, [spec.source])]

    @dg.asset(**look, deps=deps)
    @for_each_day
    def outcomes(
        context: dg.AssetExecutionContext,
        config: OutcomesConfig,
        storage: StorageResource,
    ) -> dg.MaterializeResult:
        """What really happened to what was predicted of a day, by key.

        The day's predictions are judged by it: each metric, of all rows and by segment,
        goes into the table `outcome_metrics`, beside what was estimated before anybody
        knew.
        """
        day, lake = day_of(context), storage.lake(pipeline.spec.name)
        parts = _predicted(lake, day)
        receipt = parts[0].receipt
        release = storage.registry().verify(receipt.model, receipt.release)
        contract, segments = release.contract, tuple(pipeline.spec.segments)
        read = read_context(pipeline, day, contract)
        with (
            with_rows(context, pipeline, [spec.source], read) as (given, (source,)),
            day_run(context, lake, "outcomes", None) as run,
        ):
            told = spec.model_copy(update={"source": source})
            copied = _copy(pipeline, told, run, given, contract, force=config.force)
            performance = performance_of(lake, day, contract, spec, segments)
            run.guard()
            write_performance(lake, day, parts, spec, performance)
            rivals = _beside_challenger(context, pipeline, spec, storage, release)
        first = str(date.fromisoformat(day) - DRAWN)
        history = read_history(lake, spec, first, "9999-12-31")
        estimates = {
            f"estimated_{metric}": series[day].value
            for metric, series in history.estimated.items()
            if day in series and metric in BETTER[spec.task]
        }
        picture = _picture(history, spec, day, performance)
        return dg.MaterializeResult(
            metadata=in_order(
                {
                    "performance": picture_metadata("performance", picture),
                    **_table(pipeline, spec, lake, contract, copied, day),
                    **_metadata(performance),
                    **estimates,
                    **rivals,
                    "digest": receipt.release,
                }
            ),
            data_version=dg.DataVersion(f"{copied.job}-{receipt.job[:16]}"),
        )

    return outcomes


def _predicted(lake: Lake, day: str) -> list[Part[PredictionsReceipt]]:
    """Return the parts of a day's predictions, of which there must be some."""
    parts = lake.predictions.parts(day)
    if not parts:
        msg = f"{lake.pipeline} has no predictions of {day} to judge: run the day"
        raise LakeError(msg)
    return parts


def _picture(
    history: History, spec: OutcomesSpec, day: str, performance: Performance
) -> bytes:
    """Draw what is known; what draws is imported only then."""
    from batch_assets.quality.performance.plot import draw

    return draw(history, spec, day, performance.curve)


def _beside_challenger(
    context: dg.AssetExecutionContext,
    pipeline: Pipeline,
    spec: OutcomesSpec,
    storage: StorageResource,
    release: Release,
) -> dict[str, Any]:
    """Return how good approved release and challenger were on the same rows, if any."""
    shadow, day = pipeline.spec.shadow, day_of(context)
    if shadow is None:
        return {}
    lake, registry = storage.lake(pipeline.spec.name), storage.registry()
    try:
        challenger = registry.verify(pipeline.spec.model.name, shadow.release)
        own = lake.shadow(challenger.digest)
        if not own.predictions.paths(day):
            return {}
        sides = Side(lake, release.contract), Side(own, challenger.contract)
        compared = compare_day(day, *sides, spec)
    except BatchAssetsError as error:
        context.log.warning("the challenger is not judged: %s", error)
        return {}
    return {
        f"{who}_{name}": value
        for who, metrics in (
            ("champion", compared.champion),
            ("challenger", compared.challenger),
        )
        for name, value in metrics.items()
    } | {"challenger_known_rows": compared.known_rows}


def _copy(
    pipeline: Pipeline,
    spec: OutcomesSpec,
    run: DayRun,
    read: ReadContext,
    contract: Contract,
    *,
    force: bool,
) -> Copied:
    """Take the outcomes of a day, in the shards that its rows are in."""
    schema = outcome_schema(contract, spec)
    what = f"the source of the outcomes of {pipeline.spec.name}"
    shards = {part.shard for part in run.lake.raw_features.parts(run.day)}
    newest = date.fromisoformat(newest_day(pipeline.spec, datetime.now(UTC)))
    return copy_day(
        run,
        spec.source,
        read,
        RawSettings(
            schema,
            len(shards),
            pipeline.spec.row_group_rows,
            pipeline.spec.allow_empty,
            run.lake.outcomes,
        ),
        check=lambda columns: check_outcomes(columns, schema, what),
        newest=str(newest - timedelta(days=spec.after_days)),
        force=force,
    )


def _table(
    pipeline: Pipeline,
    spec: OutcomesSpec,
    lake: Lake,
    contract: Contract,
    copied: Copied,
    day: str,
) -> dict[str, Any]:
    """What is shown of the table, and of where its columns are from."""
    schema = outcome_schema(contract, spec)
    read = read_context(pipeline, day, contract)
    origins = spec.source.origins(read, schema.names)
    notes = outcome_notes(contract, spec.value, spec.output)
    return table_metadata(
        lake.outcomes,
        copied.total.rows,
        schema,
        computed_from(notes, in_words(origins)),
        from_source(pipeline, spec.source, origins),
    )


def _metadata(performance: Performance) -> dict[str, Any]:
    arrived = performance.arrived
    return {
        "predicted_rows": arrived.predicted,
        "known_rows": arrived.known,
        "unknown_rows": arrived.unknown,
        "missing_rows": arrived.missing,
        "unpredicted_rows": arrived.unpredicted,
        "known_share": arrived.share,
        **{name: one.value for name, one in performance.whole.items()},
    }
