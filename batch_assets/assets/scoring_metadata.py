"""What the catalog shows of a scored day. It scores nothing."""

from typing import TYPE_CHECKING, Any

import dagster as dg

from batch_assets.assets.column_lineage import of_predictions, same_columns
from batch_assets.assets.columns import prediction_notes, validated_notes
from batch_assets.assets.pipeline import Pipeline, total_metadata
from batch_assets.assets.table_metadata import table_metadata
from batch_assets.lake.tables import Lake
from batch_assets.models.output_specs import Ranking
from batch_assets.models.release import Release
from batch_assets.scoring.chunk_parts import dead_letter_schema
from batch_assets.scoring.device import Device
from batch_assets.scoring.engines.base import Engine
from batch_assets.scoring.night import Night
from batch_assets.scoring.replay import Replayed

if TYPE_CHECKING:
    from batch_assets.scoring.usage import Usage

# In the metadata of a materialization that was a replay.
REPLAYED = "replayed_rows"


def predictions_metadata(
    pipeline: Pipeline, lake: Lake, release: Release, done: Night | Replayed
) -> dict[str, Any]:
    """Return what is shown of the rows of `predictions`."""
    contract, rows, dead = release.contract, done.total.rows, done.dead_letters.rows
    return {
        "in_short": f"{rows:,} rows scored by {release.name} {release.short}; {dead:,} "
        "could not be scored",
        **table_metadata(
            lake.predictions,
            rows,
            contract.prediction_schema(),
            prediction_notes(contract),
            of_predictions(pipeline, contract),
        ),
        **total_metadata("scored", done.total),
        "dead_letters": done.dead_letters.rows,
        **short_rankings(release, done),
    }


def engine_metadata(engine: Engine, done: Night | Replayed) -> dict[str, Any]:
    """Return what is shown of what the rows were scored on."""
    seconds = done.timing.score if isinstance(done, Night) else 0.0
    return {
        **device_metadata(engine.device),
        **usage_metadata(engine.usage, seconds),
        "batch_rows": engine.batch_rows,
        "batch_rows_from": engine.device.batch_rows_from,
    }


def short_rankings(release: Release, done: Night | Replayed) -> dict[str, int]:
    """Return of each ranking how many rows have fewer items than a reader is shown.

    Its filters took what the model gave beyond that, too.
    """
    return {
        f"{one.name}_short_rankings": sum(
            part.receipt.outputs[one.name].short or 0 for part in done.parts
        )
        for one in release.contract.outputs
        if isinstance(one, Ranking)
    }


def dead_letters_metadata(
    pipeline: Pipeline, lake: Lake, release: Release, done: Night | Replayed
) -> dict[str, Any]:
    """Return what is shown of `dead_letters`."""
    rows, contract = done.dead_letters.rows, release.contract
    validated = pipeline.key("validated_features")
    return {
        "in_short": f"{rows:,} rows could not be scored by {release.name} {release.short}",
        **table_metadata(
            lake.dead_letters,
            rows,
            dead_letter_schema(contract),
            validated_notes(contract),
            same_columns(validated, contract.feature_schema().names),
        ),
        **total_metadata("dead", done.dead_letters),
    }


def run_metadata(
    release: Release, done: Night | Replayed, workers: int, *, incremental: bool
) -> dict[str, Any]:
    """Return what is shown of a run: the release, and what was done."""
    facts = {"model": release.name, "digest": release.digest, "job": done.job}
    if isinstance(done, Replayed):
        return facts | {REPLAYED: done.before.rows, "rescued_rows": done.rescued.rows}
    return {
        **facts,
        "resumed_chunks": done.resumed_chunks,
        **speed(done, workers),
        "unchanged": done.unchanged,
        **(reuse_metadata(done) if incremental else {}),
        **failed_metadata(done),
    }


def speed(night: Night, workers: int) -> dict[str, Any]:
    """Return how fast the rows went, where any were scored now, and what took the time."""
    timing = night.timing
    if night.unchanged or not timing.score:
        return {}
    shares = {stage: round(one, 4) for stage, one in timing.shares(workers).items()}
    return {
        "rows_per_second": round(night.rows_per_second, 1),
        "seconds": round(timing.score, 4),
        "load_seconds": round(timing.load, 4),
        "model_seconds": round(timing.model, 4),
        "where_the_time_went": dg.MetadataValue.md(
            ", ".join(f"{share:.0%} {stage}" for stage, share in shares.items())
        ),
        **{f"{stage}_share": share for stage, share in shares.items()},
        "workers": workers,
    }


def failed_metadata(night: Night) -> dict[str, Any]:
    """Return which shards could not be scored, and why, if any could not."""
    if not night.failed:
        return {}
    failed = {str(shard): why for shard, why in night.failed.items()}
    return {"failed_shards": dg.MetadataValue.json(failed)}


def reuse_metadata(night: Night) -> dict[str, Any]:
    """Return which rows took over the prediction of the night before, and why."""
    return {
        **total_metadata("carried", night.carried),
        "rescored_rows": night.rescored_rows,
        "built_on": night.decision.built_on or "nothing: every row is scored",
        "why": night.decision.why,
    }


def device_metadata(device: Device) -> dict[str, Any]:
    """Return what is shown of the device."""
    return {
        "device": device.kind if device.kind == "cpu" else f"cuda:{device.index}",
        "device_name": device.name,
        "device_memory_gb": round(device.memory / 2**30, 1),
        "precision": device.precision,
        "compiled": device.compiled is not None,
    }


def usage_metadata(usage: "Usage | None", seconds: float) -> dict[str, Any]:
    """Return how much of a CUDA device was used in so many seconds, where one was."""
    if usage is None:
        return {}
    busy = {"device_busy_share": usage.busy_seconds / seconds} if seconds else {}
    return {
        "device_peak_allocated_mib": round(usage.peak_allocated_mib, 1),
        "device_peak_reserved_mib": round(usage.peak_reserved_mib, 1),
        **busy,
    }
