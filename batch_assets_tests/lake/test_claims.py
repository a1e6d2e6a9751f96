"""Claims: one run at a time makes a day, and a dead one does not stand in the way."""

import signal
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest

from batch_assets.errors import ClaimedError, CommitError
from batch_assets.lake.claims import claimed, is_held

DAY, NEXT_DAY = "2026-01-05", "2026-01-06"
CLAIM_AND_WAIT = """
import sys
from pathlib import Path

from batch_assets.lake.claims import claimed

with claimed(Path(sys.argv[1]), sys.argv[2], "theirs", lambda run: False):
    print("claimed", flush=True)
    sys.stdin.read()
"""


def never(run: str) -> bool:
    return False


@pytest.fixture
def other_process(tmp_path: Path):
    """A living process with a claim of DAY, run "theirs"."""
    with subprocess.Popen(
        [sys.executable, "-c", CLAIM_AND_WAIT, str(tmp_path), DAY],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout.readline() == "claimed\n"
        yield process
        process.kill()


def test_a_second_run_of_the_day_is_refused_and_named_the_first(tmp_path):
    with claimed(tmp_path, DAY, "mine", never) as guard:
        with (
            pytest.raises(ClaimedError, match=r"made by run mine \(process \d+ on"),
            claimed(tmp_path, DAY, "yours", never),
        ):
            pass
        guard()


def test_a_claim_is_held_while_its_process_lives(tmp_path, other_process):
    assert is_held(tmp_path, DAY, "theirs")
    assert not is_held(tmp_path, DAY, "mine")
    assert not is_held(tmp_path, NEXT_DAY, "theirs")
    other_process.send_signal(signal.SIGKILL)
    other_process.wait()
    assert not is_held(tmp_path, DAY, "theirs")

    with claimed(tmp_path, DAY, "mine", never) as guard:
        assert is_held(tmp_path, DAY, "mine")
        guard()  # To ask has taken nothing away.
    assert not is_held(tmp_path, DAY, "mine")


def test_other_days_are_free(tmp_path):
    with (
        claimed(tmp_path, DAY, "mine", never) as one,
        claimed(tmp_path, NEXT_DAY, "yours", never) as other,
    ):
        one()
        other()


def test_a_claim_is_given_up_however_it_ends(tmp_path):
    with pytest.raises(RuntimeError), claimed(tmp_path, DAY, "mine", never):
        raise RuntimeError

    with claimed(tmp_path, DAY, "yours", never) as guard:
        guard()
    assert [p.name for p in (tmp_path / ".claims").iterdir()] == [".lock"]


def test_a_claim_of_a_living_process_is_respected(tmp_path, other_process):
    with (
        pytest.raises(ClaimedError, match=f"process {other_process.pid}"),
        claimed(tmp_path, DAY, "mine", never),
    ):
        pass


def test_a_claim_of_a_killed_process_is_void(tmp_path, other_process):
    other_process.send_signal(signal.SIGKILL)
    other_process.wait()

    with claimed(tmp_path, DAY, "mine", never) as guard:
        guard()


def test_an_orphan_loses_its_claim_and_can_not_commit(tmp_path):
    """Its process lives, but its run was given up for dead."""
    with ExitStack() as stack:
        orphan = stack.enter_context(claimed(tmp_path, DAY, "orphan", never))
        orphan()
        mine = stack.enter_context(
            claimed(tmp_path, DAY, "mine", lambda run: run == "orphan")
        )

        mine()
        with pytest.raises(CommitError, match="taken over by run mine"):
            orphan()


def test_an_orphan_that_ends_leaves_the_claim_of_its_successor(tmp_path):
    with ExitStack() as successor:
        with claimed(tmp_path, DAY, "orphan", never):
            mine = successor.enter_context(
                claimed(tmp_path, DAY, "mine", lambda run: run == "orphan")
            )
        mine()
        with pytest.raises(ClaimedError), claimed(tmp_path, DAY, "third", never):
            pass


def test_a_second_process_of_the_same_run_is_refused(tmp_path):
    with (
        claimed(tmp_path, DAY, "mine", never),
        pytest.raises(ClaimedError, match="run mine"),
        claimed(tmp_path, DAY, "mine", never),
    ):
        pass


def test_a_torn_claim_names_nobody(tmp_path):
    (tmp_path / ".claims").mkdir()
    (tmp_path / ".claims" / f"{DAY}.json").write_text('{"run": "th', "utf-8")

    with claimed(tmp_path, DAY, "mine", never) as guard:
        guard()
