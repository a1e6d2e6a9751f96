"""A process that is stopped, and comes back when its day is another's, changes nothing.

It is stopped for real, with SIGSTOP, before each of its commits and before it publishes.
On another machine, of which no lock tells, the day is taken over when the claim has run
out, and made to its end. In place of ten minutes the claim runs out after seconds.
"""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from batch_assets.lake.claims import claimed
from batch_assets.snapshots.store import SnapshotStore
from batch_assets_tests.crash import Ended
from batch_assets_tests.faults.bucket_nights import BucketStage
from batch_assets_tests.toys import DAY, NAME
from batch_assets_tests.waiting import until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

LEASE = 3.0
COMMITS = 5  # raw, quarantined, validated, dead letters, predictions
PUBLISHES = COMMITS + 2  # what is measured of the night comes between

# Its own process stops it, so that it is known where: before what the guard is asked for.
STOPPED = """
import os, signal, socket, sys
from batch_assets.lake import claims
from batch_assets.lake.claims import claimed
from batch_assets.lake.tables import Lake
from batch_assets.models.release import open_release
from batch_assets.storage import storage_path
from batch_assets_tests.crash import publish, run_night
from batch_assets_tests.toys import DAY, NAME
from pathlib import Path

root, project, release, place, late = sys.argv[1:]
root = storage_path(root)
socket.gethostname = lambda: "the machine that stands still"
claims.LEASE = float(os.environ["LEASE"])
asked = 0
with claimed(Lake(root, NAME).folder, DAY, "slow", lambda run: False) as guard:
    def stopped():
        global asked
        asked += 1
        if asked == int(place):
            if late == "after the guard":
                guard()
            print("stops", flush=True)
            os.kill(os.getpid(), signal.SIGSTOP)
            if late == "after the guard":
                return
        guard()

    run_night(root, Path(project), open_release(Path(release)), guard=stopped)
    publish(root, DAY, guard=stopped)
"""


@pytest.mark.parametrize("late", ["before the guard", "after the guard"])
@pytest.mark.parametrize("place", [1, COMMITS, PUBLISHES])
def test_a_writer_that_comes_back_without_its_claim_changes_nothing(
    bucket: BucketStage, tmp_path: Path, place: int, late: str
) -> None:
    """Even one that was stopped between the guard and the commit: the log refuses it."""
    root, zygote = bucket.root(), bucket.zygote
    cache = str(tmp_path / "its own cache")
    arguments = [str(root), str(zygote.project), str(zygote.release), str(place), late]
    with subprocess.Popen(
        [sys.executable, "-c", STOPPED, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"BATCH_ASSETS_CACHE": cache, "LEASE": str(LEASE)},
    ) as slow:
        assert slow.stdout is not None
        assert slow.stdout.readline() == "stops\n", slow.communicate()[1]
        until(lambda: state_of(slow.pid) == "T")

        def made_by_another() -> Ended | None:
            ended = zygote.night(root, publish=DAY, both=True, claim="quick")
            return None if ended.error == "ClaimedError" else ended

        ended = until(made_by_another, seconds=300, every=0.2)
        assert ended.well, ended
        bucket.must_be_whole(root)
        store = SnapshotStore(root, NAME)
        acts, served = len(store.history()[0]), store.current()

        slow.send_signal(signal.SIGCONT)
        said = slow.communicate(timeout=120)[1]

    bucket.must_be_whole(root)
    new = store.history()[0][acts:]
    assert store.current() == served
    if (place, late) == (PUBLISHES, "after the guard"):
        # It has lost the swap to the other, who has sent readers to the very version that
        # it had put: what it wants to be served is served.
        assert slow.returncode == 0, said
        assert {act.version for act in new} == {served}
    else:
        assert slow.returncode == 1, said
        assert "CommitError: run slow may not commit" in said, said
        assert new == []
    with claimed(root / "lake" / NAME, DAY, "next", lambda run: False) as guard:
        guard()  # Nothing of either is in the way.


def state_of(pid: int) -> str:
    """What the kernel says of a process: T is stopped."""
    return Path(f"/proc/{pid}/stat").read_text("utf-8").rpartition(")")[2].split()[0]
