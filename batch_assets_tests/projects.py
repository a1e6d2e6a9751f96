"""A project as a user would have it: a pyproject, definitions, pipelines as YAML."""

import gc
import importlib
import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import dagster as dg
import pytest
import yaml
from dagster import DagsterInstance, ExecuteInProcessResult

from batch_assets.lake.tables import Lake
from batch_assets.launch.kept_open import log_kept_open
from batch_assets.models.registry import Registry
from batch_assets.quality.gates import GATES
from batch_assets.quality.verdict import every_pipeline
from batch_assets.snapshots.gates import SNAPSHOT_GATES
from batch_assets.snapshots.store import SnapshotStore
from batch_assets.spec import PipelineSpec

FIRST, SECOND, THIRD = "2026-01-05", "2026-01-06", "2026-01-07"
FLIGHTS = Path(__file__).parents[1]
_numbers = itertools.count()

DEFINITIONS = """\
from pathlib import Path

import dagster as dg

from batch_assets.definitions import project_defs


@dg.definitions
def defs() -> dg.Definitions:
    return project_defs(Path(__file__).parent)
"""


@dataclass(frozen=True)
class Project:
    """A project on disk with its `<root>`, and its definitions, loaded."""

    folder: Path
    root: Path
    module: str
    definitions: dg.Definitions

    def lake(self, pipeline: str) -> Lake:
        return Lake(self.root, pipeline)

    @property
    def registry(self) -> Registry:
        return Registry(self.root)

    def snapshots(self, pipeline: str) -> SnapshotStore:
        return SnapshotStore(self.root, pipeline)

    def run(
        self, pipeline: str, day: str, on: DagsterInstance, **arguments: Any
    ) -> ExecuteInProcessResult:
        """One night through the pipeline's job."""
        job = self.definitions.resolve_job_def(f"{pipeline}_job")
        return _executed(job, on, partition_key=day, **arguments)

    def materialize(
        self, pipeline: str, names: list[str], day: str | None, on: DagsterInstance
    ) -> ExecuteInProcessResult:
        """Some assets of a pipeline alone, without what is before them."""
        job = self.definitions.resolve_implicit_global_asset_job_def()
        return _executed(
            job,
            on,
            partition_key=day,
            asset_selection=[dg.AssetKey([pipeline, name]) for name in names],
        )


def _executed(
    job: dg.JobDefinition, on: DagsterInstance, **arguments: Any
) -> ExecuteInProcessResult:
    """Run a job here, with Dagster's log kept open as the command line keeps it."""
    run_id = str(uuid4())
    with log_kept_open(on, run_id):
        return job.execute_in_process(
            instance=on, run_id=run_id, raise_on_error=False, **arguments
        )


@contextmanager
def instance_for_readers() -> Iterator[DagsterInstance]:
    """Open an instance for runs that read assets which others made.

    For each value that is read so, Dagster opens an instance that is closed when the
    garbage collector comes by, and then makes current the one of before. Closed after
    this one, they would leave a closed instance to the tests that follow.
    """
    with dg.instance_for_test() as instance:
        yield instance
        gc.collect()


def metadata_of(result: ExecuteInProcessResult, asset: str) -> dict[str, Any]:
    """What a run said of an asset that it has materialised, once."""
    (metadata,) = [
        event.materialization.metadata
        for event in result.get_asset_materialization_events()
        if event.materialization.asset_key.path[-1] == asset
    ]
    return {name: value.value for name, value in metadata.items()}


def checks_of(*assets: str) -> set[str]:
    """The checks of a pipeline that is not incremental: of some assets, or of all."""
    return {
        gate.name
        for gate in (*GATES, *SNAPSHOT_GATES)
        if gate.when is every_pipeline and (not assets or gate.asset in assets)
    }


def attributes(name: str = "toy", **changes: Any) -> dict[str, Any]:
    """The attributes of a pipeline over the toy's daily files."""
    return {
        "name": name,
        "owners": ["team:toys"],
        "start_day": "2026-01-01",
        "end_day": "2026-01-31",
        "source": {"kind": "parquet", "glob": "days/{{ day }}.parquet"},
        "model": {"name": "toy"},
        "shards": 4,
        "row_group_rows": 100,
        "chunk_rows": 200,
    } | changes


def declared_in(package: Path, name: str) -> PipelineSpec:
    """A pipeline as its YAML declares it, which has no template in it."""
    text = (package / "defs" / name / "defs.yaml").read_text(encoding="utf-8")
    return PipelineSpec.model_validate(yaml.safe_load(text)["attributes"])


def make_project(
    folder: Path,
    root: Path,
    monkeypatch: pytest.MonkeyPatch,
    pipelines: list[dict[str, Any]],
) -> Project:
    """Write a project, stand in it, and load its definitions."""
    module = f"project_{next(_numbers)}"
    write_project(folder, module, pipelines)
    monkeypatch.setenv("BATCH_ASSETS_ROOT", str(root))
    monkeypatch.chdir(folder)
    monkeypatch.syspath_prepend(str(folder))
    definitions = importlib.import_module(f"{module}.definitions").defs()
    return Project(folder, root, module, definitions)


def write_project(folder: Path, module: str, pipelines: list[dict[str, Any]]) -> None:
    """Only the files of `make_project`."""
    package = folder / module
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "definitions.py").write_text(DEFINITIONS, encoding="utf-8")
    (folder / "pyproject.toml").write_text(
        f'[project]\nname = "{module}"\nversion = "0"\n'
        '[tool.dg]\ndirectory_type = "project"\n'
        f'[tool.dg.project]\nroot_module = "{module}"\n',
        encoding="utf-8",
    )
    (folder / "dagster.yaml").write_text("telemetry: {enabled: false}\n", "utf-8")
    for pipeline in pipelines:
        defs = package / "defs" / pipeline["name"]
        defs.mkdir(parents=True)
        text = yaml.safe_dump(
            {
                "type": "batch_assets.component.ScoringPipeline",
                "attributes": pipeline,
            },
            sort_keys=False,
        )
        (defs / "defs.yaml").write_text(text, encoding="utf-8")


def errors_of(result) -> str:
    """All that the failed steps and checks of a run say."""
    texts = [
        check.description or ""
        for check in result.get_asset_check_evaluations()
        if not check.passed
    ]
    for event in result.all_events:
        if event.is_step_failure and event.step_failure_data.error:
            error = event.step_failure_data.error
            while error:
                texts.append(error.message)
                error = error.cause
    return "\n".join(texts)


ASSETS = {
    "raw_features",
    "validated_features",
    "quarantined_rows",
    "model_release",
    "batch_size_sweep",
    "release_comparison",
    "predictions",
    "dead_letters",
    "serving_snapshot",
    "night_report",
}


def state_of(project: Project) -> dict[str, object]:
    """Everything that a failed night must leave as it is."""
    lake = project.lake("toy")
    tables = (lake.predictions, lake.dead_letters, lake.validated_features)
    return {
        "served": project.snapshots("toy").current(),
        **{table.name: table.rows_by_day() for table in tables},
    }
