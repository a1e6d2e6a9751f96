"""A model with every kind of input and output answers online as it does at night."""

import json

import numpy as np
import pytest

from batch_assets.models.release import Release
from batch_assets.online.scoring import BadRequestError, BadRowError
from batch_assets_tests.histories import (
    NAME,
    Histories,
    expected,
    make_rows,
    write_histories,
)
from batch_assets_tests.online.test_scoring import live_of, run


@pytest.fixture(scope="module")
def release(tmp_path_factory: pytest.TempPathFactory) -> Release:
    return write_histories(tmp_path_factory.mktemp("release") / NAME)


def test_rows_with_lists_are_answered_and_bad_ones_named(release: Release) -> None:
    rows = make_rows(40).to_pylist()
    rows[3] |= {"taste": [1.0, None, 1.0, 1.0]}
    rows[5] |= {"device": -1, "seen_items": [None]}
    with live_of(release) as live:
        body = json.dumps({"rows": rows}).encode()
        answers = run(live, live.submit(live.rows(body)))
        with pytest.raises(BadRequestError, match="'items', got: .* list of int64"):
            live.rows(json.dumps({"rows": [rows[0] | {"items": 7}]}).encode())
        with pytest.raises(BadRequestError, match="'items'"):
            live.rows(json.dumps({"rows": [rows[0] | {"items": [1.5]}]}).encode())
    module = Histories()
    for number, (row, answer) in enumerate(zip(rows, answers, strict=True)):
        if number in (3, 5):
            assert isinstance(answer, BadRowError)
            continue
        want = expected(row, module)
        scores = want.pop("next_items_scores")
        assert isinstance(answer, dict)
        ranking = answer.pop("next_items")
        assert [one["item"] for one in ranking] == want.pop("next_items")
        np.testing.assert_allclose([one["score"] for one in ranking], scores, 1e-5)
        assert list(answer) == list(want)
        for name, value in want.items():
            if isinstance(value, str):
                assert answer[name] == value
            else:
                np.testing.assert_allclose(answer[name], value, 1e-5, 1e-5)
