"""A validated day of several shards and chunks, of numbers or of histories."""

import functools
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from batch_assets.lake.tables import Lake
from batch_assets.models.release import Release
from batch_assets_tests import histories
from batch_assets_tests.nights import ROWS
from batch_assets_tests.toys import NAME, copy_rows, make_rows, validate


@pytest.fixture(scope="session")
def release_of(
    toy_release: Release, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], Release]:
    @functools.cache
    def written(kind: str) -> Release:
        if kind == "numbers":
            return toy_release
        return histories.write_histories(
            tmp_path_factory.mktemp("release") / kind,
            name=NAME,
            model_format="safetensors",
            import_path="batch_assets_tests.histories:Histories",
        )

    return written


@pytest.fixture(scope="module")
def validated_of(
    release_of: Callable[[str], Release], tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], Path]:
    """A root of a kind with a validated day of several shards and chunks; copy it."""

    @functools.cache
    def validated(kind: str) -> Path:
        folder = tmp_path_factory.mktemp("validated") / "root"
        lake, contract = Lake(folder, NAME), release_of(kind).contract
        rows = make_rows(ROWS) if kind == "numbers" else histories.make_rows(ROWS)
        copy_rows(lake, rows, contract=contract)
        validate(lake, contract=contract)
        return folder

    return validated


@pytest.fixture
def kind() -> str:
    """What the day is of; a test may ask for `histories`."""
    return "numbers"


@pytest.fixture
def release(kind: str, release_of: Callable[[str], Release]) -> Release:
    return release_of(kind)


@pytest.fixture
def validated(kind: str, validated_of: Callable[[str], Path]) -> Path:
    return validated_of(kind)


@pytest.fixture
def ready(validated: Path, root: Path) -> Lake:
    shutil.copytree(validated, root, dirs_exist_ok=True)
    return Lake(root, NAME)
