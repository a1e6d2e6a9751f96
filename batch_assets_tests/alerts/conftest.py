"""Alerts as they are noticed, and a listener for each way that they take."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from batch_assets_tests.listeners import (
    SECRET,
    Certificate,
    Listener,
    Postbox,
    http_listener,
    make_certificate,
    smtp_listener,
)


@pytest.fixture
def web(monkeypatch: pytest.MonkeyPatch) -> Iterator[Listener]:
    """A web server, whose URL and secret are in the environment."""
    with http_listener() as listener:
        monkeypatch.setenv("ALERTS_WEBHOOK_URL", listener.url)
        monkeypatch.setenv("ALERTS_WEBHOOK_SECRET", SECRET)
        yield listener


@pytest.fixture
def post() -> Iterator[Postbox]:
    """An SMTP server that takes mail from anybody."""
    with smtp_listener() as box:
        yield box


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    folder: Path = tmp_path_factory.mktemp("certificate")
    return make_certificate(folder)
