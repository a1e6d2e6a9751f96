"""The YAML's types: what a data team declares of a pipeline. It runs nothing."""

import re
from datetime import date
from typing import Annotated, Literal, Self, get_args
from zoneinfo import ZoneInfo, available_timezones

from pydantic import BeforeValidator, Field, field_validator, model_validator

from batch_assets.errors import ConfigError
from batch_assets.lake.sources.declared import Declared, Source, kinds_schema

# How long the model may take over a chunk before it counts as hanging.
CHUNK_SECONDS = 600.0
NAME = r"^[a-z][a-z0-9_]*$"


class Model(Declared):
    """Which model scores: the release that the registry has approved last for it."""

    name: str = Field(description="The model's name in the registry.")


class Gates(Declared):
    """The limits that a night is judged by; shares are between 0 and 1."""

    max_quarantine_share: float = Field(
        default=0.01, ge=0, le=1, description="Quarantined rows over raw rows."
    )
    max_dead_letter_share: float = Field(
        default=0.001, ge=0, le=1, description="Dead letters over validated rows."
    )
    min_coverage: float = Field(
        default=0.99, ge=0, le=1, description="Scored rows over raw rows."
    )
    max_volume_change: float = Field(
        default=0.5,
        gt=0,
        description="How far the raw rows may be off the trailing median; warns.",
    )
    volume_days: int = Field(
        default=28, ge=1, description="How many committed days the median is over."
    )
    warn_psi: float = Field(
        default=0.25, gt=0, description="Prediction drift below which no night warns."
    )
    max_psi: float = Field(
        default=1.0,
        gt=0,
        description="Prediction drift below which no night is stopped.",
    )


class Serving(Declared):
    """The serving snapshot."""

    keep: int = Field(default=7, ge=2, description="How many versions stay on disk.")
    keep_minutes: float = Field(
        default=60,
        ge=0,
        allow_inf_nan=False,
        description="No version younger than this is removed: readers need time to "
        "move on.",
    )
    stale_hours: float = Field(
        default=36,
        gt=0,
        allow_inf_nan=False,
        description="Readers call a version that is older than this stale.",
    )


class Local(Declared):
    """The cores, or the CUDA device, of the machine that the night runs on."""

    kind: Literal["local"]


class Ray(Declared):
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


class Spark(Declared):
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

    @field_validator("settings")
    @classmethod
    def _settings_are_sparks(cls, settings: dict[str, object]) -> dict[str, object]:
        for name in settings:
            if not name.startswith("spark."):
                msg = f"a setting of Spark begins with 'spark.', got '{name}'"
                raise ValueError(msg)
        return settings


EngineName = Literal["local", "ray", "spark"]


def _no_engine(name: str) -> str:
    return f"an engine is one of {', '.join(get_args(EngineName))}, got '{name}'"


def _engine_in_one_word(engine: object) -> object:
    if not isinstance(engine, str):
        return engine
    if engine not in get_args(EngineName):
        raise ValueError(_no_engine(engine))
    return {"kind": engine}


EngineSpec = Annotated[
    Annotated[Local | Ray | Spark, Field(discriminator="kind")],
    BeforeValidator(
        _engine_in_one_word, json_schema_input_type=EngineName | Local | Ray | Spark
    ),
]


def engine_named(name: str, declared: EngineSpec) -> EngineSpec:
    """The engine of that name: the declared one with its settings, or a plain one.

    Raises:
        ConfigError: there is no such engine.
    """
    if name == declared.kind:
        return declared
    match name:
        case "local":
            return Local(kind="local")
        case "ray":
            return Ray(kind="ray")
        case "spark":
            return Spark(kind="spark")
    raise ConfigError(_no_engine(name))


class RedisTarget(Declared):
    """A Redis that serves the snapshot, too."""

    kind: Literal["redis"]
    name: str = Field(default="redis", pattern=NAME, description="Names the asset.")
    url_env: str = Field(
        default="REDIS_URL", description="The variable that holds the server's URL."
    )
    prefix: str | None = Field(
        default=None,
        pattern=NAME,
        description="What every key begins with; the pipeline's name if left out.",
    )
    keep: int = Field(default=2, ge=2, description="How many versions stay there.")


class PostgresTarget(Declared):
    """A PostgreSQL that serves the snapshot, too."""

    kind: Literal["postgres"]
    name: str = Field(default="postgres", pattern=NAME, description="Names the asset.")
    dsn_env: str = Field(
        default="POSTGRES_DSN", description="The variable that holds the address."
    )
    db_schema: str | None = Field(
        default=None,
        pattern=NAME,
        description="The schema of its own; the pipeline's name if left out.",
    )
    keep: int = Field(default=2, ge=2, description="How many versions stay there.")


class CassandraTarget(Declared):
    """A Cassandra that serves the snapshot, too."""

    kind: Literal["cassandra"]
    name: str = Field(default="cassandra", pattern=NAME, description="Names the asset.")
    hosts: list[str] = Field(min_length=1, description="Some of the cluster's nodes.")
    port: int = Field(default=9042, ge=1, le=65_535)
    data_center: str = Field(description="The nearest one, which is asked.")
    keyspace: str = Field(pattern=NAME, description="It must be there.")
    prefix: str | None = Field(
        default=None,
        pattern=NAME,
        description="What the tables' names begin with; the pipeline's if left out.",
    )
    user_env: str = Field(
        default="CASSANDRA_USER",
        description="The variable of the user, if there is any.",
    )
    password_env: str = Field(
        default="CASSANDRA_PASSWORD", description="The variable of the password."
    )
    keep: int = Field(default=2, ge=2, description="How many versions stay there.")


SINKS: dict[str, type[Declared]] = {
    "redis": RedisTarget,
    "postgres": PostgresTarget,
    "cassandra": CassandraTarget,
}
Target = Annotated[
    RedisTarget | PostgresTarget | CassandraTarget,
    Field(discriminator="kind"),
    kinds_schema(SINKS),
]


class PipelineSpec(Declared):
    """One scoring job: what is scored, by which model, when, and how it is judged."""

    name: str = Field(
        pattern=NAME,
        description="Prefixes every asset, and names the folders on disk.",
    )
    description: str = Field(default="", description="What the pipeline is for.")
    owners: list[str] = Field(
        default_factory=list, description="`team:name` or an e-mail address."
    )
    start_day: date = Field(description="The first day that can be scored.")
    end_day: date | None = Field(
        default=None, description="The last day that can be scored; open if left out."
    )
    timezone: str = Field(default="UTC", description="In which a day begins and ends.")
    schedule: str = Field(
        default="30 0 * * *", description="When the day just ended is scored, as cron."
    )
    source: Source
    model: Model
    shards: int = Field(default=16, ge=1, le=10_000)
    row_group_rows: int = Field(
        default=131_072, ge=1, description="Rows of a row group of the lake's files."
    )
    chunk_rows: int = Field(
        default=262_144,
        ge=1,
        description="Rows of a chunk, in whole row groups: the unit of scoring.",
    )
    chunk_seconds: float = Field(
        default=CHUNK_SECONDS,
        gt=0,
        allow_inf_nan=False,
        description="How long the model may take over a chunk; the rows that it hangs "
        "on become dead letters.",
    )
    grace_seconds: float = Field(
        default=20,
        ge=0,
        allow_inf_nan=False,
        description="How long chunks in flight may go on when the night is interrupted.",
    )
    engine: EngineSpec = Field(
        default_factory=lambda: Local(kind="local"),
        description="Where features are validated and chunks are scored: local, ray or "
        "spark, alone or as the `kind` of its settings.",
    )
    incremental: bool = Field(
        default=False,
        description="Rows that have not changed since the night before, under the same "
        "release, take over its prediction.",
    )
    full_every: int = Field(
        default=7,
        ge=1,
        description="With `incremental`: each so many nights every row is scored.",
    )
    rescored_share: float = Field(
        default=0.01,
        gt=0,
        le=1,
        description="With `incremental`: the share of the rows that are scored although "
        "they could be taken over, and must come out equal.",
    )
    allow_empty: bool = Field(
        default=False, description="A day without rows is no error."
    )
    gates: Gates = Field(default_factory=Gates)
    serving: Serving = Field(default_factory=Serving)
    sinks: list[Target] = Field(
        default_factory=list, description="Remote stores that serve the snapshot, too."
    )

    @field_validator("owners")
    @classmethod
    def _owners_are_teams_or_addresses(cls, owners: list[str]) -> list[str]:
        for owner in owners:
            if not re.match(r"^(team:.+|[^@\s]+@[^@\s]+\.[^@\s]+)$", owner):
                msg = f"an owner is 'team:name' or an e-mail address, got '{owner}'"
                raise ValueError(msg)
        return owners

    @field_validator("sinks")
    @classmethod
    def _sinks_have_names_of_their_own(cls, sinks: list[Target]) -> list[Target]:
        names = [sink.name for sink in sinks]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            msg = f"two sinks are named '{twice[0]}': give one another `name`"
            raise ValueError(msg)
        return sinks

    @field_validator("timezone")
    @classmethod
    def _timezone_is_known(cls, timezone: str) -> str:
        if timezone not in available_timezones():
            msg = f"a timezone is a name such as 'Europe/Oslo', got '{timezone}'"
            raise ValueError(msg)
        ZoneInfo(timezone)
        return timezone

    @field_validator("schedule")
    @classmethod
    def _schedule_is_daily(cls, schedule: str) -> str:
        if not re.match(r"^[0-5]?\d ([01]?\d|2[0-3]) \* \* \*$", schedule):
            msg = (
                "a schedule runs once a day and reads 'MINUTE HOUR * * *', got "
                f"'{schedule}'"
            )
            raise ValueError(msg)
        return schedule

    @model_validator(mode="after")
    def _days_are_in_order(self) -> Self:
        if self.end_day is not None and self.end_day < self.start_day:
            msg = f"end_day {self.end_day} is before start_day {self.start_day}"
            raise ValueError(msg)
        return self
