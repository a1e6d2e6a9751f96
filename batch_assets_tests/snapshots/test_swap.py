"""Forward only, and in one swap: whatever happens while a version is built."""

import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from batch_assets.errors import GateError, SnapshotError
from batch_assets.lake.tables import Lake
from batch_assets.models.release import Release
from batch_assets.snapshots import publish as publishing
from batch_assets.snapshots.gates import SNAPSHOT_GATES, SnapshotEvidence
from batch_assets.snapshots.judges import equals_predictions
from batch_assets.snapshots.operations import rollback, unblock
from batch_assets.snapshots.version import Version
from batch_assets_tests.crash import kinds_of
from batch_assets_tests.publishing import (
    BEFORE,
    KINDS,
    NEXT,
    OPEN,
    approved,
    block,
    publish,
    revoke,
    root_of,
    score,
    served,
    snapshots_of,
)
from batch_assets_tests.toys import DAY


@pytest.fixture(params=kinds_of(KINDS, fast="numbers"))
def kind(request: pytest.FixtureRequest) -> str:
    return request.param


class Stop(Exception):  # noqa: N818 - it is a request, not an error
    """A guard's refusal."""


def test_a_guard_that_refuses_leaves_current_as_it_was(ready: Lake) -> None:
    publish(ready, DAY)
    before = served(ready)

    def guard() -> None:
        raise Stop

    with pytest.raises(Stop):
        publish(ready, NEXT, guard=guard)

    assert served(ready) == before
    assert publish(ready, NEXT).swapped


PUBLISHER = """
import sys
from pathlib import Path
from batch_assets.lake.day_run import DayRun
from batch_assets.lake.tables import Lake
from batch_assets.models.registry import Registry
from batch_assets.snapshots.publish import publish_day
from batch_assets.snapshots.store import SnapshotStore
from batch_assets.spec import GateLimits, Serving

serving = Serving(keep=2, keep_minutes=0)
root, gates = Path(sys.argv[1]), GateLimits.model_validate_json(sys.argv[2])
lake, store = Lake(root, "toy"), SnapshotStore(root, "toy")
sys.stdin.readline()
for day in sys.argv[3:]:
    publish_day(DayRun(lake, day), Registry(root), store, gates=gates, serving=serving)
"""


def test_publishers_at_once_end_in_one_valid_version_of_the_newest_day(
    ready: Lake,
) -> None:
    orders = [(DAY, NEXT, BEFORE), (NEXT, DAY, NEXT), (BEFORE, DAY, BEFORE)]
    command = [sys.executable, "-W", "error", "-c", PUBLISHER, str(root_of(ready))]
    processes = [
        subprocess.Popen(
            [*command, OPEN.model_dump_json(), *days],
            stdin=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for days in orders
    ]
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    ends = [process.communicate(timeout=600)[1] for process in processes]

    assert [process.returncode for process in processes] == [0, 0, 0], ends
    snapshot = Version.current(snapshots_of(ready))
    snapshot.verify()
    assert snapshot.manifest.day == NEXT
    assert equals_predictions(ready, snapshots_of(ready), NEXT).passed
    left = os.listdir(snapshots_of(ready).folder)
    assert not [name for name in left if name.startswith(".building")]


def test_a_publisher_that_is_slow_to_swap_can_not_undo_a_newer_one(
    ready: Lake,
) -> None:
    newer = threading.Thread(target=publish, args=(ready, NEXT))
    waits: list[bool] = []

    def guard() -> None:
        # This one has looked at CURRENT and built; another comes before it swaps.
        newer.start()
        newer.join(timeout=1)
        waits.append(newer.is_alive())

    publish(ready, DAY, guard=guard)
    newer.join(timeout=600)

    assert waits == [True]
    assert Version.current(snapshots_of(ready)).manifest.day == NEXT


def test_what_changed_while_it_was_built_is_seen_before_the_swap(
    ready: Lake,
    narrow_release: Release,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    publish(ready, BEFORE)
    before = served(ready)
    build = publishing._build

    def meanwhile(*args: Any) -> Any:
        built = build(*args)
        revoke(ready, narrow_release, tmp_path)
        return built

    monkeypatch.setattr(publishing, "_build", meanwhile)
    with pytest.raises(GateError, match="was revoked for batch by bob"):
        publish(ready)

    assert served(ready) == before
    assert len(snapshots_of(ready).versions()) == 1


def test_a_day_that_is_scored_again_while_it_is_built_is_not_served(
    ready: Lake, kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(ready, BEFORE)
    before = served(ready)
    build = publishing._build
    other = KINDS[kind].write_release(tmp_path / "o", about={"author": "else"})
    approved(root_of(ready), other)

    def meanwhile(*args: Any) -> Any:
        built = build(*args)
        score(ready, other, DAY)
        return built

    monkeypatch.setattr(publishing, "_build", meanwhile)
    with pytest.raises(SnapshotError, match="was scored again while"):
        publish(ready)

    assert served(ready) == before


def test_a_rollback_while_a_night_builds_holds_against_it(
    ready: Lake, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = publish(ready, BEFORE).version
    publish(ready, DAY)
    store, build = snapshots_of(ready), publishing._build

    def meanwhile(*args: Any) -> Any:
        built = build(*args)
        rollback(store, why="odd scores", by="ada")
        return built

    monkeypatch.setattr(publishing, "_build", meanwhile)
    published = publish(ready, NEXT)

    assert (published.swapped, store.current()) == (False, first)
    assert "blocked until" in published.why
    assert published.current is not None
    assert published.current.version == first
    verdicts = {
        gate.name: gate.verdict(SnapshotEvidence(ready, store, NEXT))
        for gate in SNAPSHOT_GATES
    }
    verdict = verdicts["snapshot_is_served"]
    assert (verdict.passed, verdict.blocks) == (False, False)
    assert verdicts["snapshot_equals_predictions"].passed


def test_what_was_built_and_held_is_served_as_it_is(ready: Lake) -> None:
    publish(ready, BEFORE)
    store = snapshots_of(ready)
    block(store)
    held = publish(ready)
    path = store.version_folder(held.version) / "shard=00.arrow"
    built = path.stat().st_ino
    unblock(store, why="it was fine")

    published = publish(ready)

    assert (published.swapped, published.version) == (True, held.version)
    assert path.stat().st_ino == built
