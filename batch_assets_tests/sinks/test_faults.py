"""A store that can't be reached is one clear error, which shows no password."""

import pytest

from batch_assets.errors import SinkError
from batch_assets.sinks.postgres import PostgresSink
from batch_assets.sinks.redis import RedisSink
from batch_assets.sinks.sync import sync_sink
from batch_assets_tests.servers import PASSWORD, free_port
from batch_assets_tests.stores import publish


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
