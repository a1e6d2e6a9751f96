"""Alerts that go by Apprise; its own JSON service is a real web server here."""

import logging
import sys

import pytest

from batch_assets.alerts.alert import Message
from batch_assets.alerts.receivers.factory import open_receiver
from batch_assets.errors import AlertError, ConfigError
from batch_assets_tests.listeners import PATH
from batch_assets_tests.servers import free_port
from batch_assets_tests.told import ALERTS, GATE_SHUT, declared

# It tries a module of Python's own that 3.13 has not any more.
pytestmark = pytest.mark.filterwarnings("ignore:'imghdr' is deprecated")

(APPRISE,) = declared("apprise").receivers
MESSAGE = Message("msg_1", "raised", GATE_SHUT)
TOKEN = PATH.rpartition("/")[2]


@pytest.fixture
def service(web, monkeypatch):
    monkeypatch.setenv("ALERTS_APPRISE_URL", web.url.replace("http://", "json://"))
    return web


@pytest.mark.parametrize(
    ("state", "colour"),
    [("raised", "failure"), ("resolved", "success"), ("test", "info")],
)
@pytest.mark.parametrize("kind", ALERTS)
def test_every_kind_arrives(service, kind, state, colour):
    message = Message("msg_1", state, ALERTS[kind])
    open_receiver(APPRISE).send(message)

    (said,) = service.messages
    assert said["title"] == message.headline
    assert said["message"] == message.text
    assert said["type"] == colour


def test_a_service_that_fails_says_why_and_no_secret(service, monkeypatch, caplog):
    caplog.set_level(logging.DEBUG)
    service.answers[:] = [500]
    receiver = open_receiver(APPRISE)
    with pytest.raises(AlertError, match="error=500") as broken:
        receiver.send(MESSAGE)
    monkeypatch.setenv("ALERTS_APPRISE_URL", f"json://127.0.0.1:{free_port()}{PATH}")
    with pytest.raises(AlertError, match="Connection error") as down:
        open_receiver(APPRISE).send(MESSAGE)

    for text in (str(broken.value), str(down.value), repr(receiver), caplog.text):
        assert TOKEN not in text


@pytest.mark.parametrize(
    "url",
    [
        f"nosuch://host{PATH}",
        f"no url {TOKEN}",
        f"json://h{PATH},json://i{PATH}",
        "slack://",
    ],
)
def test_a_url_that_apprise_does_not_know_is_refused_and_not_shown(
    url, monkeypatch, caplog, capfd
):
    monkeypatch.setenv("ALERTS_APPRISE_URL", url)
    with pytest.raises(ConfigError, match="ALERTS_APPRISE_URL holds no URL") as said:
        open_receiver(APPRISE)

    out, err = capfd.readouterr()
    for text in (str(said.value), caplog.text, out, err):
        assert TOKEN not in text


def test_without_apprise_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "apprise", None)
    monkeypatch.delitem(
        sys.modules, "batch_assets.alerts.receivers.apprise", raising=False
    )
    with pytest.raises(ConfigError, match=r"pip install 'batch-assets\[apprise\]'"):
        open_receiver(APPRISE)
