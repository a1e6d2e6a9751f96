"""Checks on how many rows went where."""

import dagster as dg

from batch_assets.assets.pipeline import Pipeline
from batch_assets.checks.verdict import build_check
from batch_assets.quality import gates
from batch_assets.quality.verdict import Verdict
from batch_assets.resources import StorageResource
from batch_assets.snapshots.verdicts import equals_predictions, is_served


def build_row_count_checks(pipeline: Pipeline) -> list[dg.AssetChecksDefinition]:
    name, limits = pipeline.spec.name, pipeline.spec.gates

    def volume(_: object, storage: StorageResource, day: str) -> Verdict:
        """The day has about as many raw rows as the committed days before it."""
        rows = storage.lake(name).raw_features.rows_by_day()
        return gates.volume(day, rows, limits)

    def validation_closes(_: object, storage: StorageResource, day: str) -> Verdict:
        """Raw = validated + quarantined in each shard, in counts and key checksums."""
        return gates.validation_closes(storage.lake(name).books(day, scoring=False))

    def quarantine_share(_: object, storage: StorageResource, day: str) -> Verdict:
        """Few enough of the raw rows are in quarantine."""
        return gates.quarantine_share(
            storage.lake(name).books(day, scoring=False), limits
        )

    def scoring_closes(_: object, storage: StorageResource, day: str) -> Verdict:
        """Validated = scored + dead in each shard, in counts and key checksums."""
        return gates.scoring_closes(storage.lake(name).books(day))

    def dead_letter_share(_: object, storage: StorageResource, day: str) -> Verdict:
        """Few enough of the validated rows are dead letters."""
        return gates.dead_letter_share(storage.lake(name).books(day), limits)

    def coverage(_: object, storage: StorageResource, day: str) -> Verdict:
        """Enough of the raw rows are scored."""
        return gates.coverage(storage.lake(name).books(day), limits)

    def carried(_: object, storage: StorageResource, day: str) -> Verdict:
        """Rows that took over a prediction are what the model says of them now."""
        lake = storage.lake(name)
        return gates.carried_rows(lake.books(day), lake.predictions.last_commit(day))

    def snapshot(_: object, storage: StorageResource, day: str) -> Verdict:
        """Every row of the day's version is the row that was predicted, and no other."""
        return equals_predictions(storage.lake(name), storage.snapshots(name), day)

    def served(_: object, storage: StorageResource, day: str) -> Verdict:
        """The day's version, or a newer one, is what readers get; warns if it is not."""
        return is_served(storage.lake(name), storage.snapshots(name), day)

    table = [
        ("raw_features", "volume_is_like_the_days_before", volume, False),
        (
            "validated_features",
            "raw_is_validated_plus_quarantined",
            validation_closes,
            True,
        ),
        (
            "validated_features",
            "quarantine_share_is_within_limit",
            quarantine_share,
            True,
        ),
        ("predictions", "validated_is_scored_plus_dead", scoring_closes, True),
        ("predictions", "dead_letter_share_is_within_limit", dead_letter_share, True),
        ("predictions", "coverage_is_within_limit", coverage, True),
        ("serving_snapshot", "snapshot_equals_predictions", snapshot, True),
        ("serving_snapshot", "snapshot_is_served", served, False),
    ]
    if pipeline.spec.incremental:
        table.append(
            ("predictions", "carried_rows_equal_their_rescoring", carried, False)
        )
    return [
        build_check(pipeline, asset, check, judge, blocking=blocking)
        for asset, check, judge, blocking in table
    ]
