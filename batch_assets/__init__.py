"""Score a whole user base every night, and prove that it was done right.

The names of the front door are imported when they are first asked for: a service that
reads a snapshot pulls in neither torch nor Dagster.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from batch_assets.assets.column_lineage import column_lineage
    from batch_assets.component import ScoringPipeline
    from batch_assets.models.contract import Contract, Feature, KeySpec
    from batch_assets.models.input_specs import Column, Ids, Sequence, Text, Vector
    from batch_assets.models.output_specs import Label, Output, Ranking, VectorOutput
    from batch_assets.snapshots.reader import Snapshot
    from batch_assets.training.drafts import draft_release, write_release
    from batch_assets.training.packing import pack

__all__ = [
    "Column",
    "Contract",
    "Feature",
    "Ids",
    "KeySpec",
    "Label",
    "Output",
    "Ranking",
    "ScoringPipeline",
    "Sequence",
    "Snapshot",
    "Text",
    "Vector",
    "VectorOutput",
    "column_lineage",
    "draft_release",
    "pack",
    "write_release",
]

_HOMES = {
    "Column": "models.input_specs",
    "Contract": "models.contract",
    "Feature": "models.contract",
    "Ids": "models.input_specs",
    "KeySpec": "models.contract",
    "Label": "models.output_specs",
    "Output": "models.output_specs",
    "Ranking": "models.output_specs",
    "ScoringPipeline": "component",
    "Sequence": "models.input_specs",
    "Snapshot": "snapshots.reader",
    "Text": "models.input_specs",
    "Vector": "models.input_specs",
    "VectorOutput": "models.output_specs",
    "column_lineage": "assets.column_lineage",
    "draft_release": "training.drafts",
    "pack": "training.packing",
    "write_release": "training.drafts",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
