"""Redis: a hash for each shard of a version, and a key that names the version.

    <prefix>:current                 the version that is served
    <prefix>:<version>:<shard>       a hash: key -> outputs, packed
    <prefix>:<version>:loaded        a hash: shard -> evidence, written after its rows
    <prefix>:versions                a hash: version -> what it is of, as JSON
    <prefix>:began, :served          sorted sets: version -> when
    <prefix>:denylist                items that no client shows, as JSON

Hashes of shards, not a key for each row: a quarter less memory, and a version of any
size is dropped by naming its shards. It knows no other store.
"""

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import redis
from redis.client import Pipeline

from batch_assets.environment import secret
from batch_assets.errors import NotServedError, SinkError
from batch_assets.lake.shards import hash_key
from batch_assets.sinks.answers import Answers
from batch_assets.sinks.base import (
    STAYS,
    RowChecksums,
    SinkVersion,
    StoredVersion,
    must_be_newer,
    must_be_whole,
    must_not_be_served,
    store_errors,
)
from batch_assets.sinks.packing import (
    joined,
    key_bytes,
    keys_of,
    pack,
    unpack,
    unpack_row,
    width,
)
from batch_assets.snapshots.denylist import Denylist
from batch_assets.snapshots.version import Answer
from batch_assets.spec import RedisTarget

SECONDS = 30.0
# Rows of a command, commands on their way at once, rows of an answer: each stays well
# under a millisecond of the one thread that the server has.
COMMAND_ROWS = 1_000
COMMANDS = 20
SCAN_ROWS = 1_000


class OutOfMemoryError(SinkError):
    """The server takes no more rows."""


def open_sink(target: RedisTarget, pipeline: str) -> "RedisSink":
    """Open a pipeline's Redis.

    Raises:
        ConfigError: the variable of its URL is not set.
        SinkError: that is no URL.
    """
    return RedisSink(
        secret(target.url_env, f"the sink '{target.name}'"), target.prefix or pipeline
    )


class RedisSink:
    """A pipeline's versions in one Redis server, or a primary with its replicas."""

    def __init__(self, url: str, prefix: str) -> None:
        """Nothing is sent yet.

        Args:
            url: `redis://user:password@host:port/database`, or `rediss://` over TLS.
            prefix: what every key begins with.

        Raises:
            SinkError: the URL is none. It is not shown: it may hold a password.
        """
        try:
            self._redis = redis.Redis.from_url(
                url, socket_timeout=SECONDS, socket_connect_timeout=SECONDS
            )
        except ValueError:
            msg = "that is no URL of a Redis; one is redis://user:password@host:6379/0"
            raise SinkError(msg) from None
        options = self._redis.connection_pool.connection_kwargs
        host, port = options.get("host", "localhost"), options.get("port", 6379)
        server = options.get("path") or f"{host}:{port}"
        self.address = f"redis://{server}/{options.get('db', 0)} {prefix}"
        self._prefix = prefix
        self._served: SinkVersion | None = None
        self._answers = Answers(self.denied)

    def begin(self, about: SinkVersion) -> Mapping[int, RowChecksums]:
        with self._store_errors():
            self._must_not_evict()
        with self._loading(about):
            self._redis.hset(self._key("versions"), about.name, about.model_dump_json())
            self._redis.zadd(self._key("began"), {about.name: time.time()}, nx=True)
            loaded: Any = self._redis.hgetall(self._key(about.name, "loaded"))
        return {int(n): RowChecksums.parse(text.decode()) for n, text in loaded.items()}

    def load(
        self, about: SinkVersion, shard: int, rows: pa.Table, evidence: RowChecksums
    ) -> None:
        # What a killed load left of the shard are rows of it: they are overwritten.
        name = self._key(about.name, shard).encode()
        with self._loading(about):
            self._send(_commands(name, rows, about))
            self._redis.hset(self._key(about.name, "loaded"), str(shard), str(evidence))

    def finish(self, about: SinkVersion) -> Mapping[int, RowChecksums]:
        with self._store_errors():
            return {shard: self._read(about, shard) for shard in range(about.shards)}

    def swap(self, about: SinkVersion, *, back: bool) -> None:
        current, loaded = self._key("current"), self._key(about.name, "loaded")

        def swap(pipe: Pipeline) -> None:
            name = _text(pipe.get(current))
            text = pipe.hget(self._key("versions"), name) if name else None
            must_be_whole(about, int(pipe.hlen(loaded)))
            served = SinkVersion.model_validate_json(text) if text else None
            must_be_newer(about, served, back=back)
            last: list[Any] = pipe.zrange(self._key("served"), -1, -1, withscores=True)
            # After all others, even if the clock has gone back.
            now = max([time.time(), *(score + 1e-3 for _, score in last)])
            pipe.multi()
            pipe.set(current, about.name)
            pipe.zadd(self._key("served"), {about.name: now})

        with self._store_errors():
            self._redis.transaction(swap, current, loaded)

    def current(self) -> str | None:
        with self._store_errors():
            return _text(self._redis.get(self._key("current")))

    def stored_versions(self) -> list[StoredVersion]:
        with self._store_errors(), self._redis.pipeline(transaction=False) as pipe:
            pipe.hgetall(self._key("versions"))
            pipe.zrange(self._key("began"), 0, -1, withscores=True)
            pipe.zrange(self._key("served"), 0, -1, withscores=True)
            versions, began, served = pipe.execute()
        began_at, served_at = dict(began), dict(served)
        return [
            StoredVersion(
                SinkVersion.model_validate_json(about),
                _time(began_at.get(version, 0.0)),
                _time(served_at[version]) if version in served_at else None,
            )
            for version, about in versions.items()
        ]

    def drop(self, version: str) -> None:
        with self._store_errors():
            must_not_be_served(version, self.current())
            # First what makes it servable: a swap that is on its way notices. Last what
            # makes it known: a drop that is killed is neither served nor forgotten.
            # No transaction: a server without memory takes none, and needs this most.
            self._redis.unlink(self._key(version, "loaded"))
            self._redis.zrem(self._key("served"), version)
            must_not_be_served(version, self.current())
            text = self._redis.hget(self._key("versions"), version)
            if text is None:
                return
            about = SinkVersion.model_validate_json(text)
            for shard in range(about.shards):
                self._redis.unlink(self._key(version, shard))
            self._redis.zrem(self._key("began"), version)
            self._redis.hdel(self._key("versions"), version)

    def get(self, key: int | str, segment: int | str | None = None) -> Answer | None:
        with self._store_errors():
            about = self._served or self._about()
            while True:
                stored_key = about.key_of(key)
                if stored_key is None:
                    return self._answers.of(about, key, None, segment)
                shard = self._key(about.name, hash_key(stored_key) % about.shards)
                # The row, then the pointer: if that names its version still, the row is
                # of what is served. A server without memory takes no transactions.
                with self._redis.pipeline(transaction=False) as pipe:
                    pipe.hget(shard, str(stored_key))
                    pipe.get(self._key("current"))
                    data, served = pipe.execute()
                if _text(served) == about.name:
                    self._served = about
                    row = None if data is None else unpack_row(data, about)
                    return self._answers.of(about, stored_key, row, segment)
                about = self._about()

    def deny(self, denylist: Denylist) -> None:
        with self._store_errors():
            self._redis.set(self._key("denylist"), denylist.model_dump_json())

    def denied(self) -> Denylist:
        with self._store_errors():
            data: Any = self._redis.get(self._key("denylist"))
        return Denylist.loads(data, f"{self.address}: the denylist")

    def close(self) -> None:
        self._redis.close()

    def _about(self) -> SinkVersion:
        """Return what is served now."""
        served = _text(self._redis.get(self._key("current")))
        if served is None:
            msg = f"{self.address} serves nothing: load a version first"
            raise NotServedError(msg)
        # It can't have been dropped since: that takes another swap, and ten minutes.
        text = self._redis.hget(self._key("versions"), served)
        if text is None:
            msg = f"{self.address} names {served}, which is not there: load it again"
            raise SinkError(msg)
        return SinkVersion.model_validate_json(text)

    def _send(self, commands: Iterator[list[bytes | memoryview]]) -> None:
        """Send encoded commands, a list at once, and await their replies."""
        pool = self._redis.connection_pool
        connection = pool.get_connection()
        try:
            for together in commands:
                connection.send_packed_command(together)
                for _ in together:
                    connection.read_response()
        except BaseException:
            # Replies may be on their way still, which the next user would get.
            connection.disconnect()
            raise
        finally:
            pool.release(connection)

    def _read(self, about: SinkVersion, shard: int) -> RowChecksums:
        """Read a shard back, and sum it up."""
        rows: dict[bytes, bytes] = {}
        name, cursor = self._key(about.name, shard), 0
        while True:
            # A scan may give a row twice, so a shard's rows are gathered first.
            page: Any
            cursor, page = self._redis.hscan(name, cursor, count=SCAN_ROWS)
            rows |= page
            if cursor == 0:
                break
        size = width(about)
        try:
            if any(len(data) != size for data in rows.values()):
                return RowChecksums()
            keys = keys_of(list(rows), about)
        except pa.ArrowInvalid:
            return RowChecksums()
        return RowChecksums.of(keys, unpack(b"".join(rows.values()), about))

    def _must_not_evict(self) -> None:
        memory = self._redis.info("memory")
        policy = memory.get("maxmemory_policy", "noeviction")
        if memory.get("maxmemory") and policy.startswith("allkeys"):
            msg = (
                f"{self.address} has maxmemory-policy {policy}: it may drop rows that are "
                "served, so nothing was loaded. Set it to noeviction or volatile-lru."
            )
            raise SinkError(msg)

    def _key(self, *names: str | int) -> str:
        return ":".join([self._prefix, *map(str, names)])

    @contextmanager
    def _loading(self, about: SinkVersion) -> Iterator[None]:
        """Load a version; remove it again if there is no memory for it.

        Others may need the memory sooner than it is loaded again.
        """
        try:
            with self._store_errors():
                yield
        except OutOfMemoryError:
            self.drop(about.name)
            raise

    @contextmanager
    def _store_errors(self) -> Iterator[None]:
        with store_errors(self.address, redis.RedisError):
            try:
                yield
            except redis.OutOfMemoryError as error:
                msg = (
                    f"{self.address} has no memory left: {error}; {STAYS}. What was loaded "
                    "of another version was removed. Raise maxmemory: while one is loaded "
                    "there is one more than `keep`."
                )
                raise OutOfMemoryError(msg) from error


def _commands(
    name: bytes, rows: pa.Table, about: SinkVersion
) -> Iterator[list[bytes | memoryview]]:
    """Encode a shard's rows as HSET commands of the wire protocol.

    By the block, this takes a quarter of the time of encoding them by the row.
    """
    step = COMMAND_ROWS * COMMANDS
    for start in range(0, len(rows), step):
        block = rows.slice(start, step)
        keys = key_bytes(block[about.key].combine_chunks())
        sizes = pc.binary_length(keys).cast(pa.large_string()).cast(pa.large_binary())
        value = b"\r\n$%d\r\n" % width(about)
        offsets, data = joined(
            b"$", sizes, b"\r\n", keys, value, pack(block, about), b"\r\n"
        )
        commands: list[bytes | memoryview] = []
        for first in range(0, len(block), COMMAND_ROWS):
            last = min(first + COMMAND_ROWS, len(block))
            words = 2 + 2 * (last - first)
            head = b"*%d\r\n$4\r\nHSET\r\n$%d\r\n%b\r\n" % (words, len(name), name)
            commands.append(head + data[offsets[first] : offsets[last]])
        yield commands


def _text(data: Any) -> str | None:
    return None if data is None else data.decode()


def _time(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)
