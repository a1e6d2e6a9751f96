"""Score a whole user base every night, and prove that it was done right.

The names of the front door are imported when they are first asked for: a service that
reads a snapshot pulls in neither torch nor Dagster.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from batch_assets.component import ScoringPipeline
    from batch_assets.models.contract import Contract, Feature, Output
    from batch_assets.models.writing import write_release
    from batch_assets.snapshots.reader import Snapshot

__all__ = [
    "Contract",
    "Feature",
    "Output",
    "ScoringPipeline",
    "Snapshot",
    "write_release",
]

_HOMES = {
    "Contract": "models.contract",
    "Feature": "models.contract",
    "Output": "models.contract",
    "ScoringPipeline": "component",
    "Snapshot": "snapshots.reader",
    "write_release": "models.writing",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
