"""Where chunks are scored: each kind of engine with its settings.

It starts nothing: `scoring.engines` has a module for each kind.
"""

from typing import Annotated, ClassVar, Literal, Self

from pydantic import (
    BeforeValidator,
    Field,
    WithJsonSchema,
    field_validator,
    model_validator,
)

from batch_assets.errors import ConfigError
from batch_assets.strict import StrictModel, kinds_of


class EngineSettings(StrictModel):
    """What every kind of engine says of itself."""

    remote: ClassVar[bool] = True  # Whether chunks go to workers beyond this process.

    @property
    def needs(self) -> frozenset[str]:
        """The Dagster resources that must be up while the engine is used."""
        return frozenset()

    @property
    def needs_java(self) -> bool:
        """Whether it starts Java on this machine."""
        return False

    def without_model(self) -> Self:
        """Return the settings for work that needs no model, and so no GPU."""
        return self


class Local(EngineSettings):
    """The cores, or the CUDA device, of the machine that the night runs on."""

    remote: ClassVar[bool] = False
    kind: Literal["local"]


class Ray(EngineSettings):
    """Workers on a Ray cluster; each loads the release once and scores chunks."""

    kind: Literal["ray"]
    address: str | None = Field(
        default=None,
        description="Of the cluster; RAY_ADDRESS if left out, and without that a Ray of "
        "its own on this machine.",
    )
    resource: str | None = Field(
        default=None,
        description="A Dagster resource of the project that connects to a cluster, such "
        "as one of dagster-ray's for KubeRay.",
    )
    workers: int | None = Field(
        default=None,
        ge=1,
        description="How many; as many as the cluster has room for if left out.",
    )
    cpus_per_worker: int | None = Field(
        default=None,
        ge=1,
        description="How many chunks a worker scores at once, each on a core; 1, or 3 "
        "on a whole GPU, if left out.",
    )
    gpus_per_worker: float | None = Field(
        default=None,
        gt=0,
        description="A share of a GPU, or whole ones; 1 where the cluster has GPUs, if "
        "left out.",
    )
    attempts: int = Field(
        default=3,
        ge=1,
        description="How many workers may die on a chunk before it counts as failed.",
    )

    @field_validator("gpus_per_worker")
    @classmethod
    def _more_than_one_gpu_is_whole(cls, gpus: float | None) -> float | None:
        if gpus is not None and gpus > 1 and gpus != int(gpus):
            msg = f"a worker has a share of one GPU or whole GPUs, got {gpus}"
            raise ValueError(msg)
        return gpus

    @model_validator(mode="after")
    def _one_way_to_a_cluster(self) -> Self:
        if self.address and self.resource:
            msg = "a cluster is found by `address` or by `resource`, got both"
            raise ValueError(msg)
        return self

    @property
    def needs(self) -> frozenset[str]:
        return frozenset({self.resource} if self.resource else ())

    def without_model(self) -> Self:
        return self.model_copy(update={"gpus_per_worker": None})


class Spark(EngineSettings):
    """Tasks of a Spark application; each scores one chunk."""

    kind: Literal["spark"]
    settings: dict[str, str | int | float | bool] = Field(
        default_factory=dict,
        description="Any of Spark's own, such as `spark.master`, or `spark.remote` for "
        "Spark Connect.",
    )
    attempts: int = Field(
        default=3,
        ge=1,
        description="How many workers may die on a chunk before it counts as failed, "
        "where `settings` don't say it in Spark's own words.",
    )

    @property
    def needs_java(self) -> bool:
        """Whether it starts Java here: a client of Spark Connect does not."""
        return "spark.remote" not in self.settings

    @field_validator("settings")
    @classmethod
    def _settings_are_sparks(cls, settings: dict[str, object]) -> dict[str, object]:
        for name in settings:
            if not name.startswith("spark."):
                msg = f"a setting of Spark begins with 'spark.', got '{name}'"
                raise ValueError(msg)
        return settings


# A kind of engine is its module in `scoring.engines`, and its settings in this line.
AnyEngine = Local | Ray | Spark
ENGINES: dict[str, type[AnyEngine]] = kinds_of(AnyEngine)
DEFAULT_ENGINE = Local(kind="local")


def engine_names() -> str:
    """Return the kinds of engines as a sentence has them: `a, b or c`."""
    *others, last = ENGINES
    return f"{', '.join(others)} or {last}"


def _no_engine(name: str) -> str:
    return f"an engine is one of {', '.join(ENGINES)}, got '{name}'"


def _engine_in_one_word(engine: object) -> object:
    if not isinstance(engine, str):
        return engine
    if engine not in ENGINES:
        raise ValueError(_no_engine(engine))
    return {"kind": engine}


_Kind = Annotated[str, WithJsonSchema({"enum": list(ENGINES), "type": "string"})]
EngineSpec = Annotated[
    Annotated[AnyEngine, Field(discriminator="kind")],
    BeforeValidator(_engine_in_one_word, json_schema_input_type=_Kind | AnyEngine),
]


def engine_named(name: str, declared: AnyEngine) -> AnyEngine:
    """Return the engine of a kind: the declared one with its settings, or a plain one.

    Raises:
        ConfigError: there is no such engine.
    """
    if name == declared.kind:
        return declared
    if name not in ENGINES:
        raise ConfigError(_no_engine(name))
    return ENGINES[name].model_validate({"kind": name})
