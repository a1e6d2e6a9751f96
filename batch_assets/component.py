"""`ScoringPipeline`: one YAML becomes assets, checks, a job, a schedule and sensors."""

import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Self

import dagster as dg
from pydantic import BaseModel

from batch_assets.assets.batch_size_sweep import build_batch_size_sweep
from batch_assets.assets.code_links import CodeReference, code_link, with_code
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
from batch_assets.assets.source_tables import build_source_tables
from batch_assets.assets.validated_features import build_validated_features
from batch_assets.checks import build_checks
from batch_assets.errors import PipelineError
from batch_assets.lake.sources import Source
from batch_assets.schedules import day_partitions, nightly
from batch_assets.sensors.alerts import build_sensors
from batch_assets.sensors.deadlines import deadline_sensors
from batch_assets.sensors.waiting import wait_sensors
from batch_assets.spec import PipelineSpec

Build = Callable[..., dg.AssetsDefinition]

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
        made = _assets_of(pipeline)
        if policy := backfill_policy():
            made = [asset.with_attributes(backfill_policy=policy) for asset in made]
        assets = dg.Definitions(
            assets=[*build_source_tables(pipeline), *made],
            asset_checks=build_checks(pipeline),
            sensors=build_sensors(self.spec),
        )
        watches = dg.Definitions(
            sensors=[*deadline_sensors(self.spec), *wait_sensors(self.spec)]
        )
        return dg.Definitions.merge(assets, nightly(self.spec), watches)

    @classmethod
    def get_code_references_for_yaml(
        cls, yaml_path: Path, source_position: Any, context: dg.ComponentLoadContext
    ) -> Sequence[CodeReference]:
        """Link each asset to the line of the YAML that declares its pipeline."""
        return [code_link(yaml_path, source_position.start.line)]


def _assets_of(pipeline: Pipeline) -> list[dg.AssetsDefinition]:
    """Build what the pipeline makes, each with links to what it is made by."""
    spec = pipeline.spec
    outcomes, shadow = spec.outcomes, spec.shadow

    def linked(
        build: Build, *given: Any, code: Iterable[Path] = ()
    ) -> dg.AssetsDefinition:
        return with_code(build(pipeline, *given), build, code)

    def queries(*sources: Source) -> list[Path]:
        return [path for one in sources for path in one.code(pipeline.base)]

    raw = queries(spec.source, *spec.side_tables.values())
    return [
        linked(build_raw_features, code=raw),
        linked(build_validated_features),
        linked(build_model_release),
        linked(build_batch_size_sweep),
        linked(build_predictions),
        linked(build_serving_snapshot),
        linked(build_night_report),
        *([linked(build_shadow_predictions, shadow)] if shadow else []),
        *(
            [linked(build_outcomes, outcomes, code=queries(outcomes.source))]
            if outcomes
            else []
        ),
        linked(build_release_comparison),
        *(linked(build_remote_snapshot, sink) for sink in spec.sinks),
    ]
