"""Chunks on devices that are taken away: what the arithmetic says, where it says anything."""

import math

import numpy as np
import pytest

from batch_assets.errors import PipelineError
from batch_assets.planner.simulation import (
    LONGEST,
    MOST_CHUNKS,
    RUNS,
    Preemption,
    Scoring,
    simulate,
)

HOUR = 3600.0


@pytest.mark.parametrize(
    ("chunks", "devices", "seconds"),
    [
        ([10.0] * 8, 8, 10),
        ([10.0] * 9, 8, 20),
        ([10.0] * 8, 1_000, 10),
        # The largest first, so that nobody waits for it at the end.
        ([1.0] * 9 + [9.0], 2, 9),
        ([], 4, 0),
    ],
)
def test_devices_that_stay_take_the_next_chunk_each(chunks, devices, seconds):
    found = simulate(Scoring(chunks), devices)

    assert found.low == found.median == found.high == seconds
    assert (found.redone_share, found.failed_share) == (0, 0)


def test_chunks_are_lost_as_often_as_devices_are_taken_away():
    # exp(-0.5) of the tries end well: so many more are needed.
    rate = 0.5 / 100
    found = simulate(Scoring([100.0] * 2_000), 5, Preemption(rate))

    assert found.redone_share == pytest.approx(math.expm1(0.5), rel=0.02)
    # A device that is busy all the time does one a try; a lost try takes less than 100 s:
    # in all (exp(0.5) - 1) / rate for each chunk.
    each = math.expm1(0.5) / rate
    assert found.median == pytest.approx(2_000 * each / 5, rel=0.02)


def test_until_another_device_is_there_nobody_does_its_work():
    rate = 0.05 / HOUR
    alone = Scoring([360.0] * 500)
    at_once = simulate(alone, 1, Preemption(rate, 0.0))
    after_an_hour = simulate(alone, 1, Preemption(rate, HOUR))

    # 50 hours of work, 0.05 an hour: 2.5 times.
    waited = after_an_hour.median - at_once.median
    assert waited == pytest.approx(2.5 * HOUR, rel=0.4)
    assert after_an_hour.high > after_an_hour.median > after_an_hour.low


def test_more_preemptions_take_longer_and_so_do_stragglers():
    def took(preemptions: float, spread: float) -> float:
        scoring = Scoring([60.0] * 400, spread)
        return simulate(scoring, 16, Preemption(preemptions / HOUR, 300.0)).median

    plain = took(0, 0)
    assert plain == 25 * 60
    assert plain < took(0, 0.3) < took(1, 0.3) < took(5, 0.3)


def test_the_spread_of_chunks_leaves_their_mean_as_it_was():
    found = simulate(Scoring([60.0] * 5_000, 0.5), 1)

    assert found.median == pytest.approx(5_000 * 60, rel=0.01)


def test_a_night_stops_if_a_chunk_is_lost_as_often_as_the_engine_tries():
    lost = 1 - math.exp(-0.5)
    scoring, rate = Scoring([100.0] * 20), 0.5 / 100
    for attempts in (1, 2, 3):
        found = simulate(scoring, 5, Preemption(rate, 0.0, attempts), runs=4_000)
        stops = 1 - (1 - lost**attempts) ** 20
        assert found.failed_share == pytest.approx(stops, abs=0.03)
    assert simulate(scoring, 5, Preemption(rate)).failed_share == 0


def test_the_same_question_has_the_same_answer():
    asked = Scoring([60.0] * 100, 0.2), 8, Preemption(1 / HOUR, 300.0)
    assert simulate(*asked) == simulate(*asked)


def test_chunks_that_hardly_any_device_lives_to_end_are_refused():
    with pytest.raises(PipelineError, match="Make chunks smaller"):
        simulate(Scoring([1_000.0]), 4, Preemption(1.01 * LONGEST / 1_000))


def test_a_plan_of_ten_billion_rows_simulates_fewer_nights():
    found = simulate(Scoring([100.0] * 40_000, 0.1), 1_000)

    assert found.runs == MOST_CHUNKS // 40_000 < RUNS
    assert found.median == pytest.approx(40_000 * 100 / 1_000, rel=0.05)
    assert np.isfinite([found.low, found.high]).all()
