"""A project of the toy pipeline, and one whose first night is served."""

import dagster as dg
import pytest

from batch_assets_tests.projects import FIRST, Project, attributes, make_project
from batch_assets_tests.toys import make_rows, write_source


@pytest.fixture
def instance():
    with dg.instance_for_test() as instance:
        yield instance


@pytest.fixture
def project(tmp_path, root, registry, monkeypatch) -> Project:
    """A project of the toy pipeline, without rows."""
    return make_project(tmp_path / "project", root, monkeypatch, [attributes()])


@pytest.fixture
def served(project, instance) -> Project:
    """A project whose first night is done and served."""
    write_source(project.folder, make_rows(1_000), day=FIRST)
    result = project.run("toy", FIRST, instance)
    assert result.success
    return project
