"""Run a pipeline's jobs through Dagster in this process, and say what came of it.

The runs land in the same instance that the UI shows. Only the pipeline is resolved: what
else is in the project may be broken.
"""

import uuid
from dataclasses import dataclass
from typing import Any

import dagster as dg
from dagster import DagsterInstance, ExecuteInProcessResult

from batch_assets.assets.needs import keys_of, needed_by
from batch_assets.errors import PipelineError
from batch_assets.launch.alerts import tell_of_run
from batch_assets.launch.explain import explained
from batch_assets.launch.kept_open import log_kept_open
from batch_assets.launch.reports import (
    ComparisonReport,
    NightReport,
    OutcomesReport,
    ReplayReport,
    failures_of,
)
from batch_assets.schedules import COMPARISON, IN_ORDER, OUTCOMES, SWEEP

# What matters is in the report; a run's whole log is in the UI.
QUIET = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}
NIGHT, REPLAY, JUDGING = "job", "replay_job", f"{OUTCOMES}_job"
# A night up to where it is served.
SCORING = (
    "raw_features",
    "validated_features",
    "quarantined_rows",
    "model_release",
    "predictions",
    "dead_letters",
)


@dataclass(frozen=True)
class PipelineRunner:
    """Runs one pipeline of a project, in a Dagster instance.

    Every method raises PipelineError where there is no such pipeline, or it is not whole.
    """

    definitions: dg.Definitions
    instance: DagsterInstance
    pipeline: str

    def days(self) -> list[str]:
        """Return the days that can be run: those that have ended."""
        return _days_of(self._job(NIGHT))

    def must_run_in_order(self) -> bool:
        """Say whether a day's predictions may depend on the day before it."""
        return IN_ORDER in self._job(NIGHT).tags

    def run_night(
        self,
        day: str,
        engine: str | None = None,
        *,
        serve: bool = True,
        force: bool = False,
    ) -> NightReport:
        """Materialise one day: its assets and its checks, in order.

        Args:
            day: the day.
            engine: the engine of this night, if not that of the YAML.
            serve: whether it is published, too, or only scored and judged.
            force: take what a source without history holds now, though the day be over.

        Raises:
            PipelineError: there is no such day.
        """
        config: dict[str, Any] = {}
        if engine:
            config["resources"] = {"engine": {"config": {"name": engine}}}
        if force:
            raw = f"{self.pipeline}__raw_features"
            config["ops"] = {raw: {"config": {"force": True}}}
        result = self._execute(NIGHT, day, config, () if serve else SCORING)
        return NightReport.of(result, day)

    def publish(self, day: str, *, scored: bool) -> NightReport:
        """Serve a day that is there already; the source is not read again.

        Args:
            day: the day.
            scored: whether it has predictions; if not, they are made first.

        Raises:
            PipelineError: there is no such day.
        """
        serving = [
            key.path[-1]
            for key in self._job(REPLAY).asset_layer.selected_asset_keys
            if key.path[-1] not in SCORING
        ]
        begin = () if scored else ("model_release", "predictions", "dead_letters")
        result = self._execute(NIGHT, day, {}, (*begin, *serving))
        return NightReport.of(result, day)

    def replay_night(self, day: str) -> ReplayReport:
        """Score the dead letters of one day again, and serve the result.

        Raises:
            PipelineError: there is no such day.
        """
        result = self._execute(REPLAY, day, {}, ())
        return ReplayReport.of(result, self.pipeline, day)

    def take_outcomes(self, day: str, *, force: bool = False) -> OutcomesReport:
        """Take what happened on one day, and judge the day's predictions by it.

        Args:
            day: of the predictions.
            force: take what a source without history holds now, though the day be older.

        Raises:
            PipelineError: there is no such day, or the pipeline declares no outcomes.
        """
        op = f"{self.pipeline}__{OUTCOMES}"
        config = {"ops": {op: {"config": {"force": True}}}} if force else {}
        return OutcomesReport.of(self._execute(JUDGING, day, config, ()), day)

    def sweep_batch_sizes(self) -> list[str]:
        """Materialise `batch_size_sweep`; return what went wrong, if anything."""
        return failures_of(self._materialise(("model_release", SWEEP), {}))

    def compare_releases(
        self, champion: str, challenger: str, days: list[str]
    ) -> ComparisonReport:
        """Compare two releases of the pipeline's model on days that were scored.

        Args:
            champion: the digest of the one, or the beginning of it.
            challenger: that of the other.
            days: the days.

        Raises:
            PipelineError: there is no such pipeline, or no such day.
        """
        known = self.days()
        for day in days:
            self.must_have(day, known)
        asked = {"champion": champion, "challenger": challenger, "days": days}
        op = f"{self.pipeline}__{COMPARISON}"
        config = {"ops": {op: {"config": asked}}}
        return ComparisonReport.of(self._materialise((COMPARISON,), config))

    def _materialise(
        self, assets: tuple[str, ...], config: dict[str, Any]
    ) -> ExecuteInProcessResult:
        """Run some assets that are of no day."""
        job = self._alone().resolve_implicit_global_asset_job_def()
        run_id = str(uuid.uuid4())
        with log_kept_open(self.instance, run_id):
            return job.execute_in_process(
                instance=self.instance,
                run_id=run_id,
                raise_on_error=False,
                asset_selection=self._keys(assets),
                run_config={**QUIET, **config},
            )

    def _execute(
        self, which: str, day: str, config: dict[str, Any], assets: tuple[str, ...]
    ) -> ExecuteInProcessResult:
        """Run a job for a day: all of it, or some assets alone."""
        job = self._job(which)
        self.must_have(day, _days_of(job))
        partitioned = job.partitioned_config
        own = partitioned.get_run_config_for_partition_key(day) if partitioned else {}
        run_id = str(uuid.uuid4())
        with log_kept_open(self.instance, run_id):
            result = job.execute_in_process(
                partition_key=day,
                instance=self.instance,
                run_id=run_id,
                raise_on_error=False,
                asset_selection=self._keys(assets) or None,
                run_config={**own, **QUIET, **config},
            )
        tell_of_run(self.definitions, self.instance, self.pipeline, result)
        return result

    def must_have(self, day: str, days: list[str] | None = None) -> None:
        """Refuse a day that is none of the pipeline's; `days` are those that it has.

        Raises:
            PipelineError: with the days that there are.
        """
        days = self.days() if days is None else days
        if day not in days:
            span = f"{days[0]} to {days[-1]}" if days else "none yet"
            msg = f"{self.pipeline} has no day '{day}'; its days are {span}"
            raise PipelineError(msg)

    def _keys(self, names: tuple[str, ...]) -> list[dg.AssetKey]:
        return [dg.AssetKey([self.pipeline, name]) for name in names]

    def _job(self, which: str) -> dg.JobDefinition:
        """One of the pipeline's jobs; only the pipeline is resolved for it."""
        jobs = {job.name for job in self.definitions.jobs or []}
        suffix = f"_{REPLAY}"
        declared = {job.removesuffix(suffix) for job in jobs if suffix in job}
        if self.pipeline not in declared:
            known = ", ".join(sorted(declared)) or "-"
            msg = f"no pipeline is named '{self.pipeline}'; declared: {known}"
            raise PipelineError(msg)
        if which == JUDGING and f"{self.pipeline}_{which}" not in jobs:
            msg = (
                f"{self.pipeline} declares no outcomes: say in its YAML what really "
                "happens, under `outcomes`"
            )
            raise PipelineError(msg)
        try:
            return self._alone().resolve_job_def(f"{self.pipeline}_{which}")
        except Exception as error:  # As in `load_definitions`.
            raise PipelineError(explained(error)) from error

    def _alone(self) -> dg.Definitions:
        """The pipeline and what it needs; what else is in the project may be broken."""
        whole = self.definitions
        own = needed_by(self.pipeline, whole.assets or [])
        keys = {key for assets in own for key in keys_of(assets)}
        names = {f"{self.pipeline}_{which}" for which in (NIGHT, REPLAY, JUDGING)}
        return dg.Definitions(
            assets=own,
            asset_checks=[
                check
                for check in whole.asset_checks or []
                if keys.issuperset(one.asset_key for one in check.check_keys)
            ],
            jobs=[job for job in whole.jobs or [] if job.name in names],
            resources=whole.resources,
            executor=whole.executor,
            loggers=whole.loggers,
        )


def _days_of(job: dg.JobDefinition) -> list[str]:
    return list(job.partitions_def.get_partition_keys()) if job.partitions_def else []
