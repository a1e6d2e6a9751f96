"""Of writers at once, in processes and on machines, each day is of one."""

import json
import multiprocessing
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from types import SimpleNamespace

import pytest

from batch_assets.errors import ClaimedError, CommitError
from batch_assets.lake import claims
from batch_assets.lake.claims import claimed
from batch_assets.storage import read_versioned, replace_if_unchanged, storage_path
from batch_assets_tests.in_bucket import NEXT_DAY
from batch_assets_tests.parts_by_hand import (
    SCHEMA,
    commit,
    predictions_in,
    scored_by,
    write_part,
)
from batch_assets_tests.toys import DAY

pytestmark = pytest.mark.slow


def commit_days(folder: str, job: str, days: list[str]) -> None:
    """Commit days, twice each; run in a spawned process."""
    table = predictions_in(storage_path(folder))
    for again in "ab":
        for day in days:
            parts = [
                write_part(table, [s, s + 10], day=day, shard=s, job=job + again * 63)
                for s in (0, 1)
            ]
            table.commit_day(day, parts, SCHEMA, scored_by(job + again * 63))


def test_writers_at_once_commit_days_and_none_is_lost_or_doubled(lake):
    table = lake.predictions
    days = {job: [f"2026-0{job}-0{n}" for n in range(1, 5)] for job in "12"}
    spawn = multiprocessing.get_context("spawn")
    writers = [
        spawn.Process(target=commit_days, args=(str(table.path), job, mine))
        for job, mine in days.items()
    ]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()

    assert [writer.exitcode for writer in writers] == [0, 0]
    for job, mine in days.items():
        for day in mine:
            parts = table.parts(day)
            assert [part.receipt.shard for part in parts] == [0, 1]
            assert {part.receipt.job for part in parts} == {job + "b" * 63}
    assert table.rows_by_day() == dict.fromkeys([*days["1"], *days["2"]], 4)


def test_of_two_writers_of_a_day_the_log_lets_one_win_whole(lake):
    """Without a claim: the second is refused, looks again, and replaces the first."""
    table = lake.predictions
    commit(table, [0], day=NEXT_DAY)

    def rival_comes_first() -> None:
        if not table.parts(DAY):
            commit(table, [1, 2], job="b" * 64)

    mine = write_part(table, [1, 2], job="a" * 64)
    attempts = []

    def guard() -> None:
        attempts.append(1)
        rival_comes_first()

    table.commit_day(DAY, [mine], SCHEMA, scored_by("a" * 64), guard=guard)

    assert len(attempts) == 2
    assert [part.receipt.job for part in table.parts(DAY)] == ["a" * 64]


def never(run: str) -> bool:
    return False


def test_a_claim_of_another_machine_holds_while_it_is_renewed(
    root, machine, monkeypatch
):
    monkeypatch.setattr(claims, "LEASE", 3.0)
    with claimed(root, DAY, "theirs", never) as theirs:
        time.sleep(4)
        machine("second")
        with (
            pytest.raises(ClaimedError, match=r"made by run theirs .* on first"),
            claimed(root, DAY, "mine", never),
        ):
            pass
        theirs()
    with claimed(root, DAY, "mine", never) as mine:
        mine()


def test_a_claim_whose_machine_is_gone_runs_out_and_its_run_can_not_commit(
    root, lake, machine, monkeypatch
):
    monkeypatch.setattr(threading.Thread, "start", lambda thread: None)  # It is paused.
    commit(lake.predictions, [1], day=NEXT_DAY)
    part = write_part(lake.predictions, [1, 2])
    with ExitStack() as stack:
        lost = stack.enter_context(claimed(root, DAY, "lost", never))
        machine("second")
        with pytest.raises(ClaimedError), claimed(root, DAY, "mine", never):
            pass
        later = SimpleNamespace(time=lambda: time.time() + claims.LEASE)
        monkeypatch.setattr(claims, "time", later)
        mine = stack.enter_context(claimed(root, DAY, "mine", never))

        mine()
        with pytest.raises(CommitError, match="taken over by run mine"):
            lake.predictions.commit_day(
                DAY, [part], SCHEMA, scored_by("ab"), guard=lost
            )
        assert not lake.predictions.parts(DAY)


CLAIM_AND_WAIT = """
import sys

from batch_assets.lake.claims import claimed
from batch_assets.storage import storage_path

with claimed(storage_path(sys.argv[1]), sys.argv[2], "theirs", lambda run: False):
    print("claimed", flush=True)
    sys.stdin.read()
"""


def test_a_claim_of_a_process_that_was_killed_on_this_machine_is_void_at_once(
    root, monkeypatch
):
    with subprocess.Popen(
        [sys.executable, "-c", CLAIM_AND_WAIT, str(root), DAY],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as other:
        assert other.stdout.readline() == "claimed\n"
        host = json.loads((root / ".claims" / f"{DAY}.json").read_bytes())["host"]
        monkeypatch.setattr(socket, "gethostname", lambda: host)
        with pytest.raises(ClaimedError), claimed(root, DAY, "mine", never):
            pass
        other.kill()
        other.wait()
        with claimed(root, DAY, "mine", never) as guard:
            guard()


def test_of_two_machines_that_claim_a_day_at_once_one_gets_it(root, machine):
    """Neither sees the other's lock: the store tells."""
    place, got = root / "claim", []

    def take(name: str) -> None:
        if replace_if_unchanged(
            place, name.encode(), seen=read_versioned(root / "nothing")
        ):
            got.append(name)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(take, map(str, range(8))))
    assert [name.encode() for name in got] == [place.read_bytes()]
