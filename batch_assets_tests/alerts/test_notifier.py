"""Who is told once, who is told again, and what becomes of what did not arrive."""

import json
import multiprocessing
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

import pytest

from batch_assets.alerts import notifier as notifier_module
from batch_assets.alerts.notifier import Notifier
from batch_assets.alerts.receivers import factory
from batch_assets.alerts.record import LEASE, AlertEntry, AlertRecord
from batch_assets_tests.listeners import PATH, SECRET, http_listener
from batch_assets_tests.servers import free_port
from batch_assets_tests.told import ALERTS, GATE_SHUT, IDENTITY, NOW, by_mail, declared


@dataclass
class Clock:
    """A clock that somebody sets."""

    at: datetime = NOW

    def __call__(self) -> datetime:
        return self.at

    def later(self, **much: float) -> None:
        self.at += timedelta(**much)


@pytest.fixture
def clock():
    return Clock()


def by_web(root, clock=lambda: NOW, **changes):
    return Notifier(root, "toy", declared("webhook", **changes), clock)


def entries(root):
    lines = (root / "alerts" / "toy" / "alerts.jsonl").read_text("utf-8").splitlines()
    return [json.loads(line) for line in lines]


def test_every_receiver_gets_what_it_asks_for(root, web, post, caplog):
    only = by_mail(post, only=["sink_lags"])
    notifier = Notifier(root, "toy", declared("webhook", only, "log"))
    outcomes = notifier.tell(ALERTS.values())

    assert [outcome.arrived for outcome in outcomes] == [True] * 15
    assert [m["data"]["kind"] for m in web.messages] == list(ALERTS)
    assert [s.partition("] ")[2].split(": ")[0] for s in post.subjects] == [
        "2026-01-05 sink lags"
    ]
    assert len(caplog.records) == 7


def test_the_same_alert_is_sent_once_also_by_another_process(root, web):
    by_web(root).tell([GATE_SHUT])
    again = replace(GATE_SHUT, summary="more of them", at=NOW + timedelta(hours=9))

    assert by_web(root).tell([again, again]) == []
    assert len(web.received) == 1


def test_what_is_over_is_sent_once_and_may_come_back(root, web):
    notifier = by_web(root)
    notifier.tell([GATE_SHUT])
    notifier.tell([], [IDENTITY])
    notifier.tell([], [IDENTITY])
    notifier.tell([GATE_SHUT])

    assert [m["type"] for m in web.messages] == [
        "alert.raised",
        "alert.resolved",
        "alert.raised",
    ]
    assert len({m["data"]["id"] for m in web.messages}) == 3


def test_what_never_was_is_not_over(root, web):
    assert by_web(root).tell([], [IDENTITY]) == []
    assert web.received == []
    assert not (root / "alerts").exists()


def test_what_is_wrong_and_well_at_once_is_wrong(root, web):
    by_web(root).tell([GATE_SHUT], [IDENTITY])
    by_web(root).tell([GATE_SHUT], [IDENTITY])
    assert [m["type"] for m in web.messages] == ["alert.raised"]


def test_it_is_sent_again_after_so_many_hours_if_that_is_asked_for(root, web, clock):
    notifier = by_web(root, clock, repeat_hours=2)
    notifier.tell([GATE_SHUT])
    clock.later(minutes=119)
    notifier.tell([GATE_SHUT])
    assert len(web.received) == 1

    clock.later(minutes=1)
    notifier.tell([GATE_SHUT])
    assert len(web.received) == 2

    clock.later(minutes=1)
    notifier.tell([], [IDENTITY])
    assert [m["type"] for m in web.messages][2:] == ["alert.resolved"]


def test_a_server_that_was_down_gets_it_at_the_next_look_and_others_at_once(
    root, web, post, monkeypatch, caplog
):
    port = free_port()
    monkeypatch.setenv("ALERTS_WEBHOOK_URL", f"http://127.0.0.1:{port}{PATH}")
    notifier = Notifier(root, "toy", declared("webhook", by_mail(post)))
    first = notifier.tell([GATE_SHUT, ALERTS["sink_lags"]])

    assert [(o.receiver, o.arrived) for o in first] == [
        ("webhook", False),
        ("email", True),
        ("email", True),
    ]
    assert "did not reach webhook: " in caplog.text
    failed = [entry for entry in entries(root) if entry["act"] == "fail"]
    assert [entry["receiver"] for entry in failed] == ["webhook"]
    assert "Connection refused" in failed[0]["why"]

    with http_listener(port) as up:
        assert [o.arrived for o in notifier.tell([])] == [True, True]
        assert notifier.tell([]) == []
    raised = [entry["id"] for entry in entries(root) if entry["act"] == "raise"]
    assert [m["data"]["id"] for m in up.messages] == raised
    assert len(post.received) == 2


def test_what_a_receiver_refuses_holds_nothing_else_up(root, web):
    web.answers[:] = [400]
    outcomes = by_web(root).tell([GATE_SHUT, ALERTS["sink_lags"]])

    assert [(o.arrived, o.refused) for o in outcomes] == [(False, True), (True, False)]
    assert [o.arrived for o in by_web(root).tell([])] == [True]


def test_nobody_is_told_that_something_is_over_who_was_not_told_of_it(
    root, web, monkeypatch, clock
):
    notifier = by_web(root, clock)
    monkeypatch.setenv("ALERTS_WEBHOOK_URL", f"http://127.0.0.1:{free_port()}{PATH}")
    notifier.tell([GATE_SHUT])
    notifier.tell([], [IDENTITY])

    monkeypatch.setenv("ALERTS_WEBHOOK_URL", web.url)
    notifier.tell([])
    assert [m["type"] for m in web.messages] == ["alert.raised", "alert.resolved"]


def test_it_is_tried_less_and_less_often_and_given_up_after_a_day(
    root, web, monkeypatch, clock, caplog
):
    monkeypatch.setenv("ALERTS_WEBHOOK_URL", "")
    notifier = by_web(root, clock)
    notifier.tell([GATE_SHUT])
    tries = []
    for minute in [*range(20), *range(20, 24 * 60 + 5, 5)]:
        clock.at = NOW + timedelta(minutes=minute)
        tries += [minute] * len(notifier.tell([]))

    assert tries[:5] == [0, 1, 2, 4, 8]
    waits = [after - before for before, after in zip(tries, tries[1:], strict=False)]
    assert waits == sorted(waits)
    assert waits[-1] == 60
    assert len(tries) < 40
    assert [e["act"] for e in entries(root)][-1] == "give_up"
    assert "is given up: the environment variable ALERTS_WEBHOOK_URL" in caplog.text

    monkeypatch.setenv("ALERTS_WEBHOOK_URL", web.url)
    clock.later(hours=2)
    assert notifier.tell([], [IDENTITY]) == []
    assert web.received == []


def test_a_variable_that_is_not_set_stops_nobody(root, web, monkeypatch, caplog):
    monkeypatch.delenv("ALERTS_WEBHOOK_SECRET")
    notifier = Notifier(root, "toy", declared("webhook", "log"))

    webhook, log = notifier.tell([GATE_SHUT])
    assert (webhook.arrived, log.arrived) == (False, True)
    assert "ALERTS_WEBHOOK_SECRET" in webhook.why


def test_a_library_that_raises_anything_stops_nobody_and_tells_no_secret(
    root, web, monkeypatch, caplog
):
    class Broken:
        def send(self, _):
            raise RuntimeError(SECRET)

    monkeypatch.setattr(
        notifier_module,
        "open_receiver",
        lambda r: Broken() if r.kind == "webhook" else factory.open_receiver(r),
    )
    webhook, log = Notifier(root, "toy", declared("webhook", "log")).tell([GATE_SHUT])

    assert (webhook.why, log.arrived) == ("RuntimeError was raised", True)
    assert SECRET not in caplog.text
    assert SECRET not in json.dumps(entries(root))


def test_a_sender_that_was_killed_is_followed_by_another_with_the_same_id(
    root, web, clock
):
    record = AlertRecord(root, "toy")
    raised = AlertEntry(
        at=NOW, act="raise", id="msg_1", alert=GATE_SHUT, receivers=("webhook",)
    )
    record.add(raised)
    record.add(AlertEntry(at=NOW, act="try", id="msg_1", receiver="webhook"))
    notifier = by_web(root, clock)

    clock.later(seconds=LEASE.total_seconds() - 1)
    assert notifier.tell([]) == []
    clock.later(seconds=1)
    assert [outcome.arrived for outcome in notifier.tell([])] == [True]
    assert [m["data"]["id"] for m in web.messages] == ["msg_1"]


def _tell(root, start):
    start.wait()
    by_web(root).tell(ALERTS.values())
    start.wait()
    by_web(root).tell([], [ALERTS["gate_shut"].identity])


def test_of_processes_that_notice_the_same_at_once_one_tells(root, web):
    spawn = multiprocessing.get_context("spawn")
    start = spawn.Barrier(3)
    processes = [
        spawn.Process(target=_tell, args=(root, start)) for _ in range(start.parties)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join()

    assert [process.exitcode for process in processes] == [0] * 3
    # What one was still sending when all others had looked.
    by_web(root).tell([])
    said = sorted((m["data"]["kind"], m["type"]) for m in web.messages)
    assert said == sorted(
        [*((kind, "alert.raised") for kind in ALERTS), ("gate_shut", "alert.resolved")]
    )


def test_a_disk_that_is_full_is_told_of_once(root, web, monkeypatch, caplog):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(AlertRecord, "decide", full)
    monkeypatch.setattr(notifier_module, "_unrecorded", set())
    notifier = by_web(root)
    notifier.tell([ALERTS["run_failed"]])
    notifier.tell([ALERTS["run_failed"]])

    assert [m["data"]["kind"] for m in web.messages] == ["run_failed"]
    assert "the record of alerts can't be written" in caplog.text


def test_a_line_that_cannot_be_read_stops_nobody(root, web):
    notifier = by_web(root)
    notifier.tell([GATE_SHUT])
    with (notifier.record.folder / "alerts.jsonl").open("a", encoding="utf-8") as file:
        file.write('{"act": "torn')

    notifier.tell([GATE_SHUT, ALERTS["sink_lags"]])
    assert len(web.received) == 2
    assert list(notifier.record.read()[1]) == [4]


def test_an_alert_that_nobody_asks_for_is_in_the_record(root, web):
    spec = declared({"kind": "webhook", "only": ["sink_lags"]})
    assert Notifier(root, "toy", spec).tell([GATE_SHUT]) == []
    assert [entry["act"] for entry in entries(root)] == ["raise"]


def test_a_receiver_that_is_not_declared_any_more_gets_nothing(root, web, monkeypatch):
    monkeypatch.setenv("ALERTS_WEBHOOK_URL", f"http://127.0.0.1:{free_port()}{PATH}")
    by_web(root).tell([GATE_SHUT])

    monkeypatch.setenv("ALERTS_WEBHOOK_URL", web.url)
    other = declared({"kind": "webhook", "name": "other"})
    assert Notifier(root, "toy", other, lambda: NOW).tell([]) == []
    assert web.received == []


def test_a_test_goes_through_every_receiver_and_is_not_recorded(
    root, web, post, caplog
):
    notifier = Notifier(root, "toy", declared("webhook", by_mail(post), "log"))

    assert [o.arrived for o in notifier.test()] == [True] * 3
    assert web.messages[0]["type"] == "alert.test"
    assert post.subjects == ["[toy] a test, nothing happened"]
    assert not (root / "alerts").exists()


def test_what_is_told_is_read_back_as_it_was(root, web):
    odd = replace(GATE_SHUT, day=None, numbers={"a": float("nan"), "b": "x", "c": 1})
    by_web(root).tell([odd])

    state, unreadable = AlertRecord(root, "toy").read()
    (entry,) = state.messages
    assert not unreadable
    assert entry.alert == replace(odd, numbers={"a": None, "b": "x", "c": 1})
