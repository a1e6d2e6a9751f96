"""Remote stores that serve the snapshot, too: each kind of sink with its settings.

Secrets are never settings: these name the environment variables that hold them.
"""

from typing import Annotated, Literal

from pydantic import Field

from batch_assets.strict import NAME, StrictModel, kinds_of, kinds_schema

KEEP = Field(default=2, ge=2, description="How many versions stay there.")


class RedisTarget(StrictModel):
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
    keep: int = KEEP


class PostgresTarget(StrictModel):
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
    keep: int = KEEP


class CassandraTarget(StrictModel):
    """A Cassandra that serves the snapshot, too. Experimental."""

    kind: Literal["cassandra"]
    experimental: bool = Field(
        default=False,
        description="`true` takes the sink as it is: tried on no server yet.",
    )
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
    keep: int = KEEP


# Kinds that no test has tried on a server, and what was tried instead.
EXPERIMENTAL = {
    "cassandra": "its tests meet a stand-in for the driver's session, and no Cassandra"
}

# A kind of sink is its module in `sinks`, and its settings in this line.
AnyTarget = RedisTarget | PostgresTarget | CassandraTarget
SINKS: dict[str, type[AnyTarget]] = kinds_of(AnyTarget)
Target = Annotated[AnyTarget, Field(discriminator="kind"), kinds_schema(SINKS)]
