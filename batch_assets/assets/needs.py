"""What of a project a pipeline needs: its own assets, and all that is upstream of them.

Nothing is resolved for it: what else is in the project may be broken.
"""

from collections.abc import Iterable
from typing import Any

import dagster as dg

from batch_assets.assets.source_tables import as_key
from batch_assets.errors import PipelineError
from batch_assets.schedules import day_partitions
from batch_assets.spec import PipelineSpec


def needed_by(pipeline: str, assets: Iterable[Any]) -> list[Any]:
    """Return those definitions of assets that a pipeline can't be run without.

    Args:
        pipeline: the pipeline.
        assets: of the project, as its definitions have them.
    """
    definitions = [one for one in assets if keys_of(one)]
    makers = {key: one for one in definitions for key in keys_of(one)}
    needed: list[Any] = []
    seen: set[dg.AssetKey] = set()
    left = [key for key in makers if key.path[0] == pipeline and len(key.path) > 1]
    while left:
        key = left.pop()
        if key in seen or key not in makers:
            continue
        maker = makers[key]
        seen |= keys_of(maker)
        needed.append(maker)
        left += _upstream_of(maker)
    return [one for one in definitions if any(one is other for other in needed)]


def keys_of(assets: object) -> set[dg.AssetKey]:
    """Return the keys that a definition is of; none of what is no definition of assets."""
    if isinstance(assets, dg.AssetsDefinition):
        return set(assets.keys)
    if isinstance(assets, dg.AssetSpec | dg.SourceAsset):
        return {assets.key}
    return set()


def _upstream_of(assets: Any) -> list[dg.AssetKey]:
    if isinstance(assets, dg.AssetsDefinition):
        return [dep.asset_key for spec in assets.specs for dep in spec.deps]
    if isinstance(assets, dg.AssetSpec):
        return [dep.asset_key for dep in assets.deps]
    return []


def must_be_includable(spec: PipelineSpec, assets: Iterable[Any]) -> None:
    """Refuse `upstream: include` of what no night of the pipeline can make.

    Args:
        spec: of the pipeline.
        assets: of the project, as its definitions have them.

    Raises:
        PipelineError: an asset is not made here, or has other partitions.
    """
    if spec.waits or not spec.upstream_assets:
        return
    needed = [
        one
        for one in needed_by(spec.name, assets)
        if isinstance(one, dg.AssetsDefinition) and one.is_executable
    ]
    made = {key for one in needed for key in one.keys}
    advice = f"say `upstream: wait` in the YAML of {spec.name}"
    for name in spec.upstream_assets:
        if as_key(name) not in made:
            msg = (
                f"{spec.name} is to include {name}, and no function of this code location "
                f"makes it: {advice}, which takes what others make, or mend the key"
            )
            raise PipelineError(msg)
    days = day_partitions(spec)
    for one in (of_asset for maker in needed for of_asset in maker.specs):
        if one.partitions_def not in (None, days):
            msg = (
                f"{spec.name} is to include {one.key.to_user_string()}, whose partitions "
                f"are: {one.partitions_def} Those of the pipeline are: {days} A run is of one "
                "kind of partition: give both the same days (`start_day`, `end_day`, "
                f"`timezone`), or {advice}, which takes any"
            )
            raise PipelineError(msg)
