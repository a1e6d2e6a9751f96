"""Past nights, planned from those before: what is off, and what tells nothing."""

from dataclasses import replace
from datetime import timedelta

import pytest

from batch_assets.planner.estimate import ROAD, StageRun
from batch_assets.planner.past_plans import off_by_share, past_plans, stage_errors
from batch_assets_tests.planner.test_estimate import night


def nights(*seconds: float, rows: int = 1_000) -> list[StageRun]:
    """Nights of January whose stages all take so long, a second apart."""
    return [
        run
        for day, took in enumerate(seconds, 1)
        for run in night(f"2026-01-{day:02d}", rows, *[took] * 4, between=1)
    ]


def test_each_night_is_planned_from_those_before_it_and_none_after():
    told, left_out = past_plans(nights(10, 10, 20, 1_000))

    assert [one.day[-2:] for one in told] == ["02", "03", "04"]
    assert [one.nights for one in told] == [1, 2, 3]
    assert [one.predicted_seconds for one in told] == pytest.approx([43, 43, 43])
    assert [one.actual_seconds for one in told] == pytest.approx([43, 83, 4_003])
    assert told[0].error_share == pytest.approx(0)
    assert told[1].error_share == pytest.approx(40 / 43)
    assert left_out == []


def test_a_night_is_planned_for_its_own_rows():
    runs = nights(10) + night("2026-01-02", 3_000, 30, 30, 30, 30, between=1)
    (told,), _ = past_plans(runs)

    assert told.error_share == pytest.approx(0)
    assert told.rows == 3_000


def test_a_night_that_did_not_run_in_one_go_tells_nothing():
    runs = nights(10, 10, 10, 10)
    late = runs[-2]
    # One is stopped before the end, of another a stage was run again the day after.
    runs.remove(next(r for r in runs if r.day.endswith("03") and r.stage == ROAD[3]))
    runs[runs.index(late)] = replace(
        late, started_at=late.started_at + timedelta(days=1)
    )
    told, left_out = past_plans(runs)

    assert [one.day[-2:] for one in told] == ["02"]
    assert [day[-2:] for day in left_out] == ["03", "04"]


def test_each_stage_says_how_far_off_it_was():
    runs = nights(10, 10, 15)
    (first, *_), days = stage_errors(runs, ["2026-01-02", "2026-01-03"]), 2

    assert (first.stage, first.nights) == (ROAD[0], days)
    assert first.off_by_share == pytest.approx(0.25)


def test_the_median_is_of_errors_whichever_way():
    assert off_by_share([]) is None
    assert off_by_share([-0.5, 0.1, 0.2]) == 0.2
