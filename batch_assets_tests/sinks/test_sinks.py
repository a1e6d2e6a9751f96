"""Every remote store serves what is served on disk, or what it served before.

Redis and PostgreSQL are real servers. No Cassandra is to be had: its sink meets a
stand-in at the driver's session.
"""

import contextlib
import itertools
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psycopg
import pyarrow as pa
import pytest
import redis

from batch_assets.errors import NotServedError, SinkError, SnapshotError
from batch_assets.sinks import cassandra as cassandra_module
from batch_assets.sinks import postgres as postgres_module
from batch_assets.sinks import sync as following
from batch_assets.sinks.base import SinkVersion
from batch_assets.sinks.cassandra import (
    BATCH_BYTES,
    PARTITION_ROWS,
    CassandraSink,
)
from batch_assets.sinks.postgres import PostgresSink
from batch_assets.sinks.redis import RedisSink
from batch_assets.sinks.sync import prove, serves_the_same, sync_sink
from batch_assets.snapshots.operations import pin, rollback, unblock, unpin
from batch_assets.snapshots.store import CURRENT, SnapshotStore
from batch_assets.snapshots.version import Version
from batch_assets_tests.cassandra_stand_in import StandIn
from batch_assets_tests.killed_load import POINTS
from batch_assets_tests.served import serve
from batch_assets_tests.servers import (
    PASSWORD,
    free_port,
    redis_server,
)

ROWS, SHARDS = 600, 4
HUGE = [2**62 + 1, 2**53 + 1, 2**53 + 2, 2**63 - 1, -(2**63), 0, -1]
WORDS = ["", "0", "-1", "naïve", "a" * 300, "with space", "quote'\"\\", "tab\tline\r\n"]
TYPES = {"risk": "f4", "value": "f8", "band": "i4", "visits": "i8"}
_numbers = itertools.count()


@dataclass(frozen=True)
class Store:
    """A store with room of its own: how a sink opens it, and how somebody spoils it."""

    kind: str
    open: Callable[[], Any]
    run: Callable[[str, str, int], Any]  # what, version, key
    url: str = ""
    name: str = ""


@pytest.fixture(params=["redis", "postgres", "cassandra"])
def store(request: pytest.FixtureRequest) -> Iterator[Store]:
    yield from _store(request, request.param)


@pytest.fixture(params=["redis", "postgres"])
def server_store(request: pytest.FixtureRequest) -> Iterator[Store]:
    """Those that are reached over the network."""
    yield from _store(request, request.param)


def _store(request: pytest.FixtureRequest, kind: str) -> Iterator[Store]:
    name, opened = f"toy_{next(_numbers)}", []

    def keep(sink: Any) -> Any:
        opened.append(sink)
        return sink

    if kind == "cassandra":
        session = StandIn()

        def run(what: str, version: str, key: int) -> None:
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

        yield Store(
            kind, lambda: keep(CassandraSink(session, "ks", name, "stand-in")), run
        )
        session.shutdown()
        return
    server = request.getfixturevalue(f"{kind}_here")
    if kind == "redis":
        client = redis.Redis.from_url(server.url)

        def run(what: str, version: str, key: int) -> None:
            (at,) = [
                n
                for shard in range(SHARDS)
                if client.hexists(n := f"{name}:{version}:{shard}", str(key))
            ]
            data = client.hget(at, str(key))
            if what == "lose":
                client.hdel(at, str(key))
            elif what == "change":
                client.hset(at, str(key), bytes([data[0] ^ 1]) + data[1:])
            else:
                client.hset(at, "-12345", data)

        yield Store(
            kind, lambda: keep(RedisSink(server.url, name)), run, server.url, name
        )
        client.close()
    else:
        statements = {
            "lose": "DELETE FROM {} WHERE user_id = {}",
            "change": "UPDATE {} SET visits = visits # 1 WHERE user_id = {}",
            "add": "INSERT INTO {0} SELECT -12345, risk, value, band, visits FROM {0} "
            "WHERE user_id = {1}",
        }

        def run(what: str, version: str, key: int) -> None:
            table = f'"{name}".rows_{version.replace("-", "_")}'
            with psycopg.connect(server.url, autocommit=True) as connection:
                done = connection.execute(statements[what].format(table, key))
                assert done.rowcount == 1

        yield Store(
            kind, lambda: keep(PostgresSink(server.url, name)), run, server.url, name
        )
    for sink in opened:
        sink.close()


@pytest.fixture
def snapshots(tmp_path: Path) -> SnapshotStore:
    return SnapshotStore(tmp_path, "toy")


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


def publish(snapshots: SnapshotStore, day: int = 0, **how: Any) -> str:
    """The name of a version of that many days after the first, which is served then."""
    how = {"keys": make_keys(ROWS), "outputs": make_outputs(ROWS, seed=day)} | how
    return serve(snapshots, day, shards=SHARDS, **how).version


def bits(outputs: dict[str, Any]) -> bytes:
    types = {"risk": "f4", "value": "f8", "band": "i4", "visits": "i8"}
    return b"".join(np.array(v, types[n]).tobytes() for n, v in outputs.items())


def must_be_equal(sink: Any, snapshots: SnapshotStore) -> None:
    here = Version.current(snapshots)
    for number in range(SHARDS):
        for key in here.shard(number).table[here.manifest.key].to_pylist():
            ours, theirs = here.get(key), sink.get(key)
            assert ours is not None
            assert theirs is not None, key
            assert (theirs.key, theirs.manifest) == (ours.key, ours.manifest)
            # Bits tell -0.0 from 0.0; numbers, a float32 from its shortest text.
            assert bits(theirs.outputs) == bits(ours.outputs)
            assert theirs.outputs == ours.outputs
            types = [type(value) for value in ours.outputs.values()]
            assert [type(value) for value in theirs.outputs.values()] == types


@pytest.mark.parametrize("key_dtype", ["int64", "string"])
def test_a_store_serves_what_is_served_bit_for_bit(store, snapshots, key_dtype):
    publish(snapshots, keys=make_keys(ROWS, key_dtype))
    sink = store.open()

    done = sync_sink(sink, snapshots, keep=2)

    assert (done.swapped, done.loaded_shards, done.rows) == (True, SHARDS, ROWS)
    must_be_equal(store.open(), snapshots)
    assert serves_the_same(sink, snapshots).passed
    if key_dtype == "string":
        missing, wrong, said = ["user-", "A", "\0", "\ud800"], 5, "is a string, got 5"
    else:
        missing, wrong, said = [1, 2**63, -(2**70)], 1.5, "is an integer, got 1.5"
        assert sink.get("1000").key == 1000
    assert [sink.get(key) for key in missing] == [None] * len(missing)
    with pytest.raises(SnapshotError, match=said):
        sink.get(wrong)


def test_a_store_without_a_version_says_so(store, snapshots):
    publish(snapshots)

    assert (store.open().current(), store.open().stored_versions()) == (None, [])
    assert not serves_the_same(store.open(), snapshots).passed
    if store.kind != "cassandra":  # There, not even the tables are.
        with pytest.raises(NotServedError, match="serves nothing: load a version"):
            store.open().get(1)


def test_what_is_served_already_is_not_loaded_again(store, snapshots):
    publish(snapshots)
    sync_sink(store.open(), snapshots, keep=2)

    done = sync_sink(store.open(), snapshots, keep=2)

    assert (done.swapped, done.loaded_shards) == (False, 0)
    assert "already" in done.why


def test_an_empty_shard_and_an_empty_version_are_served(store, snapshots):
    publish(snapshots, keys=pa.array([5]), outputs=make_outputs(1))
    sync_sink(store.open(), snapshots, keep=2)
    must_be_equal(store.open(), snapshots)

    empty = pa.array([], pa.int64())
    publish(snapshots, day=1, keys=empty, outputs=make_outputs(0))
    assert sync_sink(store.open(), snapshots, keep=2).swapped
    assert store.open().get(5) is None


@pytest.mark.slow
@pytest.mark.parametrize("killed_at", POINTS)
def test_a_load_that_is_killed_changes_nothing_and_is_resumed(
    server_store, snapshots, killed_at
):
    first = publish(snapshots)
    sync_sink(server_store.open(), snapshots, keep=2)
    second = publish(snapshots, day=1)

    arguments = [server_store.kind, server_store.url, server_store.name]
    child = subprocess.run(
        [
            *(sys.executable, "-m", "batch_assets_tests.killed_load"),
            *(*arguments, str(snapshots), killed_at),
        ],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert child.returncode == -9, child.stderr
    reader = server_store.open()
    assert (reader.current(), reader.get(1000).version) == (first, first)
    done = sync_sink(server_store.open(), snapshots, keep=2)
    left = {"first_rows": 4, "third_shards_rows": 2, "third_record": 2}
    assert (done.swapped, done.loaded_shards) == (True, left.get(killed_at, 0))
    assert done.version == second
    must_be_equal(reader, snapshots)


@pytest.mark.parametrize("what", ["change", "lose", "add"])
def test_rows_that_were_changed_behind_are_never_swapped_in(store, snapshots, what):
    first = publish(snapshots)
    sync_sink(store.open(), snapshots, keep=2)
    second = publish(snapshots, day=1)
    sink = store.open()
    finish = sink.finish

    def spoiled(about: Any) -> Any:
        store.run(what, second, 1000)
        return finish(about)

    sink.finish = spoiled
    with pytest.raises(SinkError, match="other rows .* that differ: .*Load it again"):
        sync_sink(sink, snapshots, keep=2)

    assert store.open().get(1000).version == first
    assert [one.about.name for one in store.open().stored_versions()] == [first]
    assert sync_sink(store.open(), snapshots, keep=2).loaded_shards == SHARDS
    must_be_equal(store.open(), snapshots)


def test_what_a_store_serves_can_be_proved_again(store, snapshots):
    version = publish(snapshots)
    sync_sink(sink := store.open(), snapshots, keep=2)
    prove(sink, Version.current(snapshots))

    store.run("change", version, 1000)

    with pytest.raises(SinkError, match="other rows"):
        prove(sink, Version.current(snapshots))


def test_a_rollback_takes_the_stores_back_without_a_load(store, snapshots):
    first = publish(snapshots)
    sync_sink(store.open(), snapshots, keep=2)
    second = publish(snapshots, day=1)
    sync_sink(store.open(), snapshots, keep=2)

    rollback(snapshots, to=first, why="the second is wrong", by="ada")
    done = sync_sink(sink := store.open(), snapshots, keep=2)

    assert (done.version, done.swapped, done.loaded_shards) == (first, True, 0)
    must_be_equal(sink, snapshots)
    unblock(snapshots, why="it was right", by="ada")
    snapshots.overwrite(CURRENT, second)
    assert sync_sink(store.open(), snapshots, keep=2).loaded_shards == 0
    assert sink.get(1000).version == second


def test_a_pin_goes_back_and_an_unpin_forward(store, snapshots):
    first = publish(snapshots)
    sync_sink(store.open(), snapshots, keep=2)
    second = publish(snapshots, day=1)
    sync_sink(sink := store.open(), snapshots, keep=2)

    pin(snapshots, first, why="to compare", by="ada")
    sync_sink(sink, snapshots, keep=2)
    assert sink.get(1000).version == first
    unpin(snapshots, why="compared", by="ada")
    sync_sink(sink, snapshots, keep=2)
    assert sink.get(1000).version == second


def test_a_store_never_goes_back_by_itself(store, snapshots, tmp_path):
    """Another root, which has never heard of the newer version, loads into the store."""
    older = SnapshotStore.at(tmp_path / "elsewhere" / "toy")
    first = publish(older)
    second = publish(snapshots, day=1)
    sync_sink(sink := store.open(), snapshots, keep=2)

    with pytest.raises(SinkError, match=f"{second} is served.*newer than {first}"):
        sync_sink(store.open(), older, keep=2)
    assert [one.about.name for one in sink.stored_versions()] == [
        second
    ]  # Nothing was loaded.

    sync_sink(store.open(), older, keep=2, back=True)
    assert sink.get(1000).version == first


def test_of_two_loaders_the_slow_one_does_not_undo_the_other(
    store, snapshots, tmp_path
):
    older = SnapshotStore.at(tmp_path / "elsewhere" / "toy")
    publish(older)
    second = publish(snapshots, day=1)
    slow, finish = store.open(), None
    finish = slow.finish

    def overtaken(about: Any) -> Any:
        sync_sink(store.open(), snapshots, keep=2)
        return finish(about)

    slow.finish = overtaken
    with pytest.raises(SinkError, match="is served, which is newer"):
        sync_sink(slow, older, keep=2)

    assert store.open().get(1000).version == second


def test_a_load_that_a_rollback_overtakes_does_not_undo_it(store, snapshots):
    first = publish(snapshots)
    sync_sink(store.open(), snapshots, keep=2)
    publish(snapshots, day=1)
    slow = store.open()
    finish = slow.finish

    def overtaken(about: Any) -> Any:
        rollback(snapshots, to=first, why="the second is wrong", by="ada")
        assert not sync_sink(store.open(), snapshots, keep=2).swapped
        return finish(about)

    slow.finish = overtaken
    with pytest.raises(SinkError, match="is not served here any more"):
        sync_sink(slow, snapshots, keep=2)

    assert store.open().get(1000).version == first


def test_a_version_that_is_half_there_is_never_swapped_in(store, snapshots):
    publish(snapshots)
    here = Version.current(snapshots)
    about = SinkVersion.of(here)
    sink = store.open()
    sink.begin(about)
    for shard in range(SHARDS - 1):
        expected = following._expected(here, shard)
        sink.load(about, shard, here.shard(shard).table, expected)

    with pytest.raises(SinkError, match="has 3 of 4 shards loaded.*Load it again"):
        sink.swap(about, back=True)
    assert store.open().current() is None


def test_of_many_swaps_at_once_the_newest_stays(server_store, snapshots):
    loaded = []
    for day in range(5):
        publish(snapshots, day)
        sync_sink(server_store.open(), snapshots, keep=9)
        loaded.append(SinkVersion.of(Version.current(snapshots)))
    judge, sinks = server_store.open(), [server_store.open() for _ in loaded]

    def swap(sink: Any, about: SinkVersion, ready: threading.Barrier) -> None:
        ready.wait(30)
        with contextlib.suppress(SinkError):
            sink.swap(about, back=False)

    for _ in range(20):
        judge.swap(loaded[0], back=True)
        ready = threading.Barrier(len(loaded))
        threads = [
            threading.Thread(target=swap, args=(*pair, ready))
            for pair in zip(sinks, loaded, strict=True)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        assert judge.current() == loaded[-1].name


def test_a_run_that_may_not_publish_any_more_does_not_swap(store, snapshots):
    publish(snapshots)

    def guard() -> None:
        msg = "the run is over"
        raise SnapshotError(msg)

    with pytest.raises(SnapshotError, match="the run is over"):
        sync_sink(sink := store.open(), snapshots, keep=2, guard=guard)
    assert sink.current() is None


def test_two_loads_of_one_version_at_once_leave_it_whole(
    server_store, snapshots, tmp_path
):
    publish(snapshots)
    elsewhere = tmp_path / "elsewhere" / "toy"
    shutil.copytree(snapshots.folder, elsewhere)
    sinks, ready = [server_store.open(), server_store.open()], threading.Barrier(2)
    failed: list[Exception] = []

    def run(sink: Any, folder: SnapshotStore) -> None:
        begin = sink.begin

        def together(about: Any) -> Any:
            records = begin(about)
            ready.wait(30)
            return records

        sink.begin = together
        try:
            sync_sink(sink, folder, keep=2)
        except Exception as error:  # noqa: BLE001 - told by the assertion below
            failed.append(error)

    both = zip(sinks, (snapshots, SnapshotStore.at(elsewhere)), strict=True)
    threads = [threading.Thread(target=run, args=pair) for pair in both]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)

    assert failed == []
    must_be_equal(server_store.open(), snapshots)
    prove(server_store.open(), Version.current(snapshots))


def test_only_so_many_versions_stay_and_their_rows_go(store, snapshots, monkeypatch):
    monkeypatch.setattr(following, "READERS", following.READERS * 0)
    names = []
    for day in range(4):
        names.append(publish(snapshots, day))
        done = sync_sink(sink := store.open(), snapshots, keep=2)

    assert done.dropped == [names[1]]
    assert sorted(one.about.name for one in sink.stored_versions()) == names[2:]
    assert _stored_rows(store, sink) == 2 * ROWS
    with pytest.raises(SinkError, match="is served, so it was not dropped"):
        sink.drop(names[3])
    must_be_equal(sink, snapshots)


def test_a_version_that_was_served_a_moment_ago_stays(store, snapshots):
    for day in range(3):
        publish(snapshots, day)
        done = sync_sink(sink := store.open(), snapshots, keep=2)

    assert done.dropped == []
    assert len(sink.stored_versions()) == 3


def test_a_load_that_was_given_up_is_removed_by_a_newer_one(
    store, snapshots, monkeypatch
):
    publish(snapshots)
    half = store.open()

    def lost(about: Any) -> None:
        msg = "the connection is lost"
        raise SinkError(msg)

    half.finish = lost
    with pytest.raises(SinkError, match="connection is lost"):
        sync_sink(half, snapshots, keep=2)
    second = publish(snapshots, day=1)
    assert sync_sink(store.open(), snapshots, keep=2).dropped == []
    monkeypatch.setattr(following, "GIVEN_UP", following.GIVEN_UP * 0)

    sync_sink(sink := store.open(), snapshots, keep=2)

    assert [one.about.name for one in sink.stored_versions()] == [second]
    assert _stored_rows(store, sink) == ROWS


def _stored_rows(store: Store, sink: Any) -> int:
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


def test_an_answer_is_of_one_version_while_they_are_swapped(store, snapshots):
    """Two versions in turn; all outputs of a version are one number."""
    names = {}
    for number in (0, 1):
        outputs = {f"o{n}": np.full(ROWS, number, "f4") for n in range(4)}
        name = publish(snapshots, number, outputs=outputs)
        names[name] = float(number)
        sync_sink(store.open(), snapshots, keep=2)
    wrong: list[Any] = []
    seen, stop = set(), threading.Event()

    def read() -> None:
        sink = store.open()
        while not stop.is_set():
            answer = sink.get(1000)
            seen.add(answer and answer.version)
            if answer is None or set(answer.outputs.values()) != {
                names[answer.version]
            }:
                wrong.append(answer)

    readers = [threading.Thread(target=read) for _ in range(2)]
    for reader in readers:
        reader.start()
    writer = store.open()
    for turn in range(30):
        snapshots.overwrite(CURRENT, list(names)[turn % 2])
        sync_sink(writer, snapshots, keep=2, back=True)
    stop.set()
    for reader in readers:
        reader.join(30)

    assert wrong == []
    assert seen == set(names)


def test_a_file_that_was_altered_is_not_loaded(store, snapshots):
    version = publish(snapshots)
    path = snapshots.version_folder(version) / "shard=02.arrow"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))

    with pytest.raises(SnapshotError, match=r"shard=02\.arrow hashes to"):
        sync_sink(sink := store.open(), snapshots, keep=2)
    assert sink.current() is None


def test_another_release_may_have_other_outputs(store, snapshots):
    publish(snapshots)
    sync_sink(sink := store.open(), snapshots, keep=2)
    sink.get(1000)
    outputs = {"band": make_outputs(ROWS)["value"], "more": make_outputs(ROWS)["risk"]}
    publish(snapshots, day=1, outputs=outputs)

    sync_sink(store.open(), snapshots, keep=2)

    here = Version.current(snapshots).get(1000)
    assert sink.get(1000).outputs == here.outputs


def test_a_server_that_is_not_there_is_one_clear_error(snapshots):
    publish(snapshots)
    port = free_port()
    for sink in (
        RedisSink(f"redis://:{PASSWORD}@127.0.0.1:{port}/0", "toy"),
        PostgresSink(f"postgresql://owner:{PASSWORD}@127.0.0.1:{port}/postgres", "toy"),
    ):
        with pytest.raises(
            SinkError, match=f"127.0.0.1:{port}.* can't be used"
        ) as told:
            sync_sink(sink, snapshots, keep=2)
        assert PASSWORD not in str(told.value) + sink.address


def test_a_wrong_password_is_one_clear_error(server_store, snapshots):
    publish(snapshots)
    wrong = server_store.url.replace(PASSWORD, "n0t-it")
    sink = {"redis": RedisSink, "postgres": PostgresSink}[server_store.kind](wrong, "t")

    with pytest.raises(SinkError, match="can't be used.*still serves") as told:
        sync_sink(sink, snapshots, keep=2)
    assert "n0t-it" not in str(told.value)


@pytest.mark.parametrize(
    ("sink", "text"),
    [
        (RedisSink, "http://user:s3cret@host"),
        (RedisSink, "redis://user:pass@host:s3cret/0"),
        (PostgresSink, "user s3cret"),
        (PostgresSink, "postgresql://owner@host:port/db?s3cret"),
    ],
)
def test_an_address_that_is_none_is_not_shown(sink, text):
    with pytest.raises(SinkError, match="that is no ") as told:
        sink(text, "toy").current()
    assert "s3cret" not in str(told.value)


def test_a_redis_without_memory_keeps_what_it_serves(snapshots):
    first = publish(snapshots)
    with redis_server() as server:
        sync_sink(sink := RedisSink(server.url, "toy"), snapshots, keep=2)
        client = redis.Redis.from_url(server.url)
        client.config_set("maxmemory", client.info("memory")["used_memory"] + 20_000)
        publish(snapshots, day=1)

        with pytest.raises(SinkError, match="no memory left.*Raise maxmemory"):
            sync_sink(sink, snapshots, keep=2)

        assert sink.get(1000).version == first
        assert sink.current() == first
        # Memory that others may need: what was loaded is gone.
        assert [one.about.name for one in sink.stored_versions()] == [first]
        client.config_set("maxmemory", 0)
        assert sync_sink(sink, snapshots, keep=2).swapped
        must_be_equal(sink, snapshots)
        sink.close()
        client.close()


def test_a_pointer_to_a_version_that_is_not_there_is_one_clear_error(
    redis_here, snapshots
):
    publish(snapshots)
    sync_sink(sink := RedisSink(redis_here.url, "lost"), snapshots, keep=2)
    sink._redis.delete("lost:versions")

    with pytest.raises(SinkError, match="names .*, which is not there"):
        RedisSink(redis_here.url, "lost").get(1000)
    sink.close()


def test_a_redis_that_may_drop_rows_is_refused(snapshots):
    publish(snapshots)
    settings = ("--maxmemory", "100mb", "--maxmemory-policy", "allkeys-lru")
    with redis_server(*settings) as server:
        sink = RedisSink(server.url, "toy")
        with pytest.raises(
            SinkError, match="allkeys-lru: it may drop rows.*noeviction"
        ):
            sync_sink(sink, snapshots, keep=2)
        assert sink.stored_versions() == []
        sink.close()


@pytest.fixture
def in_postgres(request: pytest.FixtureRequest) -> Iterator[Store]:
    yield from _store(request, "postgres")


def test_a_transaction_that_stays_open_stops_the_swap_and_no_reader(
    in_postgres, snapshots, monkeypatch
):
    monkeypatch.setattr(postgres_module, "LOCK_TRIES", 1)
    first = publish(snapshots)
    sync_sink(sink := in_postgres.open(), snapshots, keep=2)
    publish(snapshots, day=1)
    with psycopg.connect(in_postgres.url) as analyst:
        analyst.execute(f"SELECT count(*) FROM {in_postgres.name}.current")
        with pytest.raises(SinkError, match="open .*pg_stat_activity"):
            sync_sink(in_postgres.open(), snapshots, keep=2)
        began = time.monotonic()
        assert sink.get(1000).version == first
        assert time.monotonic() - began < 1

    assert sync_sink(in_postgres.open(), snapshots, keep=2).loaded_shards == 0
    must_be_equal(sink, snapshots)


def test_who_may_read_the_view_may_read_the_next_one(in_postgres, snapshots):
    publish(snapshots)
    sync_sink(in_postgres.open(), snapshots, keep=2)
    name = in_postgres.name
    with psycopg.connect(in_postgres.url, autocommit=True) as owner:
        owner.execute(f"CREATE ROLE reader_of_{name}")
        owner.execute(f"GRANT USAGE ON SCHEMA {name} TO reader_of_{name}")
        owner.execute(f"GRANT SELECT ON {name}.current TO reader_of_{name}")
    outputs = {"other": make_outputs(ROWS)["risk"]}
    second = publish(snapshots, day=1, outputs=outputs)

    sync_sink(in_postgres.open(), snapshots, keep=2)

    with psycopg.connect(in_postgres.url) as reader:
        reader.execute(f"SET ROLE reader_of_{name}")
        found = reader.execute(
            f"SELECT served_version, day::text, model_name, model_version "
            f"FROM {name}.current WHERE user_id = 1000"
        ).fetchall()
        assert found == [(second, "2026-01-02", "toy", f"{1:064x}")]
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            reader.execute(f"SELECT * FROM {name}.versions")


def test_a_connection_that_the_server_ends_is_opened_again(in_postgres, snapshots):
    publish(snapshots)
    sync_sink(sink := in_postgres.open(), snapshots, keep=2)
    with psycopg.connect(in_postgres.url, autocommit=True) as owner:
        owner.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE pid <> pg_backend_pid() AND backend_type = 'client backend'"
        )
    with pytest.raises(SinkError, match="can't be used"):
        sink.get(1000)

    assert sink.get(1000) is not None


@pytest.fixture
def in_cassandra(request: pytest.FixtureRequest) -> Iterator[Store]:
    yield from _store(request, "cassandra")


def test_batches_are_small_of_one_partition_and_few_at_once(
    in_cassandra, snapshots, monkeypatch
):
    monkeypatch.setattr(cassandra_module, "IN_FLIGHT", 4)
    count = 5_000
    publish(snapshots, keys=make_keys(count), outputs=make_outputs(count))
    sink = in_cassandra.open()
    session = sink._session

    sync_sink(sink, snapshots, keep=2)

    # The stand-in has refused any batch over several partitions.
    rows = [rows for _, rows, _ in session.batches]
    assert sum(rows) == count
    assert np.mean(rows) > 20
    assert max(size for *_, size in session.batches) < 1.2 * BATCH_BYTES
    assert 1 < session.most_in_flight <= 4
    stored = session.tables[sink._tables["rows"]].rows
    sizes = np.unique([bucket for _, bucket, _ in stored], return_counts=True)[1]
    assert max(sizes) < 1.5 * PARTITION_ROWS


def test_a_load_that_fails_on_its_way_is_resumed(in_cassandra, snapshots):
    first = publish(snapshots)
    sync_sink(sink := in_cassandra.open(), snapshots, keep=2)
    publish(snapshots, day=1)
    version = Version.current(snapshots).name

    recorded = 0
    for writes in (0, 1, 3, 5, 6):
        sink._session.writes_left = writes
        with pytest.raises(SinkError, match="can't be used: .*still serves"):
            sync_sink(in_cassandra.open(), snapshots, keep=2)
        assert sink.get(1000).version == first
        # What was recorded once stays: each try begins where the last one ended.
        found = len(sink._records(version))
        assert found >= recorded
        recorded = found
    sink._session.writes_left = None
    done = sync_sink(in_cassandra.open(), snapshots, keep=2)

    assert 0 < recorded < SHARDS
    assert done.loaded_shards == SHARDS - recorded
    must_be_equal(sink, snapshots)


def test_a_row_in_another_bucket_is_noticed(in_cassandra, snapshots):
    publish(snapshots, keys=make_keys(5_000), outputs=make_outputs(5_000))
    sink = in_cassandra.open()
    sync_sink(sink, snapshots, keep=2)
    rows = sink._session.tables[sink._tables["rows"]].rows
    version, bucket, key = next(iter(rows))

    moved = rows.pop((version, bucket, key)) | {"bucket": (bucket + SHARDS) % 28}
    rows[version, moved["bucket"], key] = moved

    with pytest.raises(SinkError, match=f"differ: {bucket % SHARDS}$"):
        prove(sink, Version.current(snapshots))


def test_a_swap_that_another_one_comes_before_is_judged_again(
    in_cassandra, snapshots, tmp_path
):
    older = SnapshotStore.at(tmp_path / "elsewhere" / "toy")
    publish(older)
    second = publish(snapshots, day=1)
    slow = in_cassandra.open()

    def overtake() -> None:
        slow._session.before_swap = lambda: None
        pointer = slow._session.tables[slow._tables["pointer"]].rows
        pointer[("current",)] = {"name": "current", "version": second}

    fast = in_cassandra.open()
    fast.swap = lambda about, back: None  # Loaded and proved, and about to swap.
    sync_sink(fast, snapshots, keep=2)
    slow._session.before_swap = overtake

    with pytest.raises(SinkError, match="is served, which is newer"):
        sync_sink(slow, older, keep=2)
    assert slow.current() == second
