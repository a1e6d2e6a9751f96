"""Follows in a process of its own, and kills it at a named point.

python -m batch_assets_tests.killed_load STORE URL NAME SNAPSHOTS POINT
"""

import os
import signal
import sys
from collections.abc import Callable
from typing import Any

import batch_assets.sinks.postgres as postgres_module
import batch_assets.sinks.postgres_copy as postgres_copy_module
import batch_assets.sinks.redis as redis_module
from batch_assets.sinks.postgres import PostgresSink
from batch_assets.sinks.redis import RedisSink
from batch_assets.sinks.sync import sync_sink
from batch_assets.snapshots.store import SnapshotStore

POINTS = ["first_rows", "third_shards_rows", "third_record", "finish", "swap"]
SINKS: dict[str, Any] = {"redis": RedisSink, "postgres": PostgresSink}


def die(*_: object, **__: object) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def on_call(number: int, act: Callable[..., Any], then: Callable[..., Any]) -> Any:
    """A function that does `then` at its nth call, and `act` at the others."""
    calls = 0

    def counted(*arguments: Any, **named: Any) -> Any:
        nonlocal calls
        calls += 1
        return (then if calls == number else act)(*arguments, **named)

    return counted


def torn(blocks: Callable[..., Any]) -> Callable[..., Any]:
    """Blocks of a shard's rows of which the second never comes."""

    def some(*arguments: Any) -> Any:
        yield next(blocks(*arguments))
        die()

    return some


def main(store: str, url: str, name: str, snapshots: str, point: str) -> None:
    redis_module.COMMAND_ROWS, redis_module.COMMANDS = 20, 2
    postgres_copy_module.BLOCK_ROWS = 20
    module = redis_module if store == "redis" else postgres_module
    blocks = "_commands" if store == "redis" else "encode"
    sink = SINKS[store](url, name)
    if point.endswith("_rows"):
        number = 1 if point == "first_rows" else 3
        whole = getattr(module, blocks)
        setattr(module, blocks, on_call(number, whole, torn(whole)))
    elif point == "third_record":
        if store == "redis":  # The first is the version's; then one for each shard.
            sink._redis.hset = on_call(4, sink._redis.hset, die)
        else:  # The rows of two shards are there; those of the third are not committed.
            sink.load = on_call(3, sink.load, die)
    else:
        setattr(sink, point, die)
    sync_sink(sink, SnapshotStore.at(snapshots), keep=2)


if __name__ == "__main__":
    main(*sys.argv[1:])
