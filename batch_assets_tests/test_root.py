"""Where things are: the project's folder, and the root."""

from pathlib import Path

import pytest

from batch_assets.root import MARK, ROOT, data_root, project_folder


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / MARK).touch()
    (tmp_path / "defs" / "toy").mkdir(parents=True)
    return tmp_path


@pytest.mark.parametrize("inside", [".", "defs", "defs/toy"])
def test_the_project_is_found_from_within(project, inside):
    assert project_folder(project / inside) == project


def test_the_nearest_project_is_taken(project):
    (project / "defs" / MARK).touch()

    assert project_folder(project / "defs" / "toy") == project / "defs"


def test_a_folder_without_a_project_is_its_own(tmp_path):
    assert project_folder(tmp_path) == tmp_path


def test_the_root_is_data_in_the_project(project, monkeypatch):
    monkeypatch.delenv(ROOT, raising=False)
    monkeypatch.chdir(project / "defs")

    assert data_root() == project / "data"


def test_the_root_can_be_named(project, monkeypatch):
    monkeypatch.chdir(project)
    monkeypatch.setenv(ROOT, "elsewhere")

    assert data_root() == project / "elsewhere"


def test_the_root_can_be_in_the_home_folder(monkeypatch):
    monkeypatch.setenv(ROOT, "~/nights")

    assert data_root() == Path.home().resolve() / "nights"
