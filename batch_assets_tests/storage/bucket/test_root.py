"""A `<root>` in a bucket as a person uses it, and what is wrong with one."""

import json
import threading
import time
from collections.abc import Callable

import pytest

from batch_assets.errors import StorageError
from batch_assets.lake.parts import read_columns
from batch_assets.lake.tables import Lake
from batch_assets.storage import storage_path
from batch_assets_tests.commands import batch_assets, invoke
from batch_assets_tests.in_bucket import NEXT_DAY, ROWS
from batch_assets_tests.parts_by_hand import commit, write_part
from batch_assets_tests.projects import attributes, make_project
from batch_assets_tests.seaweed import BUCKET, object_store
from batch_assets_tests.toys import DAY, NAME, make_rows, write_source

pytestmark = pytest.mark.slow


@pytest.fixture
def cli(root) -> Callable[..., str]:
    return invoke


def test_the_commands_work_on_a_bucket(cli, root, toy_release, tmp_path, monkeypatch):
    make_project(tmp_path / "p", root, monkeypatch, [attributes()])
    monkeypatch.delenv("DAGSTER_HOME", raising=False)
    rows = make_rows(ROWS)
    write_source(tmp_path / "p", rows, day=DAY)

    assert toy_release.digest in cli("release", "add", NAME, str(toy_release.folder))
    cli("release", "approve", NAME, toy_release.digest[:12], "--why", "ok")
    assert "in use" in cli("release", "list")
    assert "golden rows" in cli("release", "verify", NAME)
    night = json.loads(
        batch_assets(
            tmp_path, "run", NAME, "--day", DAY, "--json", BATCH_ASSETS_ROOT=str(root)
        ).stdout
    )
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

        monkeypatch.setattr("batch_assets.storage.RETRIES", 2)
        monkeypatch.setenv("AWS_OF_ANOTHER_CLIENT", "which has less patience")
        read_columns(part.path)
        server.kill()
        with pytest.raises(StorageError, match="can't be opened"):
            lake.predictions.parts(DAY)
        with pytest.raises(StorageError, match="can't be reached"):
            read_columns(part.path)
        with pytest.raises(StorageError, match="can't be reached"):
            write_part(lake.predictions, [2], chunk=7)
