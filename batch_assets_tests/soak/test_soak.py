"""A short soak, and that one with something wrong in it is told from one without."""

import time
from dataclasses import replace

import pytest

from batch_assets_tests.soak.client import Asked, Clients, Watched, wrong_in
from batch_assets_tests.soak.requests import Request, requests
from batch_assets_tests.soak.run import (
    GROWTH,
    SLACK_BYTES,
    THROWN_OUT,
    Trouble,
    _kept_slow_ones,
    _problems,
    soak,
)

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


def test_slow_clients_that_may_stay_are_a_problem() -> None:
    none, both = (
        {"came": 50, "sending": 9, "unread": 0},
        {"came": 50, "sending": 9, "unread": 9},
    )
    (problem,) = _kept_slow_ones({"slow": none}, THROWN_OUT)
    assert "thrown out" in problem
    assert _kept_slow_ones({"slow": none}, THROWN_OUT / 2) == []
    assert _kept_slow_ones({"slow": both}, THROWN_OUT) == []
    assert _kept_slow_ones({"slow": {"came": 0}}, THROWN_OUT) == []


def test_a_stall_is_not_hidden_and_not_booked_on_the_server() -> None:
    """What is noticed or read late is the client's own; a wait for a connection is not."""
    watch = Watched()
    clients = Clients("", 0, 1, watch)
    now = time.perf_counter()
    watch.since = now - 2.0
    request = Request("missing", b"", 404)
    clients.answered(Asked(request, now - 10.0, now - 7.0, now - 5.0), 404, b"")
    [total], [own] = clients.seen.milliseconds, clients.seen.own
    assert total >= 10_000
    assert 5_000 <= own < total - 4_000
    watch.since = 0.0
    clients.answered(Asked(request, now - 10.0, now - 7.0, now - 5.0), 404, b"")
    # It may have been there since it was sent.
    assert 8_000 <= clients.seen.own[1] < total - 1_000


def test_there_are_requests_of_every_kind() -> None:
    kinds = requests(100, seed=1)
    found = {next(kinds).kind for _ in range(20_000)}
    assert {"key", "lookup", "large", "missing", "oversize"} <= found
    assert {"no json", "another shape", "too many", "no key", "no utf-8"} <= found


@pytest.mark.slow
def test_a_service_in_trouble_answers_right_and_does_not_grow(tmp_path) -> None:
    """The hour is `make soak`; this one has all of it but the time and the rate."""
    soaked = soak(tmp_path, seconds=60, rate=100, connections=50, slow=10, keys=5_000)
    assert soaked.problems == []
    statuses = soaked.load["statuses"]
    assert statuses["oversize 413"] > 0
    assert statuses["large 200"] > 0
    assert {"no json 400", "no utf-8 400", "another shape 400"} <= set(statuses)
    assert soaked.load["slow"]["sending"] > 0
    assert soaked.load["slow"]["unread"] > 0
    assert soaked.rollbacks > 0
    assert soaked.sink_kills > 0
