"""A sink that the YAML declares becomes a connection.

Secrets come from environment variables and go to the client alone. It is the only place
that knows every store; a store's client is imported when it is asked for.
"""

import os

from batch_assets.errors import ConfigError
from batch_assets.sinks.base import Sink
from batch_assets.spec import CassandraTarget, PostgresTarget, RedisTarget, Target


def open_sink(target: Target, pipeline: str) -> Sink:
    """Open a pipeline's sink.

    Args:
        target: as declared.
        pipeline: its name, which names what is stored.

    Raises:
        ConfigError: a variable is not set, or the client library is not installed.
        SinkError: the store can't be reached, or does not let us in.
    """
    try:
        match target:
            case RedisTarget():
                from batch_assets.sinks.redis import RedisSink

                url = _secret(target.url_env, target.name)
                return RedisSink(url, target.prefix or pipeline)
            case PostgresTarget():
                from batch_assets.sinks.postgres import PostgresSink

                dsn = _secret(target.dsn_env, target.name)
                return PostgresSink(dsn, target.db_schema or pipeline)
            case CassandraTarget():
                from batch_assets.sinks.cassandra import CassandraSink

                user = os.environ.get(target.user_env)
                return CassandraSink.connect(
                    target.hosts,
                    target.port,
                    target.data_center,
                    target.keyspace,
                    target.prefix or pipeline,
                    user,
                    _secret(target.password_env, target.name) if user else None,
                )
    except ImportError as error:
        msg = (
            f"the sink '{target.name}' needs a client library: {error}. "
            f"pip install 'batch-assets[{target.kind}]'"
        )
        raise ConfigError(msg) from error


def _secret(variable: str, sink: str) -> str:
    value = os.environ.get(variable)
    if not value:
        msg = f"the sink '{sink}' needs the environment variable {variable}; set it"
        raise ConfigError(msg)
    return value
