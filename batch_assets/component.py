"""`ScoringPipeline`: one YAML becomes assets, checks, a job, a schedule and sensors."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

import dagster as dg
from pydantic import BaseModel

from batch_assets.assets.batch_size_sweep import build_batch_size_sweep
from batch_assets.assets.model_release import build_model_release
from batch_assets.assets.night_report import build_night_report
from batch_assets.assets.outcomes import build_outcomes
from batch_assets.assets.partitions import backfill_policy
from batch_assets.assets.pipeline import Pipeline
from batch_assets.assets.predictions import build_predictions
from batch_assets.assets.raw_features import build_raw_features
from batch_assets.assets.release_comparison import build_release_comparison
from batch_assets.assets.remote_snapshot import build_remote_snapshot
from batch_assets.assets.serving_snapshot import build_serving_snapshot
from batch_assets.assets.shadow_predictions import build_shadow_predictions
from batch_assets.assets.validated_features import build_validated_features
from batch_assets.checks import build_checks
from batch_assets.errors import PipelineError
from batch_assets.schedules import day_partitions, nightly
from batch_assets.sensors.alerts import build_sensors
from batch_assets.sensors.deadlines import deadline_sensors
from batch_assets.spec import PipelineSpec

STARTER_SQL = """\
-- One row for each key; the columns are those of the release's contract, the rows those
-- of $day. Of a table that tells only of now, say `history: none` in the YAML's source.
SELECT user_id, age, visits
FROM users
WHERE signed_up <= $day
"""


def starter_attributes(name: str) -> dict[str, Any]:
    """Return the attributes that a new pipeline begins with."""
    return {
        "name": name,
        "description": "What is scored, and for whom.",
        "owners": ["team:data"],
        "start_day": "2026-01-01",
        "source": {
            "kind": "sql",
            "query": "features.sql",
            "tables": {"users": "data/users.parquet"},
        },
        "model": {"name": name},
        "shards": 16,
    }


class Environment:
    """`env` in a YAML: a variable that is not set is an error, where Dagster has None."""

    def __init__(self, yaml: Path) -> None:
        self._yaml = yaml
        self.field = ""

    def __call__(self, name: str, default: str | None = None) -> str:
        text = os.environ.get(name, default)
        if text is None:
            msg = (
                f"{self._yaml}: the field '{self.field}' is to be filled in from the "
                f"environment variable {name}, which is not set. Set it where this "
                f"runs, or say what is used without it: env('{name}', '...')"
            )
            raise PipelineError(msg)
        return text

    def __getattr__(self, name: str) -> str:
        if name.startswith(("_", "jinja")):  # Asked for by Python and Jinja themselves.
            raise AttributeError(name)
        return self(name)


def _filled(
    value: Any, environment: Environment, fill: Callable[[Any], Any], field: str = ""
) -> Any:
    """Fill in every template in a value of a YAML."""
    if isinstance(value, dict):
        return {
            name: _filled(item, environment, fill, f"{field}.{name}".lstrip("."))
            for name, item in value.items()
        }
    if isinstance(value, list | tuple):
        return [
            _filled(item, environment, fill, f"{field}[{number}]")
            for number, item in enumerate(value)
        ]
    environment.field = field
    return fill(value)


class StarterScaffolder(dg.Scaffolder):
    """Writes a pipeline that only needs its names changed."""

    def scaffold(self, request: dg.ScaffoldRequest) -> None:
        dg.scaffold_component(request, starter_attributes(request.target_path.name))
        (request.target_path / "features.sql").write_text(STARTER_SQL, encoding="utf-8")


@dg.scaffold_with(StarterScaffolder)
class ScoringPipeline(dg.Component):
    """Scores a whole user base every night with a registered torch model."""

    def __init__(self, spec: PipelineSpec) -> None:
        self.spec = spec

    @classmethod
    def get_model_cls(cls) -> type[BaseModel]:
        return PipelineSpec

    @classmethod
    def load(
        cls, attributes: BaseModel | None, context: dg.ComponentLoadContext
    ) -> Self:
        values = (attributes or PipelineSpec.model_validate({})).model_dump()
        # `{{ env.NAME }}` is filled in now, `{{ day }}` when the day is known.
        environment = Environment(Path(context.path) / "defs.yaml")
        scope = context.resolution_context.with_scope(day="{{ day }}", env=environment)
        filled = _filled(values, environment, scope.resolve_value)
        return cls(PipelineSpec.model_validate(filled))

    def build_defs(self, context: dg.ComponentLoadContext) -> dg.Definitions:
        base = Path(context.path)
        pipeline = Pipeline(
            self.spec, base, context.project_root, day_partitions(self.spec)
        )
        outcomes, shadow = self.spec.outcomes, self.spec.shadow
        made = [
            build_raw_features(pipeline),
            build_validated_features(pipeline),
            build_model_release(pipeline),
            build_batch_size_sweep(pipeline),
            build_predictions(pipeline),
            build_serving_snapshot(pipeline),
            build_night_report(pipeline),
            *([build_shadow_predictions(pipeline, shadow)] if shadow else []),
            *([build_outcomes(pipeline, outcomes)] if outcomes else []),
            build_release_comparison(pipeline),
            *(build_remote_snapshot(pipeline, sink) for sink in self.spec.sinks),
        ]
        if policy := backfill_policy():
            made = [asset.with_attributes(backfill_policy=policy) for asset in made]
        assets = dg.Definitions(
            assets=made,
            asset_checks=build_checks(pipeline),
            sensors=build_sensors(self.spec),
        )
        watches = dg.Definitions(sensors=deadline_sensors(self.spec))
        return dg.Definitions.merge(assets, nightly(self.spec), watches)
