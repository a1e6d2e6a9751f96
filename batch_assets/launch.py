"""Run a night through Dagster in this process, and say what came of it.

The run lands in the same instance that the UI shows. It knows nothing of how the
report is printed.
"""

import difflib
import importlib
import os
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import dagster as dg
from dagster import DagsterInstance, ExecuteInProcessResult
from pydantic import ValidationError

from batch_assets import errors
from batch_assets.errors import PipelineError
from batch_assets.lake.sources import (
    Declared,
    DeltaSource,
    ParquetSource,
    SqlSource,
)
from batch_assets.root import MARK, data_root, project_folder
from batch_assets.spec import Gates, Model, PipelineSpec, Serving

DECLARED: list[type[Declared]] = [
    PipelineSpec,
    Gates,
    Model,
    Serving,
    SqlSource,
    ParquetSource,
    DeltaSource,
]
FIELDS = [name for model in DECLARED for name in model.model_fields]


@dataclass(frozen=True)
class NightReport:
    """One night in a row of a table; `errors` says why it did not succeed."""

    day: str
    success: bool
    raw_rows: int | None = None
    quarantined_rows: int | None = None
    scored_rows: int | None = None
    dead_letters: int | None = None
    checks_passed: int = 0
    checks: int = 0
    unchanged: bool = False
    rows_per_second: float | None = None
    version: str | None = None
    served_version: str | None = None
    errors: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


@contextmanager
def instance() -> Iterator[DagsterInstance]:
    """The Dagster instance of DAGSTER_HOME, which is the project if it is not set."""
    if "DAGSTER_HOME" not in os.environ:
        home = project_folder()
        if not (home / MARK).is_file():
            home = data_root() / ".dagster"
            home.mkdir(parents=True, exist_ok=True)
        os.environ["DAGSTER_HOME"] = str(home)
    with DagsterInstance.get() as opened:
        yield opened


def load_definitions() -> dg.Definitions:
    """The definitions of the project that this is run in."""
    path = project_folder() / "pyproject.toml"
    text = path.read_text(encoding="utf-8") if path.is_file() else ""
    project = tomllib.loads(text).get("tool", {}).get("dg", {}).get("project", {})
    if "root_module" not in project:
        msg = (
            f"no Dagster project here or above: looked for [tool.dg.project] in {path}"
        )
        raise PipelineError(msg)
    named = project.get("code_location_target_module")
    try:
        module = importlib.import_module(
            named or f"{project['root_module']}.definitions"
        )
        found = module.defs() if callable(module.defs) else module.defs
        found.resolve_all_job_defs()
        return found
    # A YAML's own types, YAML itself and users' code can raise anything here, and
    # Dagster wraps it in errors of its own.
    except Exception as error:
        raise PipelineError(_explained(error)) from error


def _explained(error: BaseException) -> str:
    """What is wrong with the definitions: file, field, what it got and expected."""
    causes = [error]
    while (cause := causes[-1].__cause__ or causes[-1].__context__) is not None:
        causes.append(cause)
    invalid = [cause for cause in causes if isinstance(cause, ValidationError)]
    if not invalid:
        return (
            f"the definitions can't be loaded; nothing was run. {causes[-1]}\n"
            "`dg check defs` shows where."
        )
    lines = ["a pipeline's YAML is wrong; nothing was run."]
    for found in invalid[0].errors(include_url=False):
        # The outermost has the file and the line in its location.
        where = ".".join(str(step) for step in found["loc"]).strip("`")
        lines.append(f"- {where}: {_one_line(found)}")
    return "\n".join(lines)


def _one_line(found: Any) -> str:
    said, got = found["msg"].removeprefix("Value error, "), found["input"]
    if found["type"] == "extra_forbidden":
        field = str(found["loc"][-1]).partition(" at ")[0].rpartition(".")[2]
        close = difflib.get_close_matches(field, FIELDS, n=1)
        hint = f"; did you mean '{close[0]}'?" if close else ""
        return f"there is no field of that name{hint}"
    if found["type"] == "missing":
        return "this field is required, got nothing"
    if isinstance(got, dict) or f"'{got}'" in said:
        return said
    return f"{said}, got {got!r}"


def run_night(
    definitions: dg.Definitions, on: DagsterInstance, pipeline: str, day: str
) -> NightReport:
    """Materialise one day of a pipeline: its assets and its checks, in order.

    Raises:
        PipelineError: there is no such pipeline, or no such day in it.
    """
    jobs = {job.name for job in definitions.resolve_all_job_defs()}
    name = f"{pipeline}_job"
    if name not in jobs:
        known = sorted(j.removesuffix("_job") for j in jobs if j.endswith("_job"))
        msg = f"no pipeline is named '{pipeline}'; declared: {', '.join(known) or '-'}"
        raise PipelineError(msg)
    job = definitions.resolve_job_def(name)
    days = job.partitions_def.get_partition_keys() if job.partitions_def else []
    if day not in days:
        span = f"{days[0]} to {days[-1]}" if days else "none yet"
        msg = f"{pipeline} has no day '{day}'; its days are {span}"
        raise PipelineError(msg)
    result = job.execute_in_process(
        partition_key=day,
        instance=on,
        raise_on_error=False,
        # What matters is in the report; the run's whole log is in the UI.
        run_config={"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}},
    )
    return _report(result, pipeline, day)


def _report(result: ExecuteInProcessResult, pipeline: str, day: str) -> NightReport:
    seen: dict[str, dict[str, Any]] = {}
    for event in result.get_asset_materialization_events():
        found = event.materialization
        seen[found.asset_key.path[-1]] = {k: v.value for k, v in found.metadata.items()}
    validated = seen.get("validated_features", {})
    predictions = seen.get("predictions", {})
    snapshot = seen.get("serving_snapshot", {})
    checks = result.get_asset_check_evaluations()
    failed = [c for c in checks if not c.passed]
    why = [
        f"{c.check_name}: {c.description}"
        for c in failed
        if c.severity == dg.AssetCheckSeverity.ERROR
    ]
    why += _step_errors(result)
    return NightReport(
        day=day,
        success=result.success and not why,
        raw_rows=seen.get("raw_features", {}).get("raw_rows"),
        quarantined_rows=validated.get("quarantined_rows"),
        scored_rows=predictions.get("scored_rows"),
        dead_letters=predictions.get("dead_letters"),
        checks_passed=len(checks) - len(failed),
        checks=len(checks),
        unchanged=bool(predictions.get("unchanged")),
        rows_per_second=predictions.get("rows_per_second"),
        version=snapshot.get("version"),
        served_version=snapshot.get("served_version"),
        errors=list(dict.fromkeys(why)),
        warnings=[
            f"{c.check_name}: {c.description}"
            for c in failed
            if c.severity == dg.AssetCheckSeverity.WARN
        ],
    )


def _step_errors(result: ExecuteInProcessResult) -> Iterator[str]:
    """What the steps raised; a failed blocking check has said so itself already."""
    for event in result.all_events:
        if not event.is_step_failure or event.step_failure_data.error is None:
            continue
        chain = [event.step_failure_data.error]
        while chain[-1].cause is not None:
            chain.append(chain[-1].cause)
        if chain[0].cls_name == "DagsterAssetCheckFailedError":
            continue
        # What this project says; else whatever began it all.
        own = [e for e in chain if e.message.startswith(f"{errors.__name__}.")]
        said = (own or chain[-1:])[0].message.strip()
        yield said.partition(": ")[2] if own else said
