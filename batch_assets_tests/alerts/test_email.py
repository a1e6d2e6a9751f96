"""Alerts that are handed to a real SMTP server, in the clear and over TLS."""

import logging
from dataclasses import replace

import pytest

from batch_assets.alerts.alert import Message
from batch_assets.alerts.receivers.factory import open_receiver
from batch_assets.errors import AlertError, ConfigError, RefusedAlertError
from batch_assets_tests.listeners import PASSWORD, USER, smtp_listener
from batch_assets_tests.servers import free_port
from batch_assets_tests.told import ALERTS, DAY, GATE_SHUT, by_mail, declared

MESSAGE = Message("msg_1", "raised", GATE_SHUT)


def send(box, message=MESSAGE, **changes):
    (receiver,) = declared(by_mail(box, **changes)).receivers
    return open_receiver(receiver).send(message)


@pytest.mark.parametrize("kind", ALERTS)
def test_every_kind_arrives_and_its_subject_says_pipeline_day_and_what(post, kind):
    message = Message(f"msg_{kind}", "raised", ALERTS[kind])
    assert send(post, message) is None

    (mail,) = post.received
    assert mail["subject"] == message.headline
    assert mail["subject"].startswith(f"[toy] {DAY} {kind.split('_')[0]}")
    assert mail["from"] == "batch-assets@example.org"
    assert mail["message-id"] == f"<msg_{kind}@example.org>"
    assert mail["auto-submitted"] == "auto-generated"
    assert post.recipients == [["ada@example.org", "bob@example.org"]]
    assert message.text in mail.get_content().replace("\r\n", "\n")


def test_a_line_may_be_long_and_of_any_script(post):
    details = "ж" * 2_000 + " naïve\n.\nno end of the message"
    send(post, Message("msg_1", "raised", replace(GATE_SHUT, details=details)))

    (text,) = post.texts
    assert details in text.replace("\r\n", "\n")


def test_no_subject_carries_a_second_header(post):
    odd = replace(GATE_SHUT, subject="x\r\nBcc: eve@example.org")
    send(post, Message("msg_1", "raised", odd))

    (mail,) = post.received
    assert mail["bcc"] is None
    assert "x Bcc: eve@example.org" in mail["subject"]


def test_of_several_recipients_those_that_are_there_get_it(post):
    post.unknown = {"bob@example.org"}

    assert send(post) == (
        "not taken for bob@example.org (550 5.1.1 nobody of that name)"
    )
    assert post.recipients == [["ada@example.org"]]


def test_a_message_that_nobody_is_there_for_is_refused(post):
    post.unknown = {"ada@example.org", "bob@example.org"}
    with pytest.raises(RefusedAlertError, match="takes it for nobody: ada@example.org"):
        send(post)


@pytest.mark.parametrize(
    ("answer", "kind"),
    [("554 it looks like spam", RefusedAlertError), ("451 later", AlertError)],
)
def test_a_server_that_refuses_is_told_from_one_that_is_busy(post, answer, kind):
    post.answer = answer
    with pytest.raises(AlertError) as said:
        send(post)

    assert type(said.value) is kind
    assert str(said.value) == f"127.0.0.1:{post.port} answers {answer}"


def test_a_server_that_is_not_there_is_named(post):
    port = free_port()
    with pytest.raises(
        AlertError, match=f"127.0.0.1:{port} can't be reached: .*refused"
    ):
        send(post, port=port)


@pytest.fixture
def login(monkeypatch, certificate):
    monkeypatch.setenv("SMTP_USER", USER)
    monkeypatch.setenv("SMTP_PASSWORD", PASSWORD)
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate.chain))
    return {"user_env": "SMTP_USER", "password_env": "SMTP_PASSWORD"}


@pytest.mark.parametrize("security", ["starttls", "tls"])
def test_over_tls_it_logs_in(login, certificate, security):
    with smtp_listener(security=security, certificate=certificate) as box:
        send(box, security=security, **login)

    assert box.logins == [USER]
    assert box.subjects == [MESSAGE.headline]
    if security == "starttls":
        assert box.encrypted == [True]


@pytest.mark.parametrize("security", ["starttls", "tls"])
def test_a_certificate_that_nobody_vouches_for_is_refused(
    login, certificate, monkeypatch, security
):
    monkeypatch.delenv("SSL_CERT_FILE")
    with (
        smtp_listener(security=security, certificate=certificate) as box,
        pytest.raises(AlertError, match="certificate verify failed"),
    ):
        send(box, security=security, **login)
    assert box.received == []


def test_a_server_without_starttls_is_not_spoken_to_in_the_clear(post):
    with pytest.raises(RefusedAlertError, match="STARTTLS"):
        send(post, security="starttls")
    assert post.received == []


def test_a_wrong_password_is_said_without_it(login, certificate, monkeypatch, caplog):
    caplog.set_level(logging.DEBUG)
    monkeypatch.setenv("SMTP_PASSWORD", "wr0ng-password")
    with smtp_listener(security="starttls", certificate=certificate) as box:
        (receiver,) = declared(by_mail(box, security="starttls", **login)).receivers
        opened = open_receiver(receiver)
        with pytest.raises(RefusedAlertError, match="answers 535") as said:
            opened.send(MESSAGE)

    for text in (str(said.value), repr(opened), caplog.text):
        assert "wr0ng-password" not in text


def test_a_server_that_says_the_password_back_is_not_quoted(login, certificate):
    with smtp_listener(security="starttls", certificate=certificate) as box:
        box.answer = f"554 {USER} and {PASSWORD} may not send"
        with pytest.raises(RefusedAlertError) as said:
            send(box, security="starttls", **login)
    assert str(said.value).endswith("answers 554 *** and *** may not send")


@pytest.mark.parametrize("variable", ["SMTP_USER", "SMTP_PASSWORD"])
def test_a_variable_that_is_not_set_is_named(login, post, monkeypatch, variable):
    monkeypatch.delenv(variable)
    with pytest.raises(ConfigError, match=f"{variable}, which holds .* is not set"):
        send(post, security="starttls", **login)
