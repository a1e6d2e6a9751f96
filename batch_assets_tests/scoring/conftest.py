"""A validated day of several shards and chunks."""

import shutil
from pathlib import Path

import pytest

from batch_assets.lake.tables import Lake
from batch_assets_tests.nights import ROWS
from batch_assets_tests.toys import NAME, copy_rows, make_rows, validate


@pytest.fixture(scope="module")
def validated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A root with a validated day of several shards and chunks; copy it."""
    folder = tmp_path_factory.mktemp("validated") / "root"
    lake = Lake(folder, NAME)
    copy_rows(lake, make_rows(ROWS))
    validate(lake)
    return folder


@pytest.fixture
def ready(validated: Path, root: Path) -> Lake:
    shutil.copytree(validated, root, dirs_exist_ok=True)
    return Lake(root, NAME)
