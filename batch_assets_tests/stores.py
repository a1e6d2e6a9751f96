"""Stores with room of their own, how somebody spoils them, and rows of every type.

Redis and PostgreSQL are real servers. No Cassandra is to be had: its sink meets a
stand-in at the driver's session.
"""

import functools
import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psycopg
import pyarrow as pa
import pytest
import redis

from batch_assets.sinks.cassandra import CassandraSink
from batch_assets.sinks.postgres import PostgresSink
from batch_assets.sinks.redis import RedisSink
from batch_assets.snapshots.version import Version
from batch_assets_tests.cassandra_stand_in import StandIn
from batch_assets_tests.served import FORMS, ITEMS, serve
from batch_assets_tests.servers import Server

ROWS = 600
SHARDS = 4
HUGE = [2**62 + 1, 2**53 + 1, 2**53 + 2, 2**63 - 1, -(2**63), 0, -1]
WORDS = ["", "0", "-1", "naïve", "a" * 300, "with space", "quote'\"\\", "tab\tline\r\n"]
TYPES = {"risk": "f4", "value": "f8", "band": "i4", "visits": "i8"}
_numbers = itertools.count()


@dataclass(frozen=True)
class Store:
    """A store with room of its own: how a sink opens it, and how somebody spoils it."""

    kind: str
    open: Callable[[], Any]
    spoil: Callable[[str, str, int], None]  # what, version, key
    url: str = ""
    name: str = ""


def open_store(request: pytest.FixtureRequest, kind: str) -> Iterator[Store]:
    """A store; all sinks of it that a test has opened are closed at its end."""
    name, opened = f"toy_{next(_numbers)}", []
    spoil, sink, address = SPOILERS[kind], SINKS[kind], {}
    if kind == "cassandra":
        server = StandIn()
        arguments = (server, "ks", name, "stand-in")
    else:
        server = request.getfixturevalue(f"{kind}_here")
        arguments = (server.url, name)
        address = {"url": server.url, "name": name}

    def open_sink() -> Any:
        opened.append(sink(*arguments))
        return opened[-1]

    yield Store(kind, open_sink, functools.partial(spoil, server, name), **address)
    for each in opened:
        each.close()
    if kind == "cassandra":
        server.shutdown()


def spoil_redis(server: Server, name: str, what: str, version: str, key: int) -> None:
    with redis.Redis.from_url(server.url) as client:
        names = [f"{name}:{version}:{shard}" for shard in range(SHARDS)]
        (at,) = [n for n in names if client.hexists(n, str(key))]
        data = client.hget(at, str(key))
        if what == "lose":
            client.hdel(at, str(key))
        elif what == "change":
            client.hset(at, str(key), bytes([data[0] ^ 1]) + data[1:])
        else:
            client.hset(at, "-12345", data)


STATEMENTS = {
    "lose": "DELETE FROM {} WHERE user_id = {}",
    "change": "UPDATE {} SET visits = visits # 1 WHERE user_id = {}",
    "add": "INSERT INTO {0} SELECT -12345, risk, value, band, visits FROM {0} "
    "WHERE user_id = {1}",
}


def spoil_postgres(
    server: Server, name: str, what: str, version: str, key: int
) -> None:
    table = f'"{name}".rows_{version.replace("-", "_")}'
    with psycopg.connect(server.url, autocommit=True) as connection:
        done = connection.execute(STATEMENTS[what].format(table, key))
        assert done.rowcount == 1


def spoil_cassandra(
    session: StandIn, name: str, what: str, version: str, key: int
) -> None:
    rows = session.tables[f"ks.{name}_rows"].rows
    at = next(k for k in rows if k[0] == version and k[2] == key)
    if what == "lose":
        del rows[at]
    elif what == "change":
        data = rows[at]["outputs"]
        rows[at] = rows[at] | {"outputs": bytes([data[0] ^ 1]) + data[1:]}
    else:
        other = (*at[:2], -12_345)
        rows[other] = rows[at] | {"key": -12_345}


SINKS: dict[str, Any] = {
    "redis": RedisSink,
    "postgres": PostgresSink,
    "cassandra": CassandraSink,
}
SPOILERS: dict[str, Callable[..., None]] = {
    "redis": spoil_redis,
    "postgres": spoil_postgres,
    "cassandra": spoil_cassandra,
}


def make_keys(count: int, key_dtype: str = "int64") -> pa.Array:
    """Distinct keys, the odd ones first."""
    if key_dtype == "string":
        return pa.array([*WORDS, *(f"user-{n}" for n in range(count - len(WORDS)))])
    return pa.array([*HUGE, *range(1_000, 1_000 + count - len(HUGE))], pa.int64())


def make_outputs(count: int, seed: int = 0) -> dict[str, np.ndarray]:
    """Outputs of every type, with any bits: tiny, huge, negative, minus zero."""
    random = np.random.default_rng(seed)
    outputs = {}
    for name, dtype in TYPES.items():
        bits = random.integers(0, 256, count * int(dtype[1]), dtype=np.uint8)
        values = bits.view(dtype)
        outputs[name] = np.where(np.isfinite(values), values, -0.0).astype(dtype)
    return outputs


def make_formed(count: int, seed: int = 0) -> dict[str, np.ndarray]:
    """The same, and the columns of labels, vectors and rankings of none to five items."""
    random = np.random.default_rng(seed)
    outputs = make_outputs(count, seed)
    outputs["verdict"] = random.integers(0, 3, count).astype("i4")
    for at in range(3):
        outputs[f"profile.{at}"] = make_outputs(count, seed + 1_000 + at)["risk"]
    items = random.permuted(np.tile(np.arange(len(ITEMS)), (count, 1)), axis=1)[:, :5]
    scores = -np.sort(-random.standard_normal((count, 5)).astype("f4"), axis=1)
    gone = np.arange(5) >= random.integers(0, 6, count)[:, None]
    items[gone], scores[gone] = -1, 0
    outputs |= {f"next_items.{at}": items[:, at] for at in range(5)}
    return outputs | {f"next_items_scores.{at}": scores[:, at] for at in range(5)}


def publish(snapshots: Path, day: int = 0, *, kind: str = "numbers", **how: Any) -> str:
    """The name of a version of that many days after the first, which is served then.

    It is of `numbers`, or of `rankings`, labels and vectors beside them.
    """
    made: dict[str, Any] = {"keys": make_keys(ROWS)}
    if kind == "numbers":
        made["outputs"] = make_outputs(ROWS, seed=day)
    else:
        made |= {"outputs": make_formed(ROWS, seed=day), "forms": FORMS}
    return serve(snapshots, day, shards=SHARDS, **made | how).version


def bits(outputs: dict[str, Any]) -> list[Any]:
    # Of the numbers in lists, Python writes each bit that there is.
    return [
        np.array(value, TYPES[name]).tobytes() if name in TYPES else repr(value)
        for name, value in outputs.items()
    ]


def must_be_equal(sink: Any, snapshots: Path) -> None:
    version = Version.current(snapshots)
    for number in range(SHARDS):
        for key in version.shard(number).table[version.manifest.key].to_pylist():
            ours, theirs = version.get(key), sink.get(key)
            assert ours is not None
            assert theirs is not None, key
            assert (theirs.key, theirs.manifest) == (ours.key, ours.manifest)
            # Bits tell -0.0 from 0.0; numbers, a float32 from its shortest text.
            assert bits(theirs.outputs) == bits(ours.outputs)
            assert theirs.outputs == ours.outputs
            types = [type(value) for value in ours.outputs.values()]
            assert [type(value) for value in theirs.outputs.values()] == types


def stored_rows(store: Store, sink: Any) -> int:
    if store.kind == "cassandra":
        return len(sink._session.tables[sink._tables["rows"]].rows)
    if store.kind == "redis":
        hashes = [
            key
            for key in sink._redis.keys(f"{store.name}:*")
            if key.rpartition(b":")[2].isdigit()
        ]
        return sum(sink._redis.hlen(key) for key in hashes)
    with psycopg.connect(store.url) as connection:
        tables = connection.execute(
            "SELECT tablename FROM pg_tables WHERE schemaname = %s "
            "AND tablename LIKE 'rows%%'",
            [store.name],
        ).fetchall()
        counts = [
            connection.execute(f'SELECT count(*) FROM "{store.name}".{table}')
            for (table,) in tables
        ]
        return sum(count.fetchall()[0][0] for count in counts)
