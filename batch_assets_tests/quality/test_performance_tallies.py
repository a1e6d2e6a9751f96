"""What rows with outcomes add up to, beside scikit-learn and by hand."""

import math

import numpy as np
import polars as pl
import pytest
from sklearn import metrics

import batch_assets.quality.performance.probabilities as module
from batch_assets.models.score_bins import MIDDLES, SIZE, score_codes
from batch_assets.quality.performance.probabilities import (
    BinaryTally,
    auc,
    calibration_error,
    estimated,
)
from batch_assets.quality.performance.tallies import (
    Lines,
    MulticlassTally,
    RankingTally,
    RegressionTally,
    Tally,
)

ROWS, SEGMENTS = 3_000, 3


def added(tally: Tally, rows: pl.DataFrame, pieces: int = 1) -> Tally:
    """Rows in a tally, in so many pieces, each row in one of three segments or in none."""
    segment = np.arange(len(rows)) % (SEGMENTS + 1)
    for piece in np.array_split(np.arange(len(rows)), pieces):
        of = np.where(segment[piece] == SEGMENTS, -1, segment[piece] + 1)
        lines = Lines(1 + SEGMENTS, [np.zeros(len(piece), np.int64), of])
        tally.add(rows[piece], lines)
    return tally


def values(tally: Tally, line: int = 0) -> dict[str, float]:
    return {one.metric: one.value for one in tally.measures(line)}


def frame(predicted, happened) -> pl.DataFrame:
    return pl.DataFrame({"predicted": predicted, "happened": happened})


def probabilities(kind: str) -> np.ndarray:
    random = np.random.default_rng(5)
    made = {
        "spread": random.uniform(0, 1, ROWS),
        "rare": 10 ** -random.uniform(2, 7, ROWS),
        "near one": 1 - 10 ** -random.uniform(2, 6, ROWS),
        "alike": 0.2 + random.uniform(0, 1e-4, ROWS),
        "few": random.choice([0.1, 0.11, 0.4], ROWS),
        "one": np.full(ROWS, 0.3),
        "certain": random.choice([0.0, 1.0, 0.5], ROWS),
    }
    return made[kind].astype(np.float32)


KINDS = ["spread", "rare", "near one", "alike", "few", "one", "certain"]


@pytest.mark.parametrize("pieces", [1, 7])
@pytest.mark.parametrize("kind", KINDS)
def test_probabilities_are_judged_as_scikit_learn_does(kind, pieces):
    scores = probabilities(kind)
    happened = (np.random.default_rng(6).uniform(size=ROWS) < 0.3).astype(float)
    tally = added(BinaryTally(1 + SEGMENTS), frame(scores, happened), pieces)

    for line in range(1 + SEGMENTS):
        of = (
            np.arange(ROWS) % (SEGMENTS + 1) == line - 1
            if line
            else np.full(ROWS, True)
        )
        said, came = scores[of].astype(float), happened[of]
        found = values(tally, line)
        assert found["auc"] == pytest.approx(metrics.roc_auc_score(came, said))
        assert found["brier"] == pytest.approx(metrics.brier_score_loss(came, said))
        kept = np.clip(said, 2.0**-24, 1 - 2.0**-24)
        assert found["log_loss"] == pytest.approx(metrics.log_loss(came, kept))
        assert found["rate"] == pytest.approx(came.mean())
        assert found["bias"] == pytest.approx(said.mean() - came.mean(), abs=1e-9)


def test_scores_beyond_count_are_taken_for_one_where_they_are_alike(monkeypatch):
    scores = probabilities("spread")
    happened = (np.random.default_rng(6).uniform(size=ROWS) < scores).astype(float)
    monkeypatch.setattr(module, "MOST_SCORES", 500)
    tally = added(BinaryTally(1 + SEGMENTS), frame(scores, happened), 7)

    assert len(tally._pairs) <= 500
    assert values(tally)["auc"] == pytest.approx(
        metrics.roc_auc_score(happened, scores), abs=2e-3
    )
    assert sum(group.rows for group in tally.curve(0)) == ROWS


def test_what_happened_to_all_or_to_none_has_no_order_to_judge():
    tally = added(BinaryTally(1 + SEGMENTS), frame([0.1, 0.9, 0.5, 0.4], [1.0] * 4))

    assert "auc" not in values(tally)
    assert values(tally)["log_loss"] > 0


def test_the_curve_tells_scores_that_keep_their_word_from_those_that_do_not():
    random = np.random.default_rng(0)
    scores = random.beta(1, 4, 200_000).astype(np.float32)
    happened = (random.uniform(size=len(scores)) < scores).astype(float)

    def off(said: np.ndarray) -> float:
        tally = added(BinaryTally(1 + SEGMENTS), frame(said, happened))
        curve = tally.curve(0)
        assert sum(group.rows for group in curve) == len(scores)
        assert len(curve) == 10
        assert min(g.rows for g in curve) > 0.99 * len(scores) / 10
        return calibration_error(curve)

    assert off(scores) < 0.005
    assert off((scores / 2).astype(np.float32)) > 0.05


def test_calibrated_scores_promise_what_comes_out():
    random = np.random.default_rng(1)
    scores = random.beta(2, 9, 400_000).astype(np.float32)
    happened = (random.uniform(size=len(scores)) < scores).astype(float)
    found = values(added(BinaryTally(1 + SEGMENTS), frame(scores, happened)))
    counts = np.bincount(score_codes(scores), minlength=SIZE)

    for one in estimated(counts):
        assert one.error is not None
        assert abs(found[one.metric] - one.value) < 4 * one.error
    assert {one.metric for one in estimated(counts)} == {
        "auc",
        "log_loss",
        "brier",
        "rate",
    }


def test_the_errors_of_an_estimate_are_how_far_chance_takes_it():
    random = np.random.default_rng(2)
    scores = random.beta(2, 5, 500).astype(np.float32)
    promised = {
        one.metric: one
        for one in estimated(np.bincount(score_codes(scores), minlength=SIZE))
    }
    off: dict[str, list[float]] = {metric: [] for metric in promised}
    for _ in range(300):
        happened = (random.uniform(size=500) < scores).astype(float)
        found = values(added(BinaryTally(1 + SEGMENTS), frame(scores, happened)))
        for metric, one in promised.items():
            off[metric].append((found[metric] - one.value) / one.error)

    for metric, each in off.items():
        assert abs(np.mean(each)) < 0.3, metric
        assert 0.8 < np.std(each) < 1.2, metric


@pytest.mark.parametrize("kind", [k for k in KINDS if k != "certain"])
def test_bins_of_scores_keep_their_order_and_are_narrow(kind):
    scores = np.sort(probabilities(kind))
    codes = score_codes(scores)

    assert (np.diff(codes) >= 0).all()
    near = np.minimum(scores, 1 - scores).astype(float)
    middle = np.minimum(MIDDLES[codes], 1 - MIDDLES[codes])
    told = near > 2.0**-20
    assert (np.abs(middle[told] / near[told] - 1) < 1 / 32).all()


def test_the_ends_and_the_middle_of_the_scores_have_bins():
    codes = score_codes(np.array([0, 1e-30, 0.5, np.nextafter(1, 0), 1], np.float32))

    assert codes.tolist()[0] == codes.tolist()[1] == 0
    assert codes.max() == SIZE - 1
    assert MIDDLES[codes[2]] == 0.5
    assert MIDDLES.min() > 0
    assert MIDDLES.max() < 1


def test_classes_are_judged_as_scikit_learn_does():
    random = np.random.default_rng(3)
    happened = random.integers(0, 4, ROWS)
    said = np.where(
        random.uniform(size=ROWS) < 0.6, happened, random.integers(0, 5, ROWS)
    )
    tally = added(MulticlassTally(1 + SEGMENTS, 6), frame(said, happened), 5)

    for line in range(1 + SEGMENTS):
        of = (
            np.arange(ROWS) % (SEGMENTS + 1) == line - 1
            if line
            else np.full(ROWS, True)
        )
        found = values(tally, line)
        assert found["accuracy"] == pytest.approx(
            metrics.accuracy_score(happened[of], said[of])
        )
        assert found["macro_f1"] == pytest.approx(
            metrics.f1_score(happened[of], said[of], average="macro")
        )


def test_numbers_are_judged_as_scikit_learn_does():
    random = np.random.default_rng(4)
    happened = random.normal(1_000, 5, ROWS)
    said = happened + random.normal(1, 2, ROWS)
    found = values(added(RegressionTally(1 + SEGMENTS), frame(said, happened), 3))

    assert found["mae"] == pytest.approx(metrics.mean_absolute_error(happened, said))
    assert found["rmse"] == pytest.approx(
        metrics.root_mean_squared_error(happened, said)
    )
    assert found["r2"] == pytest.approx(metrics.r2_score(happened, said), rel=1e-6)
    assert found["bias"] == pytest.approx((said - happened).mean())


def test_what_is_the_same_for_every_row_explains_nothing():
    found = values(added(RegressionTally(1 + SEGMENTS), frame([1.0, 2.0], [3.3, 3.3])))

    assert found["mae"] == pytest.approx(1.8)
    assert "r2" not in found


def test_rankings_are_judged_by_what_is_among_k():
    rows = frame(
        [["a", "b", "c", "d"], ["a", "b", "c", "d"], ["a", "b"], ["c", "d", "a"]],
        [["b", "z"], [], ["x"], ["c", "c", None, "d", "e", "f"]],
    )
    found = values(added(RankingTally(1 + SEGMENTS, 3), rows))

    first = (1 / math.log2(3)) / (1 + 1 / math.log2(3))
    last = (1 + 1 / math.log2(3)) / (1 + 1 / math.log2(3) + 0.5)
    assert found["recall"] == pytest.approx((1 / 2 + 0 + 2 / 4) / 3)
    assert found["ndcg"] == pytest.approx((first + 0 + last) / 3)
    assert found["hit_rate"] == pytest.approx(2 / 3)


@pytest.mark.parametrize("words", [True, False])
def test_rankings_by_chance_agree_with_a_loop(words):
    random = np.random.default_rng(7)
    said = [
        random.permutation(30)[: random.integers(1, 12)].tolist() for _ in range(500)
    ]
    came = [random.integers(0, 30, random.integers(0, 6)).tolist() for _ in range(500)]
    if words:
        said, came = ([[f"i{n}" for n in row] for row in rows] for rows in (said, came))
    found = values(added(RankingTally(1 + SEGMENTS, 8), frame(said, came), 3))

    recall, ndcg = [], []
    for ranked, right in zip(said, came, strict=True):
        if not right:
            continue
        wanted = set(right)
        hits = [item in wanted for item in ranked[:8]]
        gain = sum(hit / math.log2(at + 2) for at, hit in enumerate(hits))
        best = sum(1 / math.log2(at + 2) for at in range(min(len(wanted), 8)))
        recall.append(sum(hits) / len(wanted))
        ndcg.append(gain / best)
    assert found["recall"] == pytest.approx(np.mean(recall))
    assert found["ndcg"] == pytest.approx(np.mean(ndcg))


def test_rankings_of_rows_that_wanted_nothing_are_not_judged():
    tally = added(RankingTally(1 + SEGMENTS, 3), frame([["a"], ["b"]], [[], []]))

    assert tally.rows[0] == 2
    assert tally.measures(0) == []


def test_an_order_is_as_good_as_the_pairs_it_gets_right():
    area = auc(np.array([0, 1, 1]), np.array([1, 1, 0]))

    assert area is not None
    assert area.value == pytest.approx(3.5 / 4)
    assert auc(np.array([0, 0]), np.array([1, 1])) is None
