import json
import math
from dataclasses import replace
from datetime import datetime, timedelta, timezone

import pytest

from batch_assets.alerts.alert import DETAILS, Message, Served
from batch_assets.snapshots.store import SnapshotStore
from batch_assets_tests.told import ALERTS, DAY, GATE_SHUT, NOW, VERSION

TEXT = """\
340,000 of 918,000 raw rows are quarantined

340,000 of 918,000 raw rows are quarantined. gates.max_quarantine_share moves it

  share  37.04 %
  limit  1 %
  raw    918,000 rows

served now: 2026-01-04-f819bec09793, of 2026-01-04, 1 day 3 hours old
next: batch-assets books toy --day 2026-01-05
noticed: 2026-01-06 03:12:00 UTC"""


def test_a_person_reads_what_happened_the_numbers_what_is_served_and_what_to_do():
    message = Message("msg_1", "raised", GATE_SHUT)

    assert message.headline == (
        f"[toy] {DAY} gate shut: quarantine_share_is_within_limit"
    )
    assert message.text == TEXT


def test_a_program_reads_the_same():
    said = json.loads(Message("msg_1", "raised", GATE_SHUT).json)

    assert said["type"] == "alert.raised"
    assert said["timestamp"] == "2026-01-06T03:12:00Z"
    about = said["data"]
    assert (about["id"], about["kind"], about["pipeline"]) == (
        *("msg_1", "gate_shut", "toy"),
    )
    assert (about["day"], about["subject"]) == (DAY, GATE_SHUT.subject)
    assert about["numbers"]["raw_rows"] == 918_000
    assert about["served"]["version"] == VERSION
    assert about["next_command"] == GATE_SHUT.next_command


def test_what_is_over_says_what_it_was_and_nothing_to_do():
    message = Message("msg_2", "resolved", GATE_SHUT)

    assert message.headline.startswith(f"[toy] {DAY} resolved: gate shut: ")
    assert message.text.startswith(f"It was: {GATE_SHUT.summary}\n")
    assert "next:" not in message.text
    assert json.loads(message.json)["type"] == "alert.resolved"


@pytest.mark.parametrize("kind", ALERTS)
def test_no_number_that_is_none_is_written_as_one(kind):
    odd = {"usual": math.nan, "share": math.inf, "limit": -math.inf, "nights": None}
    alert = replace(ALERTS[kind], numbers=odd)
    message = Message("msg_1", "raised", alert)

    assert "nan" not in message.text.lower()
    assert "inf" not in message.text.lower()
    assert message.text.count("not known") == 4
    assert set(json.loads(message.json)["data"]["numbers"].values()) == {None}


def test_a_summary_is_one_line_and_details_are_not_a_book():
    alert = replace(GATE_SHUT, summary="a\r\n  b\x00\tc", details="d" * 10_000)

    assert alert.summary == "a b c"
    assert len(alert.details) < DETAILS + 20
    assert alert.details.endswith("(shortened)")


def test_text_that_is_no_text_is_told_all_the_same():
    alert = replace(
        GATE_SHUT, details="half of a pair: \ud800", numbers={"x": "\ud800"}
    )
    message = Message("msg_1", "raised", alert)

    assert "half of a pair: ?" in message.text
    assert json.loads(message.json)["data"]["numbers"] == {"x": "?"}


def test_a_time_without_a_zone_is_refused_and_another_zone_is_told_in_utc():
    with pytest.raises(ValueError, match="a time with a timezone"):
        replace(GATE_SHUT, at=datetime(2026, 1, 6))

    oslo = NOW.astimezone(timezone(timedelta(hours=1)))
    message = Message("msg_1", "raised", replace(GATE_SHUT, at=oslo))
    assert "noticed: 2026-01-06 03:12:00 UTC" in message.text


def test_two_alerts_of_one_thing_have_one_identity():
    later = replace(GATE_SHUT, summary="400 of 918", at=NOW + timedelta(hours=1))

    assert later.identity == GATE_SHUT.identity
    assert replace(GATE_SHUT, day="2026-01-06").identity != GATE_SHUT.identity


def test_where_nothing_is_served_or_nobody_can_tell_that_is_said(tmp_path):
    store = SnapshotStore(tmp_path, "toy")
    assert str(Served.of(store, NOW)) == "nothing"

    store.folder.mkdir(parents=True)
    (store.folder / "CURRENT").write_text("2026-01-04-000000000000\n", encoding="utf-8")
    said = str(Served.of(store, NOW))
    assert said.startswith("not known: version 2026-01-04-000000000000 has no readable")
