"""`files.md`: what lies on disk as JSON, field by field."""

from collections.abc import Iterator
from typing import Any, get_args

from pydantic import BaseModel

from batch_assets.alerts.record import AlertEntry
from batch_assets.formats import FORMATS
from batch_assets.lake.overrides import Override
from batch_assets.models.comparisons import Comparison
from batch_assets.models.registry import ApprovalEvent
from batch_assets.models.release import Manifest
from batch_assets.models.signatures import Signatures
from batch_assets.snapshots.denylist import Denylist
from batch_assets.snapshots.fallback import Fallback
from batch_assets.snapshots.history import HistoryEntry
from batch_assets.snapshots.manifest import SnapshotManifest
from website.markdown import fields_of, paragraphs, table

FILES: dict[type[BaseModel], str] = {
    Manifest: "`release.json`, in the folder of a release",
    Signatures: "`release.sig`, beside `release.json`, where releases are signed",
    ApprovalEvent: "a line of a model's approvals",
    SnapshotManifest: "the manifest of a served version",
    HistoryEntry: "a line of what was served, and why",
    Denylist: "what may not be shown",
    Fallback: "what a key gets that the night does not have",
    Override: "a line of overridden gates",
    Comparison: "what two releases did on the same days",
    AlertEntry: "a line of what was told to whom",
}


def files() -> str:
    """Return the page of the files."""
    parts = [
        "# Files\n\nWhat lies under `<root>` beside Delta tables is JSON, and refuses fields "
        "that it does not know. Where each lies is in [pipeline.md](../pipeline.md), "
        "[release.md](../release.md) and [serving.md](../serving.md)."
    ]
    parts.append(_versions())
    told: set[type[BaseModel]] = set()
    for model, where in FILES.items():
        parts.append(f"## {model.__name__}\n\nIs {where}. {_about(model)}")
        for inner in _inside(model, told):
            parts.append(f"### {inner.__name__}\n\n{_about(inner)}")
    return "\n\n".join(parts)


def _versions() -> str:
    """A table of the formats: which version is written, and which are read."""
    rows = [
        (one.name, one.holds, str(one.version), one.reads, one.remake or "")
        for one in FORMATS
    ]
    head = ("format", "lies in", "written", "read", "an older one")
    return (
        "## Versions\n\nWhat names no version is of version 1. What a newer version wrote is "
        "refused everywhere, and nothing is changed: [upgrading.md](../upgrading.md).\n\n"
        + table(head, rows)
    )


def _about(model: type[BaseModel]) -> str:
    return f"{paragraphs(model.__doc__)}\n\n{fields_of(model)}"


def _inside(
    model: type[BaseModel], told: set[type[BaseModel]]
) -> Iterator[type[BaseModel]]:
    """Find the models in a model's fields, each once in the whole page."""
    for field in model.model_fields.values():
        for inner in _models(field.annotation):
            if inner not in told and inner not in FILES:
                told.add(inner)
                yield inner
                yield from _inside(inner, told)


def _models(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for inner in get_args(annotation):
        yield from _models(inner)
