"""Readers, a publisher and a collector at once: no mixed answer, and no wrong one."""

import subprocess
import sys
import time
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest

from batch_assets.snapshots.deny import deny
from batch_assets.snapshots.operations import rollback, unblock
from batch_assets.snapshots.retention import collect
from batch_assets.snapshots.store import SnapshotStore
from batch_assets_tests.served import FORMS, ITEMS, formed, serve

KEYS = np.arange(1, 20_001)
READERS = 3
LOOKUPS = 1_000_000
VERSIONS = 15
SEEN = 3
REMOVED = 10
# A net and no promise: a busy machine takes many times as long.
MOST_SECONDS = 3_000

READER = """
import random, sys
from pathlib import Path
from batch_assets import Snapshot
from batch_assets_tests.served import ITEMS, told

folder, stop = Path(sys.argv[1]), Path(sys.argv[2])
rankings = sys.argv[3] == "rankings"
asked, seen = 0, set()
with Snapshot(folder, poll_seconds=0.02) as snapshot:
    while not stop.exists():
        for key in random.choices(range(1, 20_001), k=2_000):
            answer = snapshot.get(key)
            number = int(answer.version.split("-")[3], 16)
            found = answer.outputs
            right = (number, key * 1_000_003 + number)
            assert (found["number"], found["mixed"]) == right, (key, answer)
            if rankings:
                assert found == told(number, key, denied=ITEMS[0]), (key, answer)
            assert answer.release.digest == f"{number:064x}", answer
            seen.add(number)
        several = snapshot.get_many(random.sample(range(1, 20_001), 200))
        numbers = {answer.outputs["number"] for answer in several}
        assert len(numbers) == 1, numbers
        assert snapshot.get(20_001) is None
        asked += 2_000 + 200 + 1
        print(asked, len(seen), flush=True)
    assert snapshot.problem is None, snapshot.problem
"""


@pytest.mark.slow
@pytest.mark.timeout(3_600)
@pytest.mark.parametrize("kind", ["numbers", "rankings"])
@pytest.mark.parametrize("how", ["published", "rolled back too"])
def test_over_a_million_lookups_none_is_mixed_and_none_is_wrong(
    tmp_path: Path, how: str, kind: str
) -> None:
    """Of rankings an item is denied: the next best are read from behind what is shown."""
    store, stop = SnapshotStore(tmp_path, "toy"), tmp_path / "stop"
    publish(store, 1, kind)
    if kind == "rankings":
        deny(store, [ITEMS[0]], why="a recall", by="ada")
    command = [sys.executable, "-c", READER, str(store), str(stop), kind]
    logs = [tmp_path / f"reader-{number}" for number in range(READERS)]
    readers = []
    for log in logs:
        with log.open("wb") as out, Path(f"{log}-errors").open("wb") as errors:
            readers.append(subprocess.Popen(command, stdout=out, stderr=errors))
    began, number, removed = time.monotonic(), 1, 0
    said = [said_in(log) for log in logs]
    while (
        number < VERSIONS
        or sum(asked for asked, _ in said) <= LOOKUPS
        or min(seen for _, seen in said) < SEEN
        or removed < REMOVED
    ):
        assert time.monotonic() < began + MOST_SECONDS, said
        assert [reader.poll() for reader in readers] == [None] * READERS, [
            Path(f"{log}-errors").read_text("utf-8") for log in logs
        ]
        number += 1
        publish(store, number, kind)
        if how != "published":
            rollback(store, why="the tests need it")
            unblock(store, why="the tests need it")
        removed += len(collect(store, keep=2, keep_for=timedelta(seconds=2)))
        said = [said_in(log) for log in logs]
    stop.touch()

    ends = [reader.wait(timeout=600) for reader in readers]

    assert ends == [0] * READERS, [
        Path(f"{log}-errors").read_text("utf-8") for log in logs
    ]
    assert len(store.versions()) == number - removed


def publish(store: SnapshotStore, number: int, kind: str) -> None:
    if kind == "numbers":
        serve(store, number, KEYS)
    else:
        serve(store, number, KEYS, outputs=formed(number, KEYS), forms=FORMS)


def said_in(log: Path) -> tuple[int, int]:
    """How many lookups a reader has told of, and how many versions answered them."""
    whole = log.read_text("utf-8").rpartition("\n")[0]
    if not whole:
        return 0, 0
    asked, seen = whole.splitlines()[-1].split()
    return int(asked), int(seen)
