"""Three scored days, of which none is published."""

import functools
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from batch_assets.lake.tables import Lake
from batch_assets.models.release import Release
from batch_assets_tests.publishing import BEFORE, KINDS, NEXT, score_days
from batch_assets_tests.toys import DAY, NAME


@pytest.fixture(scope="session")
def release_of(
    tmp_path_factory: pytest.TempPathFactory,
) -> Callable[[str], Release]:
    @functools.cache
    def written(kind: str) -> Release:
        return KINDS[kind].write_release(tmp_path_factory.mktemp("one") / "release")

    return written


@pytest.fixture(scope="session")
def scored_of(
    release_of: Callable[[str], Release], tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], Path]:
    """A root of a kind with three scored days, nothing served; copy it."""

    @functools.cache
    def scored(kind: str) -> Path:
        folder = tmp_path_factory.mktemp("scored") / "root"
        days = {day: KINDS[kind].rows(day) for day in (BEFORE, DAY, NEXT)}
        score_days(folder, release_of(kind), days)
        return folder

    return scored


@pytest.fixture
def kind() -> str:
    """What the days are of; a file of tests may ask for others."""
    return "numbers"


@pytest.fixture
def narrow_release(kind: str, release_of: Callable[[str], Release]) -> Release:
    return release_of(kind)


@pytest.fixture
def scored(kind: str, scored_of: Callable[[str], Path]) -> Path:
    return scored_of(kind)


@pytest.fixture
def ready(scored: Path, root: Path) -> Lake:
    shutil.copytree(scored, root, dirs_exist_ok=True)
    return Lake(root, NAME)
