"""The record of alerts in a bucket, where machines share no lock."""

import threading
from contextlib import nullcontext

import pytest

from batch_assets.alerts import record
from batch_assets.alerts.notifier import Notifier
from batch_assets_tests.listeners import SECRET, http_listener
from batch_assets_tests.told import ALERTS, declared

MACHINES = 4


def test_of_machines_that_notice_the_same_at_once_one_tells(root, monkeypatch):
    monkeypatch.setattr(record, "exclusive", lambda _: nullcontext())
    monkeypatch.setenv("ALERTS_WEBHOOK_SECRET", SECRET)
    start = threading.Barrier(MACHINES)

    def notice() -> None:
        start.wait()
        Notifier(root, "toy", declared("webhook")).tell(ALERTS.values())

    with http_listener() as web:
        monkeypatch.setenv("ALERTS_WEBHOOK_URL", web.url)
        machines = [threading.Thread(target=notice) for _ in range(MACHINES)]
        for machine in machines:
            machine.start()
        for machine in machines:
            machine.join()
        Notifier(root, "toy", declared("webhook")).tell(ALERTS.values())

    assert sorted(m["data"]["kind"] for m in web.messages) == sorted(ALERTS)


@pytest.mark.parametrize("change", ["resolve", "come back"])
def test_what_is_over_there_is_over_here(root, monkeypatch, machine, change):
    monkeypatch.setenv("ALERTS_WEBHOOK_SECRET", SECRET)
    alert = ALERTS["gate_shut"]
    with http_listener() as web:
        monkeypatch.setenv("ALERTS_WEBHOOK_URL", web.url)
        Notifier(root, "toy", declared("webhook")).tell([alert])
        machine("second")
        Notifier(root, "toy", declared("webhook")).tell([], [alert.identity])
        machine("first")
        again = [alert] if change == "come back" else []
        Notifier(root, "toy", declared("webhook")).tell(again, [alert.identity])

    states = ["alert.raised", "alert.resolved", "alert.raised"]
    assert [m["type"] for m in web.messages] == states[: 2 + len(again)]
