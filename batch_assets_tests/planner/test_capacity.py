"""How long, on how many devices and at what cost, from rates that are written out here."""

import math

import pytest

from batch_assets.planner.advice import advise
from batch_assets.planner.capacity import (
    HostRates,
    Night,
    fewest,
    host_seconds,
    option,
    planned_stages,
    spread_of,
    with_host,
)
from batch_assets.planner.estimate import ROAD, Rate, StageRun
from batch_assets.planner.size import both_ends, is_of_another_size
from batch_assets_tests.planner.test_estimate import MIDNIGHT

RAW, VALIDATED, PREDICTIONS, SNAPSHOT = ROAD
# A row takes a microsecond in each stage, and ten seconds pass between two.
RATES = {
    RAW: Rate(60, 1e-6, 10, 7),
    VALIDATED: Rate(0, 2e-6, 10, 7),
    PREDICTIONS: Rate(30, 1e-5, 10, 7),
    SNAPSHOT: Rate(0, 1e-6, 0, 7),
}
ROWS = 10_000_000
# 100 chunks of 100,000 rows; 100 s of work in all; 140 s outside.
NIGHT = Night([100_000] * 100, host_seconds(RATES, ROWS), 30, 1e5)


def test_a_night_is_its_stages_and_what_passes_between_them():
    assert host_seconds(RATES, ROWS) == 60 + 10 + 20 + 10 + 10 + 10 + 10
    found = option("one", NIGHT, 1)
    stages = planned_stages(RATES, ROWS, found.scoring_seconds)

    assert found.seconds == pytest.approx(130 + 30 + 100)
    assert sum(stage.seconds for stage in stages) == pytest.approx(found.seconds)
    assert sum(stage.share for stage in stages) == pytest.approx(1)
    assert [stage.stage for stage in stages] == list(ROAD)


def test_devices_speed_up_predictions_alone():
    assert option("ten", NIGHT, 10).seconds == pytest.approx(130 + 30 + 10)
    assert option("many", NIGHT, 10_000).seconds == pytest.approx(130 + 30 + 1)


def test_devices_are_paid_while_they_are_held():
    held = option("local", NIGHT, 10, price=3.6)
    given_back = option(
        "ray", Night([100_000] * 100, 130, 30, 1e5, paid_for_all=False), 10, price=3.6
    )

    assert held.cost == pytest.approx(10 * 170 * 0.001)
    assert given_back.cost == pytest.approx(10 * 40 * 0.001)
    assert option("free", NIGHT, 10).cost is None


def test_errors_of_past_plans_widen_the_interval_and_nothing_else():
    wide = Night([100_000] * 100, 130, 30, 1e5, errors=(-0.1, 0.5))
    found, plain = option("a", wide, 1, price=3.6), option("a", NIGHT, 1, price=3.6)

    assert (found.low, found.seconds, found.high) == pytest.approx((234, 260, 390))
    assert found.cost == plain.cost
    assert found.cost_high == pytest.approx(0.39)


@pytest.mark.parametrize("deadline", [162, 170, 200, 259, 260, 1_000])
def test_the_fewest_devices_are_in_time_and_one_fewer_is_not(deadline):
    devices = fewest(NIGHT, deadline)

    assert devices is not None
    assert option("a", NIGHT, devices, deadline=deadline).in_time
    if devices > 1:
        assert not option("a", NIGHT, devices - 1, deadline=deadline).in_time


def test_no_number_of_devices_is_in_time_if_the_rest_is_not():
    assert fewest(NIGHT, 160) is None
    assert fewest(NIGHT, 160.5) is None  # 100 devices, and a chunk each takes a second.


def test_the_host_shares_its_cores_with_a_cpu_and_feeds_any_other_device():
    host = HostRates(read=200.0, write=200.0, cores=4)  # 400 in all.
    shared = with_host(400.0, "", host, shares_cores=True)
    fed = with_host(1_000.0, "", host, shares_cores=False)

    assert (shared.rows_per_second, shared.bound) == (200, "model")
    assert (fed.rows_per_second, fed.bound) == (400, "write")
    assert with_host(300.0, "", host, shares_cores=False).rows_per_second == 300
    alone = with_host(300.0, "", HostRates(None, None, 4), shares_cores=True)
    assert (alone.rows_per_second, alone.read) == (300, None)


def test_a_spread_is_told_by_three_parts_or_more():
    assert spread_of([1e-6, 2e-6]) is None
    assert spread_of([1e-6] * 3) == 0
    assert spread_of([math.exp(-1), 1, math.exp(1)]) == pytest.approx(1)


def test_advice_is_of_the_longest_stage_and_of_idle_devices():
    def told(rates: dict[str, Rate], devices: int, deadline: float | None) -> str:
        found = option("a", NIGHT, devices)
        stages = planned_stages(rates, ROWS, found.scoring_seconds)
        rate = with_host(1e5, "", HostRates(None, None, 2), shares_cores=False)
        advice = advise("churn", stages, rate, found, 100, deadline)
        return " ".join(f"{one.text} {one.command}" for one in advice)

    scoring = told(RATES, 1, None)
    assert "on twice the devices it would be about 3 minutes" in scoring
    assert "batch-assets sweep churn" in scoring
    assert told(RATES, 50, None).startswith("raw_features: pin what can't change")
    assert "100 chunks for 50 devices" in told(RATES, 50, None)
    assert "no number of devices meets 1 minute" in told(RATES, 50, 60)
    assert "no number" not in told(RATES, 50, 600)


def test_a_night_of_another_size_has_two_ends():
    runs = [StageRun("2026-01-05", stage, MIDNIGHT, 10.0, 100) for stage in ROAD]

    assert not is_of_another_size(runs, 1_000)
    assert not is_of_another_size(runs, 10)
    assert is_of_another_size(runs, 1_001)
    assert is_of_another_size(runs, 9)
    assert both_ends(runs, 10_000, [RAW, SNAPSHOT]) == (20, 2_000)
    assert both_ends(runs, 1, ROAD) == (pytest.approx(0.4), 40)
