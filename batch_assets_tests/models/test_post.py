"""Each stage between a model and its outputs, against plain arithmetic."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from batch_assets.errors import ReleaseError
from batch_assets.models.post import Listed, function_of, processed, source_digest
from batch_assets.models.post_specs import (
    Argmax,
    Isotonic,
    Platt,
    PostProcessing,
    Python,
    Sigmoid,
    Softmax,
    Temperature,
    Threshold,
    TopK,
)

NONE = Listed(torch.empty(0, dtype=torch.int64), torch.empty(0, dtype=torch.int64))


def run(stage: Any, given: Any, listed: Listed = NONE) -> dict[str, np.ndarray]:
    names = stage.reads
    post = PostProcessing(gives=names, stages=(stage,))
    columns = dict.fromkeys(getattr(stage, "without", ()), listed)
    found = processed(given, post, columns)
    return {name: found[name].numpy() for name in stage.leaves}


def test_calibration_is_that_of_its_formula() -> None:
    x = torch.tensor([-3.0, -0.5, 0.0, 0.5, 40.0])
    logistic = [1 / (1 + math.exp(-v)) for v in x.tolist()]
    assert np.allclose(run(Sigmoid(of="x"), x)["x"], logistic)
    halves = run(Temperature(of="x", by=2.0, into="y"), x)["y"]
    assert halves.tolist() == (x / 2).tolist()
    platt = run(Platt(of="x", slope=-2.0, intercept=0.5), x)["x"]
    assert np.allclose(platt, [1 / (1 + math.exp(2 * v - 0.5)) for v in x.tolist()])
    shares = run(Softmax(of="x"), torch.tensor([[1.0, 2.0, 3.0]]))["x"][0]
    e = np.exp([1.0, 2.0, 3.0])
    assert np.allclose(shares, e / e.sum())


def test_isotonic_is_linear_between_its_points_and_level_beyond_them() -> None:
    stage = Isotonic(of="x", x=(0.0, 0.5, 1.0), y=(0.1, 0.1, 0.9))
    x = torch.tensor([-9.0, 0.0, 0.25, 0.5, 0.75, 1.0, 9.0, math.nan])
    found = run(stage, x)["x"]
    assert np.allclose(found[:-1], np.interp(x[:-1], stage.x, stage.y))
    assert np.isnan(found[-1])


@pytest.mark.parametrize(
    ("stage", "said"),
    [
        ({"x": (0.0, 1.0), "y": (0.0,)}, "at least 2 items"),
        ({"x": (0.0, 1.0), "y": (0.0, math.nan)}, "NaN or infinity"),
        ({"x": (0.0, math.inf), "y": (0.0, 1.0)}, "NaN or infinity"),
        ({"x": (1.0, 1.0), "y": (0.0, 1.0)}, "each x must be above"),
        ({"x": (0.0, 1.0), "y": (1.0, 0.0)}, "no y may be below"),
        ({"x": (0.0, 1.0, 2.0), "y": (0.0, 1.0)}, "x has 3 points, y 2"),
    ],
)
def test_a_table_that_is_none_is_refused(stage: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        Isotonic(of="x", **stage)


@pytest.mark.parametrize("by", [0.0, -1.0, math.nan, math.inf])
def test_a_temperature_that_is_none_is_refused(by: float) -> None:
    with pytest.raises(ValidationError):
        Temperature(of="x", by=by)


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
def test_a_calibration_or_limit_that_is_no_number_is_refused(number: float) -> None:
    with pytest.raises(ValidationError, match="slope"):
        Platt(of="x", slope=number, intercept=0.0)
    with pytest.raises(ValidationError, match="intercept"):
        Platt(of="x", slope=1.0, intercept=number)
    for at in ((number,), (0.5, number), (number, 0.5)):
        with pytest.raises(ValidationError, match="expected finite limits"):
            Threshold(of="x", into="band", at=at)


def test_argmax_takes_the_first_of_equals_and_tells_its_score() -> None:
    x = torch.tensor([[0.2, 0.5, 0.5], [3.0, 1.0, 2.0], [math.nan, 1.0, 2.0]])
    found = run(Argmax(of="x", into="label", confidence="sure"), x)
    assert found["label"].tolist()[:2] == [1, 0]
    assert found["sure"].tolist()[:2] == [0.5, 3.0]
    # A class of no score is none: the row is found to be at fault by its position.
    assert found["label"][2] == 3


def test_a_threshold_is_reached_by_what_equals_it() -> None:
    x = torch.tensor([0.09, 0.1, 0.5, math.nan])
    found = run(Threshold(of="x", into="band", at=(0.1, 0.5)), x)["band"]
    # 0.1 as float32 is not 0.1 as float64.
    assert found.tolist() == [0, 1, 2, -1]
    with pytest.raises(ValidationError, match="each above the last"):
        Threshold(of="x", into="band", at=(0.5, 0.5))


def best(scores: list[float], k: int, without: set[int] = frozenset()) -> list[int]:
    kept = [at for at in range(len(scores)) if at not in without]
    return sorted(kept, key=lambda at: (-scores[at], at))[:k]


@pytest.mark.parametrize("seed", range(5))
def test_top_k_is_that_of_a_sort_and_of_equals_takes_the_lower(seed: int) -> None:
    random = np.random.default_rng(seed)
    # Few different scores: most are equal to others, at the edge of the ranking too.
    scores = random.integers(0, 6, (40, 30)).astype(np.float32)
    listed = [
        set(random.choice(30, n, replace=False)) for n in random.integers(0, 30, 40)
    ]
    rows = [row for row, items in enumerate(listed) for _ in items]
    items = [int(item) for one in listed for item in sorted(one)]
    given = Listed(torch.tensor(rows), torch.tensor(items))
    stage = TopK(of="scores", into="best", k=7, without=("seen",))
    found = run(stage, torch.from_numpy(scores), given)
    for row in range(40):
        want = best(scores[row].tolist(), 7, listed[row])
        assert found["best"][row].tolist() == want + [-1] * (7 - len(want))
        assert (
            found["best_scores"][row].tolist()[: len(want)]
            == scores[row][want].tolist()
        )


def test_candidates_are_ranked_and_slack_fills_up_what_a_filter_takes() -> None:
    random = np.random.default_rng(1)
    candidates = np.stack([random.choice(1000, 12, replace=False) for _ in range(20)])
    scores = random.random((20, 12)).astype(np.float32)
    gone = candidates[:, :4]
    rows = torch.arange(20).repeat_interleave(4)
    listed = Listed(rows, torch.from_numpy(gone.reshape(-1)))
    stage = TopK(of="scores", into="best", k=8, candidates="items", without=("seen",))
    found = run(stage, (torch.from_numpy(scores), torch.from_numpy(candidates)), listed)
    for row in range(20):
        left = sorted(range(4, 12), key=lambda at: -scores[row][at])
        assert found["best"][row].tolist() == candidates[row][left].tolist()
    # Another row's item is no reason to leave one out.
    other = Listed(rows.flip(0), torch.from_numpy(gone.reshape(-1)))
    swapped = run(
        stage, (torch.from_numpy(scores), torch.from_numpy(candidates)), other
    )
    assert (swapped["best"] >= 0).all()


def test_of_candidates_too_what_a_side_table_lists_is_ranked_for_nobody() -> None:
    random = np.random.default_rng(2)
    candidates = np.stack([random.choice(60, 12, replace=False) for _ in range(20)])
    scores = random.random((20, 12)).astype(np.float32)
    # Of these, a row has among its candidates some, or none.
    gone = random.choice(60, 25, replace=False)
    stage = TopK(of="scores", into="best", k=8, candidates="items", without=("gone",))
    given = torch.from_numpy(scores), torch.from_numpy(candidates)
    found = run(stage, given, Listed(None, torch.from_numpy(gone)))
    short = 0
    for row in range(20):
        left = [at for at in range(12) if candidates[row][at] not in gone]
        order = sorted(left, key=lambda at: -scores[row][at])[:8]
        short += len(order) < 8
        rest = 8 - len(order)
        want = candidates[row][order].tolist() + [-1] * rest
        assert found["best"][row].tolist() == want
        want = scores[row][order].tolist() + [0.0] * rest
        assert found["best_scores"][row].tolist() == want
    assert 0 < short < 20
    everything = run(stage, given, Listed(None, torch.arange(60)))
    assert (everything["best"] == -1).all()
    nothing = run(stage, given)
    assert (nothing["best"] >= 0).all()


def test_a_ranking_is_never_longer_than_what_there_is() -> None:
    stage = TopK(of="scores", into="best", k=5)
    found = run(stage, torch.tensor([[0.5, 0.75]]))
    assert found["best"].tolist() == [[1, 0, -1, -1, -1]]
    assert found["best_scores"].shape == (1, 5)


def test_a_score_that_is_no_number_stays_in_sight() -> None:
    found = run(TopK(of="s", into="best", k=1), torch.tensor([[0.5, math.nan, 0.7]]))
    assert np.isnan(found["best_scores"][0, 0])


def test_stages_that_read_what_is_not_there_are_refused() -> None:
    with pytest.raises(ValidationError, match=r"stage 2, sigmoid, reads \['y'\]"):
        PostProcessing(gives=("x",), stages=(Sigmoid(of="x"), Sigmoid(of="y")))


def test_what_a_model_gives_otherwise_is_one_sentence() -> None:
    post = PostProcessing(gives=("x", "y"), stages=(Sigmoid(of="x"),))
    with pytest.raises(ReleaseError, match=r"the model gave a tensor .* \['x', 'y'\]"):
        processed(torch.zeros(3), post, {})
    found = processed({"y": torch.ones(1), "x": torch.zeros(1)}, post, {})
    assert (found["x"].item(), found["y"].item()) == (0.5, 1.0)


SOURCE = "def double(x):\n    return 2 * x\n"


def test_a_python_stage_runs_the_source_that_it_was_written_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "my_stages.py").write_text(SOURCE)
    monkeypatch.syspath_prepend(tmp_path)
    stage = Python(path="my_stages:double", takes=("x",), gives=("y",))
    sealed = stage.model_copy(update={"sha256": source_digest(stage.path)})
    assert run(sealed, torch.tensor([1.5]))["y"].tolist() == [3.0]
    (tmp_path / "my_stages.py").write_text(SOURCE.replace("2", "3"))
    function_of.cache_clear()
    with pytest.raises(
        ReleaseError, match="the source of 'my_stages:double' hashes to"
    ):
        run(sealed, torch.tensor([1.5]))
    with pytest.raises(ReleaseError, match="written with none"):
        run(stage, torch.tensor([1.5]))
    lost = sealed.model_copy(update={"path": "no_such_module:f"})
    with pytest.raises(ReleaseError, match="no file of a module 'no_such_module'"):
        run(lost, torch.tensor([1.5]))
