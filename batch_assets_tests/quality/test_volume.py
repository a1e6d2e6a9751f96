"""The volume of a day against that of its weekday."""

from datetime import date, timedelta
from typing import Any

import pytest

from batch_assets.quality.evidence import DayEvidence
from batch_assets.quality.judges.volume import volume
from batch_assets.quality.verdict import Verdict
from batch_assets.spec import GateLimits

MONDAY = date(2026, 1, 5)
SATURDAY = (MONDAY + timedelta(weeks=8, days=5)).isoformat()


def usual(day: date) -> int:
    """A thousand rows, six hundred on a Saturday, and a little more or less."""
    rows = 600 if day.weekday() == 5 else 1_000
    return rows + day.toordinal() * 7 % 11 - 5


def judge(day: str, rows: int, weeks: int = 8, **limits: Any) -> Verdict:
    before = [MONDAY + timedelta(days=n) for n in range(7 * weeks)]
    by_day = {one.isoformat(): usual(one) for one in before} | {day: rows}
    return volume(DayEvidence(day, GateLimits(**limits), rows_by_day=lambda: by_day))


@pytest.mark.parametrize(
    ("rows", "passes"),
    [(600, True), (580, True), (510, False), (1_000, False), (0, False)],
)
def test_a_saturday_is_compared_with_saturdays(rows: int, passes: bool) -> None:
    verdict = judge(SATURDAY, rows)
    assert verdict.passed is passes
    assert "of the 8 Saturdays before" in verdict.why
    assert verdict.numbers["limit"] == pytest.approx(0.05)


def test_a_volume_stops_a_night_only_where_the_yaml_says_so() -> None:
    said = {one: judge(SATURDAY, 510, volume=one) for one in ("warn", "block", "off")}
    assert {one: v.blocks for one, v in said.items() if not v.passed} == {
        "warn": False,
        "block": True,
    }
    assert said["off"].why == "not judged: gates.volume is off"


def test_of_too_few_weeks_all_days_are_the_measure() -> None:
    day = (MONDAY + timedelta(weeks=2, days=5)).isoformat()
    verdict = judge(day, 600, weeks=2)
    assert verdict.passed
    assert "of the 14 days before; at most 50%" in verdict.why


def test_what_is_learned_is_never_above_what_the_yaml_says() -> None:
    verdict = judge(SATURDAY, 590, max_volume_change=0.001)
    assert not verdict.passed
    assert verdict.numbers["limit"] == 0.001
