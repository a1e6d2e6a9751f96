"""What became of a day: what readers get, and why not the day."""

import pytest

from batch_assets.reports.flow import Flow
from batch_assets.reports.headline import headline_of
from batch_assets.reports.served import Served
from batch_assets.reports.verdicts import ORDER, GateLine
from batch_assets_tests.toys import DAY, NAME

WHOLE = Flow(10, 10, 0, 10, 0, 0, 10, shards=1)


def gate(state) -> GateLine:
    return GateLine(
        "a_gate_is_kept", "predictions", state, "it says why.", "", "A limit"
    )


def headline(flow=WHOLE, gates=(), **served):
    return headline_of(NAME, DAY, flow, gates, Served(**served))


@pytest.mark.parametrize(
    ("served", "tone", "title", "command"),
    [
        ({"state": "served"}, "good", "Served", None),
        (
            {"state": "newer", "published_at": 1},
            "good",
            "Was served; by now a newer day is",
            None,
        ),
        ({"state": "newer"}, "good", "Scored; by now a newer day is", None),
        ({"state": "pinned"}, "warn", "Scored; readers are pinned", "unpin"),
        (
            {"state": "held", "why": "odd"},
            "warn",
            "Scored, and held back by a person",
            "unblock",
        ),
        ({"state": "outdated"}, "warn", "Scored again; readers get the day", "run"),
        ({"state": "built"}, "bad", "Scored, and not served", "run"),
        ({"state": "none"}, "bad", "Scored, and not served", "run"),
    ],
    ids=lambda given: given.get("state") if isinstance(given, dict) else None,
)
def test_each_state_has_its_words_and_its_command(served, tone, title, command):
    found = headline(**({"readers": f"{DAY}-abc", "version": "v"} | served))

    assert found.tone == tone
    assert found.title.startswith(title)
    assert found.commands[:1] == () if command is None else command in found.commands[0]
    assert f"as version {DAY}-abc" in found.words


def test_a_warning_is_told_and_no_night_is_good_with_one():
    found = headline(gates=[gate("warned"), gate("open")], state="served")

    assert (found.tone, found.title) == ("warn", "Served, with warnings")
    assert "1 gate is open, 1 warns." in found.words
    assert "a_gate_is_kept: it says why." in found.words


def test_a_shut_gate_goes_before_all_else():
    torn = Flow(**(vars(WHOLE) | {"scored": 9}))

    found = headline(torn, gates=[gate("shut")], state="none")

    assert found.tone == "bad"
    assert found.title.startswith("Stopped: a gate is shut")
    assert "A limit." in found.words
    assert found.commands[-1] == f"batch-assets run {NAME} --day {DAY}"


def test_books_that_do_not_close_are_bad_whatever_is_served():
    torn = Flow(**(vars(WHOLE) | {"scored": 9}))

    found = headline(torn, state="served")

    assert (found.tone, found.title) == ("bad", "The books do not close")
    assert "1 row missing after scoring" in found.words


def test_what_is_shut_or_cannot_be_judged_is_listed_before_what_is_open():
    assert ORDER.index("shut") < ORDER.index("warned") < ORDER.index("not judged")
    assert ORDER.index("not judged") < ORDER.index("open")
