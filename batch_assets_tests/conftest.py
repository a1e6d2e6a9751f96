"""What many tests start from: a root on disk, a toy release, its registry, a lake."""

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from dagster._core.storage.defs_state import base as defs_state

from batch_assets.lake.tables import Lake
from batch_assets.models.contract import Contract
from batch_assets.models.registry import Registry
from batch_assets.models.release import Release
from batch_assets_tests.servers import Server, postgres_server, redis_server
from batch_assets_tests.toys import NAME, make_contract, write_toy_release


def pytest_runtest_setup() -> None:
    """Where the time for tests is over, say so in place of a test. Only CI has such a time."""
    if time.time() > float(os.environ.get("TESTS_END", "inf")):
        pytest.skip("NOT RUN: the time for tests is over")
    _forget_a_closed_instance()


def _forget_a_closed_instance() -> None:
    """Let no instance of another test be Dagster's current one: see `instance_for_readers`."""
    kept = defs_state.DefsStateStorage.get()
    instance = kept._instance_weakref if kept else None
    if instance is not None and instance() is None:
        defs_state._current_storage.set(None)


@pytest.fixture
def toy_contract() -> Contract:
    return make_contract()


@pytest.fixture(scope="session")
def toy_release(tmp_path_factory: pytest.TempPathFactory) -> Release:
    """The toy release as a .pt2, keys int64. Never change its folder: copy it."""
    return write_toy_release(tmp_path_factory.mktemp("release") / "toy")


@pytest.fixture(scope="session")
def string_release(tmp_path_factory: pytest.TempPathFactory) -> Release:
    """The toy release as a .pt2, keys string. Never change its folder: copy it."""
    folder = tmp_path_factory.mktemp("release") / "toy"
    return write_toy_release(folder, key_dtype="string")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "root"
    folder.mkdir()
    return folder


@pytest.fixture
def registry(root: Path, toy_release: Release) -> Registry:
    """A registry under the root, with the toy release approved for batch."""
    registry = Registry(root)
    registry.add(toy_release.folder)
    registry.approve(NAME, toy_release.digest, why="the tests need it", by="ada")
    return registry


@pytest.fixture
def lake(root: Path) -> Lake:
    return Lake(root, NAME)


@pytest.fixture(scope="session")
def redis_here() -> Iterator[Server]:
    """A real Redis; keep to keys of your own."""
    with redis_server() as server:
        yield server


@pytest.fixture(scope="session")
def postgres_here() -> Iterator[Server]:
    """A real PostgreSQL; keep to a schema of your own."""
    with postgres_server() as server:
        yield server
