"""A release that misbehaves at some ages, and a service of it."""

from collections.abc import Iterator

import pytest

from batch_assets.models.release import Release
from batch_assets_tests.models_that_fail import write_moody
from batch_assets_tests.services import Server, published, serving


@pytest.fixture(scope="package")
def moody(tmp_path_factory: pytest.TempPathFactory) -> Release:
    return write_moody(tmp_path_factory.mktemp("moody") / "release")


@pytest.fixture(scope="package")
def server(
    tmp_path_factory: pytest.TempPathFactory, moody: Release
) -> Iterator[Server]:
    """The toy pipeline, served for all tests that leave it as it was."""
    root = published(tmp_path_factory.mktemp("served") / "root", moody)
    with serving(root, "--max-seconds", "3") as server:
        yield server
