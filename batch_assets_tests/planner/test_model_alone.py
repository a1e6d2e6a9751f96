"""The textbook case, to the second."""

import pytest

from batch_assets.planner.model_alone import ModelRate, plan_model_alone

BOOK = ModelRate(batch_rows=256, batch_ms=50)


def test_500_million_rows_on_8_devices_take_the_model_3_4_hours():
    plan = plan_model_alone(BOOK, 500_000_000, 8, None, None)

    assert plan.batches == 1_953_125
    assert plan.seconds == pytest.approx(12_207.03, abs=0.01)
    assert f"{plan.seconds / 3600:.1f}" == "3.4"
    assert plan.left_out == [
        *("read", "validate", "write", "publish", "sink", "stragglers", "preemption")
    ]


@pytest.mark.parametrize(
    ("rows", "batches"), [(1, 1), (256, 1), (257, 2), (512, 2), (513, 3)]
)
def test_the_last_batch_is_a_whole_one(rows, batches):
    assert BOOK.batches(rows) == batches
    assert BOOK.seconds(rows, 1) == pytest.approx(batches * 0.05)


def test_rows_a_second_are_the_same_as_a_batch_and_its_milliseconds():
    alike = ModelRate(rows_per_second=5_120)

    assert BOOK.rate == alike.rate
    assert alike.seconds(512_000, 2) == BOOK.seconds(512_000, 2) == 50


@pytest.mark.parametrize(("hours", "devices"), [(6, 5), (3.4, 8), (3.39, 9), (100, 1)])
def test_the_fewest_devices_in_time_are_taken(hours, devices):
    plan = plan_model_alone(BOOK, 500_000_000, None, hours * 3600, 2.5)

    assert (plan.devices, plan.in_time) == (devices, True)
    fewer = plan_model_alone(BOOK, 500_000_000, max(devices - 1, 1), hours * 3600, 2.5)
    assert fewer.in_time == (devices == 1)
    # However many there are, device hours are the same.
    assert plan.cost == pytest.approx(12_207.03 * 8 / 3600 * 2.5, abs=0.01)
