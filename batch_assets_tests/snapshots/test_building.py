"""A version is built from the committed rows, and nothing else gets by."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from batch_assets.errors import SnapshotError
from batch_assets.lake import shards
from batch_assets.lake.parts import open_part
from batch_assets.lake.shards import hash_key
from batch_assets.lake.tables import Lake
from batch_assets.models.release import sha256_of
from batch_assets.snapshots import build as building
from batch_assets.snapshots import proof, shard
from batch_assets.snapshots import version as looking_up
from batch_assets.snapshots.judges import equals_predictions
from batch_assets.snapshots.layout import Group, groups_of, packed
from batch_assets.snapshots.manifest import MANIFEST, SnapshotManifest
from batch_assets.snapshots.version import Version
from batch_assets_tests.parts_by_hand import rewritten
from batch_assets_tests.publishing import (
    BEFORE,
    NEXT,
    approved,
    narrow,
    publish,
    raw_rows,
    root_of,
    score,
    served,
    snapshots_of,
)
from batch_assets_tests.toys import DAY, NAME, SHARDS, copy_rows, read_day, validate


@pytest.mark.parametrize("distinct", [None, 2, 1], ids=["all", "two", "one"])
def test_strings_are_served_even_where_their_hashes_collide(
    root: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    distinct: int | None,
) -> None:
    monkeypatch.setattr(shard, "FENCES", 4 * SHARDS)  # Fewer than there are hashes.
    if distinct:  # So many hashes for all the keys of a shard.
        few, hash_strings = distinct * SHARDS, shards._hash_strings
        monkeypatch.setattr(
            shards, "_hash_strings", lambda keys: hash_strings(keys) % np.uint64(few)
        )
        for module in (looking_up, proof):
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
    asked = [*read_day(lake, "predictions")["user_id"].to_pylist(), "nobody"]
    assert snapshot.get_many(asked) == [snapshot.get(key) for key in asked]
    assert equals_predictions(lake, snapshots_of(lake), DAY).passed


def test_a_version_that_differs_from_the_predictions_is_found(ready: Lake) -> None:
    manifest = publish(ready).current
    folder = snapshots_of(ready).version_folder(manifest.version)
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
    monkeypatch.setattr(proof, "_read", lambda *_: pytest.fail("rows were read"))

    assert equals_predictions(ready, snapshots_of(ready), DAY).passed


@pytest.mark.parametrize("differ", [False, True])
def test_rows_are_compared_where_a_receipt_is_of_before_there_were_contents(
    ready: Lake, monkeypatch: pytest.MonkeyPatch, differ: bool
) -> None:
    for path in ready.predictions.paths(DAY):
        table = pq.read_table(path, partitioning=None)
        rewritten(path, table, content=None)
    commit = ready.predictions.last_commit(DAY)
    assert commit is not None
    made = [open_part(path)[0] for path in ready.predictions.paths(DAY)]
    schema = pq.read_schema(made[0].path)
    ready.predictions.commit_day(DAY, made, schema, commit.facts)
    if differ:
        with monkeypatch.context() as patch:
            patch.setattr(building, "shard_rows", swapping(building.shard_rows))
            patch.setattr(building, "prove_lookups", lambda *_: None)
            publish(ready)
    else:
        publish(ready)

    assert equals_predictions(ready, snapshots_of(ready), DAY).passed is not differ


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
    assert proof._is_sorted(rows, plan)

    twice = pa.chunked_array([pa.array(["b", "a", "a", "d"], pa.large_string())])
    assert not proof._is_sorted(rows.set_column(0, "user_id", twice), plan)


def test_a_lookup_that_finds_another_row_is_not_served(
    ready: Lake, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The files are all right, and would be read wrongly: a sample of keys tells."""
    find = proof.Shard.find

    def off_by_one(shard: Any, key: Any, hashed: int) -> int | None:
        row = find(shard, key, hashed)
        return None if row is None else max(row - 1, 0)

    monkeypatch.setattr(proof.Shard, "find", off_by_one)
    with pytest.raises(SnapshotError, match=r"answers .* for 'risk' of .*, predicted"):
        publish(ready)

    assert snapshots_of(ready).current() is None


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

    assert snapshots_of(ready).current() is None


def test_a_version_whose_bytes_changed_since_is_found(ready: Lake) -> None:
    manifest = publish(ready).current
    path = snapshots_of(ready).version_folder(manifest.version) / "shard=01.arrow"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.chmod(0o644)
    path.write_bytes(data)

    with pytest.raises(SnapshotError, match="hashes to"):
        equals_predictions(ready, snapshots_of(ready), DAY)


def test_a_day_that_was_never_published_equals_nothing(ready: Lake) -> None:
    assert not equals_predictions(ready, snapshots_of(ready), DAY).passed

    publish(ready, NEXT)

    # Forward only: an older day is not published, and that is right.
    assert equals_predictions(ready, snapshots_of(ready), DAY).passed
