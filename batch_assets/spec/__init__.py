"""The YAML's types: what a data team declares of a pipeline. It runs nothing."""

from batch_assets.lake.sources import SOURCES
from batch_assets.spec.alerts import RECEIVERS, AlertsSpec
from batch_assets.spec.engines import (
    ENGINES,
    EngineSpec,
    Local,
    Ray,
    Spark,
    engine_named,
    engine_names,
)
from batch_assets.spec.limits import (
    CHUNK_SECONDS,
    FallbackSpec,
    GateLimits,
    Model,
    Serving,
    Shadow,
)
from batch_assets.spec.outcomes import OutcomesSpec, Task
from batch_assets.spec.pipeline import PipelineSpec
from batch_assets.spec.sinks import (
    EXPERIMENTAL,
    SINKS,
    CassandraTarget,
    PostgresTarget,
    RedisTarget,
    Target,
)
from batch_assets.strict import StrictModel

# Every type whose fields may be written in the YAML.
DECLARED: tuple[type[StrictModel], ...] = (
    PipelineSpec,
    GateLimits,
    Model,
    Serving,
    Shadow,
    FallbackSpec,
    OutcomesSpec,
    AlertsSpec,
    *SOURCES.values(),
    *ENGINES.values(),
    *SINKS.values(),
    *RECEIVERS.values(),
)

__all__ = [
    "CHUNK_SECONDS",
    "DECLARED",
    "ENGINES",
    "EXPERIMENTAL",
    "RECEIVERS",
    "SINKS",
    "SOURCES",
    "AlertsSpec",
    "CassandraTarget",
    "EngineSpec",
    "FallbackSpec",
    "GateLimits",
    "Local",
    "Model",
    "OutcomesSpec",
    "PipelineSpec",
    "PostgresTarget",
    "Ray",
    "RedisTarget",
    "Serving",
    "Shadow",
    "Spark",
    "Target",
    "Task",
    "engine_named",
    "engine_names",
]
