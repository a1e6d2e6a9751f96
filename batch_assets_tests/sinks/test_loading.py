"""Every store serves what is served on disk, bit for bit."""

import shutil
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from batch_assets.errors import NotServedError, SnapshotError
from batch_assets.sinks.sync import prove, serves_the_same, sync_sink
from batch_assets.snapshots.store import SnapshotStore
from batch_assets.snapshots.version import Version
from batch_assets_tests.killed_load import POINTS
from batch_assets_tests.stores import (
    ROWS,
    SHARDS,
    make_keys,
    make_outputs,
    must_be_equal,
    publish,
)


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
@pytest.mark.parametrize("kind", ["numbers", "rankings"])
@pytest.mark.parametrize("killed_at", POINTS)
def test_a_load_that_is_killed_changes_nothing_and_is_resumed(
    server_store, snapshots, killed_at, kind
):
    first = publish(snapshots, kind=kind)
    sync_sink(server_store.open(), snapshots, keep=2)
    second = publish(snapshots, day=1, kind=kind)

    arguments = [server_store.kind, server_store.url, server_store.name]
    child = subprocess.run(
        [
            *(sys.executable, "-m", "batch_assets_tests.killed_load"),
            *(*arguments, str(snapshots), killed_at),
        ],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=600,
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


@pytest.mark.parametrize("kind", ["numbers", "rankings"])
def test_two_loads_of_one_version_at_once_leave_it_whole(
    server_store, snapshots, tmp_path, kind
):
    publish(snapshots, kind=kind)
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
        thread.join(600)

    assert failed == []
    must_be_equal(server_store.open(), snapshots)
    prove(server_store.open(), Version.current(snapshots))


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
