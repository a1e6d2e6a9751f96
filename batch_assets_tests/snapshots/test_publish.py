"""What is served is proved, goes forward only, and changes in one swap or not at all."""

import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from batch_assets.errors import (
    BatchAssetsError,
    CorruptPartError,
    GateError,
    LakeError,
    SnapshotError,
)
from batch_assets.lake import parts, shards
from batch_assets.lake.parts import PartWriter, Receipt, open_part
from batch_assets.lake.shards import hash_key, hash_keys
from batch_assets.lake.tables import Lake
from batch_assets.models.registry import Registry
from batch_assets.models.release import Release, sha256_of
from batch_assets.scoring.device import find_device
from batch_assets.scoring.engines.local import LocalEngine
from batch_assets.scoring.night import score_night
from batch_assets.snapshots import build as building
from batch_assets.snapshots import publish as publishing
from batch_assets.snapshots import version as looking_up
from batch_assets.snapshots.layout import Group, groups_of, packed
from batch_assets.snapshots.manifest import (
    MANIFEST,
    SnapshotManifest,
    version_folder,
    versions,
)
from batch_assets.snapshots.operations import rollback, unblock
from batch_assets.snapshots.pointers import (
    BLOCKED,
    CURRENT,
    Block,
    current_version,
    point,
)
from batch_assets.snapshots.publish import (
    Published,
    equals_predictions,
    is_served,
    publish_day,
)
from batch_assets.snapshots.version import Version
from batch_assets.spec import Gates, Serving
from batch_assets_tests.toys import (
    DAY,
    NAME,
    SHARDS,
    copy_rows,
    expected_risk,
    make_contract,
    make_rows,
    read_day,
    validate,
    write_toy_release,
)

ROWS = 400
BEFORE, NEXT = "2026-01-04", "2026-01-06"
HIGH = 0.85
OPEN = Gates(max_quarantine_share=0.1, max_dead_letter_share=0.3, min_coverage=0.6)


class Stop(Exception):  # noqa: N818 - it is a request, not an error
    """A guard's refusal."""


def narrow(folder: Path, **changes: Any) -> Release:
    """The toy release with an output that ends below 1: each day has dead letters."""
    outputs = [{"name": "risk", "dtype": "float32", "min": 0, "max": HIGH}]
    contract = make_contract(changes.pop("key_dtype", "int64"), outputs=outputs)
    return write_toy_release(folder, contract=contract, **changes)


def raw_rows(day: str, key_dtype: str = "int64") -> pa.Table:
    """A day's rows, two of which belong to quarantine."""
    rows = make_rows(ROWS, seed=int(day[-2:]), key_dtype=key_dtype)
    ages = pa.array([200, -1, *rows["age"].to_pylist()[2:]], pa.int16())
    return rows.set_column(1, "age", ages)


def score(lake: Lake, release: Release, day: str) -> None:
    score_night(
        lake,
        release,
        day,
        LocalEngine(find_device("cpu"), workers=1),
        chunk_rows=100,
        precision="float32",
        gates=OPEN,
    )


def approved(root: Path, release: Release) -> Release:
    registry = Registry(root)
    registry.add(release.folder)
    registry.approve(NAME, release.digest, why="the tests need it", by="ada")
    return release


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory) -> Release:
    return narrow(tmp_path_factory.mktemp("one") / "release")


@pytest.fixture(scope="module")
def scored(one: Release, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A root with three scored days, nothing served; copy it."""
    folder = tmp_path_factory.mktemp("scored") / "root"
    folder.mkdir()
    approved(folder, one)
    lake = Lake(folder, NAME)
    for day in (BEFORE, DAY, NEXT):
        copy_rows(lake, raw_rows(day), day=day)
        validate(lake, day=day)
        score(lake, one, day)
    return folder


@pytest.fixture
def ready(scored: Path, root: Path) -> Lake:
    shutil.copytree(scored, root, dirs_exist_ok=True)
    return Lake(root, NAME)


def root_of(lake: Lake) -> Path:
    return lake.folder.parent.parent


def snapshots_of(lake: Lake) -> Path:
    return root_of(lake) / "snapshots" / lake.pipeline


def publish(lake: Lake, day: str = DAY, **changes: Any) -> Published:
    serving = Serving(keep=changes.pop("keep", 7), keep_minutes=0)
    arguments: dict[str, Any] = {"gates": OPEN, "serving": serving}
    registry = Registry(root_of(lake))
    return publish_day(lake, registry, snapshots_of(lake), day, **(arguments | changes))


def block(folder: Path) -> None:
    """As a rollback does, for an hour."""
    at = datetime.now(UTC)
    until = at + timedelta(hours=1)
    found = Block(at=at, until=until, by="ada", why="odd scores", version=None)
    point(folder / BLOCKED, found.model_dump_json())


def served(lake: Lake) -> dict[str, bytes]:
    """CURRENT and every byte of the version that it names."""
    folder = snapshots_of(lake)
    version = current_version(folder)
    assert version is not None
    paths = [folder / CURRENT, *version_folder(folder, version).iterdir()]
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


def test_a_version_has_every_prediction_and_no_other(ready: Lake, one: Release) -> None:
    published = publish(ready)

    assert (published.swapped, published.why) == (True, "published")
    snapshot = Version.current(snapshots_of(ready))
    predictions = read_day(ready, "predictions")
    assert snapshot.name == published.version
    assert snapshot.manifest.rows == len(predictions)
    for row in predictions.to_pylist():
        answer = snapshot.get(row["user_id"])
        assert answer is not None
        assert answer.outputs == {"risk": row["risk"]}
        assert answer.release.digest == row["model_version"] == one.digest
        assert (answer.release.name, answer.day) == (NAME, DAY)
    for table in ("dead_letters", "quarantined_rows"):
        absent = read_day(ready, table)["user_id"].to_pylist()
        assert absent
        assert {snapshot.get(key) for key in absent} == {None}
    assert equals_predictions(ready, snapshots_of(ready), DAY).passed


@pytest.mark.parametrize("distinct", [None, 2, 1], ids=["all", "two", "one"])
def test_strings_are_served_even_where_their_hashes_collide(
    root: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    distinct: int | None,
) -> None:
    if distinct:  # So many hashes for all the keys of a shard.
        few, hash_strings = distinct * SHARDS, shards._hash_strings
        monkeypatch.setattr(
            shards, "_hash_strings", lambda keys: hash_strings(keys) % np.uint64(few)
        )
        for module in (looking_up, building):
            monkeypatch.setattr(module, "hash_key", lambda key: hash_key(key) % few)
    lake, release = Lake(root, NAME), narrow(tmp_path / "release", key_dtype="string")
    approved(root, release)
    copy_rows(lake, raw_rows(DAY, "string"), contract=release.contract)
    validate(lake, contract=release.contract)
    score(lake, release, DAY)

    publish(lake)

    snapshot = Version.current(snapshots_of(lake))
    for row in read_day(lake, "predictions").to_pylist():
        answer = snapshot.get(row["user_id"])
        assert answer is not None
        assert answer.outputs == {"risk": row["risk"]}
    assert snapshot.get("nobody") is None
    assert equals_predictions(lake, snapshots_of(lake), DAY).passed


def test_an_older_day_never_replaces_a_newer_one(ready: Lake) -> None:
    newest = publish(ready, NEXT)
    before = served(ready)

    older = publish(ready, DAY)

    assert not older.swapped
    assert older.current == newest.current
    assert "newer" in older.why
    assert served(ready) == before
    assert equals_predictions(ready, snapshots_of(ready), DAY).passed


def test_the_next_day_replaces_it_and_remembers_its_parent(ready: Lake) -> None:
    first = publish(ready, DAY)

    second = publish(ready, NEXT)

    assert second.swapped
    assert second.current.parent == first.version
    assert current_version(snapshots_of(ready)) == second.version


def test_the_same_version_again_changes_nothing(ready: Lake) -> None:
    first = publish(ready)
    before, at = served(ready), (snapshots_of(ready) / CURRENT).stat().st_mtime_ns

    again = publish(ready)

    assert (again.swapped, again.version) == (False, first.version)
    assert served(ready) == before
    assert (snapshots_of(ready) / CURRENT).stat().st_mtime_ns == at


def test_the_same_day_by_another_release_replaces_it(
    ready: Lake, tmp_path: Path
) -> None:
    first = publish(ready)
    other = approved(
        root_of(ready), narrow(tmp_path / "other", about={"author": "else"})
    )
    score(ready, other, DAY)

    second = publish(ready)

    assert second.swapped
    assert second.version != first.version
    assert second.current.parent == first.version
    assert second.current.model_version == other.digest
    assert equals_predictions(ready, snapshots_of(ready), DAY).passed


@pytest.mark.parametrize(
    ("gate", "limits"),
    [
        ("quarantine_share_is_within_limit", {"max_quarantine_share": 0}),
        ("dead_letter_share_is_within_limit", {"max_dead_letter_share": 0}),
        ("coverage_is_within_limit", {"min_coverage": 1}),
    ],
)
def test_a_limit_that_is_not_kept_keeps_yesterday(
    ready: Lake, gate: str, limits: dict[str, float]
) -> None:
    publish(ready, DAY)
    before = served(ready)

    with pytest.raises(GateError, match=rf"^1 of 8 gates of {NEXT}(?s:.*){gate}"):
        publish(ready, NEXT, gates=OPEN.model_copy(update=limits))

    assert served(ready) == before


def drift(lake: Lake, release: Release, tmp_path: Path) -> None:
    """Score it again by a release that was approved on other scores."""
    values = expected_risk(make_rows(2_000)) / 100
    other = narrow(tmp_path / "other", reference={"risk": values})
    score(lake, approved(root_of(lake), other), NEXT)


def revoke(lake: Lake, release: Release, tmp_path: Path) -> None:
    Registry(root_of(lake)).revoke(NAME, release.digest, why="it was wrong", by="bob")


def unapproved(lake: Lake, release: Release, tmp_path: Path) -> None:
    other = narrow(tmp_path / "other", about={"author": "nobody asked"})
    Registry(root_of(lake)).add(other.folder)
    score(lake, other, NEXT)


def tamper_with_the_release(lake: Lake, release: Release, tmp_path: Path) -> None:
    folder = root_of(lake) / "models" / NAME / release.digest
    path = folder / release.manifest.model.file
    path.chmod(0o644)
    path.write_bytes(path.read_bytes() + b" ")


def truncate(lake: Lake, release: Release, tmp_path: Path) -> None:
    path = lake.predictions.paths(NEXT)[0]
    path.write_bytes(path.read_bytes()[:-1])


def unlink(lake: Lake, release: Release, tmp_path: Path) -> None:
    lake.predictions.paths(NEXT)[0].unlink()


def flip_a_bit(lake: Lake, release: Release, tmp_path: Path, column: int = 1) -> None:
    path = lake.predictions.paths(NEXT)[0]
    with pq.ParquetFile(path) as file:
        chunk = file.metadata.row_group(0).column(column)
    data = bytearray(path.read_bytes())
    data[chunk.data_page_offset + chunk.total_compressed_size - 1] ^= 1
    path.write_bytes(data)


def flip_a_bit_of_a_key(lake: Lake, release: Release, tmp_path: Path) -> None:
    flip_a_bit(lake, release, tmp_path, column=0)


def rewritten(path: Path, table: pa.Table, **changes: Any) -> None:
    receipt = open_part(path)[0].receipt
    with PartWriter(path, table.schema, row_group_rows=1_000, numbers=True) as writer:
        writer.write(table)
        writer.finish(Receipt(**(vars(receipt) | changes)))


def double_a_key(lake: Lake, release: Release, tmp_path: Path) -> None:
    """As many rows as the receipt says, but one twice and one not at all."""
    path = lake.predictions.paths(NEXT)[0]
    table = pq.read_table(path, partitioning=None)
    rewritten(path, pa.concat_tables([table[:1], table[:-1]]))


def leave_the_range(lake: Lake, release: Release, tmp_path: Path) -> None:
    path = lake.predictions.paths(NEXT)[0]
    table = pq.read_table(path, partitioning=None)
    risk = pa.array([1.5] * len(table), pa.float32())
    rewritten(path, table.set_column(1, "risk", risk))


def mix_releases(lake: Lake, release: Release, tmp_path: Path) -> None:
    path = lake.predictions.paths(NEXT)[0]
    table = pq.read_table(path, partitioning=None)
    stamps = pa.array(["0" * 64] * len(table), pa.string())
    rewritten(path, table.set_column(3, "model_version", stamps))


def lose_a_shard(lake: Lake, release: Release, tmp_path: Path) -> None:
    parts = [p for p in lake.predictions.parts(NEXT) if p.receipt.shard != 2]
    commit = lake.predictions.last_commit(NEXT)
    assert commit is not None
    schema = release.contract.prediction_schema()
    lake.predictions.commit_day(NEXT, parts, schema, commit.facts)


def validate_again(lake: Lake, release: Release, tmp_path: Path) -> None:
    """New raw rows, validated but not scored: the predictions are of the old ones."""
    copy_rows(lake, make_rows(ROWS + 1), day=NEXT)
    validate(lake, day=NEXT)


@pytest.mark.parametrize(
    "harm",
    [
        drift,
        revoke,
        unapproved,
        tamper_with_the_release,
        truncate,
        unlink,
        flip_a_bit,
        flip_a_bit_of_a_key,
        double_a_key,
        leave_the_range,
        mix_releases,
        lose_a_shard,
        validate_again,
    ],
)
def test_a_day_that_can_not_be_proved_keeps_yesterday_byte_for_byte(
    ready: Lake,
    one: Release,
    tmp_path: Path,
    harm: Callable[[Lake, Release, Path], None],
) -> None:
    publish(ready, DAY)
    before = served(ready)
    harm(ready, one, tmp_path)

    with pytest.raises(BatchAssetsError):
        publish(ready, NEXT)

    assert served(ready) == before
    key = read_day(ready, "predictions")["user_id"][0].as_py()
    assert Version.current(snapshots_of(ready)).get(key) is not None


def test_a_day_without_predictions_is_not_published(ready: Lake) -> None:
    with pytest.raises(LakeError, match="predictions has no 2026-02-01"):
        publish(ready, "2026-02-01")


@pytest.mark.parametrize("lost", [0, 2, SHARDS - 1], ids=["first", "inner", "last"])
def test_a_shard_that_is_missing_is_refused_even_if_it_had_no_rows(
    root: Path, one: Release, lost: int
) -> None:
    lake = Lake(root, NAME)
    approved(root, one)
    rows = raw_rows(DAY)[2:]
    kept = hash_keys(rows["user_id"]) % np.uint64(SHARDS) != lost
    copy_rows(lake, rows.filter(pa.array(kept)))
    validate(lake)
    score(lake, one, DAY)
    parts = lake.predictions.parts(DAY)
    commit = lake.predictions.last_commit(DAY)
    assert commit is not None
    lake.predictions.commit_day(
        DAY,
        [part for part in parts if part.receipt.shard != lost],
        one.contract.prediction_schema(),
        commit.facts,
    )

    with pytest.raises(SnapshotError, match="shards"):
        publish(lake)

    assert current_version(snapshots_of(lake)) is None


def test_a_guard_that_refuses_leaves_current_as_it_was(ready: Lake) -> None:
    publish(ready, DAY)
    before = served(ready)

    def guard() -> None:
        raise Stop

    with pytest.raises(Stop):
        publish(ready, NEXT, guard=guard)

    assert served(ready) == before
    assert publish(ready, NEXT).swapped


def test_collection_keeps_the_newest_and_never_the_served_or_its_parent(
    ready: Lake, tmp_path: Path
) -> None:
    found = []
    for number in range(4):
        other = narrow(tmp_path / str(number), about={"number": number})
        score(ready, approved(root_of(ready), other), DAY)
        found.append(publish(ready, keep=2).version)

    left = [manifest.version for manifest in versions(snapshots_of(ready))]

    assert left == found[-2:]
    assert current_version(snapshots_of(ready)) == found[-1]
    Version.open(snapshots_of(ready), found[-2]).verify()


def test_collection_spares_a_parent_that_is_older_than_what_is_kept(
    ready: Lake, tmp_path: Path
) -> None:
    served_version = publish(ready, DAY).version
    folder = snapshots_of(ready)
    block(folder)
    for number in range(3):  # Built and proved, and held.
        other = narrow(tmp_path / str(number), about={"number": number})
        score(ready, approved(root_of(ready), other), NEXT)
        assert not publish(ready, NEXT).swapped
    assert len(versions(folder)) == 4
    unblock(folder, why="the test goes on")
    last = narrow(tmp_path / "last", about={"number": "last"})
    score(ready, approved(root_of(ready), last), NEXT)

    published = publish(ready, NEXT, keep=2)

    left = {manifest.version for manifest in versions(folder)}
    assert {served_version, published.version} <= left
    assert len(left) == 3


def test_what_a_killed_publisher_left_is_cleaned_away(ready: Lake) -> None:
    folder = snapshots_of(ready)
    for name in (".building-2026-01-01-0123", ".building-half"):
        (folder / name).mkdir(parents=True)
        (folder / name / "shard=00.arrow").write_bytes(b"half of it")

    publish(ready)

    assert sorted(p.name for p in folder.iterdir() if p.is_dir()) == [
        f"v={current_version(folder)}"
    ]


def test_a_version_left_without_a_swap_is_built_anew(ready: Lake) -> None:
    version = publish(ready).version
    folder = snapshots_of(ready)
    (folder / CURRENT).unlink()
    broken = version_folder(folder, version) / "shard=00.arrow"
    broken.unlink()

    again = publish(ready)

    # Under a name of its own: a reader may still hold the other.
    assert (again.swapped, again.version) == (True, f"{version}-2")
    Version.current(folder).verify()


PUBLISHER = """
import sys
from pathlib import Path
from batch_assets.lake.tables import Lake
from batch_assets.models.registry import Registry
from batch_assets.snapshots.publish import publish_day
from batch_assets.spec import Gates, Serving

serving = Serving(keep=2, keep_minutes=0)
root, gates = Path(sys.argv[1]), Gates.model_validate_json(sys.argv[2])
lake, folder = Lake(root, "toy"), root / "snapshots" / "toy"
sys.stdin.readline()
for day in sys.argv[3:]:
    publish_day(lake, Registry(root), folder, day, gates=gates, serving=serving)
"""


def test_publishers_at_once_end_in_one_valid_version_of_the_newest_day(
    ready: Lake,
) -> None:
    orders = [(DAY, NEXT, BEFORE), (NEXT, DAY, NEXT), (BEFORE, DAY, BEFORE)]
    command = [sys.executable, "-W", "error", "-c", PUBLISHER, str(root_of(ready))]
    processes = [
        subprocess.Popen(
            [*command, OPEN.model_dump_json(), *days],
            stdin=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for days in orders
    ]
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    ends = [process.communicate(timeout=60)[1] for process in processes]

    assert [process.returncode for process in processes] == [0, 0, 0], ends
    snapshot = Version.current(snapshots_of(ready))
    snapshot.verify()
    assert snapshot.manifest.day == NEXT
    assert equals_predictions(ready, snapshots_of(ready), NEXT).passed
    left = os.listdir(snapshots_of(ready))
    assert not [name for name in left if name.startswith(".building")]


def test_a_publisher_that_is_slow_to_swap_can_not_undo_a_newer_one(
    ready: Lake,
) -> None:
    newer = threading.Thread(target=publish, args=(ready, NEXT))
    waits: list[bool] = []

    def guard() -> None:
        # This one has looked at CURRENT and built; another comes before it swaps.
        newer.start()
        newer.join(timeout=1)
        waits.append(newer.is_alive())

    publish(ready, DAY, guard=guard)
    newer.join(timeout=60)

    assert waits == [True]
    assert Version.current(snapshots_of(ready)).manifest.day == NEXT


def test_a_version_that_differs_from_the_predictions_is_found(ready: Lake) -> None:
    manifest = publish(ready).current
    folder = version_folder(snapshots_of(ready), manifest.version)
    path = folder / manifest.files[0].name
    table = pa.ipc.open_file(pa.memory_map(str(path))).read_all()
    (group,) = groups_of(table)
    changed_rows = packed(
        {"user_id": table["user_id"].combine_chunks()},
        [Group(group.names, group.values - np.float32(1e-6))],
    )
    path.unlink()
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, table.schema) as out:
        out.write_table(changed_rows)
    entry = {"size": path.stat().st_size, "sha256": sha256_of(path)}
    first = manifest.files[0].model_copy(update=entry)
    changed = manifest.model_copy(update={"files": (first, *manifest.files[1:])})
    (folder / MANIFEST).write_text(changed.dumps(), encoding="utf-8")

    verdict = equals_predictions(ready, snapshots_of(ready), DAY)

    assert not verdict.passed
    assert verdict.numbers["unlike_shards"] == 1


def test_the_check_takes_the_word_of_receipts_and_reads_no_predictions(
    ready: Lake, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(ready)
    monkeypatch.setattr(building, "_read", lambda *_: pytest.fail("rows were read"))

    assert equals_predictions(ready, snapshots_of(ready), DAY).passed


@pytest.mark.parametrize("differ", [False, True])
def test_rows_are_compared_where_a_receipt_is_of_before_there_were_contents(
    ready: Lake, monkeypatch: pytest.MonkeyPatch, differ: bool
) -> None:
    for path in ready.predictions.paths(DAY):
        table = pq.read_table(path, partitioning=None)
        facts = open_part(path)[0].receipt.facts
        without = {name: fact for name, fact in facts.items() if name != "content"}
        rewritten(path, table, facts=without)
    commit = ready.predictions.last_commit(DAY)
    assert commit is not None
    made = [open_part(path)[0] for path in ready.predictions.paths(DAY)]
    schema = pq.read_schema(made[0].path)
    ready.predictions.commit_day(DAY, made, schema, commit.facts)
    if differ:
        with monkeypatch.context() as patch:
            patch.setattr(building, "shard_rows", swapping(building.shard_rows))
            patch.setattr(building, "_prove_lookups", lambda *_: None)
            publish(ready)
    else:
        publish(ready)

    assert equals_predictions(ready, snapshots_of(ready), DAY).passed is not differ


def test_what_changed_while_it_was_built_is_seen_before_the_swap(
    ready: Lake, one: Release, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(ready, BEFORE)
    before = served(ready)
    build = publishing._build

    def meanwhile(*args: Any) -> Any:
        built = build(*args)
        revoke(ready, one, tmp_path)
        return built

    monkeypatch.setattr(publishing, "_build", meanwhile)
    with pytest.raises(GateError, match="was revoked for batch by bob"):
        publish(ready)

    assert served(ready) == before
    assert len(versions(snapshots_of(ready))) == 1


def test_a_day_that_is_scored_again_while_it_is_built_is_not_served(
    ready: Lake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(ready, BEFORE)
    before = served(ready)
    build = publishing._build
    other = approved(root_of(ready), narrow(tmp_path / "o", about={"author": "else"}))

    def meanwhile(*args: Any) -> Any:
        built = build(*args)
        score(ready, other, DAY)
        return built

    monkeypatch.setattr(publishing, "_build", meanwhile)
    with pytest.raises(SnapshotError, match="was scored again while"):
        publish(ready)

    assert served(ready) == before


def test_a_rollback_while_a_night_builds_holds_against_it(
    ready: Lake, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = publish(ready, BEFORE).version
    publish(ready, DAY)
    folder, build = snapshots_of(ready), publishing._build

    def meanwhile(*args: Any) -> Any:
        built = build(*args)
        rollback(folder, why="odd scores", by="ada")
        return built

    monkeypatch.setattr(publishing, "_build", meanwhile)
    published = publish(ready, NEXT)

    assert (published.swapped, current_version(folder)) == (False, first)
    assert "blocked until" in published.why
    assert published.current is not None
    assert published.current.version == first
    verdict = is_served(ready, folder, NEXT)
    assert (verdict.passed, verdict.blocks) == (False, False)
    assert equals_predictions(ready, folder, NEXT).passed


def test_what_was_built_and_held_is_served_as_it_is(ready: Lake) -> None:
    publish(ready, BEFORE)
    folder = snapshots_of(ready)
    block(folder)
    held = publish(ready)
    path = version_folder(folder, held.version) / "shard=00.arrow"
    built = path.stat().st_ino
    unblock(folder, why="it was fine")

    published = publish(ready)

    assert (published.swapped, published.version) == (True, held.version)
    assert path.stat().st_ino == built


def test_a_disk_that_wrote_other_bytes_is_found_when_they_are_read_again(
    ready: Lake, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(ready, BEFORE)
    before, sync = served(ready), building.sync_file

    def altering(path: Path) -> None:
        sync(path)
        if path.name == "shard=01.arrow":
            rows = pa.ipc.open_file(pa.memory_map(str(path))).read_all()
            data = bytearray(path.read_bytes())
            at = bytes(data).index(groups_of(rows)[0].values.tobytes())
            data[at] ^= 1
            path.write_bytes(data)

    monkeypatch.setattr(building, "sync_file", altering)
    with pytest.raises(SnapshotError, match=r"shard=01\.arrow holds other outputs"):
        publish(ready)

    assert served(ready) == before


def test_a_file_that_is_not_sorted_is_not_served(
    ready: Lake, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = building.shard_rows

    def backwards(*args: Any) -> pa.Table:
        rows = whole(*args)
        return rows.take(pa.array(range(len(rows) - 1, -1, -1))).combine_chunks()

    monkeypatch.setattr(building, "shard_rows", backwards)
    with pytest.raises(SnapshotError, match="is not sorted, or has a key twice"):
        publish(ready)


def test_a_string_that_is_there_twice_is_found() -> None:
    plan = SnapshotManifest.model_construct(key="user_id", key_dtype="string")
    texts = pa.chunked_array([pa.array(["b", "a", "c", "d"], pa.large_string())])
    hashes = pa.array([1, 5, 5, 9], pa.uint64())
    rows = pa.table({"user_id": texts, "key_hash": hashes})
    assert building._is_sorted(rows, plan)

    twice = pa.chunked_array([pa.array(["b", "a", "a", "d"], pa.large_string())])
    assert not building._is_sorted(rows.set_column(0, "user_id", twice), plan)


def test_a_lookup_that_finds_another_row_is_not_served(
    ready: Lake, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The files are all right, and would be read wrongly: a sample of keys tells."""
    find = building.Shard.find

    def off_by_one(shard: Any, key: Any, hashed: int) -> int | None:
        row = find(shard, key, hashed)
        return None if row is None else max(row - 1, 0)

    monkeypatch.setattr(building.Shard, "find", off_by_one)
    with pytest.raises(SnapshotError, match=r"answers .* for 'risk' of .*, predicted"):
        publish(ready)

    assert current_version(snapshots_of(ready)) is None


def test_another_release_with_the_same_outputs_links_every_file(
    ready: Lake, tmp_path: Path
) -> None:
    first = publish(ready).current
    other = narrow(tmp_path / "other", about={"author": "else"})
    score(ready, approved(root_of(ready), other), DAY)

    second = publish(ready).current

    assert first is not None
    assert second is not None
    assert second.model_version == other.digest != first.model_version
    assert [f.linked_from for f in second.files] == [first.version] * SHARDS
    answer = Version.current(snapshots_of(ready)).get(
        read_day(ready, "predictions")["user_id"][0].as_py()
    )
    assert answer is not None
    assert answer.release.digest == other.digest
    assert equals_predictions(ready, snapshots_of(ready), DAY).passed


def swapping(whole: Callable[..., pa.Table]) -> Callable[..., pa.Table]:
    """A builder that gives the first two keys of a shard each other's output."""

    def confused(*args: Any) -> pa.Table:
        rows = whole(*args)
        order = [1, 0, *range(2, len(rows))]
        (group,) = groups_of(rows)
        keys = {"user_id": rows["user_id"].combine_chunks()}
        return packed(keys, [Group(group.names, group.values[order])])

    return confused


def test_a_version_with_outputs_swapped_between_keys_is_not_served(
    ready: Lake, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Counts, keys and order are all right; only the content tells."""
    publish(ready, BEFORE)
    before = served(ready)
    monkeypatch.setattr(building, "shard_rows", swapping(building.shard_rows))

    with pytest.raises(SnapshotError, match="other outputs than the predictions"):
        publish(ready)

    assert served(ready) == before


def test_a_version_that_lost_a_row_is_not_served(
    ready: Lake, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = building.shard_rows
    monkeypatch.setattr(building, "shard_rows", lambda *args: whole(*args)[1:])

    with pytest.raises(SnapshotError, match="holds .* rows, .* predictions hold"):
        publish(ready)

    assert current_version(snapshots_of(ready)) is None


def test_a_version_whose_bytes_changed_since_is_found(ready: Lake) -> None:
    manifest = publish(ready).current
    path = version_folder(snapshots_of(ready), manifest.version) / "shard=01.arrow"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.chmod(0o644)
    path.write_bytes(data)

    with pytest.raises(SnapshotError, match="hashes to"):
        equals_predictions(ready, snapshots_of(ready), DAY)


def test_a_rewritten_predictions_file_is_not_taken_for_what_was_committed(
    ready: Lake,
) -> None:
    path = ready.predictions.paths(DAY)[0]
    table = pq.read_table(path, partitioning=None)
    risk = pc.multiply(table["risk"], pa.scalar(0.5, pa.float32()))
    rewritten(path, table.set_column(1, "risk", risk))

    with pytest.raises(CorruptPartError, match="bytes, .* were committed"):
        publish(ready)


@pytest.mark.parametrize(
    ("sealed_again", "said"), [(False, "hashes to"), (True, "not the bytes that were")]
)
def test_bytes_that_no_reader_would_miss_are_missed_by_the_publisher(
    ready: Lake, sealed_again: bool, said: str
) -> None:
    """A statistic of the footer, say: the rows still read as they were."""
    path = ready.predictions.paths(DAY)[0]
    part, rows = open_part(path)[0], pq.read_table(path, partitioning=None)
    change_unseen(path, rows)
    if sealed_again:
        with path.open("r+b") as file:
            digest, at = parts._digest_of(file)
            file.seek(at)
            file.write(digest.encode())
    found = open_part(path)[0]
    assert (found.size, found.receipt) == (part.size, part.receipt)

    with pytest.raises(CorruptPartError, match=said):
        publish(ready)

    assert current_version(snapshots_of(ready)) is None


def change_unseen(path: Path, rows: pa.Table) -> None:
    """Flip a bit of the footer after which the part opens and reads as before."""
    whole = path.read_bytes()
    for at in range(len(whole) - 9, 0, -1):
        changed = bytearray(whole)
        changed[at] ^= 1
        path.write_bytes(changed)
        try:
            same = pq.read_table(path, partitioning=None).equals(rows)
            if same and open_part(path)[0].sha256.encode() in whole:
                return
        except (CorruptPartError, OSError, ValueError, pa.ArrowException):
            continue
    raise AssertionError


def test_a_day_that_was_never_published_equals_nothing(ready: Lake) -> None:
    assert not equals_predictions(ready, snapshots_of(ready), DAY).passed

    publish(ready, NEXT)

    # Forward only: an older day is not published, and that is right.
    assert equals_predictions(ready, snapshots_of(ready), DAY).passed
