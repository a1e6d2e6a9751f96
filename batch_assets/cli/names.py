"""Arguments that a shell completes: pipelines, models, versions and days.

They are looked for in the project's YAMLs and under `<root>`, by the names of folders
alone: a shell asks at every Tab, and waits for neither Dagster nor a bucket.
"""

import os
import re
from collections.abc import Iterable
from datetime import date, timedelta
from pathlib import Path

import click
from click.shell_completion import CompletionItem

from batch_assets.root import ROOT, project_folder

# As a pipeline is declared: `name` is an attribute, not that of one of its parts.
DECLARED = re.compile(r"^(?:attributes:|  name: *['\"]?([a-z][a-z0-9_]*).*)$", re.M)
OURS = "ScoringPipeline"


def local_root() -> Path | None:
    """Return `<root>` if it is a directory; a bucket is not asked while somebody types."""
    named = os.environ.get(ROOT) or "data"
    return None if "://" in named else project_folder() / Path(named).expanduser()


def declared_pipelines() -> set[str]:
    """Return the pipelines that the YAMLs of this project declare, as far as is plain."""
    import tomllib  # Nobody but a shell waits for it.

    settings = project_folder() / "pyproject.toml"
    if not settings.is_file():
        return set()
    tool = tomllib.loads(settings.read_text(encoding="utf-8")).get("tool", {})
    module = tool.get("dg", {}).get("project", {}).get("root_module", "")
    if not module:
        return set()
    defs = project_folder().joinpath(*module.split("."), "defs")
    texts = [path.read_text(encoding="utf-8") for path in defs.rglob("defs.yaml")]
    found = (DECLARED.findall(text) for text in texts if OURS in text)
    return {name for names in found for name in names if name}


def folders_in(*path: str) -> set[str]:
    """Return the folders under `<root>`, at a path there."""
    root = local_root()
    folder = root.joinpath(*path) if root else None
    if folder is None or not folder.is_dir():
        return set()
    return {found.name for found in folder.iterdir() if found.is_dir()}


class Name(click.ParamType[str]):
    """A name of something that is there; whether it is, is up to the command."""

    name = "text"

    def known(self, ctx: click.Context) -> Iterable[str]:
        """Return what can be typed here."""
        raise NotImplementedError

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        try:
            known = sorted(name for name in self.known(ctx) if name[:1] != ".")
        except (OSError, ValueError):
            return []  # What can't be read is no reason to disturb who is typing.
        return [CompletionItem(name) for name in known if name.startswith(incomplete)]


class PipelineName(Name):
    """A pipeline: one that is declared, or that nights have left something of."""

    def known(self, ctx: click.Context) -> Iterable[str]:
        return declared_pipelines() | folders_in("lake") | folders_in("snapshots")


class ModelName(Name):
    """A model that is registered."""

    def known(self, ctx: click.Context) -> Iterable[str]:
        return folders_in("models")


class VersionName(Name):
    """A version of the pipeline that is named before it."""

    def known(self, ctx: click.Context) -> Iterable[str]:
        found = folders_in("snapshots", _pipeline_of(ctx))
        return {name.removeprefix("v=") for name in found if name.startswith("v=")}


class Day(Name):
    """A day, YYYY-MM-DD; the days that have rows, and yesterday, are completed."""

    name = "day"

    def convert(
        self, value: str, param: click.Parameter | None, ctx: click.Context | None
    ) -> str:
        try:
            return date.fromisoformat(value).isoformat()
        except ValueError:
            self.fail(f"a day is written YYYY-MM-DD, got '{value}'", param, ctx)

    def known(self, ctx: click.Context) -> Iterable[str]:
        found = folders_in("lake", _pipeline_of(ctx), "validated_features")
        days = {name.removeprefix("day=") for name in found if name.startswith("day=")}
        return days | {str(date.today() - timedelta(days=1))}


def _pipeline_of(ctx: click.Context) -> str:
    """The pipeline that was typed already; no folder has the other name.

    While an option waits for its value, click has not yet given arguments their names.
    """
    return str(ctx.params.get("pipeline") or next(iter(ctx.args), "?"))


PIPELINE, MODEL, VERSION, DAY = PipelineName(), ModelName(), VersionName(), Day()
