"""What the page about alerts says: its YAML is valid, its examples are what is sent."""

import json
import re
from datetime import UTC, datetime
from typing import Any

import pytest
import yaml

from batch_assets.alerts.alert import Alert, Message, Served
from batch_assets.alerts.receivers.factory import open_receiver
from batch_assets.cli.main import main
from batch_assets.sensors.alerts import build_sensors
from batch_assets.spec.alerts import KINDS, RECEIVERS, AlertsSpec
from batch_assets_tests.listeners import SECRET, http_listener, smtp_listener
from batch_assets_tests.projects import FLIGHTS
from batch_assets_tests.told import GATE_SHUT, by_mail, declared
from batch_assets_tests.toys import make_spec

TEXT = (FLIGHTS / "docs" / "alerts.md").read_text(encoding="utf-8")
EXAMPLE = Message(
    "msg_5f0c1a6be2f34e0f9a2b8a3f6a1d7c44",
    "raised",
    Alert(
        kind="gate_shut",
        pipeline="flights",
        day="2013-02-12",
        subject="quarantine_share_is_within_limit",
        summary="340 of 918 raw rows are quarantined: 0.3704 of them, at most 0.01 may "
        "be. The limit is gates.max_quarantine_share in the pipeline's YAML",
        numbers={"share": 340 / 918, "limit": 0.01},
        served=Served("2013-02-11-8a01b10e9a7a", "2013-02-11", 85_500.0),
        next_command="batch-assets books flights --day 2013-02-12",
        at=datetime(2013, 2, 13, 5, 31, 4, tzinfo=UTC),
    ),
)


def block(kind: str, number: int = 0) -> str:
    return re.findall(rf"```{kind}\n(.*?)```", TEXT, re.DOTALL)[number]


def test_the_yaml_is_valid_and_every_field_is_on_the_page():
    spec = make_spec(**yaml.safe_load(block("yaml")))
    assert spec.alerts is not None
    assert [r.kind for r in spec.alerts.receivers] == list(RECEIVERS)
    fields = {f for model in RECEIVERS.values() for f in model.model_fields}
    for field in fields | set(AlertsSpec.model_fields):
        assert f"`{field}`" in TEXT or f"{field}:" in TEXT, field


def test_every_kind_sensor_and_command_is_on_the_page():
    for kind in KINDS:
        assert f"| `{kind}` |" in TEXT, kind
    spec = make_spec(alerts={"receivers": [{"kind": "log"}]})
    for sensor in build_sensors(spec):
        assert f"`<pipeline>{sensor.name.removeprefix('toy')}`" in TEXT, sensor.name
    for command in main.commands["alerts"].commands:  # type: ignore[attr-defined]
        assert f"batch-assets alerts {command} " in TEXT, command


def test_the_json_of_the_page_is_what_is_posted():
    assert json.loads(block("json")) == json.loads(EXAMPLE.json)


def test_the_email_of_the_page_is_what_is_sent():
    with smtp_listener() as box:
        (receiver,) = declared(by_mail(box)).receivers
        open_receiver(receiver).send(EXAMPLE)
    (text,), (subject,) = box.texts, box.subjects
    said = f"Subject: {subject}\n\n{text}".replace("\r\n", "\n")
    assert block("text") == said


@pytest.fixture
def posted(monkeypatch):
    """What a receiver gets, and the page's own verifier."""
    names: dict[str, Any] = {}
    exec(block("python"), names)
    with http_listener() as web:
        monkeypatch.setenv("ALERTS_WEBHOOK_URL", web.url)
        monkeypatch.setenv("ALERTS_WEBHOOK_SECRET", SECRET)
        (receiver,) = declared("webhook").receivers
        open_receiver(receiver).send(Message("msg_1", "raised", GATE_SHUT))
    ((headers, body),) = web.received
    return names["verified"], headers, body


def test_the_verifier_of_the_page_takes_what_is_posted(posted):
    verified, headers, body = posted
    assert verified(SECRET, headers, body)["data"]["kind"] == "gate_shut"


@pytest.mark.parametrize(
    "spoil",
    [
        lambda h, b: (h | {"webhook-signature": "v1,bm90IGl0"}, b),
        lambda h, b: (h | {"webhook-signature": ""}, b),
        lambda h, b: (h | {"webhook-id": "msg_2"}, b),
        lambda h, b: (h | {"webhook-timestamp": "1614265330"}, b),
        lambda h, b: (h | {"webhook-timestamp": "soon"}, b),
        lambda h, b: (h, b.replace(b"gate_shut", b"gate_open")),
    ],
    ids=["signature", "no signature", "id", "old", "no time", "body"],
)
def test_the_verifier_of_the_page_refuses_what_was_changed(posted, spoil):
    verified, headers, body = posted
    with pytest.raises(ValueError, match="webhook"):
        verified(SECRET, *spoil(headers, body))


def test_the_verifier_of_the_page_refuses_another_secret(posted):
    verified, headers, body = posted
    with pytest.raises(ValueError, match="webhook"):
        verified("whsec_" + "A" * 32, headers, body)
