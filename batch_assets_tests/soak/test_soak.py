"""A short soak, and that one with something wrong in it is told from one without."""

from dataclasses import replace

import pytest

from batch_assets_tests.soak.client import requests, wrong_in
from batch_assets_tests.soak.run import GROWTH, SLACK_BYTES, Trouble, _problems, soak

GOOD = {"wrongs": 0, "wrong": [], "versions": 3}


def answer(number: int, key: int, mixed: int) -> dict:
    release = {"name": "toy", "digest": f"{number:064x}"}
    outputs = {"number": number, "mixed": mixed}
    return {"version": "v", "release": release, "key": key, "outputs": outputs}


def test_values_of_another_version_are_found() -> None:
    right = answer(4, 7, 7 * 1_000_003 + 4)
    assert wrong_in(right) is None
    assert wrong_in(answer(4, 7, 7 * 1_000_003 + 5)) is not None
    assert wrong_in(answer(5, 7, 7 * 1_000_003 + 4)) is not None
    batch = {**right, "answers": [right, answer(4, 8, 7 * 1_000_003 + 4)]}
    assert str(wrong_in(batch)).startswith("key 8 of version 4")


@pytest.mark.parametrize(
    ("load", "memory", "said"),
    [
        (GOOD | {"wrongs": 2, "wrong": ["key: 500"]}, [1], "2 wrong"),
        (GOOD | {"versions": 1}, [1], "nothing was swapped"),
        (GOOD, [10**9] * 50 + [int(GROWTH * 1e9) + SLACK_BYTES + 1] * 50, "grew"),
    ],
)
def test_what_goes_wrong_is_a_problem(load, memory, said) -> None:
    trouble = Trouble(swaps=2, memory=memory)
    (problem,) = _problems(load, trouble)
    assert said in problem
    steady = replace(trouble, memory=[10**9] * 100)
    assert _problems(GOOD, steady) == []
    assert _problems(GOOD, replace(steady, stopped=["OSError"])) == ["OSError"]


def test_there_are_requests_of_every_kind() -> None:
    kinds = requests(100, seed=1)
    found = {next(kinds).kind for _ in range(20_000)}
    assert {"key", "lookup", "missing", "oversize", "no json", "no utf-8"} <= found


@pytest.mark.slow
def test_a_service_in_trouble_answers_right_and_does_not_grow(tmp_path) -> None:
    """The hour is `make soak`; this one has all of it but the time."""
    soaked = soak(tmp_path, seconds=40, rate=100, connections=50, slow=10, keys=5_000)
    assert soaked.problems == []
    assert soaked.load["statuses"]["oversize 413"] > 0
    assert soaked.sink_kills > 0
