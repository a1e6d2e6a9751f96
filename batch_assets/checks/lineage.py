"""The check on which model it was."""

import dagster as dg

from batch_assets.assets.pipeline import Pipeline
from batch_assets.assets.scoring_metadata import REPLAYED
from batch_assets.checks.verdict import build_check
from batch_assets.quality import gates
from batch_assets.quality.verdict import Verdict
from batch_assets.resources import StorageResource

# How many materializations of a day may be replays before its lineage is lost.
LOOK_BACK = 100


def build_lineage_check(pipeline: Pipeline) -> dg.AssetChecksDefinition:
    name = pipeline.spec.name

    def one_release(
        context: dg.AssetCheckExecutionContext, storage: StorageResource, day: str
    ) -> Verdict:
        """One approved release: the same digest in graph, registry, commit and rows."""
        return gates.one_release(
            storage.lake(name),
            storage.registry(),
            day,
            graph_digest(context.instance, pipeline, day),
        )

    return build_check(
        pipeline,
        "predictions",
        "one_approved_release_on_every_row",
        one_release,
        blocking=True,
    )


def graph_digest(
    instance: dg.DagsterInstance, pipeline: Pipeline, day: str
) -> str | None:
    """The model's data version that Dagster recorded with the day's predictions.

    A replay takes the day's own release, whichever the graph has by then.
    """
    found = instance.fetch_materializations(
        dg.AssetRecordsFilter(pipeline.key("predictions"), asset_partitions=[day]),
        limit=LOOK_BACK,
    )
    scored = (
        record.asset_materialization
        for record in found.records
        if record.asset_materialization
        and REPLAYED not in record.asset_materialization.metadata
    )
    tags = getattr(next(scored, None), "tags", None) or {}
    model = pipeline.key("model_release").to_user_string()
    return tags.get(f"dagster/input_data_version/{model}")
