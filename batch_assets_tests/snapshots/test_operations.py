"""An operator's acts hold against the nights, take no time, and are all recorded."""

import json
import os
import shutil
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from batch_assets.errors import NotServedError, SnapshotError
from batch_assets.snapshots import operations, publish
from batch_assets.snapshots.history import new_entry
from batch_assets.snapshots.manifest import MANIFEST
from batch_assets.snapshots.operations import (
    BLOCK_FOR,
    Done,
    pin,
    rollback,
    unblock,
    unpin,
    verify,
)
from batch_assets.snapshots.retention import collect
from batch_assets.snapshots.store import BLOCKED, CURRENT, HISTORY, PIN, SnapshotStore
from batch_assets.snapshots.version import Version
from batch_assets.storage import REMOVING
from batch_assets_tests.served import build, serve, set_current

KEYS = np.arange(1, 101)
WHY = "half of Norway has risk 0"


@pytest.fixture
def store(tmp_path: Path) -> SnapshotStore:
    """Three versions, the third served."""
    store = SnapshotStore(tmp_path, "toy")
    for number in (1, 2, 3):
        serve(store, number, KEYS)
    return store


def names(store: SnapshotStore) -> list[str]:
    return [manifest.version for manifest in store.versions()]


def move_on(store: SnapshotStore, monkeypatch: pytest.MonkeyPatch, **by: float) -> None:
    """Let it be later, as far as blocks are concerned."""
    block = store.block()
    assert block is not None
    earlier = block.model_copy(update={"until": block.until - timedelta(**by)})
    (store.folder / BLOCKED).write_text(earlier.model_dump_json(), "utf-8")


def test_a_rollback_serves_what_was_served_before(store: SnapshotStore) -> None:
    first, second, third = names(store)

    done = rollback(store, why=WHY, by="ada")

    assert store.current() == second == done.served
    assert Version.current(store).get(1).outputs["number"] == 2  # type: ignore[union-attr]
    again = rollback(store, why=WHY)
    assert again.served == first
    with pytest.raises(
        SnapshotError, match="nothing is known to have been served before .*--to"
    ):
        rollback(store, why=WHY)
    assert rollback(store, why="it was fine", to=third).served == third


def test_after_a_rollback_no_night_publishes_until_it_is_unblocked(
    store: SnapshotStore,
) -> None:
    _, second, _ = names(store)
    rollback(store, why=WHY, by="ada")

    held = serve(store, 4, KEYS).version

    assert store.current() == second
    assert held in names(store)
    assert store.history()[0][-1].act == "held"
    unblock(store, why="the source is mended")
    assert serve(store, 5, KEYS).version == store.current()


def test_a_block_ends_by_itself_when_it_was_said_to(
    store: SnapshotStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    until = datetime.now(UTC) + timedelta(hours=2)
    done = rollback(store, why=WHY, until=until)
    assert done.block is not None
    assert (done.block.until, done.entry.until) == (until, until)

    move_on(store, monkeypatch, hours=1)
    serve(store, 4, KEYS)
    assert store.current() == names(store)[1]

    move_on(store, monkeypatch, hours=1.1)
    assert serve(store, 5, KEYS).version == store.current()


def test_it_blocks_for_a_day_if_nobody_says(store: SnapshotStore) -> None:
    block = rollback(store, why=WHY).block

    assert block is not None
    assert timedelta(0) <= BLOCK_FOR - (block.until - block.at) < timedelta(seconds=1)
    assert timedelta(hours=24) == BLOCK_FOR


def test_what_was_taken_back_stays_out_even_when_the_block_is_over(
    store: SnapshotStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A retry of that night must not undo the operator either."""
    _, second, third = names(store)
    rollback(store, why=WHY, by="ada")
    move_on(store, monkeypatch, hours=25)
    assert store.block() is None

    swapped, why = swap(store, third)

    assert not swapped
    assert f"{third} was rolled back by ada at " in why
    assert WHY in why
    assert store.current() == second
    unblock(store, why="it was fine after all")
    assert swap(store, third) == (True, "published")


def swap(store: SnapshotStore, version: str) -> tuple[bool, str]:
    with store.lock():
        return publish.swap(store, version, "the tests need it", lambda: None)


def test_a_version_that_an_operator_went_back_to_is_not_taken_back(
    store: SnapshotStore,
) -> None:
    _, _, third = names(store)
    rollback(store, why=WHY)
    rollback(store, why="it was fine", to=third)
    (store.folder / BLOCKED).unlink()
    (store.folder / CURRENT).unlink()

    assert swap(store, third) == (True, "published")


def test_a_block_that_can_not_be_read_blocks(store: SnapshotStore) -> None:
    rollback(store, why=WHY)
    (store.folder / BLOCKED).write_text('{"at": ', "utf-8")

    serve(store, 4, KEYS)

    assert store.current() == names(store)[1]
    assert "can't be read" in str(store.block())
    unblock(store, why="it was torn")
    assert serve(store, 5, KEYS).version == store.current()


def test_a_pin_beats_what_is_published(store: SnapshotStore) -> None:
    first, *_ = names(store)
    done = pin(store, first, why="an experiment runs", by="ada")

    published = serve(store, 4, KEYS).version

    assert done.served == first == store.served()
    assert store.current() == published
    assert Version.current(store).name == first
    assert unpin(store, why="it is over").served == published
    assert not (store.folder / PIN).exists()


ACTS: list[tuple[str, Callable[..., Done], dict[str, Any]]] = [
    ("rollback", rollback, {}),
    ("pin", pin, {"version": "first"}),
    ("unpin", unpin, {}),
    ("unblock", unblock, {}),
]


def test_every_act_is_recorded_with_who_and_why(store: SnapshotStore) -> None:
    first, second, third = names(store)

    done = [
        act(store, why=f"{name} it", by=f"{name}er", **{k: first for k in more})
        for name, act, more in ACTS
    ]

    acts, unreadable = store.history()
    assert not unreadable
    assert acts[-4:] == [one.entry for one in done]
    assert [(a.act, a.by, a.why) for a in acts] == [
        *[("publish", acts[0].by, "the tests need it")] * 3,
        *((name, f"{name}er", f"{name} it") for name, *_ in ACTS),
    ]
    assert [(a.version, a.before) for a in acts] == [
        (first, None),
        (second, first),
        (third, second),
        (second, third),
        (first, None),
        (second, first),
        (third, None),
    ]
    assert acts[0].by
    times = [a.at for a in acts]
    assert times == sorted(times)


@pytest.mark.parametrize(("name", "act", "more"), ACTS)
@pytest.mark.parametrize("why", ["", "  \n"])
def test_an_act_without_a_reason_is_none(
    store: SnapshotStore,
    name: str,
    act: Callable[..., Done],
    more: dict[str, Any],
    why: str,
) -> None:
    first, *_ = names(store)
    pin(store, first, why=WHY)
    rollback(store, why=WHY)
    before = state(store)

    with pytest.raises(SnapshotError, match=f"to {name} takes a reason"):
        act(store, why=why, **{key: first for key in more})

    assert state(store) == before


def state(store: SnapshotStore) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in store.folder.iterdir() if p.is_file()}


@pytest.mark.parametrize(
    ("act", "said"),
    [
        (lambda f: rollback(f, why=WHY, to="2026-01-09-x"), "there is no version 2026"),
        (lambda f: rollback(f, why=WHY, to="../toy"), "is not the name of a version"),
        (lambda f: rollback(f, why=WHY, to=names(f)[2]), "is the current version"),
        (lambda f: rollback(f, why=WHY, until=datetime.now(UTC)), "later than now"),
        (
            lambda f: rollback(f, why=WHY, until=datetime(2999, 1, 1)),
            "with a timezone",
        ),
        (lambda f: pin(f, "2026-01-09-x", why=WHY), "there: 2026-01-02"),
        (lambda f: unpin(f, why=WHY), "nothing is pinned"),
        (lambda f: unblock(f, why=WHY), "publishing is not blocked"),
    ],
)
def test_a_mistake_changes_nothing(
    store: SnapshotStore, act: Callable[[SnapshotStore], Done], said: str
) -> None:
    before = state(store)

    with pytest.raises(SnapshotError, match=said):
        act(store)

    assert state(store) == before


def test_where_nothing_is_served_there_is_nothing_to_take_back(tmp_path: Path) -> None:
    with pytest.raises(NotServedError, match="no such folder"):
        rollback(SnapshotStore.at(tmp_path / "none"), why=WHY)
    with pytest.raises(NotServedError, match="nothing to take back"):
        rollback(SnapshotStore.at(tmp_path), why=WHY)


@pytest.mark.parametrize("act", [lambda f, v: rollback(f, why=WHY, to=v), None])
def test_a_version_with_a_file_less_is_not_served(
    store: SnapshotStore, act: Any
) -> None:
    act = act or (lambda f, v: pin(f, v, why=WHY))
    first, *_ = names(store)
    manifest = store.versions()[0]
    path = store.version_folder(first) / manifest.files[2].name
    path.chmod(0o644)
    os.truncate(path, 10)
    before = state(store)

    with pytest.raises(SnapshotError, match="has 10 bytes.* can't be served"):
        act(store, first)
    path.unlink()
    with pytest.raises(SnapshotError, match=r"shard=02\.arrow is missing"):
        act(store, first)

    assert state(store) == before


def test_an_operator_gets_out_of_a_current_that_names_nothing(
    store: SnapshotStore,
) -> None:
    first, *_ = names(store)
    set_current(store, "")

    with pytest.raises(SnapshotError, match="CURRENT is empty"):
        rollback(store, why=WHY)

    assert rollback(store, why=WHY, to=first).served == first


def test_an_operator_gets_out_of_a_current_whose_manifest_is_gone(
    store: SnapshotStore,
) -> None:
    _, second, third = names(store)
    (store.version_folder(third) / MANIFEST).unlink()

    assert rollback(store, why=WHY).served == second


def test_a_version_of_which_nothing_is_known_is_left_by_naming_another(
    store: SnapshotStore,
) -> None:
    _, second, third = names(store)
    (store.version_folder(third) / MANIFEST).unlink()
    (store.folder / HISTORY).unlink()

    with pytest.raises(SnapshotError, match=f"Name a version with --to: .*{second}"):
        rollback(store, why=WHY)

    assert rollback(store, why=WHY, to=second).served == second


def test_an_operator_does_not_wait_for_a_night_that_is_building(
    store: SnapshotStore,
) -> None:
    import filelock

    with filelock.FileLock(store.folder / ".publishing"):
        began = time.monotonic()
        rollback(store, why=WHY)
        assert time.monotonic() - began < 30  # It would wait for good.


def test_the_time_of_an_act_does_not_depend_on_the_size(
    store: SnapshotStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No row file is opened at all; only manifests are read."""
    opened: list[str] = []
    real = Path.open

    def watched(path: Path, *arguments: Any, **more: Any) -> Any:
        opened.append(path.name)
        return real(path, *arguments, **more)

    monkeypatch.setattr(Path, "open", watched)
    first, *_ = names(store)

    rollback(store, why=WHY)
    pin(store, first, why=WHY)
    unpin(store, why=WHY)
    unblock(store, why=WHY)

    assert opened
    assert not [name for name in opened if name.endswith(".arrow")]


def test_verify_names_what_is_wrong_with_each_version(store: SnapshotStore) -> None:
    first, second, third = names(store)
    path = store.version_folder(second) / "shard=03.arrow"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.chmod(0o644)
    path.write_bytes(data)
    shutil.rmtree(store.version_folder(first))
    pin_at = store.folder / PIN
    pin_at.write_text(first, "utf-8")

    found = {one.version: one.problem for one in verify(store)}

    assert found[third] is None
    assert "shard=03.arrow hashes to" in str(found[second])
    assert "has no readable" in str(found[first])
    assert [one.version for one in verify(store, third)] == [third]


def test_a_line_that_can_not_be_read_is_told_and_stops_publishing(
    store: SnapshotStore,
) -> None:
    rollback(store, why=WHY)
    unblock(store, why=WHY)
    path = store.folder / HISTORY
    lines = path.read_text("utf-8").splitlines()
    path.write_text("\n".join([lines[0], lines[1][:20], *lines[2:]]), "utf-8")

    acts, unreadable = store.history()

    assert (len(acts), unreadable) == (4, [2])
    before = store.current()
    serve(store, 4, KEYS)
    assert store.current() == before
    assert "lines [2] can't be read" in store.history()[0][-1].why


def test_a_torn_last_line_does_not_spoil_the_next(store: SnapshotStore) -> None:
    path = store.folder / HISTORY
    path.write_bytes(path.read_bytes() + b'{"at": "2026')

    store.record(new_entry("pin", "v", why=WHY))

    acts, unreadable = store.history()
    assert (acts[-1].act, unreadable) == ("pin", [4])


def test_collection_spares_what_is_served_its_parent_and_the_young(
    tmp_path: Path,
) -> None:
    old = timedelta(hours=3)
    for number in range(1, 9):
        serve(tmp_path, number, KEYS, age=old - timedelta(seconds=number))
    every = names(SnapshotStore.at(tmp_path))
    pin(SnapshotStore.at(tmp_path), every[2], why=WHY)
    rollback(SnapshotStore.at(tmp_path), why=WHY, to=every[4])
    young = build(tmp_path, 20, KEYS).version

    removed = collect(SnapshotStore.at(tmp_path), keep=2, keep_for=timedelta(hours=1))

    # 3 is pinned, 5 current, 2 and 4 were before them; 8 and the young are the newest.
    assert removed == [every[0], every[5], every[6]]
    assert names(SnapshotStore.at(tmp_path)) == [*every[1:5], every[7], young]
    assert [
        a.version for a in SnapshotStore.at(tmp_path).history()[0] if a.act == "collect"
    ] == removed
    assert [one.problem for one in verify(SnapshotStore.at(tmp_path))] == [None] * 6


def test_collection_leaves_the_young_alone(tmp_path: Path) -> None:
    for number in range(1, 9):
        serve(tmp_path, number, KEYS, age=timedelta(minutes=59 - number))

    assert (
        collect(SnapshotStore.at(tmp_path), keep=2, keep_for=timedelta(hours=1)) == []
    )
    assert (
        len(collect(SnapshotStore.at(tmp_path), keep=2, keep_for=timedelta(minutes=30)))
        == 6
    )


@pytest.mark.parametrize("name", [CURRENT, PIN])
def test_collection_removes_nothing_while_what_is_served_can_not_be_read(
    store: SnapshotStore, name: str
) -> None:
    (store.folder / name).write_text("2026-01-09-x", "utf-8")

    assert collect(store, keep=1, keep_for=timedelta(0)) == []
    assert len(names(store)) == 3


def test_collection_takes_folders_that_are_no_versions_when_they_are_old(
    store: SnapshotStore,
) -> None:
    torn = store.folder / "v=2026-01-01-torn"
    torn.mkdir()
    (torn / "shard=00.arrow").write_bytes(b"half")
    assert collect(store, keep=7, keep_for=timedelta(hours=1)) == []
    assert torn.exists()
    before = time.time() - 7200
    os.utime(torn / "shard=00.arrow", (before, before))

    assert collect(store, keep=7, keep_for=timedelta(hours=1)) == ["2026-01-01-torn"]
    assert not torn.exists()


def test_a_collector_that_was_killed_is_made_up_for(store: SnapshotStore) -> None:
    left = store.folder / f"{REMOVING}2026-01-01-x"
    left.mkdir()

    collect(store, keep=7, keep_for=timedelta(0))

    assert not left.exists()


def test_shards_that_did_not_change_are_links(tmp_path: Path) -> None:
    outputs = {"risk": np.linspace(0, 1, len(KEYS), dtype=np.float32)}
    first = serve(tmp_path, 1, KEYS, outputs=outputs)
    changed = outputs["risk"].copy()
    changed[0] = 0.5

    second = serve(tmp_path, 2, KEYS, outputs={"risk": changed})
    third = serve(tmp_path, 3, KEYS, outputs={"risk": changed})

    def inodes(version: str) -> list[int]:
        files = sorted(
            SnapshotStore.at(tmp_path).version_folder(version).glob("*.arrow")
        )
        return [file.stat().st_ino for file in files]

    one, two, three = (inodes(m.version) for m in (first, second, third))
    differ = [a != b for a, b in zip(one, two, strict=True)]
    assert sum(differ) == 1
    assert [f.linked_from for f in second.files] == [
        None if d else first.version for d in differ
    ]
    assert three == two
    assert [f.linked_from for f in third.files] == [
        second.version if d else first.version for d in differ
    ]
    assert [f.linked_from for f in first.files] == [None] * 4
    Version.open(tmp_path, third.version).verify()
    shutil.rmtree(SnapshotStore.at(tmp_path).version_folder(first.version))
    Version.open(tmp_path, third.version).verify()


def test_a_file_with_a_flipped_bit_is_built_and_not_linked(tmp_path: Path) -> None:
    outputs = {"risk": np.linspace(0, 1, len(KEYS), dtype=np.float32)}
    first = serve(tmp_path, 1, KEYS, outputs=outputs)
    path = SnapshotStore.at(tmp_path).version_folder(first.version) / "shard=02.arrow"
    data = bytearray(path.read_bytes())
    data[-300] ^= 1
    path.chmod(0o644)
    path.write_bytes(data)

    second = serve(tmp_path, 2, KEYS, outputs=outputs)

    assert [f.linked_from is None for f in second.files] == [False, False, True, False]
    Version.open(tmp_path, second.version).verify()
    assert verify(SnapshotStore.at(tmp_path), first.version)[0].problem


@pytest.mark.parametrize("change", ["key", "outputs", "shards"])
def test_a_file_of_another_form_is_not_linked(tmp_path: Path, change: str) -> None:
    risk = np.linspace(0, 1, len(KEYS), dtype=np.float32)
    serve(tmp_path, 1, KEYS, outputs={"risk": risk})
    shards = 2 if change == "shards" else 4
    keys = KEYS + 1 if change == "key" else KEYS
    name = "chance" if change == "outputs" else "risk"

    second = serve(tmp_path, 2, keys, outputs={name: risk}, shards=shards)

    assert [f.linked_from for f in second.files] == [None] * shards
    assert json.loads(
        (
            SnapshotStore.at(tmp_path).version_folder(second.version) / MANIFEST
        ).read_text()
    )


def test_the_history_outlives_what_it_tells_of(store: SnapshotStore) -> None:
    assert len(store.history()[0]) == 3
    assert store.pinned() is None
    assert operations.rollback(store, why=WHY).entry.before == names(store)[2]
