"""What Redis alone may do wrong."""

import pytest
import redis

from batch_assets.errors import SinkError
from batch_assets.sinks.redis import RedisSink
from batch_assets.sinks.sync import sync_sink
from batch_assets_tests.servers import redis_server
from batch_assets_tests.stores import must_be_equal, publish


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
