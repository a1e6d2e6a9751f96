"""How rankings of products are judged: against a loop, on a small generated history."""

import math
from collections import Counter

import numpy as np
import pytest

from batch_assets.defs.baskets import judge
from batch_assets.defs.baskets.rows import Rows
from batch_assets.models.input_rows import Lists

PRODUCTS, ROWS = 40, 60


@pytest.fixture(scope="module")
def rows() -> Rows:
    """Generated purchases; some products are bought far more than others."""
    random = np.random.default_rng(5)
    chance = 1 / np.arange(1, PRODUCTS + 1)
    chance /= chance.sum()

    def lists(counts: np.ndarray, *, twice: bool) -> list[np.ndarray]:
        return [random.choice(PRODUCTS, n, twice, chance) for n in counts]

    # Nothing was bought before or after by some, and more than ten products by others.
    history = lists(random.integers(0, 30, ROWS), twice=True)
    week = [np.unique(one[-4:]) for one in history]
    after = lists(random.integers(0, 16, ROWS), twice=False)
    ago = [np.sort(random.integers(0, 200, len(one)))[::-1] for one in history]
    return Rows(
        np.full(ROWS, np.datetime64("2017-11-05")),
        np.arange(ROWS),
        Lists.of(history, "int64"),
        Lists.of(ago, "float32"),
        Lists.of(week, "int64"),
        Lists.of(after, "int64"),
    )


def listed(lists: Lists, row: int) -> list[float]:
    begin, end = lists.offsets[row : row + 2]
    values: list[float] = lists.values[begin:end].tolist()
    return values


def proposed(scores: list[float], without: list[float]) -> list[int]:
    kept = [at for at in range(PRODUCTS) if at not in without]
    return sorted(kept, key=lambda at: -scores[at])[:10]


def by_hand(proposals: list[int], relevant: list[float]) -> tuple[float, float]:
    """Recall and NDCG of ten proposals, as their definitions say."""
    hits = [one in relevant for one in proposals]
    gain = sum(hit / math.log2(place + 2) for place, hit in enumerate(hits))
    best = sum(1 / math.log2(place + 2) for place in range(min(len(relevant), 10)))
    return sum(hits) / len(relevant), gain / best


def own(rows: Rows, row: int, popularity: list[float], half_life: float) -> list[float]:
    """Scores that put what the household bought most first, and then what all do."""
    counts: Counter[float] = Counter()
    pairs = zip(listed(rows.products, row), listed(rows.days_ago, row), strict=True)
    for product, days in pairs:
        counts[product] += 0.5 ** (days / half_life)
    most = max(popularity)
    # Popularity settles equals, and never puts what was bought behind what was not.
    return [
        1 + counts[at] + 1e-9 * popularity[at] / most / 2
        if counts[at]
        else popularity[at] / most / 2
        for at in range(PRODUCTS)
    ]


@pytest.mark.parametrize("half_life", [math.inf, 30.0])
def test_recall_and_ndcg_of_both_baselines_are_those_of_a_loop(
    rows: Rows, monkeypatch: pytest.MonkeyPatch, half_life: float
) -> None:
    # More than one chunk, the last of them smaller.
    monkeypatch.setattr(judge, "CHUNK", 16)
    counted = judge.popularity_of(rows, PRODUCTS)
    bought = Counter(rows.bought_next.values.tolist())
    assert counted.tolist() == [bought[at] for at in range(PRODUCTS)]
    # No two alike: of equals either may be among the ten.
    popularity = counted + np.arange(PRODUCTS) / 1_000
    rankers = {
        "popular": judge.by_popularity(popularity),
        "own": judge.by_own_purchases(popularity, half_life),
    }

    found = judge.judge(rankers, rows, PRODUCTS)

    judged = [row for row in range(ROWS) if listed(rows.bought_next, row)]
    assert len(judged) < ROWS
    told = {(one["by"], one["household_id"]): one for one in found.to_dicts()}
    assert len(told) == len(found) == 2 * len(judged)
    for row in judged:
        relevant = listed(rows.bought_next, row)
        this_week = listed(rows.bought_this_week, row)
        scores = {
            "popular": popularity.tolist(),
            "own": own(rows, row, popularity.tolist(), half_life),
        }
        for by, each in scores.items():
            said = told[by, row]
            whole = by_hand(proposed(each, []), relevant)
            new = by_hand(proposed(each, this_week), relevant)
            assert (said["recall"], said["ndcg"]) == pytest.approx(whole)
            assert (said["recall_new"], said["ndcg_new"]) == pytest.approx(new)


def test_the_best_ten_of_a_week_of_more_than_ten_are_worth_one() -> None:
    relevant = np.zeros((2, PRODUCTS), dtype=bool)
    relevant[0, :20] = relevant[1, 5:8] = True
    scores = np.tile(-np.arange(PRODUCTS, dtype=float), (2, 1))

    recall, ndcg = judge.measured(scores, relevant)

    assert recall.tolist() == [0.5, 1.0]
    assert ndcg[0] == pytest.approx(1.0)
    # Its three are at the places six to eight.
    gain = sum(1 / math.log2(place + 1) for place in (6, 7, 8))
    assert ndcg[1] == pytest.approx(gain / sum(1 / math.log2(n + 1) for n in (1, 2, 3)))


def test_what_a_household_bought_is_above_what_all_others_do_and_later_counts_more(
    rows: Rows,
) -> None:
    popularity = np.arange(PRODUCTS, dtype=float)
    one = Rows(
        rows.evening[:1],
        rows.household_id[:1],
        Lists.of([[3, 3, 7]], "int64"),
        Lists.of([[90, 90, 0]], "float32"),
        *(Lists.of([[]], "int64") for _ in range(2)),
    )
    often = judge.by_own_purchases(popularity)(one)[0]
    assert np.argsort(-often)[:3].tolist() == [3, 7, PRODUCTS - 1]
    lately = judge.by_own_purchases(popularity, half_life=30.0)(one)[0]
    assert np.argsort(-lately)[:3].tolist() == [7, 3, PRODUCTS - 1]
