"""Each sink serves what is served on disk, as a check of its asset."""

from contextlib import closing

import dagster as dg

from batch_assets.assets.pipeline import Pipeline
from batch_assets.checks.verdict import build_check
from batch_assets.quality.verdict import Verdict
from batch_assets.resources import StorageResource
from batch_assets.sinks.factory import open_sink
from batch_assets.sinks.sync import serves_the_same
from batch_assets.spec import Target


def build_sink_checks(pipeline: Pipeline) -> list[dg.AssetChecksDefinition]:
    name = pipeline.spec.name

    def build(target: Target) -> dg.AssetChecksDefinition:
        def judge(_: object, storage: StorageResource, __: str) -> Verdict:
            """The store serves the version that is served on disk."""
            with closing(open_sink(target, name)) as sink:
                return serves_the_same(sink, storage.snapshots(name))

        asset = f"{target.name}_snapshot"
        check = f"{target.name}_serves_the_snapshot"
        return build_check(pipeline, asset, check, judge, blocking=True)

    return [build(target) for target in pipeline.spec.sinks]
