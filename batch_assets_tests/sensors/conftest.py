"""A project whose pipeline declares alerts, over real HTTP and SMTP."""

from collections.abc import Iterator

import dagster as dg
import pytest

from batch_assets_tests.listeners import (
    SECRET,
    Listener,
    Postbox,
    http_listener,
    smtp_listener,
)
from batch_assets_tests.projects import FIRST, Project, attributes, make_project
from batch_assets_tests.told import by_mail
from batch_assets_tests.toys import make_rows, write_source


@pytest.fixture
def web(monkeypatch: pytest.MonkeyPatch) -> Iterator[Listener]:
    with http_listener() as listener:
        monkeypatch.setenv("ALERTS_WEBHOOK_URL", listener.url)
        monkeypatch.setenv("ALERTS_WEBHOOK_SECRET", SECRET)
        yield listener


@pytest.fixture
def post() -> Iterator[Postbox]:
    with smtp_listener() as box:
        yield box


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.instance_for_test() as instance:
        yield instance


@pytest.fixture
def project(tmp_path, root, registry, monkeypatch, web, post) -> Project:
    alerts = {"receivers": [{"kind": "webhook"}, by_mail(post)]}
    pipeline = attributes(alerts=alerts)
    return make_project(tmp_path / "project", root, monkeypatch, [pipeline])


@pytest.fixture
def served(project, instance) -> Project:
    """A project whose first night is done and served."""
    write_source(project.folder, make_rows(1_000), day=FIRST)
    assert project.run("toy", FIRST, instance).success
    return project
