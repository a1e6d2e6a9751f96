"""A reader follows what is served, takes nothing that is not whole, and says so."""

import json
import logging
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from batch_assets import Snapshot
from batch_assets.errors import NotServedError, SnapshotError
from batch_assets.snapshots import shard
from batch_assets.snapshots.manifest import MANIFEST, SnapshotManifest
from batch_assets.snapshots.operations import pin, rollback, unpin
from batch_assets.snapshots.store import CURRENT, PIN, SnapshotStore
from batch_assets_tests.served import build, mixed, serve, set_current
from batch_assets_tests.waiting import until

KEYS = np.arange(1, 401)
SOON = 0.02
WHY = "the tests need it"


@pytest.fixture
def store(tmp_path: Path) -> SnapshotStore:
    """Two versions, the second served."""
    store = SnapshotStore(tmp_path, "toy")
    serve(store, 1, KEYS)
    serve(store, 2, KEYS)
    return store


@pytest.fixture
def reader(store: SnapshotStore) -> Iterator[Snapshot]:
    with Snapshot(store, poll_seconds=SOON) as snapshot:
        yield snapshot


def number_of(snapshot: Snapshot, key: int = 7) -> int:
    answer = snapshot.get(key)
    assert answer is not None
    assert answer.outputs["mixed"] == mixed(np.array([key]), answer.outputs["number"])
    return answer.outputs["number"]


def test_it_says_what_is_served(reader: Snapshot) -> None:
    answer = reader.get(7)

    assert answer is not None
    assert (answer.key, answer.outputs["number"]) == (7, 2)
    assert answer.version == reader.version
    assert reader.version.startswith("2026-01-03-")
    assert answer.day == reader.day == "2026-01-03"
    assert answer.release == reader.release == ("toy", f"{2:064x}")
    assert timedelta(0) < answer.age <= reader.age < timedelta(minutes=5)
    assert (reader.coverage, reader.is_stale, reader.problem) == (1.0, False, None)
    assert reader.get(0) is None


def test_staleness_and_coverage_are_those_of_the_version(tmp_path: Path) -> None:
    serve(tmp_path, 1, KEYS, age=timedelta(hours=2), raw_rows=500)

    with Snapshot(tmp_path) as snapshot:
        answer = snapshot.get(1)

    assert snapshot.is_stale
    assert answer is not None
    assert answer.is_stale
    assert snapshot.coverage == 0.8
    assert json.loads(json.dumps(answer.to_dict()))["age"] >= 7200


def test_it_follows_what_is_published(store: SnapshotStore, reader: Snapshot) -> None:
    assert number_of(reader) == 2

    serve(store, 3, KEYS)

    until(lambda: number_of(reader) == 3)
    assert reader.problem is None


def test_it_follows_a_rollback_and_a_pin_beats_it(
    store: SnapshotStore, reader: Snapshot
) -> None:
    third = serve(store, 3, KEYS).version
    until(lambda: number_of(reader) == 3)

    rollback(store, why=WHY)
    until(lambda: number_of(reader) == 2)

    pin(store, third, why=WHY)
    until(lambda: number_of(reader) == 3)

    unpin(store, why=WHY)
    until(lambda: number_of(reader) == 2)


def test_what_was_taken_from_it_stays_as_it_is(
    store: SnapshotStore, reader: Snapshot
) -> None:
    before = reader.opened

    serve(store, 3, KEYS)
    until(lambda: number_of(reader) == 3)

    answer = before.get(7)
    assert answer is not None
    assert answer.outputs["number"] == 2


def truncate(folder: Path, manifest: SnapshotManifest) -> None:
    path = folder / manifest.files[1].name
    path.chmod(0o644)
    os.truncate(path, manifest.files[1].size - 1)


def flip(folder: Path, manifest: SnapshotManifest, at: float = 0.5) -> None:
    overwrite(folder / manifest.files[1].name, at)


def overwrite(path: Path, at: float) -> None:
    data = bytearray(path.read_bytes())
    data[min(int(len(data) * at), len(data) - 1)] ^= 4
    path.chmod(0o644)
    path.unlink()
    path.write_bytes(data)


def lose(folder: Path, manifest: SnapshotManifest) -> None:
    (folder / manifest.files[1].name).unlink()


def swap_two(folder: Path, manifest: SnapshotManifest) -> None:
    one, two = (folder / file.name for file in manifest.files[:2])
    one.rename(folder / "other")
    two.rename(one)
    (folder / "other").rename(two)


def take_a_file_of_another(folder: Path, manifest: SnapshotManifest) -> None:
    other = SnapshotStore.at(folder.parent).version_folder(str(manifest.parent))
    (folder / manifest.files[0].name).unlink()
    shutil.copy(other / manifest.files[0].name, folder)


def take_the_manifest_of_another(folder: Path, manifest: SnapshotManifest) -> None:
    other = SnapshotStore.at(folder.parent).version_folder(str(manifest.parent))
    (folder / MANIFEST).unlink()
    shutil.copy(other / MANIFEST, folder)


def flip_the_manifest(folder: Path, manifest: SnapshotManifest) -> None:
    path = folder / MANIFEST
    text = path.read_text("utf-8")
    path.chmod(0o644)
    path.write_text(text.replace(f"{3:064x}", f"{2:064x}"), "utf-8")


def lose_the_manifest(folder: Path, manifest: SnapshotManifest) -> None:
    (folder / MANIFEST).unlink()


HARMS = [
    truncate,
    flip,
    lose,
    swap_two,
    take_a_file_of_another,
    take_the_manifest_of_another,
    flip_the_manifest,
    lose_the_manifest,
]


@pytest.mark.parametrize("harm", HARMS)
def test_a_version_that_is_not_whole_is_refused_and_the_last_good_one_answers(
    store: SnapshotStore,
    reader: Snapshot,
    caplog: pytest.LogCaptureFixture,
    harm: Callable[[Path, SnapshotManifest], None],
) -> None:
    good = reader.version
    bad = build(store, 3, KEYS)
    harm(store.version_folder(bad.version), bad)

    with caplog.at_level(logging.ERROR):
        set_current(store, bad.version + "\n")
        until(lambda: reader.problem)
        for _ in range(3):
            time.sleep(SOON)
            assert number_of(reader) == 2

    assert reader.version == good
    assert f"Lookups come from {good}, as before" in str(reader.problem)
    assert len(caplog.records) == 1
    with pytest.raises(SnapshotError):
        Snapshot(store)
    serve(store, 4, KEYS)
    until(lambda: number_of(reader) == 4)
    assert reader.problem is None


@pytest.mark.parametrize("name", [CURRENT, PIN])
@pytest.mark.parametrize(
    "data",
    [b"", b"\n", b"2026-01-09-0123456789ab\n", b"../toy\n", b"\xff\xfe\x00", b"v\n"],
)
def test_a_pointer_that_names_nothing_is_refused(
    store: SnapshotStore, reader: Snapshot, name: str, data: bytes
) -> None:
    (store.folder / "by-hand").write_bytes(data)
    (store.folder / "by-hand").replace(store.folder / name)

    until(lambda: reader.problem)

    assert number_of(reader) == 2
    with pytest.raises(SnapshotError):
        Snapshot(store)


def test_current_that_is_gone_is_a_problem_and_no_end(
    store: SnapshotStore, reader: Snapshot
) -> None:
    (store.folder / CURRENT).unlink()

    until(lambda: reader.problem)

    assert number_of(reader) == 2
    with pytest.raises(NotServedError, match="nothing is served"):
        Snapshot(store)


def test_a_pinned_version_that_is_gone_is_not_replaced_silently(
    store: SnapshotStore, reader: Snapshot
) -> None:
    first = store.manifest(reader.version).parent
    pin(store, str(first), why=WHY)
    until(lambda: number_of(reader) == 1)
    shutil.rmtree(store.version_folder(str(first)))
    serve(store, 3, KEYS)
    time.sleep(3 * SOON)

    # What is mapped outlives its file.
    assert number_of(reader) == 1
    with pytest.raises(SnapshotError, match=f"version {first} has no readable"):
        Snapshot(store)


def test_a_refused_version_that_is_mended_is_taken(
    store: SnapshotStore, reader: Snapshot
) -> None:
    bad = build(store, 3, KEYS)
    path = store.version_folder(bad.version) / bad.files[0].name
    whole = path.read_bytes()
    overwrite(path, 0.5)
    set_current(store, bad.version)
    until(lambda: reader.problem)

    path.write_bytes(whole)

    until(lambda: number_of(reader) == 3)
    assert reader.problem is None


def test_a_refused_version_is_not_hashed_at_each_look(
    store: SnapshotStore, reader: Snapshot, monkeypatch: pytest.MonkeyPatch
) -> None:
    tries = []
    admit = reader._admit

    def counted(version: str) -> Any:
        tries.append(version)
        return admit(version)

    monkeypatch.setattr(reader, "_admit", counted)
    set_current(store, "2026-01-09-0123456789ab")
    time.sleep(30 * SOON)

    assert 1 <= len(tries) <= 8


def test_an_error_of_any_kind_does_not_end_the_following(
    store: SnapshotStore, reader: Snapshot, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(version: str) -> Any:
        raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr(reader, "_admit", broken)
        serve(store, 3, KEYS)
        until(lambda: reader.problem)
        assert "MemoryError" in str(reader.problem)
        assert number_of(reader) == 2

    until(lambda: number_of(reader) == 3)


def test_a_version_that_is_removed_under_it_still_answers(
    store: SnapshotStore, reader: Snapshot
) -> None:
    shutil.rmtree(store.version_folder(reader.version))

    assert [number_of(reader, key) for key in KEYS] == [2] * len(KEYS)


def test_a_version_that_is_gone_before_it_was_opened_is_no_error(
    store: SnapshotStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where a night publishes, and collects, while a reader starts."""
    admit, tries = Snapshot._admit, []

    def late(snapshot: Snapshot, version: str) -> Any:
        if not tries:
            serve(store, 3, KEYS)
            shutil.rmtree(store.version_folder(version))
        tries.append(version)
        return admit(snapshot, version)

    monkeypatch.setattr(Snapshot, "_admit", late)
    with Snapshot(store) as snapshot:
        assert number_of(snapshot) == 3
    assert len(tries) == 2


def test_many_keys_come_from_one_version_in_their_order(
    store: SnapshotStore, reader: Snapshot
) -> None:
    asked = [7, 10**6, 400, 7, -1, 1, 2**70, "12", np.int64(3)]

    answers = reader.get_many(asked)

    assert answers == [reader.get(key) for key in asked]
    assert [a and a.outputs["number"] for a in answers] == [
        2, None, 2, 2, None, 2, None, 2, 2,
    ]  # fmt: skip
    assert reader.get_many([]) == []
    with pytest.raises(SnapshotError, match="is an integer, got 'x'"):
        reader.get_many([1, "x"])


def test_many_strings_come_as_one_by_one(tmp_path: Path) -> None:
    words = ["", "naïve", "a" * 70, "日本", *(f"user-{n}" for n in range(300))]
    risk = np.random.default_rng(0).random(len(words), dtype=np.float32)
    serve(tmp_path, 1, pa.array(words), outputs={"risk": risk})
    asked = [*words, "nobody", "\ud800", "user-1", "a" * 69]

    with Snapshot(tmp_path) as snapshot:
        answers = snapshot.get_many(asked)

        assert answers == [snapshot.get(word) for word in asked]
    assert [a and a.outputs["risk"] for a in answers] == [
        *risk.tolist(), None, None, float(risk[words.index("user-1")]), None,
    ]  # fmt: skip


@pytest.mark.parametrize("keys", [KEYS[:0], KEYS[:1]], ids=["none", "one"])
def test_shards_may_be_empty(tmp_path: Path, keys: np.ndarray) -> None:
    serve(tmp_path, 1, keys)

    with Snapshot(tmp_path) as snapshot:
        assert snapshot.manifest.rows == len(keys)
        found = [a is not None for a in snapshot.get_many(range(50))]
        assert found == [number in keys for number in range(50)]
        assert found == [snapshot.get(number) is not None for number in range(50)]
    assert snapshot.coverage == 1.0


def test_threads_never_see_two_versions_in_one_answer(
    store: SnapshotStore, reader: Snapshot
) -> None:
    over, wrong, seen = threading.Event(), [], set()

    def ask() -> None:
        while not over.is_set():
            answers = reader.get_many(KEYS[:50])
            numbers = {a.outputs["number"] for a in answers if a}
            seen.update(numbers)
            if len(numbers) != 1:
                wrong.append(numbers)
            number_of(reader)

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for number in range(3, 9):
        serve(store, number, KEYS)
        until(lambda number=number: number_of(reader) == number)
    over.set()
    for thread in threads:
        thread.join()

    assert not wrong
    assert len(seen) > 1


def test_a_closed_reader_follows_no_more_and_leaves_no_thread(
    store: SnapshotStore,
) -> None:
    snapshot = Snapshot(store, poll_seconds=SOON)
    snapshot.close()
    snapshot.close()

    serve(store, 3, KEYS)
    time.sleep(3 * SOON)

    assert number_of(snapshot) == 2
    assert "snapshot" not in [thread.name for thread in threading.enumerate()]
    assert snapshot.refresh()
    assert number_of(snapshot) == 3


def test_a_reader_that_nobody_holds_is_not_kept_by_its_thread(
    store: SnapshotStore,
) -> None:
    Snapshot(store, poll_seconds=SOON)

    until(lambda: "snapshot" not in [t.name for t in threading.enumerate()])


FORKED = """
import os, sys, time, warnings
from pathlib import Path
from batch_assets import Snapshot

warnings.filterwarnings("ignore", ".*multi-threaded.*", DeprecationWarning)
snapshot = Snapshot(Path(sys.argv[1]), poll_seconds=0.02)
before = snapshot.version
pid = os.fork()

def say(version):
    # In one write, whatever the buffering: two processes write into one pipe.
    os.write(1, f"{'child' if pid == 0 else 'parent'} {version}\\n".encode())

say(before)
end = time.monotonic() + 20
while snapshot.version == before and time.monotonic() < end:
    snapshot.get(7)
    time.sleep(0.01)
say(snapshot.version)
if pid:
    os.waitpid(pid, 0)
"""


def test_a_forked_process_goes_on_following(store: SnapshotStore) -> None:
    process = subprocess.Popen(
        [sys.executable, "-W", "error", "-c", FORKED, str(store)],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    began = {process.stdout.readline() for _ in range(2)}
    assert {line.split()[0] for line in began} == {"child", "parent"}

    version = serve(store, 3, KEYS).version
    rest, _ = process.communicate(timeout=60)

    assert sorted(rest.splitlines()) == [f"child {version}", f"parent {version}"]


READER = """
import sys
from pathlib import Path
from batch_assets import Snapshot

with Snapshot(sys.argv[1]) as snapshot:
    assert snapshot.get(7) is not None
    assert snapshot.get_many([7])[0] is not None
heavy = {"torch", "dagster", "deltalake", "duckdb", "polars"}
print(sorted(heavy & set(sys.modules)))
"""


def test_it_loads_neither_torch_nor_dagster(store: SnapshotStore) -> None:
    found = subprocess.run(
        [sys.executable, "-W", "error", "-c", READER, str(store)],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )

    assert (found.stdout, found.stderr) == ("[]\n", "")


def test_every_shard_is_a_map_of_its_file_and_not_a_copy(store: SnapshotStore) -> None:
    before = pa.total_allocated_bytes()

    with Snapshot(store) as snapshot:
        assert snapshot.get(7) is not None
        assert pa.total_allocated_bytes() - before == 0


@pytest.mark.parametrize("fences", [1, 2, 7, 64, 1 << 16])
@pytest.mark.parametrize("strings", [False, True], ids=["integers", "strings"])
def test_every_key_is_found_from_however_many_fences(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fences: int, strings: bool
) -> None:
    """Some keys are fences, some lie before the first and some behind the last."""
    monkeypatch.setattr(shard, "FENCES", fences)
    numbers = np.concatenate([KEYS * 3, [-(2**63), 2**63 - 1]])
    keys = pa.array([f"k{n}" for n in numbers.tolist()]) if strings else numbers
    outputs = {
        "risk": np.random.default_rng(1).random(len(numbers), dtype=np.float32),
        "rank": numbers,
        "share": numbers / 7,
    }
    serve(tmp_path, 1, keys, outputs=outputs)

    with Snapshot(tmp_path) as snapshot:
        asked = pa.array(keys).to_pylist()
        alone = [snapshot.get(key) for key in asked]
        assert [a and a.outputs["rank"] for a in alone] == numbers.tolist()
        assert snapshot.get_many(asked) == alone
        gaps = [f"x{n}" for n in range(50)] if strings else (KEYS * 3 + 1).tolist()
        assert [snapshot.get(key) for key in gaps] == [None] * len(gaps)
        assert snapshot.get_many(gaps) == [None] * len(gaps)
