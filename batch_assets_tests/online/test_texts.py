"""A model of texts answers online as it does at night."""

import json
from typing import Any

import numpy as np
import pytest

from batch_assets.models.release import Release
from batch_assets.online.scoring import BadRequestError, BadRowError
from batch_assets_tests.online.test_scoring import live_of, run
from batch_assets_tests.texts import (
    NAME,
    Moods,
    expected,
    make_contract,
    make_rows,
    write_texts,
)


@pytest.fixture(scope="module")
def release(tmp_path_factory: pytest.TempPathFactory) -> Release:
    return write_texts(tmp_path_factory.mktemp("release") / NAME)


def must_be_as_expected(answer: Any, row: dict[str, Any]) -> None:
    assert isinstance(answer, dict)
    want = expected(row, Moods())
    assert list(answer) == list(want)
    assert answer.pop("mood") == want.pop("mood")
    for name, value in want.items():
        np.testing.assert_allclose(answer[name], value, 1e-5, 1e-5)


def test_texts_are_answered_and_bad_ones_named(release: Release) -> None:
    rows = make_rows(40).to_pylist()
    rows[3]["review"] = ""
    rows[5]["review"] = None
    rows[7]["review"] = "x" * 1_000_000
    rows[9]["review"] = "nul \0 and 👩‍👩‍👧"
    with live_of(release) as live:
        body = json.dumps({"rows": rows}).encode()
        answers = run(live, live.submit(live.rows(body)))
    rules = {3: "shorter than 1", 5: "null", 7: "longer than 1000"}
    for number, (row, answer) in enumerate(zip(rows, answers, strict=True)):
        if number in rules:
            assert isinstance(answer, BadRowError)
            (rule,) = answer.rules
            assert rules[number] in rule
        else:
            must_be_as_expected(answer, row)


@pytest.mark.parametrize(
    ("review", "why"),
    [
        ("7", "'review', got: integer 7, expected: string"),
        ('["good"]', "'review', got: array .*, expected: string"),
        # Half of a pair, which is no character.
        ('"\\ud800"', "the body is no JSON: .* hex escape"),
    ],
)
def test_what_is_no_text_is_refused(release: Release, review: str, why: str) -> None:
    body = f'{{"rows": [{{"user_id": 1, "age": 30, "review": {review}, "title": ""}}]}}'
    with live_of(release) as live, pytest.raises(BadRequestError, match=why):
        live.rows(body.encode())


def test_a_binary_column_takes_texts_as_json_has_them(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    review, title = make_contract().inputs
    binary = review.model_copy(update={"dtype": "binary"})
    release = write_texts(
        tmp_path_factory.mktemp("binary") / NAME,
        contract=make_contract(inputs=(binary, title)),
    )
    rows = make_rows(3).to_pylist()
    rows[0]["review"] = "é👩"
    with live_of(release) as live:
        answers = run(live, live.submit(live.rows(json.dumps({"rows": rows}).encode())))
    for row, answer in zip(rows, answers, strict=True):
        must_be_as_expected(answer, row)
