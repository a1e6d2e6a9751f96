"""What must hold at any time: what is served is fresh, and the sinks follow it."""

from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
import redis

from batch_assets.alerts.alert import Alert
from batch_assets.alerts.conditions import CONDITIONS, Condition, Watched, look
from batch_assets.alerts.words import spoken
from batch_assets.sinks.redis import RedisSink
from batch_assets.sinks.sync import sync_sink
from batch_assets.snapshots.operations import pin, rollback, unpin
from batch_assets.snapshots.store import SnapshotStore
from batch_assets_tests.served import serve
from batch_assets_tests.servers import free_port
from batch_assets_tests.told import declared
from batch_assets_tests.toys import make_spec

pytestmark = pytest.mark.slow


@pytest.fixture
def store(root):
    return SnapshotStore(root, "toy")


@pytest.fixture
def sink(redis_here, monkeypatch):
    monkeypatch.setenv("REDIS_URL", redis_here.url)
    yield RedisSink(redis_here.url, "toy")
    with redis.Redis.from_url(redis_here.url) as client:
        client.flushdb()


def watched(root, now=None, opened=(), **changes):
    spec = make_spec(**{"alerts": declared("log").model_dump()} | changes)
    return Watched(spec, root, now or datetime.now(UTC), opened)


def look_at_sinks(*arguments, **changes):
    """What is served in these tests is as old as its number says: stale."""
    return look(watched(*arguments, **changes), CONDITIONS[1:])


def test_where_nothing_was_ever_served_nothing_is_stale(root):
    assert look(watched(root)) == ([], set())


def test_what_is_served_is_stale_from_its_own_limit_on(root, store):
    serve(store.folder, 1, np.arange(1, 11))
    manifest = store.manifest(store.must_serve())
    limit = manifest.created_at + manifest.stale_after

    assert look(watched(root, limit)) == ([], set())
    ((alert,), _) = look(watched(root, limit + timedelta(hours=5)))
    assert alert.kind == "snapshot_stale"
    assert alert.identity.day is None
    age = (manifest.stale_after + timedelta(hours=5)).total_seconds()
    assert alert.summary == (
        f"what is served is {spoken(age)} old, and stale from "
        f"{spoken(manifest.stale_after_seconds)} on"
    )
    assert alert.served.version == manifest.version
    assert alert.numbers["age"] == age


def test_the_next_command_runs_the_day_that_ended_last_in_the_pipelines_zone(
    root, store
):
    serve(store.folder, 1, np.arange(1, 11))
    at = datetime(2030, 1, 6, 23, 30, tzinfo=UTC)
    for changes, day in (
        ({}, "2030-01-05"),
        ({"timezone": "Asia/Tokyo"}, "2030-01-06"),
        ({"end_day": "2029-12-31"}, "2029-12-31"),
    ):
        ((alert,), _) = look(watched(root, at, **changes))
        assert alert.next_command == f"batch-assets run toy --day {day}"


def test_what_a_person_keeps_back_is_ended_by_a_person(root, store):
    serve(store.folder, 1, np.arange(1, 11))
    first = store.must_serve()
    serve(store.folder, 2, np.arange(1, 11))
    later = datetime.now(UTC) + timedelta(days=30)

    pin(store, first, why="to compare")
    ((alert,), _) = look(watched(root, later))
    assert alert.next_command == "batch-assets snapshot unpin toy --why …"
    assert f"readers are pinned to {first}" in alert.details

    unpin(store, why="compared")
    rollback(store, why="it is odd", until=later + timedelta(days=1), by="ada")
    ((alert,), _) = look(watched(root, later))
    assert alert.next_command == "batch-assets snapshot unblock toy --why …"
    assert "by ada: it is odd" in alert.details


def test_what_is_served_and_cannot_be_read_is_told_of(root, store):
    serve(store.folder, 1, np.arange(1, 11))
    (store.version_folder(store.must_serve()) / "manifest.json").unlink()

    ((alert,), _) = look(watched(root))
    assert (alert.kind, alert.served.version) == ("snapshot_stale", None)
    assert "has no readable" in alert.served.problem


def test_a_sink_may_be_behind_for_as_long_as_a_load_may_take(root, store, sink):
    serve(store.folder, 1, np.arange(1, 11))
    sync_sink(sink, store, keep=2)
    sinks = {"sinks": [{"kind": "redis"}]}
    assert look_at_sinks(root, **sinks) == ([], set())

    before = store.must_serve()
    serve(store.folder, 2, np.arange(1, 11))
    assert look_at_sinks(root, **sinks) == ([], set())
    late = datetime.now(UTC) + timedelta(minutes=61)
    ((alert,), _) = look_at_sinks(root, late, **sinks)
    assert (alert.kind, alert.subject) == ("sink_lags", "redis")
    assert f"serves {before}, here {store.must_serve()} is served" in alert.summary
    assert alert.next_command == "batch-assets sinks follow toy"
    assert alert.numbers["behind_seconds"] > 3_600

    # It is told of already, and not well: too early to be over.
    opened = (alert.identity,)
    assert look_at_sinks(root, opened=opened, **sinks)[1] == set()
    sync_sink(sink, store, keep=2)
    assert look_at_sinks(root, opened=opened, **sinks) == ([], {alert.identity})


def test_a_sink_that_is_down_is_told_of_and_the_other_is_looked_at(
    root, store, sink, monkeypatch
):
    serve(store.folder, 1, np.arange(1, 11))
    monkeypatch.setenv("GONE", f"redis://:hush-hush@127.0.0.1:{free_port()}/0")
    monkeypatch.delenv("UNSET", raising=False)
    sinks = [
        {"kind": "redis", "name": "gone", "url_env": "GONE"},
        {"kind": "redis", "name": "unset", "url_env": "UNSET"},
        {"kind": "redis"},
    ]
    late = datetime.now(UTC) + timedelta(minutes=61)
    alerts, _ = look_at_sinks(root, late, sinks=sinks)

    assert [alert.subject for alert in alerts] == ["gone", "unset", "redis"]
    assert alerts[0].summary.startswith("the sink can't be asked: ")
    assert "environment variable UNSET" in alerts[1].summary
    assert "hush-hush" not in str(alerts)


def test_one_more_condition_is_one_more_line_and_a_broken_one_stops_no_other(
    root, caplog
):
    def is_late(watched: Watched) -> list[Alert]:
        return [
            Alert("deadline_missed", watched.spec.name, "2026-01-05", "07:00", "late")
        ]

    def is_broken(watched: Watched) -> list[Alert]:
        raise ZeroDivisionError

    late = Condition(is_late, ("deadline_at_risk", "deadline_missed"))
    broken = Condition(is_broken, ("sink_lags",))
    at_risk = Alert("deadline_at_risk", "toy", "2026-01-05", "07:00", "soon").identity
    lags = Alert("sink_lags", "toy", None, "redis", "lags").identity
    shut = Alert("gate_shut", "toy", "2026-01-05", "a_gate", "shut").identity

    conditions = (broken, *CONDITIONS[:1], late)
    raised, over = look(watched(root, opened=(at_risk, lags, shut)), conditions)
    assert [alert.kind for alert in raised] == ["deadline_missed"]
    assert over == {at_risk}
    assert "nobody can tell about sink_lags" in caplog.text
