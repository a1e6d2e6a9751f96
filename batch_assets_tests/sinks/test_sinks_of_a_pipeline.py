"""Sinks as a pipeline has them: declared in the YAML, followed by nights and operators."""

import json
import sys

import dagster as dg
import psycopg
import pytest
import redis
from click.testing import CliRunner

from batch_assets.cli.main import main
from batch_assets.errors import ConfigError, SnapshotError
from batch_assets.lake.stages import stage_metrics
from batch_assets.sinks.declared import SINKS, declare_sinks, declared_sinks
from batch_assets.sinks.factory import open_sink
from batch_assets.sinks.redis import RedisSink
from batch_assets.snapshots.store import SnapshotStore
from batch_assets.spec import CassandraTarget, PostgresTarget, RedisTarget
from batch_assets_tests.projects import attributes, make_project, metadata_of
from batch_assets_tests.servers import PASSWORD, free_port
from batch_assets_tests.toys import make_rows, write_source

pytestmark = pytest.mark.slow

FIRST, SECOND = "2026-01-05", "2026-01-06"
SINKS_OF_IT = [
    {"kind": "redis", "url_env": "TOY_REDIS"},
    {"kind": "postgres", "dsn_env": "TOY_POSTGRES", "db_schema": "toys"},
]


@pytest.fixture
def project(tmp_path, root, registry, monkeypatch, redis_here, postgres_here):
    monkeypatch.setenv("TOY_REDIS", redis_here.url)
    monkeypatch.setenv("TOY_POSTGRES", postgres_here.url)
    folder = tmp_path / "project"
    project = make_project(folder, root, monkeypatch, [attributes(sinks=SINKS_OF_IT)])
    for number, day in enumerate((FIRST, SECOND)):
        write_source(folder, make_rows(500, seed=number), day=day)
    yield project
    with redis.Redis.from_url(redis_here.url) as client:
        client.flushdb()
    with psycopg.connect(postgres_here.url, autocommit=True) as connection:
        connection.execute("DROP SCHEMA IF EXISTS toys CASCADE")


@pytest.fixture
def on():
    with dg.instance_for_test() as instance:
        yield instance


def cli(*arguments, code=0):
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == code, result.output
    return result.output


def test_a_night_ends_in_every_sink_and_a_rollback_takes_all_back(project, on):
    assert project.run("toy", FIRST, on).success
    result = project.run("toy", SECOND, on)
    assert result.success

    snapshots = project.snapshots("toy")
    served = snapshots.served()
    kept = stage_metrics(project.lake("toy"), SECOND, SECOND)
    rows = {one.stage: one.rows for one in kept if one.seconds > 0}
    for sink in ("redis", "postgres"):
        facts = metadata_of(result, f"{sink}_snapshot")
        assert (rows[f"{sink}_snapshot"], facts["rows_per_second"] > 0) == (500, True)
        assert (facts["served_version"], facts["served_rows"]) == (served, 500)
        assert (facts["swapped"], facts["loaded_shards"]) == (True, 4)
        assert PASSWORD not in json.dumps(facts)
    checks = {e.check_name: e.passed for e in result.get_asset_check_evaluations()}
    assert checks["redis_serves_the_snapshot"]
    assert checks["postgres_serves_the_snapshot"]
    assert PASSWORD not in (snapshots.folder / SINKS).read_text("utf-8")

    cli("sinks", "verify", "toy")
    out = cli("snapshot", "rollback", "toy", "--why", "the second is wrong")
    first = snapshots.served()
    assert first != served
    assert f"redis: serves {first}, swapped in" in out
    assert f"postgres: serves {first}, swapped in" in out
    found = json.loads(cli("sinks", "list", "toy", "--json"))
    assert found["served_here"] == first
    there = {(s["sink"], s["version"]) for s in found["sinks"] if s["served"]}
    assert there == {("redis", first), ("postgres", first)}
    assert len(found["sinks"]) == 4

    assert "is served, so it was not dropped" in cli(
        "sinks", "drop", "toy", first, code=1
    )
    assert f"postgres: {served} is not there" in cli("sinks", "drop", "toy", served)
    assert len(json.loads(cli("sinks", "list", "toy", "--json"))["sinks"]) == 2

    # The next night does not undo it.
    assert project.run("toy", SECOND, on).success
    assert snapshots.served() == first
    cli("sinks", "list", "toy")


def test_a_sink_that_is_down_fails_alone_and_catches_up(project, on, monkeypatch):
    assert project.run("toy", FIRST, on).success
    nowhere = f"redis://127.0.0.1:{free_port()}/0"
    with monkeypatch.context() as patch:
        patch.setenv("TOY_REDIS", nowhere)
        result = project.run("toy", SECOND, on)
    assert not result.success

    served = project.snapshots("toy").served()
    assert served.startswith(SECOND)
    assert metadata_of(result, "postgres_snapshot")["served_version"] == served
    cli("sinks", "list", "toy", code=1)
    assert cli("sinks", "follow", "toy").startswith(f"redis: serves {served}")
    cli("sinks", "list", "toy")

    # A rollback says what is left to do.
    with monkeypatch.context() as patch:
        patch.setenv("TOY_REDIS", nowhere)
        out = cli("snapshot", "rollback", "toy", "--why", "wrong", code=1)
    assert f"postgres: serves {FIRST}" in out
    assert "try again with: batch-assets sinks follow toy" in out

    # And the next night does it, without anybody's doing.
    result = project.materialize("toy", ["redis_snapshot"], SECOND, on)
    assert result.success
    assert metadata_of(result, "redis_snapshot")["served_version"].startswith(FIRST)


def test_what_is_not_set_or_not_installed_is_one_clear_error(monkeypatch):
    monkeypatch.delenv("REDIS_URL", raising=False)
    target = RedisTarget(kind="redis")
    with pytest.raises(ConfigError, match="'redis' needs the environment variable RED"):
        open_sink(target, "toy")

    monkeypatch.setenv("CASSANDRA_USER", "ada")
    cassandra = CassandraTarget(
        kind="cassandra", hosts=["127.0.0.1"], data_center="dc1", keyspace="ks"
    )
    with pytest.raises(ConfigError, match="CASSANDRA_PASSWORD"):
        open_sink(cassandra, "toy")

    monkeypatch.setitem(sys.modules, "psycopg", None)
    monkeypatch.delitem(sys.modules, "batch_assets.sinks.postgres", False)
    with pytest.raises(ConfigError, match=r"pip install 'batch-assets\[postgres\]'"):
        open_sink(PostgresTarget(kind="postgres"), "toy")


def test_a_cassandra_that_is_not_there_is_one_clear_error(monkeypatch, caplog):
    monkeypatch.delenv("CASSANDRA_USER", raising=False)
    target = CassandraTarget(
        kind="cassandra",
        hosts=["127.0.0.1"],
        port=free_port(),
        data_center="dc1",
        keyspace="ks",
    )
    with pytest.raises(SnapshotError, match="cassandra://127.0.0.1:.* can't be used"):
        open_sink(target, "toy")
    assert "the sink 'cassandra' is experimental: " in caplog.text


def test_a_list_of_sinks_that_is_torn_is_one_clear_error(tmp_path):
    assert declared_sinks(SnapshotStore.at(tmp_path)) == []
    declare_sinks(SnapshotStore.at(tmp_path), [RedisTarget(kind="redis")])
    assert declared_sinks(SnapshotStore.at(tmp_path)) == [RedisTarget(kind="redis")]
    (tmp_path / SINKS).write_text("[{", encoding="utf-8")

    with pytest.raises(SnapshotError, match="The next night writes it again"):
        declared_sinks(SnapshotStore.at(tmp_path))


def test_the_sink_of_the_yaml_is_the_one_that_is_opened(redis_here, monkeypatch):
    monkeypatch.setenv("REDIS_URL", redis_here.url)
    named = open_sink(RedisTarget(kind="redis", prefix="other"), "toy")
    plain = open_sink(RedisTarget(kind="redis"), "toy")

    assert isinstance(plain, RedisSink)
    assert (named.address[-6:], plain.address[-4:]) == (" other", " toy")
