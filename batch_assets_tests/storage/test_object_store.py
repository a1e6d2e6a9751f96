"""All of `<root>` in an S3 bucket: nights, releases, claims and what is served.

The server is a real one. What holds on a disk (a whole day or none, kill anything, bytes
by digest) is tried again here where a store does it by other means.
"""

import json
import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import dagster as dg
import numpy as np
import pyarrow as pa
import pytest
from click.testing import CliRunner

from batch_assets import Snapshot
from batch_assets.cli.main import main
from batch_assets.errors import (
    ClaimedError,
    CommitError,
    CorruptPartError,
    SnapshotError,
    StorageError,
    TamperedReleaseError,
)
from batch_assets.lake import claims
from batch_assets.lake.claims import claimed
from batch_assets.lake.parts import open_part, read_columns, read_open, sealed_part
from batch_assets.lake.tables import Lake, Table
from batch_assets.models.registry import Registry
from batch_assets.models.release import Release
from batch_assets.scoring.device import find_device
from batch_assets.scoring.engines.local import LocalEngine
from batch_assets.scoring.night import Night, score_night
from batch_assets.snapshots.history import entries_of
from batch_assets.snapshots.manifest import versions
from batch_assets.snapshots.operations import pin, rollback, unblock, unpin, verify
from batch_assets.snapshots.pointers import current_version
from batch_assets.snapshots.publish import publish_day
from batch_assets.snapshots.version import Version
from batch_assets.spec import Gates, Serving
from batch_assets.storage import (
    ObjectPath,
    Ranges,
    fetch,
    local,
    put_new,
    read_seen,
    replace,
    storage_path,
)
from batch_assets.storage.bucket import BucketStore
from batch_assets_tests.assets.test_nights import errors_of
from batch_assets_tests.lake.test_tables import SCHEMA, commit, write_part
from batch_assets_tests.projects import attributes, make_project, metadata_of
from batch_assets_tests.scoring.test_replay import GATES, broken, replay, write_mendable
from batch_assets_tests.seaweed import BUCKET, Server, object_store
from batch_assets_tests.toys import (
    DAY,
    NAME,
    copy_rows,
    make_rows,
    pin_rows,
    read_day,
    validate,
    write_source,
    write_toy_release,
)

pytestmark = pytest.mark.slow

NEXT_DAY = "2026-01-06"
ROWS = 1_000
TABLES = (
    "raw_features",
    "validated_features",
    "quarantined_rows",
    "predictions",
    "dead_letters",
)


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with object_store(tmp_path_factory.mktemp("store")) as started:
        yield started


@pytest.fixture
def machine(tmp_path, monkeypatch) -> Callable[[str], None]:
    """Go on as another machine: with nothing copied down, and no lock of the first."""

    def become(name: str) -> None:
        monkeypatch.setenv("BATCH_ASSETS_CACHE", str(tmp_path / "machines" / name))
        monkeypatch.setattr(socket, "gethostname", lambda: name)

    return become


@pytest.fixture
def root(server, machine, tmp_path, monkeypatch) -> ObjectPath:
    """A prefix of the bucket for each test, in place of the folder of the others."""
    for name, value in server.environment.items():
        monkeypatch.setenv(name, value)
    machine("first")
    url = f"s3://{BUCKET}/{tmp_path.parent.name}/{tmp_path.name}"
    monkeypatch.setenv("BATCH_ASSETS_ROOT", url)
    return storage_path(url)


def flip(place: ObjectPath, at: int = 100) -> None:
    """Change one bit of an object."""
    data = bytearray(place.read_bytes())
    data[at] ^= 1
    assert replace(place, bytes(data), seen=read_seen(place))


def prepared(lake: Lake, tmp_path: Path, *, day: str = DAY, **changes: Any) -> pa.Table:
    """A validated day; gives its raw rows."""
    rows = make_rows(ROWS, **changes)
    copy_rows(lake, rows, day=day, project=tmp_path / "project")
    validate(lake, day=day)
    return rows


def score(lake: Lake, release: Release, *, day: str = DAY, **changes: Any) -> Night:
    arguments = {"chunk_rows": 200, "precision": "float32", "gates": GATES} | changes
    engine = LocalEngine(find_device("cpu"), workers=2)
    return score_night(lake, release, day, engine, **arguments)


def publish(root: ObjectPath, *, day: str = DAY, **changes: Any) -> Any:
    return publish_day(
        Lake(root, NAME),
        Registry(root),
        root / "snapshots" / NAME,
        day,
        gates=Gates(max_dead_letter_share=0.1),
        serving=Serving(keep=changes.pop("keep", 7), keep_minutes=0),
        **changes,
    )


@pytest.fixture
def ready(lake: Lake, registry: Registry, tmp_path: Path, toy_release: Release) -> Lake:
    """Two scored days, of which none is published."""
    for seed, day in enumerate((DAY, NEXT_DAY)):
        prepared(lake, tmp_path, day=day, seed=seed)
        score(lake, registry.resolve(NAME), day=day)
    return lake


# The night.


def test_nights_through_dagster_leave_the_parts_of_nights_on_disk(
    root, toy_release, tmp_path, monkeypatch
):
    """To the byte; with rows in quarantine, and a night that builds on another."""
    gates = {"max_quarantine_share": 0.1, "min_coverage": 0.9}
    project = make_project(
        tmp_path / "project",
        root,
        monkeypatch,
        [attributes(incremental=True, gates=gates)],
    )
    rows = make_rows(ROWS)
    ages = np.minimum(rows["age"].to_numpy(), 119)
    for day in (DAY, NEXT_DAY):
        ages[::97] = 130  # Too old: it waits in quarantine.
        rows = rows.set_column(1, rows.schema.field("age"), pa.array(ages, pa.int16()))
        write_source(project.folder, rows, day=day)
        ages[:100] = 50
    found = {}
    for where in (root, tmp_path / "disk"):
        monkeypatch.setenv("BATCH_ASSETS_ROOT", str(where))
        registry, lake = Registry(where), Lake(where, NAME)
        registry.add(toy_release.folder)
        registry.approve(NAME, toy_release.digest, why="the tests need it", by="ada")
        with dg.instance_for_test() as instance:
            nights = [project.run(NAME, day, instance) for day in (DAY, NEXT_DAY)]
        assert all(night.success for night in nights), errors_of(nights[-1])
        snapshot = Version.current(where / "snapshots" / NAME)
        keys = rows["user_id"].to_pylist()[:50]
        found[where] = {
            "carried": metadata_of(nights[1], "predictions")["carried_rows"],
            "quarantined": lake.books(DAY).total.quarantined.rows,
            "version": snapshot.name,
            "answers": [a and a.outputs for a in map(snapshot.get, keys)],
            **{
                f"{table} {day}": [
                    (part.path.name, part.size, part.sha256)
                    for part in getattr(lake, table).parts(day)
                ]
                for table in TABLES
                for day in (DAY, NEXT_DAY)
            },
        }

    on_store, on_disk = found.values()
    assert on_store == on_disk
    assert on_store["carried"] > 500
    assert on_store["quarantined"] > 5
    assert on_store[f"predictions {NEXT_DAY}"]


@pytest.mark.engines
@pytest.mark.parametrize("engine", ["ray", "spark"])
def test_an_engine_leaves_in_a_bucket_what_one_machine_leaves(
    root, registry, tmp_path, monkeypatch, engine
):
    """Validated and scored there, with rows in quarantine; a worker needs the bucket alone."""
    gates = {"max_quarantine_share": 0.1, "min_coverage": 0.9}
    pipelines = [attributes(name, gates=gates) for name in (NAME, "alone")]
    make_project(tmp_path / "project", root, monkeypatch, pipelines)
    monkeypatch.delenv("DAGSTER_HOME", raising=False)
    rows = make_rows(ROWS)
    ages = rows["age"].to_numpy().copy()
    ages[3] = 130  # Too old: it waits in quarantine.
    ages = pa.array(ages, pa.int16())
    rows = rows.set_column(1, rows.schema.field("age"), ages)
    write_source(tmp_path / "project", rows, day=DAY)
    for name, on in ((NAME, engine), ("alone", "local")):
        ran = batch_assets("run", name, "--day", DAY, "--engine", on, "--json")
        night = json.loads(ran.stdout)
        assert night["success"], night["errors"]
        assert night["quarantined_rows"] == 1

    mine, alone = Lake(root, NAME), Lake(root, "alone")
    for table in TABLES:
        assert [
            (part.receipt.shard, part.receipt.total)
            for part in getattr(mine, table).parts(DAY)
        ] == [
            (part.receipt.shard, part.receipt.total)
            for part in getattr(alone, table).parts(DAY)
        ]
    assert read_day(mine, "predictions").equals(read_day(alone, "predictions"))
    assert not mine.exchange_folder(DAY).is_dir()


KILLED_NIGHT = """
import os, signal, sys
from itertools import count

from batch_assets.lake import parts
from batch_assets.lake.tables import Lake
from batch_assets.models.registry import Registry
from batch_assets.storage import storage_path
from batch_assets_tests.storage.test_object_store import score

root, left, put, numbers = storage_path(sys.argv[1]), 3, parts.put_file, count()

def put_some(here, place):
    if next(numbers) == left:
        os.kill(os.getpid(), signal.SIGKILL)
    put(here, place)

parts.put_file = put_some
lake, registry = Lake(root, "toy"), Registry(root)
score(lake, registry.resolve("toy"))
"""


def test_a_killed_night_goes_on_where_it_was(root, lake, registry, tmp_path):
    """What was not put yet is not there; what was put is not made again."""
    rows = prepared(lake, tmp_path)
    killed = python(KILLED_NIGHT, str(root))
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert not lake.predictions.parts(DAY)
    left = [
        part
        for shard in (lake.predictions.path / f"day={DAY}").iterdir()
        for part in shard.iterdir()
    ]
    assert 0 < len(left) <= 3
    assert all(sealed_part(path).path == path for path in left)

    night = score(lake, registry.resolve(NAME))

    assert night.resumed_chunks == len(left)
    assert night.scored_rows < ROWS
    keys = read_day(lake, "predictions")["user_id"].to_pylist()
    assert keys == sorted(rows["user_id"].to_pylist())
    # What it had half written is on its machine, for whoever makes the day next there.
    assert list(local(lake.predictions.path).rglob("*.tmp"))
    lake.remove_leftovers(DAY)
    assert not list(local(lake.predictions.path).rglob("*.tmp"))


def empty(place: ObjectPath) -> None:
    assert replace(place, b"", seen=read_seen(place))


@pytest.mark.parametrize(
    ("damage", "said"), [(flip, "it was sealed as"), (empty, "is empty")]
)
def test_an_altered_part_is_refused_and_made_again(
    lake, registry, tmp_path, damage, said
):
    prepared(lake, tmp_path)
    release = registry.resolve(NAME)
    score(lake, release)
    whole = read_day(lake, "predictions")
    damage(lake.predictions.parts(DAY)[0].path)
    with pytest.raises(CorruptPartError, match=said):
        publish(lake.folder.parent.parent)

    night = score(lake, release)

    assert night.resumed_chunks > 0
    assert 0 < night.scored_rows < ROWS
    assert read_day(lake, "predictions").equals(whole)


def test_a_part_that_is_replaced_while_it_is_read_is_refused(lake):
    """Its ranges are of one object, or none."""
    part = write_part(lake.predictions, list(range(200_000)))
    assert part.size > 1_000_000
    opened, file = open_part(part.path)
    flip(part.path)
    with file, pytest.raises(CorruptPartError, match="was replaced while it was read"):
        read_open(part, file, None)


def test_a_chunk_reads_its_row_groups_and_the_end_alone(lake, monkeypatch):
    part = write_part(lake.predictions, list(range(200_000)))
    got = []
    inner = Ranges._get

    def counted(self: Ranges, wanted: Any) -> Any:
        found = inner(self, wanted)
        got.append(found.range[1] - found.range[0])
        return found

    monkeypatch.setattr(Ranges, "_get", counted)
    rows = read_columns(part.path, ["user_id"], range(1_000, 1_002))
    assert rows["user_id"].to_pylist() == list(range(100_000, 100_200))
    assert len(got) < 6
    assert sum(got) < part.size / 2


def test_dead_letters_are_replayed(root, lake, tmp_path):
    release = write_mendable(tmp_path / "mendable")
    registry = Registry(root)
    registry.add(release.folder)
    registry.approve(NAME, release.digest, why="the tests need it")
    rows = prepared(lake, tmp_path)
    broken.update({17, 18})
    try:
        score(lake, registry.resolve(NAME))
        dead = lake.books(DAY).total.dead.rows
        broken.clear()
        done = replay(lake, registry.resolve(NAME))
    finally:
        broken.clear()

    assert done.rescued.rows == dead > 0
    assert len(read_day(lake, "predictions")) == len(rows)
    assert not lake.books(DAY).open_after_scoring()


def test_a_day_of_a_delta_table_in_the_bucket_is_pinned(root, lake, tmp_path):
    rows = make_rows(ROWS)
    pin_rows(lake, rows, project=tmp_path / "project")
    validate(lake)
    assert len(read_day(lake, "validated_features")) == ROWS


# Commits.


def commit_days(folder: str, job: str, days: list[str]) -> None:
    """Commit days, twice each; run in a spawned process."""
    table = Table(storage_path(folder))
    for again in "ab":
        for day in days:
            parts = [
                write_part(table, [s, s + 10], day=day, shard=s, job=job + again * 63)
                for s in (0, 1)
            ]
            table.commit_day(day, parts, SCHEMA, {"job": job + again * 63})


def test_writers_at_once_commit_days_and_none_is_lost_or_doubled(lake):
    table = lake.predictions
    days = {job: [f"2026-0{job}-0{n}" for n in range(1, 5)] for job in "12"}
    spawn = multiprocessing.get_context("spawn")
    writers = [
        spawn.Process(target=commit_days, args=(str(table.path), job, mine))
        for job, mine in days.items()
    ]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()

    assert [writer.exitcode for writer in writers] == [0, 0]
    for job, mine in days.items():
        for day in mine:
            parts = table.parts(day)
            assert [part.receipt.shard for part in parts] == [0, 1]
            assert {part.receipt.job for part in parts} == {job + "b" * 63}
    assert table.rows_by_day() == dict.fromkeys([*days["1"], *days["2"]], 4)


def test_of_two_writers_of_a_day_the_log_lets_one_win_whole(lake):
    """Without a claim: the second is refused, looks again, and replaces the first."""
    table = lake.predictions
    commit(table, [0], day=NEXT_DAY)

    def rival_comes_first() -> None:
        if not table.parts(DAY):
            commit(table, [1, 2], job="b" * 64)

    mine = write_part(table, [1, 2], job="a" * 64)
    attempts = []

    def guard() -> None:
        attempts.append(1)
        rival_comes_first()

    table.commit_day(DAY, [mine], SCHEMA, {"job": "a" * 64}, guard=guard)

    assert len(attempts) == 2
    assert [part.receipt.job for part in table.parts(DAY)] == ["a" * 64]


# Claims.


def never(run: str) -> bool:
    return False


def test_a_claim_of_another_machine_holds_while_it_is_renewed(
    root, machine, monkeypatch
):
    monkeypatch.setattr(claims, "LEASE", 3.0)
    with claimed(root, DAY, "theirs", never) as theirs:
        time.sleep(4)
        machine("second")
        with (
            pytest.raises(ClaimedError, match=r"made by run theirs .* on first"),
            claimed(root, DAY, "mine", never),
        ):
            pass
        theirs()
    with claimed(root, DAY, "mine", never) as mine:
        mine()


def test_a_claim_whose_machine_is_gone_runs_out_and_its_run_can_not_commit(
    root, lake, machine, monkeypatch
):
    monkeypatch.setattr(threading.Thread, "start", lambda thread: None)  # It is paused.
    commit(lake.predictions, [1], day=NEXT_DAY)
    part = write_part(lake.predictions, [1, 2])
    with ExitStack() as stack:
        lost = stack.enter_context(claimed(root, DAY, "lost", never))
        machine("second")
        with pytest.raises(ClaimedError), claimed(root, DAY, "mine", never):
            pass
        later = SimpleNamespace(time=lambda: time.time() + claims.LEASE)
        monkeypatch.setattr(claims, "time", later)
        mine = stack.enter_context(claimed(root, DAY, "mine", never))

        mine()
        with pytest.raises(CommitError, match="taken over by run mine"):
            lake.predictions.commit_day(DAY, [part], SCHEMA, {}, guard=lost)
        assert not lake.predictions.parts(DAY)


CLAIM_AND_WAIT = """
import sys

from batch_assets.lake.claims import claimed
from batch_assets.storage import storage_path

with claimed(storage_path(sys.argv[1]), sys.argv[2], "theirs", lambda run: False):
    print("claimed", flush=True)
    sys.stdin.read()
"""


def test_a_claim_of_a_process_that_was_killed_on_this_machine_is_void_at_once(
    root, monkeypatch
):
    with subprocess.Popen(
        [sys.executable, "-c", CLAIM_AND_WAIT, str(root), DAY],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as other:
        assert other.stdout.readline() == "claimed\n"
        host = json.loads((root / ".claims" / f"{DAY}.json").read_bytes())["host"]
        monkeypatch.setattr(socket, "gethostname", lambda: host)
        with pytest.raises(ClaimedError), claimed(root, DAY, "mine", never):
            pass
        other.kill()
        other.wait()
        with claimed(root, DAY, "mine", never) as guard:
            guard()


def test_of_two_machines_that_claim_a_day_at_once_one_gets_it(root, machine):
    """Neither sees the other's lock: the store tells."""
    place, got = root / "claim", []

    def take(name: str) -> None:
        if replace(place, name.encode(), seen=read_seen(root / "nothing")):
            got.append(name)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(take, map(str, range(8))))
    assert [name.encode() for name in got] == [place.read_bytes()]


# Releases.


def test_a_release_is_copied_down_and_hashed_before_it_is_opened(
    root, registry, machine, toy_release
):
    machine("second")
    release = registry.resolve(NAME)
    assert release.digest == toy_release.digest
    assert release.folder.is_dir()

    # What lies on this machine is trusted by digest alone, and got again if it is not.
    path = release.folder / release.manifest.model.file
    path.chmod(0o644)
    path.write_bytes(b"something else")
    assert registry.resolve(NAME).digest == toy_release.digest


def test_an_altered_release_is_refused(root, registry, machine, toy_release):
    name = toy_release.manifest.model.file
    flip(root / "models" / NAME / toy_release.digest / name)
    machine("second")
    with pytest.raises(TamperedReleaseError, match=f"{name} hashes to"):
        registry.resolve(NAME)


def test_verifying_reads_the_store_and_not_a_copy(root, registry, toy_release):
    registry.reread(NAME, toy_release.digest)
    flip(root / "models" / NAME / toy_release.digest / "golden.safetensors")
    registry.resolve(NAME)
    with pytest.raises(TamperedReleaseError):
        registry.reread(NAME, toy_release.digest)


def test_a_release_that_was_half_put_is_not_there_and_is_put_whole(
    root, toy_release, monkeypatch
):
    registry, puts = Registry(root), []

    def broken_off(store: BucketStore, here: Path, place: ObjectPath) -> None:
        if puts:
            raise KeyboardInterrupt
        puts.append(place.name)
        put(store, here, place)

    put = BucketStore.put_file
    with monkeypatch.context() as patched:
        patched.setattr(BucketStore, "put_file", broken_off)
        with pytest.raises(KeyboardInterrupt):
            registry.add(toy_release.folder)
    assert (root / "models" / NAME / toy_release.digest / puts[0]).exists()
    assert registry.digests(NAME) == []

    registry.add(toy_release.folder)
    assert registry.digests(NAME) == [toy_release.digest]


def approve_often(root: str, digest: str, by: str, cache: str, together: Any) -> None:
    os.environ["BATCH_ASSETS_CACHE"] = cache
    registry = Registry(storage_path(root))
    registry.resolve(NAME)
    together.wait()
    for number in range(10):
        registry.approve(NAME, digest, why=f"try {number}", by=by)


def test_machines_that_approve_at_once_lose_no_act(
    root, registry, toy_release, tmp_path
):
    spawn = multiprocessing.get_context("spawn")
    together = spawn.Barrier(2)
    writers = [
        spawn.Process(
            target=approve_often,
            args=(str(root), toy_release.digest, by, str(tmp_path / by), together),
        )
        for by in ("eve", "grace")
    ]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()

    by = [act.by for act in registry.events(NAME)]
    assert sorted(by) == ["ada", *["eve"] * 10, *["grace"] * 10]


# What is served.


def test_a_slow_publisher_can_not_undo_a_newer_one(root, ready, machine):
    def a_newer_one() -> None:
        machine("second")
        assert publish(root, day=NEXT_DAY).swapped

    slow = publish(root, day=DAY, guard=a_newer_one)

    assert not slow.swapped
    assert "is of a newer day" in slow.why
    assert current_version(root / "snapshots" / NAME)[:10] == NEXT_DAY


def test_a_newer_publisher_is_not_stopped_by_an_older_one(root, ready, machine):
    calls = []

    def an_older_one() -> None:
        calls.append(1)
        if len(calls) == 1:
            machine("second")
            assert publish(root, day=DAY).swapped

    assert publish(root, day=NEXT_DAY, guard=an_older_one).swapped
    assert len(calls) == 2  # It asks again whether it may, before it tries again.
    assert current_version(root / "snapshots" / NAME)[:10] == NEXT_DAY


def test_a_run_that_lost_its_day_can_not_publish(root, ready):
    def lost() -> None:
        msg = "taken over"
        raise CommitError(msg)

    with pytest.raises(CommitError):
        publish(root, guard=lost)
    assert current_version(root / "snapshots" / NAME) is None


def test_a_version_is_looked_up_on_a_machine_that_has_never_seen_it(
    root, ready, machine
):
    version = publish(root).version
    machine("second")
    snapshot = Version.current(root / "snapshots" / NAME)
    assert snapshot.name == version
    rows = read_day(ready, "predictions")
    for key, risk in zip(
        *(rows[c].to_pylist() for c in ("user_id", "risk")), strict=True
    ):
        assert snapshot.get(key).outputs["risk"] == risk
    assert snapshot.get(ROWS + 1) is None


def test_an_altered_version_is_refused(root, ready, machine):
    version = publish(root).version
    snapshots = root / "snapshots" / NAME
    flip(snapshots / f"v={version}" / "shard=00.arrow")
    machine("second")
    with pytest.raises(SnapshotError, match="its manifest says"):
        Version.current(snapshots).verify()


def test_a_version_that_was_altered_on_its_way_is_not_served(root, ready, monkeypatch):
    def put_and_flip(store: BucketStore, here: Path, place: ObjectPath) -> None:
        put(store, here, place)
        if place.name == "shard=02.arrow":
            flip(place)

    put = BucketStore.put_file
    monkeypatch.setattr(BucketStore, "put_file", put_and_flip)
    with pytest.raises(SnapshotError, match="shard=02.arrow"):
        publish(root)
    assert current_version(root / "snapshots" / NAME) is None


def test_a_version_that_was_half_put_is_not_there_and_is_put_whole(
    root, ready, monkeypatch
):
    def broken_off(store: BucketStore, here: Path, place: ObjectPath) -> None:
        if place.name == "shard=02.arrow":
            raise KeyboardInterrupt
        put(store, here, place)

    put = BucketStore.put_file
    with monkeypatch.context() as patched:
        patched.setattr(BucketStore, "put_file", broken_off)
        with pytest.raises(KeyboardInterrupt):
            publish(root)
    snapshots = root / "snapshots" / NAME
    assert (snapshots / "v=x").parent.is_dir()
    assert current_version(snapshots) is None

    assert publish(root).swapped
    Version.current(snapshots).verify()


def test_old_versions_are_collected(root, ready):
    publish(root)
    newer = publish(root, day=NEXT_DAY, keep=2).version
    rows = prepared(ready, Path(local(root)), day="2026-01-07", seed=7)
    score(ready, Registry(root).resolve(NAME), day="2026-01-07")
    newest = publish(root, day="2026-01-07", keep=2).version
    left = {p.name for p in (root / "snapshots" / NAME).iterdir() if p.is_dir()}
    assert len(rows) == ROWS
    assert left == {f"v={newer}", f"v={newest}"}


def until(is_so: Callable[[], Any]) -> None:
    end = time.monotonic() + 30
    while not is_so():
        assert time.monotonic() < end, "it never came to be so"
        time.sleep(0.02)


def test_a_reader_follows_what_is_served_from_a_store(root, ready, machine):
    """Published by one machine, rolled back by another, read by a third."""
    first = publish(root).version
    machine("reader")
    folder = root / "snapshots" / NAME
    with Snapshot(str(folder), poll_seconds=0.05) as reader:
        assert reader.version == first
        machine("first")
        second = publish(root, day=NEXT_DAY).version
        until(lambda: reader.version == second)
        machine("operator")
        rollback(folder, why="odd scores", by="ada")
        until(lambda: reader.version == first)
        pin(folder, second, why="no, look at it", by="ada")
        until(lambda: reader.version == second)
        unpin(folder, why="odd indeed", by="ada")
        until(lambda: reader.version == first)
        machine("first")
        assert not publish(root, day=NEXT_DAY).swapped
        unblock(folder, why="it was fine", by="ada")
        assert publish(root, day=NEXT_DAY).swapped
        until(lambda: reader.version == second)
        assert reader.problem is None
        risk = read_day(ready, "predictions", NEXT_DAY)
        answers = reader.get_many(risk["user_id"].to_pylist())
    assert [a.outputs["risk"] for a in answers] == risk["risk"].to_pylist()
    assert [(a.act, a.by) for a in entries_of(folder)[0]][2:5] == [
        ("rollback", "ada"),
        ("pin", "ada"),
        ("unpin", "ada"),
    ]


@pytest.mark.parametrize("name", ["shard=01.arrow", "manifest.json"])
def test_a_reader_of_a_store_refuses_what_was_altered_and_takes_what_is_mended(
    root, ready, machine, name
):
    first = publish(root).version
    folder = root / "snapshots" / NAME
    machine("reader")
    with Snapshot(folder, poll_seconds=0.05) as reader:
        machine("first")
        second = publish(root, day=NEXT_DAY).version
        until(lambda: reader.version == second)
        machine("second reader")
        place = folder / f"v={second}" / name
        flip(place)
        with pytest.raises(SnapshotError, match=name):
            Snapshot(folder)
        assert name in str({v.version: v.problem for v in verify(folder)}[second])
        rollback(folder, why="torn")
        with Snapshot(folder) as other:
            assert other.version == first
        flip(place)
        rollback(folder, why="not torn any more", to=second)
        with Snapshot(folder) as other:
            assert other.version == second
        assert [one.problem for one in verify(folder)] == [None, None]


def test_a_copy_that_was_altered_on_this_machine_is_copied_again(root, ready):
    version = publish(root).version
    folder = root / "snapshots" / NAME
    Snapshot(folder).close()
    here = local(folder) / f"v={version}" / "shard=01.arrow"
    data = bytearray(here.read_bytes())
    data[100] ^= 1
    here.chmod(0o644)
    here.write_bytes(data)

    with Snapshot(folder) as reader:
        assert None not in reader.get_many(
            read_day(ready, "predictions")["user_id"].to_pylist()
        )
    assert here.read_bytes() != bytes(data)


def test_a_file_that_an_earlier_version_has_too_is_not_copied_again(
    root, ready, tmp_path, monkeypatch
):
    first = publish(root).version
    folder = root / "snapshots" / NAME
    Snapshot(folder).close()
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
    with Snapshot(folder) as reader:
        assert reader.version == second != first
        assert reader.release.digest == other.digest
    assert copied == ["manifest.json"]
    assert len(versions(folder)) == 2


# Objects.

PUT_LARGE = """
import sys
from pathlib import Path

from batch_assets.storage import storage_path, put_file

print("putting", flush=True)
put_file(Path(sys.argv[1]), storage_path(sys.argv[2]))
"""


def test_a_large_object_is_there_whole_or_not_at_all(root, tmp_path):
    """It is put in pieces, which a killed process leaves nobody to see."""
    data = os.urandom(1 << 20) * 64
    seen = set()
    for number, wait in enumerate((0.02, 0.05, 0.1, 30)):
        (here := tmp_path / "large").write_bytes(data)
        place = root / f"large-{number}"
        with subprocess.Popen(
            [sys.executable, "-c", PUT_LARGE, str(here), str(place)],
            stdout=subprocess.PIPE,
        ) as putting:
            putting.stdout.readline()
            try:
                putting.wait(wait)
            except subprocess.TimeoutExpired:
                putting.kill()
        seen.add(place.exists())
        assert not place.exists() or place.stat().st_size == len(data)
    assert seen == {False, True}
    fetch(place, tmp_path / "back")
    assert (tmp_path / "back").read_bytes() == data


def test_a_new_object_takes_no_name_that_another_has(root, tmp_path):
    """What attempts of a chunk at once are told apart by."""
    first, second = tmp_path / "first", tmp_path / "second"
    first.write_bytes(b"1")
    second.write_bytes(b"2")

    assert put_new(first, root / "part")
    assert not put_new(second, root / "part")
    assert (root / "part").read_bytes() == b"1"


def test_a_replacement_holds_only_over_what_was_seen(root):
    place = root / "thing"
    nothing = read_seen(place)
    first = replace(place, b"1", seen=nothing)
    assert first
    assert replace(place, b"2", seen=nothing) is None
    second = replace(place, b"2", seen=first)
    assert replace(place, b"3", seen=first) is None
    assert read_seen(place) == second
    assert place.read_bytes() == b"2"


# The command line, and what is wrong with a root.


@pytest.fixture
def cli(root) -> Callable[..., str]:
    def invoke(*arguments: str, fails: bool = False) -> str:
        result = CliRunner().invoke(main, arguments)
        assert (result.exit_code != 0) == fails, result.output
        assert isinstance(result.exception, SystemExit | None), result.exception
        assert "Traceback" not in result.output
        return result.output

    return invoke


def test_the_commands_work_on_a_bucket(cli, root, toy_release, tmp_path, monkeypatch):
    make_project(tmp_path / "project", root, monkeypatch, [attributes()])
    monkeypatch.delenv("DAGSTER_HOME", raising=False)
    rows = make_rows(ROWS)
    write_source(tmp_path / "project", rows, day=DAY)

    assert toy_release.digest in cli("release", "add", NAME, str(toy_release.folder))
    cli("release", "approve", NAME, toy_release.digest[:12], "--why", "ok")
    assert "in use" in cli("release", "list")
    assert "golden rows" in cli("release", "verify", NAME)
    night = json.loads(batch_assets("run", NAME, "--day", DAY, "--json").stdout)
    assert night["success"], night["errors"]
    assert night["scored_rows"] == ROWS
    assert json.loads(cli("books", NAME, "--day", DAY, "--json"))["closed"]
    assert json.loads(cli("dead-letters", "list", NAME, "--day", DAY, "--json")) == []
    (version,) = json.loads(cli("snapshot", "list", NAME, "--json"))
    assert version["served"]
    answer = json.loads(cli("lookup", NAME, "7", "--json"))
    assert answer["version"] == night["version"]
    assert f"there: {NAME}" in cli("lookup", "other", "7", fails=True)
    cli("release", "revoke", NAME, toy_release.digest, "--why", "bad")
    assert "revoked" in cli("release", "list")


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("BATCH_ASSETS_ROOT", "gs://bucket/x", "expected a directory, or s3://"),
        ("BATCH_ASSETS_ROOT", "s3:///x", "expected a directory, or s3://"),
        ("BATCH_ASSETS_ROOT", "s3://bucket/../x", "expected a directory, or s3://"),
        ("BATCH_ASSETS_ROOT", "s3://no-such-bucket/x", "there is no bucket"),
        ("AWS_SECRET_ACCESS_KEY", "wrong", "does not let us into the bucket"),
        ("AWS_ACCESS_KEY_ID", "wrong", "does not let us into the bucket"),
        ("AWS_ENDPOINT_URL", "http://127.0.0.1:1", "no object store answers"),
        ("AWS_ALLOW_HTTP", "false", "unless AWS_ALLOW_HTTP is true"),
    ],
)
def test_a_root_that_can_not_be_used_says_why(cli, monkeypatch, name, value, said):
    monkeypatch.setenv(name, value)
    begin = time.monotonic()
    for command in (["books", NAME, "--day", DAY], ["lookup", NAME, "7"]):
        out = cli(*command, fails=True)
        assert said in out
        assert len(out.splitlines()) == 1
    assert time.monotonic() - begin < 20


def test_a_store_that_goes_away_ends_a_night_and_one_that_comes_back_does_not(
    tmp_path, machine, monkeypatch
):
    (folder := tmp_path / "own").mkdir()
    with object_store(folder) as server:
        for name, value in server.environment.items():
            monkeypatch.setenv(name, value)
        machine("first")
        lake = Lake(storage_path(f"s3://{BUCKET}/here"), NAME)
        commit(lake.predictions, [1])
        (part,) = lake.predictions.parts(DAY)

        server.kill()
        coming_back = threading.Timer(2, server.start)
        coming_back.start()
        commit(lake.predictions, [1, 2], day=NEXT_DAY)
        assert lake.predictions.rows_by_day() == {DAY: 1, NEXT_DAY: 2}

        monkeypatch.setattr("batch_assets.storage.client.RETRIES", 2)
        monkeypatch.setenv("AWS_OF_ANOTHER_CLIENT", "which has less patience")
        read_columns(part.path)
        server.kill()
        with pytest.raises(StorageError, match="can't be opened"):
            lake.predictions.parts(DAY)
        with pytest.raises(StorageError, match="can't be reached"):
            read_columns(part.path)
        with pytest.raises(StorageError, match="can't be reached"):
            write_part(lake.predictions, [2], chunk=7)


def batch_assets(*arguments: str) -> subprocess.CompletedProcess[str]:
    """The installed command, in a process of its own."""
    return python("from batch_assets.cli.main import main; main()", *arguments)


def python(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code, *arguments],
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
