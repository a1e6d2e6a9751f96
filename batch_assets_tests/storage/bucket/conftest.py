"""A real object store: a prefix of its bucket is the `<root>` of each test."""

import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from batch_assets.lake.tables import Lake
from batch_assets.models.registry import Registry
from batch_assets.models.release import Release
from batch_assets.storage import ObjectPath, storage_path
from batch_assets_tests.in_bucket import NEXT_DAY, prepared, score
from batch_assets_tests.seaweed import BUCKET, Server, object_store
from batch_assets_tests.toys import DAY, NAME


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


@pytest.fixture
def ready(lake: Lake, registry: Registry, tmp_path: Path, toy_release: Release) -> Lake:
    """Two scored days, of which none is published."""
    for seed, day in enumerate((DAY, NEXT_DAY)):
        prepared(lake, tmp_path, day=day, seed=seed)
        score(lake, registry.resolve(NAME), day=day)
    return lake
