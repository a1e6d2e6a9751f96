"""The project's own assets: one before the pipeline, one after it."""

import dagster as dg
import polars as pl
from own_project.users import users_of

from batch_assets import column_lineage

days = dg.DailyPartitionsDefinition("2026-01-01")


@dg.asset(partitions_def=days)
def daily_features(context: dg.AssetExecutionContext) -> pl.DataFrame:
    """Every subscriber as of the day."""
    return users_of(context.partition_key)


@dg.asset(
    partitions_def=days,
    ins={"predictions": dg.AssetIn(["churn", "predictions"])},
    backfill_policy=dg.BackfillPolicy.multi_run(1),
    metadata=column_lineage("churn/predictions", ["user_id", "risk"]),
)
def letters(predictions: pl.LazyFrame) -> pl.DataFrame:
    """The hundred subscribers who get a letter: those that most likely leave."""
    return predictions.select("user_id", "risk").top_k(100, by="risk").collect()
