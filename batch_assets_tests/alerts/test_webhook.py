"""Alerts that are posted to a real web server, as JSON, signed."""

import logging
import socket
import time

import pytest

from batch_assets.alerts.alert import Message
from batch_assets.alerts.receivers import webhook
from batch_assets.alerts.receivers.factory import open_receiver
from batch_assets.errors import AlertError, ConfigError, RefusedAlertError
from batch_assets_tests.listeners import PATH, SECRET
from batch_assets_tests.servers import free_port
from batch_assets_tests.told import ALERTS, GATE_SHUT, declared

(WEBHOOK,) = declared("webhook").receivers
MESSAGE = Message("msg_1", "raised", GATE_SHUT)


def test_the_signature_is_that_of_the_spec():
    """The vector that the implementations of Standard Webhooks are tested with."""
    key = webhook.base64.b64decode(SECRET.removeprefix("whsec_"))
    signed = webhook.signature(
        key, "msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, b'{"test": 2432232314}'
    )
    assert signed == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


@pytest.mark.parametrize("kind", ALERTS)
def test_every_kind_arrives_with_its_headers(web, kind):
    message = Message(f"msg_{kind}", "raised", ALERTS[kind])
    open_receiver(WEBHOOK).send(message)

    ((headers, body),) = web.received
    assert body == message.json
    assert headers["content-type"] == "application/json"
    assert headers["webhook-id"] == f"msg_{kind}"
    assert abs(int(headers["webhook-timestamp"]) - time.time()) < 300
    assert headers["webhook-signature"].startswith("v1,")
    (said,) = web.messages
    assert said["data"]["kind"] == kind
    assert said["data"]["next_command"] == ALERTS[kind].next_command


@pytest.mark.parametrize("code", [429, 500, 503])
def test_a_busy_server_is_asked_again_with_the_same_id(web, code):
    web.answers[:] = [code, code]
    open_receiver(WEBHOOK).send(MESSAGE)

    ((headers, _),) = web.received
    assert headers["webhook-id"] == "msg_1"
    assert web.answers == []


def test_a_server_that_stays_busy_is_an_error_that_says_so(web):
    web.answers[:] = [503] * 9
    with pytest.raises(AlertError, match="answers 503 Service Unavailable") as said:
        open_receiver(WEBHOOK).send(MESSAGE)

    assert not isinstance(said.value, RefusedAlertError)
    assert len(web.answers) == 6


@pytest.mark.parametrize(
    ("code", "said"),
    [
        (401, "answers 401 Unauthorized"),
        (410, "answers 410 Gone"),
        (302, "answers 302 Found: set the variable to where it moved"),
        (299, None),
    ],
)
def test_an_answer_is_taken_at_its_word_and_no_redirect_is_followed(web, code, said):
    web.answers[:] = [code]
    receiver = open_receiver(WEBHOOK)
    if said is None:
        receiver.send(MESSAGE)
        return
    with pytest.raises(RefusedAlertError, match=said):
        receiver.send(MESSAGE)
    assert web.received == []


def test_a_server_that_is_not_there_is_named_without_its_path(monkeypatch, web):
    port = free_port()
    monkeypatch.setenv(
        "ALERTS_WEBHOOK_URL", f"http://user:hush-hush@127.0.0.1:{port}{PATH}"
    )
    receiver = open_receiver(WEBHOOK)
    with pytest.raises(AlertError) as said:
        receiver.send(MESSAGE)

    assert str(said.value) == (
        f"http://127.0.0.1:{port} (of ALERTS_WEBHOOK_URL) can't be reached: "
        "[Errno 111] Connection refused"
    )


def test_a_server_that_never_answers_is_waited_for_so_long(monkeypatch, web):
    monkeypatch.setattr(webhook, "SECONDS", 0.05)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        monkeypatch.setenv("ALERTS_WEBHOOK_URL", f"http://127.0.0.1:{port}{PATH}")
        with pytest.raises(AlertError, match="can't be reached: .*timed out"):
            open_receiver(WEBHOOK).send(MESSAGE)


@pytest.mark.parametrize(
    ("variable", "text", "said"),
    [
        ("ALERTS_WEBHOOK_URL", "", "which holds the webhook's URL, is not set"),
        ("ALERTS_WEBHOOK_URL", "  ", "which holds the webhook's URL, is not set"),
        ("ALERTS_WEBHOOK_URL", "ftp://hush-hush/x", "expected http:// or https://"),
        ("ALERTS_WEBHOOK_URL", "http://[hush-hush", "expected http:// or https://"),
        ("ALERTS_WEBHOOK_URL", "hush-hush", "expected http:// or https://"),
        ("ALERTS_WEBHOOK_SECRET", "", "which holds the webhook's secret, is not set"),
        ("ALERTS_WEBHOOK_SECRET", "hush-hush", "24 to 64 bytes in base64"),
        ("ALERTS_WEBHOOK_SECRET", "whsec_aHVzaC1odXNo", "24 to 64 bytes in base64"),
        ("ALERTS_WEBHOOK_SECRET", "hüsh-hush", "24 to 64 bytes in base64"),
    ],
)
def test_what_the_environment_lacks_is_said_and_what_it_holds_is_not(
    web, monkeypatch, variable, text, said
):
    monkeypatch.setenv(variable, text)
    with pytest.raises(ConfigError, match=said) as error:
        open_receiver(WEBHOOK)

    assert variable in str(error.value)
    assert "hush" not in str(error.value)
    assert "aHVzaC1odXNo" not in str(error.value)


def test_neither_logs_nor_errors_nor_texts_of_objects_hold_a_secret(
    web, monkeypatch, caplog
):
    caplog.set_level(logging.DEBUG)
    receiver = open_receiver(WEBHOOK)
    receiver.send(MESSAGE)
    web.answers[:] = [503] * 3
    with pytest.raises(AlertError) as busy:
        receiver.send(MESSAGE)
    monkeypatch.setenv("ALERTS_WEBHOOK_URL", f"http://127.0.0.1:{free_port()}{PATH}")
    with pytest.raises(AlertError) as down:
        open_receiver(WEBHOOK).send(MESSAGE)

    texts = [repr(receiver), str(busy.value), str(down.value), caplog.text]
    token = PATH.rpartition("/")[2]
    for text in texts:
        assert token not in text
        assert "key=" not in text
        assert SECRET.removeprefix("whsec_") not in text
