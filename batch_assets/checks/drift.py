"""Checks on what the model said."""

import dagster as dg

from batch_assets.assets.pipeline import Pipeline
from batch_assets.checks.verdict import build_check
from batch_assets.models.release import Release
from batch_assets.quality import gates
from batch_assets.quality.drift import prediction_drift
from batch_assets.quality.verdict import Verdict
from batch_assets.resources import StorageResource


def build_drift_checks(pipeline: Pipeline) -> list[dg.AssetChecksDefinition]:
    name, limits = pipeline.spec.name, pipeline.spec.gates

    def release_of(storage: StorageResource, day: str) -> Release:
        receipt = storage.lake(name).predictions.parts(day)[0].receipt
        return storage.registry().verify(receipt.model, receipt.release)

    def in_range(_: object, storage: StorageResource, day: str) -> Verdict:
        """Every output is finite and in the range that the release declares."""
        parts = storage.lake(name).predictions.parts(day)
        return gates.scores_in_range(parts, release_of(storage, day).contract)

    def drift(_: object, storage: StorageResource, day: str) -> Verdict:
        """The outputs are distributed like those that the release was approved on."""
        parts = storage.lake(name).predictions.parts(day)
        return prediction_drift(parts, release_of(storage, day).manifest, limits)

    return [
        build_check(pipeline, "predictions", check, judge, blocking=True)
        for check, judge in (
            ("scores_are_finite_and_in_range", in_range),
            ("predictions_are_distributed_like_the_reference", drift),
        )
    ]
