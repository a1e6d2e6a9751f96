"""Each store, empty."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from batch_assets.snapshots.store import SnapshotStore
from batch_assets_tests.stores import Store, open_store


@pytest.fixture(params=["redis", "postgres", "cassandra"])
def store(request: pytest.FixtureRequest) -> Iterator[Store]:
    yield from open_store(request, request.param)


@pytest.fixture(params=["redis", "postgres"])
def server_store(request: pytest.FixtureRequest) -> Iterator[Store]:
    """Those that are reached over the network."""
    yield from open_store(request, request.param)


@pytest.fixture
def snapshots(tmp_path: Path) -> SnapshotStore:
    return SnapshotStore(tmp_path, "toy")


@pytest.fixture
def in_postgres(request: pytest.FixtureRequest) -> Iterator[Store]:
    yield from open_store(request, "postgres")


@pytest.fixture
def in_cassandra(request: pytest.FixtureRequest) -> Iterator[Store]:
    yield from open_store(request, "cassandra")
