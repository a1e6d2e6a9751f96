"""A lookup gives what was published, or says that the file can't be trusted."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from batch_assets.errors import NotServedError, SnapshotError
from batch_assets.lake.shards import hash_key
from batch_assets.models.release import Release
from batch_assets.snapshots.manifest import MANIFEST
from batch_assets.snapshots.store import CURRENT, SnapshotStore
from batch_assets.snapshots.version import Version
from batch_assets_tests.publishing import NEXT, publish_nights
from batch_assets_tests.toys import DAY, NAME, SHARDS, expected_risk, make_rows

# Above 2**53 two neighbours are one float64: a search through floats mixes them up.
HUGE = [2**62 + 1, 2**62 + 2, 2**53 + 1, 2**53 + 2, 2**63 - 1, -(2**63), -(2**62) - 1]
KEYS = [0, 1, -1, -2, *HUGE, *range(10, 500, 3)]
WORDS = ["", "a", "0", "-1", "naïve", "a" * 100, *(f"user-{n}" for n in range(200))]


def rows_of(keys: list[Any]) -> pa.Table:
    dtype = "string" if isinstance(keys[0], str) else "int64"
    rows = make_rows(len(keys), key_dtype=dtype)
    return rows.set_column(0, "user_id", pa.array(keys, rows["user_id"].type))


@pytest.fixture(scope="module")
def integers(
    tmp_path_factory: pytest.TempPathFactory, toy_release: Release
) -> SnapshotStore:
    """Two days of integer keys; never change it: copy it."""
    root = tmp_path_factory.mktemp("integers")
    return publish_nights(root, toy_release, rows_of(KEYS), DAY, NEXT)


@pytest.fixture(scope="module")
def strings(
    tmp_path_factory: pytest.TempPathFactory, string_release: Release
) -> SnapshotStore:
    """Two days of string keys; never change it: copy it."""
    root = tmp_path_factory.mktemp("strings")
    return publish_nights(root, string_release, rows_of(WORDS), DAY, NEXT)


@pytest.fixture(params=["integers", "strings"])
def copied(request: pytest.FixtureRequest, tmp_path: Path) -> SnapshotStore:
    """A copy of each, to harm."""
    shutil.copytree(request.getfixturevalue(request.param).folder, tmp_path / "copy")
    return SnapshotStore.at(tmp_path / "copy")


def shard_path(store: SnapshotStore, number: int) -> Path:
    return store.version_folder(str(store.current())) / f"shard={number:02d}.arrow"


def overwrite(path: Path, data: bytes) -> None:
    path.chmod(0o644)
    path.write_bytes(data)


@pytest.mark.parametrize(("name", "keys"), [("integers", KEYS), ("strings", WORDS)])
def test_every_key_is_found_with_its_own_score(
    request: pytest.FixtureRequest, name: str, keys: list[Any]
) -> None:
    snapshot = Version.current(request.getfixturevalue(name))
    expected = expected_risk(rows_of(keys))

    answers = [snapshot.get(key) for key in keys]

    assert [answer and answer.key for answer in answers] == keys
    found = [answer.outputs["risk"] for answer in answers if answer]
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    assert len(set(found)) > len(keys) / 2


def test_an_answer_says_of_which_day_release_and_version_it_is(
    integers: SnapshotStore, toy_release: Release
) -> None:
    answer = Version.current(integers).get(1)

    assert answer is not None
    assert (answer.day, answer.release.name) == (NEXT, NAME)
    assert answer.release.digest == toy_release.digest
    assert answer.version == integers.current()
    assert answer.version.startswith(NEXT)
    assert timedelta(0) < answer.age < timedelta(minutes=10)
    assert type(answer.outputs["risk"]) is float


@pytest.mark.parametrize("key", [10, "10", "010", "0" * 5_000 + "10", np.int64(10)])
def test_an_integer_key_may_be_written_as_text(
    integers: SnapshotStore, key: Any
) -> None:
    answer = Version.current(integers).get(key)

    assert answer is not None
    assert (type(answer.key), answer.key) == (int, 10)


@pytest.mark.parametrize(
    "key",
    [2, -3, 11, 2**62, 2**62 + 3, 2**53, 2**63 - 2, 2**63, -(2**63) - 1, 2**64 + 1],
)
def test_an_integer_that_was_not_scored_is_not_there(
    integers: SnapshotStore, key: int
) -> None:
    assert Version.current(integers).get(key) is None


@pytest.mark.parametrize("key", ["A", "b", "user-", "user-200", "user-1 "])
def test_a_string_that_was_not_scored_is_not_there(
    strings: SnapshotStore, key: Any
) -> None:
    assert Version.current(strings).get(key) is None


def test_an_integer_among_strings_is_an_error_and_no_silent_miss(
    strings: SnapshotStore,
) -> None:
    with pytest.raises(SnapshotError, match="'user_id' is a string, got 5"):
        Version.current(strings).get(5)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "key",
    [
        "ten",
        "",
        "1.0",
        1.5,
        None,
        b"10",
        "1_0",
        "１０",
        "١٠",
        " 10",
        "10\n",
        "+10",
        "--1",
    ]
    + ["0x10", "-", "9223372036854775808", "-9223372036854775809", "9" * 5_000],
)
def test_a_key_of_another_type_is_an_error(integers: SnapshotStore, key: Any) -> None:
    with pytest.raises(SnapshotError, match="'user_id' is an integer"):
        Version.current(integers).get(key)


def truncated(data: bytes) -> bytes:
    return data[:-1]


def flipped(at: float) -> Callable[[bytes], bytes]:
    def flip(data: bytes) -> bytes:
        position = min(int(len(data) * at), len(data) - 1)
        return data[:position] + bytes([data[position] ^ 1]) + data[position + 1 :]

    flip.__name__ = f"flipped_at_{at}"
    return flip


@pytest.mark.parametrize(
    "harm",
    [
        truncated,
        lambda data: b"",
        lambda data: data + b"\0",
        *(flipped(at / 16) for at in range(17)),
    ],
)
def test_a_shard_that_is_not_what_was_published_answers_nothing(
    copied: SnapshotStore, harm: Callable[[bytes], bytes]
) -> None:
    path = shard_path(copied, 1)
    overwrite(path, harm(path.read_bytes()))
    snapshot = Version.current(copied)

    with pytest.raises(SnapshotError, match=r"shard=01\.arrow"):
        snapshot.verify()
    names = (
        map(str, range(100)) if snapshot.manifest.key_dtype == "string" else range(100)
    )
    asked = next(name for name in names if hash_key(name) % SHARDS == 1)
    with pytest.raises(SnapshotError, match=r"shard=01\.arrow"):
        snapshot.get(asked)


def test_a_shard_that_is_gone_answers_nothing(copied: SnapshotStore) -> None:
    shard_path(copied, 1).unlink()

    with pytest.raises(SnapshotError, match=r"shard=01\.arrow can't be read"):
        Version.current(copied).verify()


def test_shards_that_were_swapped_are_found(copied: SnapshotStore) -> None:
    one, two = shard_path(copied, 1), shard_path(copied, 2)
    data = one.read_bytes(), two.read_bytes()
    overwrite(one, data[1])
    overwrite(two, data[0])

    with pytest.raises(SnapshotError, match=r"shard=01\.arrow"):
        Version.current(copied).verify()


def test_the_manifest_of_another_version_is_refused(copied: SnapshotStore) -> None:
    first, second = (copied.version_folder(m.version) for m in copied.versions())
    shutil.copy(first / MANIFEST, second / MANIFEST)

    with pytest.raises(SnapshotError, match=f"is the manifest of {DAY}"):
        Version.current(copied)


@pytest.mark.parametrize(
    "text", ["", "{}", "not json", '{"format": 2}'], ids=["empty", "{}", "text", "2"]
)
def test_a_manifest_that_is_not_whole_is_refused(
    copied: SnapshotStore, text: str
) -> None:
    folder = copied.version_folder(str(copied.current()))
    (folder / MANIFEST).write_text(text, encoding="utf-8")

    with pytest.raises(SnapshotError, match="has no readable"):
        Version.current(copied)


@pytest.mark.parametrize("change", ["format", "extra"])
def test_a_manifest_of_a_later_format_is_refused(
    copied: SnapshotStore, change: str
) -> None:
    path = copied.version_folder(str(copied.current())) / MANIFEST
    manifest = json.loads(path.read_bytes())
    changed = manifest | ({"format": 3} if change == "format" else {"new": True})
    path.write_text(json.dumps(changed), encoding="utf-8")

    with pytest.raises(SnapshotError, match="has no readable"):
        Version.current(copied)


def test_where_nothing_is_published_nothing_is_served(tmp_path: Path) -> None:
    assert SnapshotStore.at(tmp_path).current() is None
    assert SnapshotStore.at(tmp_path).versions() == []
    with pytest.raises(NotServedError, match="nothing is served"):
        Version.current(tmp_path)


@pytest.mark.parametrize("text", ["", "\n", "  \n"])
def test_an_empty_current_is_an_error_and_not_nothing(
    copied: SnapshotStore, text: str
) -> None:
    (copied.folder / CURRENT).write_text(text, encoding="utf-8")

    with pytest.raises(SnapshotError, match="is empty") as caught:
        Version.current(copied)

    assert not isinstance(caught.value, NotServedError)


def test_a_current_that_names_no_version_is_an_error(copied: SnapshotStore) -> None:
    (copied.folder / CURRENT).write_text("2026-01-07-0123456789ab\n", encoding="utf-8")

    with pytest.raises(SnapshotError, match="version 2026-01-07-0123456789ab has no"):
        Version.current(copied)


def test_an_open_version_outlives_its_removal(copied: SnapshotStore) -> None:
    snapshot = Version.current(copied)
    snapshot.verify()
    key = snapshot.shard(0).table["user_id"][0].as_py()
    before = snapshot.get(key)

    shutil.rmtree(snapshot.folder)

    after = snapshot.get(key)
    assert before is not None
    assert after is not None
    assert after.outputs == before.outputs


def test_every_shard_is_a_map_of_its_file_and_not_a_copy(copied: SnapshotStore) -> None:
    before = pa.total_allocated_bytes()

    snapshot = Version.current(copied)
    snapshot.verify()

    assert snapshot.manifest.rows > 100
    assert pa.total_allocated_bytes() - before == 0


READER = """
import sys
from pathlib import Path
from batch_assets.snapshots.version import Version

answer = Version.current(Path(sys.argv[1])).get(10)
assert answer is not None
heavy = {"torch", "dagster", "deltalake", "duckdb", "polars"}
print(sorted(heavy & set(sys.modules)))
"""


def test_a_reader_loads_neither_torch_nor_dagster(integers: SnapshotStore) -> None:
    found = subprocess.run(
        [sys.executable, "-W", "error", "-c", READER, str(integers)],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )

    assert (found.stdout, found.stderr) == ("[]\n", "")
