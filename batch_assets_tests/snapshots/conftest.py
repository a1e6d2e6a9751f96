"""Three scored days, of which none is published."""

import shutil
from pathlib import Path

import pytest

from batch_assets.lake.tables import Lake
from batch_assets.models.release import Release
from batch_assets_tests.publishing import (
    BEFORE,
    NEXT,
    approved,
    narrow,
    raw_rows,
    score,
)
from batch_assets_tests.toys import DAY, NAME, copy_rows, validate


@pytest.fixture(scope="session")
def narrow_release(tmp_path_factory: pytest.TempPathFactory) -> Release:
    return narrow(tmp_path_factory.mktemp("one") / "release")


@pytest.fixture(scope="session")
def scored(narrow_release: Release, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A root with three scored days, nothing served; copy it."""
    folder = tmp_path_factory.mktemp("scored") / "root"
    folder.mkdir()
    approved(folder, narrow_release)
    lake = Lake(folder, NAME)
    for day in (BEFORE, DAY, NEXT):
        copy_rows(lake, raw_rows(day), day=day)
        validate(lake, day=day)
        score(lake, narrow_release, day)
    return folder


@pytest.fixture
def ready(scored: Path, root: Path) -> Lake:
    shutil.copytree(scored, root, dirs_exist_ok=True)
    return Lake(root, NAME)
