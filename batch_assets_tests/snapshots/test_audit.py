"""Each version can be asked in SQL, beside every day that was predicted."""

import shutil
from pathlib import Path

import duckdb
import pytest

from batch_assets.errors import SnapshotError
from batch_assets.lake.tables import Lake
from batch_assets.models.release import Release
from batch_assets.snapshots.audit import ask, audit_copy
from batch_assets.snapshots.store import SnapshotStore
from batch_assets_tests.publishing import (
    BEFORE,
    approved,
    narrow,
    publish,
    raw_rows,
    score,
    snapshots_of,
)
from batch_assets_tests.toys import DAY, NAME, copy_rows, read_day, validate

JOIN = """
    SELECT count(*), count(DISTINCT p.day), bool_and(p.risk = s.risk)
    FROM predictions p JOIN snapshot s USING (user_id)
    WHERE p.day = (SELECT day FROM version)
"""


@pytest.fixture(scope="module", params=["int64", "string"])
def made(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Lake:
    """Two days, scored and published; copy it to change it."""
    root = tmp_path_factory.mktemp("audit")
    release: Release = narrow(root / "release", key_dtype=request.param)
    approved(root, release)
    lake = Lake(root, NAME)
    for day in (BEFORE, DAY):
        copy_rows(
            lake, raw_rows(day, request.param), day=day, contract=release.contract
        )
        validate(lake, day=day, contract=release.contract)
        score(lake, release, day)
        publish(lake, day)
    return lake


def test_a_version_is_a_table_of_what_was_predicted(made: Lake) -> None:
    for manifest in snapshots_of(made).versions():
        columns, rows = ask(
            made,
            snapshots_of(made),
            manifest.version,
            "SELECT * FROM snapshot ORDER BY user_id",
        )

        predicted = read_day(made, "predictions", manifest.day)
        assert columns == ["user_id", "risk"]
        assert rows == list(
            zip(
                predicted["user_id"].to_pylist(),
                predicted["risk"].to_pylist(),
                strict=True,
            )
        )


def test_it_is_joined_with_the_history_of_the_predictions(made: Lake) -> None:
    first, second = snapshots_of(made).versions()
    for manifest in (first, second):
        _, rows = ask(made, snapshots_of(made), manifest.version, JOIN)
        assert rows == [(manifest.rows, 1, True)]
    _, days = ask(
        made,
        snapshots_of(made),
        second.version,
        "SELECT day, count(*) FROM predictions GROUP BY day ORDER BY day",
    )
    assert days == [(first.day, first.rows), (second.day, second.rows)]


def test_it_says_what_the_version_is(made: Lake) -> None:
    manifest = snapshots_of(made).versions()[-1]

    columns, (row,) = ask(
        made, snapshots_of(made), manifest.version, "SELECT * FROM version"
    )

    found = dict(zip(columns, row, strict=True))
    assert found["version"] == manifest.version
    assert found["model_version"] == manifest.model_version
    assert found["created_at"] == manifest.created_at


def test_any_client_opens_the_file(made: Lake) -> None:
    version = snapshots_of(made).versions()[-1].version
    path = audit_copy(made, snapshots_of(made), version)
    assert path == snapshots_of(made).version_folder(version) / "audit.duckdb"

    with duckdb.connect(str(path), read_only=True) as connection:
        rows = connection.execute(JOIN).fetchall()

    assert rows[0][2] is True


def test_it_is_made_once_and_leaves_nothing_beside_it(made: Lake) -> None:
    version = snapshots_of(made).versions()[-1].version
    path = audit_copy(made, snapshots_of(made), version)
    at = path.stat().st_mtime_ns

    assert audit_copy(made, snapshots_of(made), version).stat().st_mtime_ns == at
    assert sorted(p.suffix for p in path.parent.iterdir()) == [
        *[".arrow"] * 4,
        ".duckdb",
        ".json",
    ]


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ("SELEC 1", "the query can't be answered: Parser Error"),
        ("SELECT * FROM nothing", "nothing does not exist"),
        ("DELETE FROM audit.snapshot", "read-only mode"),
    ],
)
def test_a_query_that_is_wrong_is_told(made: Lake, query: str, said: str) -> None:
    version = snapshots_of(made).versions()[-1].version
    with pytest.raises(SnapshotError, match=said):
        ask(made, snapshots_of(made), version, query)


def test_a_version_that_is_not_whole_is_not_copied(made: Lake, tmp_path: Path) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(snapshots_of(made).folder, folder)
    version = SnapshotStore.at(folder).versions()[-1].version
    here = SnapshotStore.at(folder).version_folder(version)
    (here / "audit.duckdb").unlink(missing_ok=True)
    path = here / "shard=01.arrow"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.chmod(0o644)
    path.write_bytes(data)

    with pytest.raises(SnapshotError, match="hashes to"):
        audit_copy(made, SnapshotStore.at(folder), version)

    assert not (here / "audit.duckdb").exists()
    with pytest.raises(SnapshotError, match="has no readable"):
        audit_copy(made, SnapshotStore.at(folder), "2026-01-09-x")
