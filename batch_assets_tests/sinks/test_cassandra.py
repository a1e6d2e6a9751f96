"""What Cassandra alone needs: small batches, a swap by comparison."""

import numpy as np
import pytest

from batch_assets.errors import SinkError
from batch_assets.sinks import cassandra as cassandra_module
from batch_assets.sinks.cassandra import BATCH_BYTES, PARTITION_ROWS
from batch_assets.sinks.sync import prove, sync_sink
from batch_assets.snapshots.store import SnapshotStore
from batch_assets.snapshots.version import Version
from batch_assets_tests.stores import (
    SHARDS,
    make_keys,
    make_outputs,
    must_be_equal,
    publish,
)


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
