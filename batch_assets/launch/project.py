"""Load the project that this is run in: its definitions, and its Dagster instance."""

import importlib
import os
import sys
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager

import dagster as dg
from dagster import DagsterInstance

from batch_assets.assets.model_release import MODEL
from batch_assets.component import ScoringPipeline
from batch_assets.errors import PipelineError
from batch_assets.launch.explain import explained
from batch_assets.root import MARK, data_root, project_folder
from batch_assets.spec import PipelineSpec
from batch_assets.storage import local


@contextmanager
def open_instance() -> Iterator[DagsterInstance]:
    """Open the Dagster instance of DAGSTER_HOME, which is the project if it is not set."""
    if "DAGSTER_HOME" not in os.environ:
        home = project_folder()
        if not (home / MARK).is_file():
            home = local(data_root()) / ".dagster"
            home.mkdir(parents=True, exist_ok=True)
        os.environ["DAGSTER_HOME"] = str(home)
    with DagsterInstance.get() as opened:
        yield opened


def load_definitions() -> dg.Definitions:
    """Load the definitions of the project that this is run in.

    Raises:
        PipelineError: there is no project here, or its definitions are wrong.
    """
    path = project_folder() / "pyproject.toml"
    text = path.read_text(encoding="utf-8") if path.is_file() else ""
    project = tomllib.loads(text).get("tool", {}).get("dg", {}).get("project", {})
    if "root_module" not in project:
        msg = (
            f"no Dagster project here or above: looked for [tool.dg.project] in {path}"
        )
        raise PipelineError(msg)
    target = project.get("code_location_target_module")
    # As Dagster does with a `working_directory`: a project need not be installed to run.
    if str(path.parent) not in sys.path:
        sys.path.insert(0, str(path.parent))
    try:
        module = importlib.import_module(
            target or f"{project['root_module']}.definitions"
        )
        loaded = module.defs() if callable(module.defs) else module.defs
    # A YAML's own types, YAML itself and users' code can raise anything here, and
    # Dagster wraps it in errors of its own.
    except Exception as error:
        raise PipelineError(explained(error)) from error
    if not isinstance(loaded, dg.Definitions):
        msg = f"{module.__name__}.defs is no dagster.Definitions, got {loaded!r}"
        raise PipelineError(msg)
    return loaded


def pipelines_of(definitions: dg.Definitions, models: set[str]) -> list[str]:
    """Return the pipelines of a project whose releases are of some models, sorted."""
    return sorted(
        spec.key.path[0]
        for spec in definitions.resolve_all_asset_specs()
        if spec.key.path[-1] == "model_release" and spec.metadata.get(MODEL) in models
    )


def specs_of(definitions: dg.Definitions) -> list[PipelineSpec]:
    """Return the pipelines that the YAMLs of a project declare."""
    tree = definitions.component_tree
    found = tree.get_all_components(of_type=ScoringPipeline) if tree else []
    return [one.spec for one in found]


def spec_of(definitions: dg.Definitions, pipeline: str) -> PipelineSpec:
    """Return a pipeline as the YAML of a project declares it.

    Raises:
        PipelineError: no YAML declares it.
    """
    specs = {spec.name: spec for spec in specs_of(definitions)}
    if pipeline not in specs:
        known = ", ".join(sorted(specs)) or "-"
        msg = (
            f"no pipeline is named '{pipeline}' in the YAMLs of this project; declared: "
            f"{known}"
        )
        raise PipelineError(msg)
    return specs[pipeline]
