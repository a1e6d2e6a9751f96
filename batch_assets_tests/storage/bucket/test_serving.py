"""Versions in a bucket: forward only, whole, and read by other machines."""

from pathlib import Path

import pytest

from batch_assets import Snapshot
from batch_assets.errors import CommitError, SnapshotError
from batch_assets.models.registry import Registry
from batch_assets.snapshots.operations import pin, rollback, unblock, unpin, verify
from batch_assets.snapshots.store import SnapshotStore
from batch_assets.snapshots.version import Version
from batch_assets.storage import ObjectPath, fetch, local
from batch_assets.storage.bucket import BucketStore
from batch_assets_tests.in_bucket import NEXT_DAY, ROWS, flip, prepared, publish, score
from batch_assets_tests.toys import DAY, NAME, read_day, write_toy_release
from batch_assets_tests.waiting import until

pytestmark = pytest.mark.slow


def test_a_slow_publisher_can_not_undo_a_newer_one(root, ready, machine):
    def a_newer_one() -> None:
        machine("second")
        assert publish(root, day=NEXT_DAY).swapped

    slow = publish(root, day=DAY, guard=a_newer_one)

    assert not slow.swapped
    assert "is of a newer day" in slow.why
    assert SnapshotStore(root, NAME).current()[:10] == NEXT_DAY


def test_a_newer_publisher_is_not_stopped_by_an_older_one(root, ready, machine):
    calls = []

    def an_older_one() -> None:
        calls.append(1)
        if len(calls) == 1:
            machine("second")
            assert publish(root, day=DAY).swapped

    assert publish(root, day=NEXT_DAY, guard=an_older_one).swapped
    assert len(calls) == 2  # It asks again whether it may, before it tries again.
    assert SnapshotStore(root, NAME).current()[:10] == NEXT_DAY


def test_a_run_that_lost_its_day_can_not_publish(root, ready):
    def lost() -> None:
        msg = "taken over"
        raise CommitError(msg)

    with pytest.raises(CommitError):
        publish(root, guard=lost)
    assert SnapshotStore(root, NAME).current() is None


def test_a_version_is_looked_up_on_a_machine_that_has_never_seen_it(
    root, ready, machine
):
    version = publish(root).version
    machine("second")
    snapshot = Version.current(SnapshotStore(root, NAME))
    assert snapshot.name == version
    rows = read_day(ready, "predictions")
    for key, risk in zip(
        *(rows[c].to_pylist() for c in ("user_id", "risk")), strict=True
    ):
        assert snapshot.get(key).outputs["risk"] == risk
    assert snapshot.get(ROWS + 1) is None


def test_an_altered_version_is_refused(root, ready, machine):
    version = publish(root).version
    store = SnapshotStore(root, NAME)
    flip(store.folder / f"v={version}" / "shard=00.arrow")
    machine("second")
    with pytest.raises(SnapshotError, match="its manifest says"):
        Version.current(store).verify()


def test_a_version_that_was_altered_on_its_way_is_not_served(root, ready, monkeypatch):
    put_file = BucketStore.put_file

    def put_and_flip(store: BucketStore, local_path: Path, path: ObjectPath) -> None:
        put_file(store, local_path, path)
        if path.name == "shard=02.arrow":
            flip(path)

    monkeypatch.setattr(BucketStore, "put_file", put_and_flip)
    with pytest.raises(SnapshotError, match="shard=02.arrow"):
        publish(root)
    assert SnapshotStore(root, NAME).current() is None


def test_a_version_that_was_half_put_is_not_there_and_is_put_whole(
    root, ready, monkeypatch
):
    put_file = BucketStore.put_file

    def broken_off(store: BucketStore, local_path: Path, path: ObjectPath) -> None:
        if path.name == "shard=02.arrow":
            raise KeyboardInterrupt
        put_file(store, local_path, path)

    with monkeypatch.context() as patched:
        patched.setattr(BucketStore, "put_file", broken_off)
        with pytest.raises(KeyboardInterrupt):
            publish(root)
    store = SnapshotStore(root, NAME)
    assert (store.folder / "v=x").parent.is_dir()
    assert store.current() is None

    assert publish(root).swapped
    Version.current(store).verify()


def test_old_versions_are_collected(root, ready):
    publish(root)
    newer = publish(root, day=NEXT_DAY, keep=2).version
    rows = prepared(ready, Path(local(root)), day="2026-01-07", seed=7)
    score(ready, Registry(root).resolve(NAME), day="2026-01-07")
    newest = publish(root, day="2026-01-07", keep=2).version
    left = {p.name for p in SnapshotStore(root, NAME).folder.iterdir() if p.is_dir()}
    assert len(rows) == ROWS
    assert left == {f"v={newer}", f"v={newest}"}


def test_a_reader_follows_what_is_served_from_a_store(root, ready, machine):
    """Published by one machine, rolled back by another, read by a third."""
    first = publish(root).version
    machine("reader")
    store = SnapshotStore(root, NAME)
    with Snapshot(str(store), poll_seconds=0.05) as reader:
        assert reader.version == first
        machine("first")
        second = publish(root, day=NEXT_DAY).version
        until(lambda: reader.version == second)
        machine("operator")
        rollback(store, why="odd scores", by="ada")
        until(lambda: reader.version == first)
        pin(store, second, why="no, look at it", by="ada")
        until(lambda: reader.version == second)
        unpin(store, why="odd indeed", by="ada")
        until(lambda: reader.version == first)
        machine("first")
        assert not publish(root, day=NEXT_DAY).swapped
        unblock(store, why="it was fine", by="ada")
        assert publish(root, day=NEXT_DAY).swapped
        until(lambda: reader.version == second)
        assert reader.problem is None
        risk = read_day(ready, "predictions", NEXT_DAY)
        answers = reader.get_many(risk["user_id"].to_pylist())
    assert [a.outputs["risk"] for a in answers] == risk["risk"].to_pylist()
    assert [(a.act, a.by) for a in store.history()[0]][2:5] == [
        ("rollback", "ada"),
        ("pin", "ada"),
        ("unpin", "ada"),
    ]


@pytest.mark.parametrize("name", ["shard=01.arrow", "manifest.json"])
def test_a_reader_of_a_store_refuses_what_was_altered_and_takes_what_is_mended(
    root, ready, machine, name
):
    first = publish(root).version
    store = SnapshotStore(root, NAME)
    machine("reader")
    with Snapshot(store, poll_seconds=0.05) as reader:
        machine("first")
        second = publish(root, day=NEXT_DAY).version
        until(lambda: reader.version == second)
        machine("second reader")
        place = store.folder / f"v={second}" / name
        flip(place)
        with pytest.raises(SnapshotError, match=name):
            Snapshot(store)
        assert name in str({v.version: v.problem for v in verify(store)}[second])
        rollback(store, why="torn")
        with Snapshot(store) as other:
            assert other.version == first
        flip(place)
        rollback(store, why="not torn any more", to=second)
        with Snapshot(store) as other:
            assert other.version == second
        assert [one.problem for one in verify(store)] == [None, None]


def test_a_copy_that_was_altered_on_this_machine_is_copied_again(root, ready):
    version = publish(root).version
    store = SnapshotStore(root, NAME)
    Snapshot(store).close()
    here = local(store.folder) / f"v={version}" / "shard=01.arrow"
    data = bytearray(here.read_bytes())
    data[100] ^= 1
    here.chmod(0o644)
    here.write_bytes(data)

    with Snapshot(store) as reader:
        assert None not in reader.get_many(
            read_day(ready, "predictions")["user_id"].to_pylist()
        )
    assert here.read_bytes() != bytes(data)


def test_a_file_that_an_earlier_version_has_too_is_not_copied_again(
    root, ready, tmp_path, monkeypatch
):
    first = publish(root).version
    store = SnapshotStore(root, NAME)
    Snapshot(store).close()
    other = write_toy_release(tmp_path / "other", about={"author": "else"})
    Registry(root).add(other.folder)
    Registry(root).approve(NAME, other.digest, why="the tests need it", by="ada")
    score(ready, other)
    second = publish(root).version
    copied = []

    def watched(place: ObjectPath, here: Path) -> None:
        copied.append(place.name)
        fetch(place, here)

    monkeypatch.setattr("batch_assets.snapshots.fetch.fetch", watched)
    with Snapshot(store) as reader:
        assert reader.version == second != first
        assert reader.release.digest == other.digest
    assert copied == ["manifest.json"]
    assert len(store.versions()) == 2
