"""What the service scores: each row for itself, with nobody held up or lost."""

import os
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import numpy as np
import psutil
import pytest

from batch_assets.models.release import Release
from batch_assets_tests.services import (
    GOOD,
    KEYS,
    Server,
    half_sent,
    models_of,
    published,
    serving,
    tame,
)
from batch_assets_tests.stuck import LOOPS, NAPS, RAISES, SPINS
from batch_assets_tests.toys import NAME, make_rows

# Each starts the command, which imports torch, as does the model's process.
pytestmark = pytest.mark.slow


def test_scores_equal_the_nights_predictions(server: Server, moody: Release) -> None:
    rows = tame(make_rows(KEYS)).to_pylist()
    night = server.post(
        f"/v1/{NAME}/lookup", {"keys": [row["user_id"] for row in rows]}
    ).json()

    together = server.score(*rows).json()
    with ThreadPoolExecutor(16) as pool:
        alone = list(pool.map(lambda row: server.score(row).json(), rows[:100]))

    assert together["source"] == "online"
    assert together["failed"] == 0
    assert together["release"] == night["release"]
    assert [a["key"] for a in together["answers"]] == [row["user_id"] for row in rows]
    expected = [answer["outputs"]["risk"] for answer in night["answers"]]
    tolerance = moody.manifest.golden.tolerance["cpu"]
    for answers in (together["answers"], [a["answers"][0] for a in alone]):
        found = [answer["outputs"]["risk"] for answer in answers]
        np.testing.assert_allclose(
            found, expected[: len(found)], rtol=tolerance, atol=tolerance
        )


def test_a_bad_row_fails_alone_and_alone_it_is_a_422(server: Server) -> None:
    bad = GOOD | {"age": 121, "plan": None}

    mixed = server.score(GOOD, bad, GOOD)
    alone = server.score(bad)

    assert mixed.status_code == 200
    assert mixed.json()["failed"] == 1
    first, second, third = mixed.json()["answers"]
    assert first == third
    assert second["outputs"] is None
    assert second["rules"] == ["age is above max", "plan is null"]
    assert alone.status_code == 422
    assert alone.json()["answers"] == [second]


def test_rows_that_the_model_fails_on_fail_alone_among_those_of_others(
    server: Server,
) -> None:
    ages = [RAISES if n % 10 == 3 else 20 + n % 50 for n in range(100)]
    with ThreadPoolExecutor(32) as pool:
        answers = list(pool.map(lambda age: server.score(GOOD | {"age": age}), ages))

    for age, answer in zip(ages, answers, strict=True):
        if age == RAISES:
            assert answer.status_code == 422
            (said,) = answer.json()["answers"]
            assert said["error"] == "ValueError: no risk at that age"
        else:
            assert answer.status_code == 200
    assert server.number("rows_total", outcome="faulty", pipeline=NAME) >= 10


@pytest.mark.parametrize("age", [SPINS, LOOPS])
def test_lookups_go_on_while_the_model_computes_or_hangs(
    server: Server, age: int
) -> None:
    """A loop that the model held up would answer one lookup, in all of that time."""
    with (
        ThreadPoolExecutor(1) as pool,
        httpx.Client(base_url=server.url) as client,
    ):
        client.get("/healthz")
        stuck = pool.submit(server.score, GOOD | {"age": age})
        longest, lookups, began = 0.0, 0, time.monotonic()
        while not stuck.done():
            before = time.monotonic()
            assert client.get(f"/v1/{NAME}/keys/7").is_success
            longest = max(longest, time.monotonic() - before)
            lookups += 1
        took = time.monotonic() - began

    # Shares, because a busy machine stops anybody for a moment.
    assert lookups > 10
    assert longest < took / 2
    if age == LOOPS:
        (said,) = stuck.result().json()["answers"]
        assert said["error"] == "TimeoutError: no answer within 3.0 s"
    assert server.score(GOOD).is_success


def test_a_model_that_is_killed_is_started_again_and_nobody_is_lost(
    server: Server,
) -> None:
    server.score(GOOD)
    (model,) = models_of(server)
    os.kill(model, signal.SIGKILL)
    # One that ends while a row is with it is another matter: the row may be at fault.
    server.until(lambda: psutil.Process(model).status() == psutil.STATUS_ZOMBIE)

    answer = server.score(GOOD)

    assert answer.status_code == 200
    assert models_of(server) != [model]


def test_what_the_queue_has_no_room_for_is_a_429_and_the_rest_is_scored(
    tmp_path: Path, moody: Release
) -> None:
    root = published(tmp_path / "root", moody)
    sizes = ("--max-batch-size", "2", "--max-queue", "4", "--max-wait-ms", "0")
    with serving(root, *sizes) as server, ThreadPoolExecutor(30) as pool:
        napping = GOOD | {"age": NAPS}
        answers = list(pool.map(lambda _: server.score(napping), range(30)))

        statuses = [answer.status_code for answer in answers]
        assert set(statuses) == {200, 429}
        assert statuses.count(200) >= 5
        full = answers[statuses.index(429)]
        assert int(full.headers["retry-after"]) >= 1
        assert "rows wait already and 1 came on top, of 4 that may" in full.text
        refused = server.number("rows_total", outcome="refused", pipeline=NAME)
        assert refused == statuses.count(429)
        assert server.post(f"/v1/{NAME}/score", {"rows": [GOOD] * 5}).status_code == 413
        # Lookups don't queue.
        assert server.get(f"/v1/{NAME}/keys/7").is_success


def test_a_client_that_leaves_is_not_scored_and_takes_nobody_along(
    tmp_path: Path, moody: Release
) -> None:
    root = published(tmp_path / "root", moody)
    with (
        # Long enough for all to have come before it is given up, also on a busy machine.
        serving(root, "--max-batch-size", "1", "--max-seconds", "20") as server,
        ThreadPoolExecutor(8) as pool,
    ):
        # All others wait for a row that hangs.
        first = pool.submit(server.score, GOOD | {"age": LOOPS})
        time.sleep(0.5)
        stay = [pool.submit(server.score, GOOD) for _ in range(4)]
        leave = [half_sent(server, GOOD) for _ in range(5)]
        server.until(lambda: server.number("waiting_rows", pipeline=NAME) == 9)
        for connection in leave:
            connection.close()
        server.until(
            lambda: server.number("rows_total", outcome="gone", pipeline=NAME) == 5
        )
        assert first.result().status_code == 422
        assert all(task.result().is_success for task in stay)
        assert server.number("batch_rows_sum", pipeline=NAME) == 5
