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
from batch_assets.root import MARK, data_root, project_folder
from batch_assets.schedules import IN_ORDER, SWEEP
from batch_assets.spec import DECLARED
from batch_assets.storage import local

# What matters is in the report; a run's whole log is in the UI.
QUIET = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}
INTERRUPTED = "DagsterExecutionInterruptedError"
JOBS = ("job", "replay_job")
# A night up to where it is served.
SCORING = (
    "raw_features",
    "validated_features",
    "quarantined_rows",
    "model_release",
    "predictions",
    "dead_letters",
)
FIELDS = [name for model in DECLARED for name in model.model_fields]


@dataclass(frozen=True)
class NightReport:
    """One night in a row of a table; `errors` says why it did not succeed.

    A night that was interrupted goes on where it was when it is run again.
    """

    day: str
    success: bool
    interrupted: bool = False
    raw_rows: int | None = None
    quarantined_rows: int | None = None
    scored_rows: int | None = None
    dead_letters: int | None = None
    checks_passed: int = 0
    checks: int = 0
    resumed_chunks: int | None = None
    unchanged: bool = False
    rows_per_second: float | None = None
    version: str | None = None
    served_version: str | None = None
    errors: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class ReplayReport:
    """What came of replaying a day's dead letters."""

    pipeline: str
    day: str
    success: bool
    interrupted: bool = False
    replayed_rows: int | None = None
    rescued_rows: int | None = None
    dead_letters: int | None = None
    served_version: str | None = None
    errors: list[str] = field(default_factory=list)


@contextmanager
def instance() -> Iterator[DagsterInstance]:
    """The Dagster instance of DAGSTER_HOME, which is the project if it is not set."""
    if "DAGSTER_HOME" not in os.environ:
        home = project_folder()
        if not (home / MARK).is_file():
            home = local(data_root()) / ".dagster"
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
        return module.defs() if callable(module.defs) else module.defs
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
    definitions: dg.Definitions,
    on: DagsterInstance,
    pipeline: str,
    day: str,
    engine: str | None = None,
    *,
    serve: bool = True,
    force: bool = False,
) -> NightReport:
    """Materialise one day of a pipeline: its assets and its checks, in order.

    Args:
        definitions: of the project.
        on: the Dagster instance.
        pipeline: its name.
        day: the day.
        engine: the engine of this night, if not that of the YAML.
        serve: whether it is published, too, or only scored and judged.
        force: take what a source without history holds now, though the day be over.

    Raises:
        PipelineError: there is no such pipeline, or no such day in it.
    """
    config: dict[str, Any] = {}
    if engine:
        config["resources"] = {"engine": {"config": {"name": engine}}}
    if force:
        config["ops"] = {f"{pipeline}__raw_features": {"config": {"force": True}}}
    names = None if serve else SCORING
    result = _execute(definitions, on, pipeline, day, "job", config, names)
    return _report(result, day)


def days_of(definitions: dg.Definitions, pipeline: str) -> list[str]:
    """The days of a pipeline that can be run: those that have ended.

    Raises:
        PipelineError: there is no such pipeline.
    """
    return _days(_job(definitions, pipeline, "job"))


def must_run_in_order(definitions: dg.Definitions, pipeline: str) -> bool:
    """Whether what a day says may depend on the day before it."""
    return IN_ORDER in _job(definitions, pipeline, "job").tags


def replay_night(
    definitions: dg.Definitions, on: DagsterInstance, pipeline: str, day: str
) -> ReplayReport:
    """Score the dead letters of one day of a pipeline again, and serve the result.

    Raises:
        PipelineError: there is no such pipeline, or no such day in it.
    """
    result = _execute(definitions, on, pipeline, day, "replay_job")
    seen, why = _seen(result), _why(result)
    predictions = seen.get("predictions", {})
    return ReplayReport(
        pipeline=pipeline,
        day=day,
        success=result.success and not why,
        interrupted=_interrupted(result),
        replayed_rows=predictions.get("replayed_rows"),
        rescued_rows=predictions.get("rescued_rows"),
        dead_letters=predictions.get("dead_letters"),
        served_version=seen.get("serving_snapshot", {}).get("served_version"),
        errors=why,
    )


def sweep_batch_sizes(
    definitions: dg.Definitions, on: DagsterInstance, pipeline: str
) -> list[str]:
    """Materialise a pipeline's `batch_size_sweep`; what went wrong, if anything."""
    job = _alone(definitions, pipeline).resolve_implicit_global_asset_job_def()
    names = ("model_release", SWEEP)
    result = job.execute_in_process(
        instance=on,
        raise_on_error=False,
        asset_selection=[dg.AssetKey([pipeline, name]) for name in names],
        run_config=QUIET,
    )
    return _why(result)


def _alone(definitions: dg.Definitions, pipeline: str) -> dg.Definitions:
    """A pipeline without what else is in the project, which may be broken."""
    prefix = f"{pipeline}/"

    def mine(found: Any) -> bool:
        if not isinstance(found, dg.AssetsDefinition):
            return False
        keys = {*found.keys, *(check.asset_key for check in found.check_keys)}
        return all(key.to_user_string().startswith(prefix) for key in keys)

    return dg.Definitions(
        assets=[found for found in definitions.assets or [] if mine(found)],
        asset_checks=[found for found in definitions.asset_checks or [] if mine(found)],
        jobs=[
            job
            for job in definitions.jobs or []
            if job.name in (f"{pipeline}_{which}" for which in JOBS)
        ],
        resources=definitions.resources,
        executor=definitions.executor,
        loggers=definitions.loggers,
    )


def _job(definitions: dg.Definitions, pipeline: str, which: str) -> dg.JobDefinition:
    """One of a pipeline's jobs; only the pipeline is resolved for it.

    Raises:
        PipelineError: there is no such pipeline, or it is not whole.
    """
    jobs = {job.name for job in definitions.jobs or []}
    name = f"{pipeline}_{which}"
    replays = {j.removesuffix("_replay_job") for j in jobs if "_replay_job" in j}
    if pipeline not in replays:
        known = ", ".join(sorted(replays)) or "-"
        msg = f"no pipeline is named '{pipeline}'; declared: {known}"
        raise PipelineError(msg)
    try:
        return _alone(definitions, pipeline).resolve_job_def(name)
    except Exception as error:  # As in `load_definitions`.
        raise PipelineError(_explained(error)) from error


def _days(job: dg.JobDefinition) -> list[str]:
    return list(job.partitions_def.get_partition_keys()) if job.partitions_def else []


def _execute(
    definitions: dg.Definitions,
    on: DagsterInstance,
    pipeline: str,
    day: str,
    which: str,
    config: dict[str, Any] | None = None,
    names: tuple[str, ...] | None = None,
) -> ExecuteInProcessResult:
    job = _job(definitions, pipeline, which)
    days = _days(job)
    if day not in days:
        span = f"{days[0]} to {days[-1]}" if days else "none yet"
        msg = f"{pipeline} has no day '{day}'; its days are {span}"
        raise PipelineError(msg)
    partitioned = job.partitioned_config
    own = partitioned.get_run_config_for_partition_key(day) if partitioned else {}
    return job.execute_in_process(
        partition_key=day,
        instance=on,
        raise_on_error=False,
        asset_selection=[dg.AssetKey([pipeline, n]) for n in names] if names else None,
        run_config={**own, **QUIET, **(config or {})},
    )


def _seen(result: ExecuteInProcessResult) -> dict[str, dict[str, Any]]:
    """The metadata of what was materialized, by the asset's own name."""
    seen: dict[str, dict[str, Any]] = {}
    for event in result.get_asset_materialization_events():
        found = event.materialization
        seen[found.asset_key.path[-1]] = {k: v.value for k, v in found.metadata.items()}
    return seen


def _why(result: ExecuteInProcessResult) -> list[str]:
    """Why a run did not succeed: each blocking check that failed, each step's error."""
    why = [
        f"{check.check_name}: {check.description}"
        for check in result.get_asset_check_evaluations()
        if not check.passed and check.severity == dg.AssetCheckSeverity.ERROR
    ]
    return list(dict.fromkeys([*why, *_step_errors(result)]))


def _report(result: ExecuteInProcessResult, day: str) -> NightReport:
    seen, why = _seen(result), _why(result)
    validated = seen.get("validated_features", {})
    predictions = seen.get("predictions", {})
    snapshot = seen.get("serving_snapshot", {})
    checks = result.get_asset_check_evaluations()
    failed = [c for c in checks if not c.passed]
    return NightReport(
        day=day,
        success=result.success and not why,
        interrupted=_interrupted(result),
        raw_rows=seen.get("raw_features", {}).get("raw_rows"),
        quarantined_rows=validated.get("quarantined_rows"),
        scored_rows=predictions.get("scored_rows"),
        dead_letters=predictions.get("dead_letters"),
        checks_passed=len(checks) - len(failed),
        checks=len(checks),
        resumed_chunks=predictions.get("resumed_chunks"),
        unchanged=bool(predictions.get("unchanged")),
        rows_per_second=predictions.get("rows_per_second"),
        version=snapshot.get("version"),
        served_version=snapshot.get("served_version"),
        errors=why,
        warnings=[
            f"{c.check_name}: {c.description}"
            for c in failed
            if c.severity == dg.AssetCheckSeverity.WARN
        ],
    )


def _interrupted(result: ExecuteInProcessResult) -> bool:
    """Whether a signal ended the run: SIGINT, or SIGTERM, which Dagster takes for it."""
    return any(INTERRUPTED in error.message for _, error in _failures(result))


def _failures(result: ExecuteInProcessResult) -> Iterator[tuple[str, Any]]:
    for event in result.all_events:
        if event.is_step_failure and event.step_failure_data.error is not None:
            yield event.step_key or "", event.step_failure_data.error


def _step_errors(result: ExecuteInProcessResult) -> Iterator[str]:
    """What the steps raised; a failed blocking check has said so itself already."""
    for step, error in _failures(result):
        chain = [error]
        while chain[-1].cause is not None:
            chain.append(chain[-1].cause)
        if error.cls_name == "DagsterAssetCheckFailedError":
            continue
        if INTERRUPTED in error.message:
            _, _, note = error.message.strip().partition("\n")
            yield f"interrupted in {step}. {note or 'Run the day again.'}"
            continue
        # What this project says; else whatever began it all.
        own = [e for e in chain if e.message.startswith(f"{errors.__name__}.")]
        said = (own or chain[-1:])[0].message.strip()
        yield said.partition(": ")[2] if own else said
