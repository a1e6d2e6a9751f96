"""A store goes to what is served, proved, or stays at what it served before."""

import contextlib
import threading
from typing import Any

import numpy as np
import pytest

from batch_assets.errors import SinkError, SnapshotError
from batch_assets.sinks import sync as following
from batch_assets.sinks.base import SinkVersion
from batch_assets.sinks.sync import prove, sync_sink
from batch_assets.snapshots.operations import pin, rollback, unblock, unpin
from batch_assets.snapshots.store import CURRENT, SnapshotStore
from batch_assets.snapshots.version import Version
from batch_assets_tests.stores import ROWS, SHARDS, must_be_equal, publish


@pytest.mark.parametrize("what", ["change", "lose", "add"])
def test_rows_that_were_changed_behind_are_never_swapped_in(store, snapshots, what):
    first = publish(snapshots)
    sync_sink(store.open(), snapshots, keep=2)
    second = publish(snapshots, day=1)
    sink = store.open()
    finish = sink.finish

    def spoiled(about: Any) -> Any:
        store.spoil(what, second, 1000)
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

    store.spoil("change", version, 1000)

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
