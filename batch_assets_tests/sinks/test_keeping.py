"""How many versions stay in a store."""

from typing import Any

import pytest

from batch_assets.errors import SinkError
from batch_assets.sinks import sync as following
from batch_assets.sinks.sync import sync_sink
from batch_assets_tests.stores import ROWS, must_be_equal, publish, stored_rows


def test_only_so_many_versions_stay_and_their_rows_go(store, snapshots, monkeypatch):
    monkeypatch.setattr(following, "READERS", following.READERS * 0)
    names = []
    for day in range(4):
        names.append(publish(snapshots, day))
        done = sync_sink(sink := store.open(), snapshots, keep=2)

    assert done.dropped == [names[1]]
    assert sorted(one.about.name for one in sink.stored_versions()) == names[2:]
    assert stored_rows(store, sink) == 2 * ROWS
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
    assert stored_rows(store, sink) == ROWS
