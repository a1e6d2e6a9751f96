"""Who may write a day: one run at a time.

A claim is a file that names a run. It holds as long as the run's process lives, which
a lock on a file of its own tells, and the run is not over, which the caller tells. A
claim that holds is respected; any other is taken over, and then the run that made it
can't commit any more. Of an object store no lock tells of a process on another machine:
there a claim also says until when it holds, and its run renews it. It knows neither
tables nor what a run is.
"""

import json
import logging
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from batch_assets.errors import ClaimedError, CommitError, StorageError
from batch_assets.storage import Seen, StoragePath, exclusive, local, read_seen, replace

# How long a claim in a store holds after its run was last heard of, in seconds. It is
# renewed three times in that.
LEASE = 60.0
log = logging.getLogger(__name__)


@contextmanager
def claimed(
    folder: StoragePath, day: str, run: str, is_over: Callable[[str], bool]
) -> Iterator[Callable[[], None]]:
    """Claim a day while this is entered; give a guard that raises once it is lost.

    Args:
        folder: of the pipeline's tables.
        day: the day.
        run: the name of this run.
        is_over: whether the run of that name can't commit any more, dead or alive.

    Raises:
        ClaimedError: another run is making the day.
    """
    claims = folder / ".claims"
    path = claims / f"{day}.json"
    here = local(claims)
    alive = FileLock(here / f"{day}-{run}.lock")
    mine = None
    while mine is None:
        with exclusive(claims):
            seen = read_seen(path)
            there = _claim_in(seen)
            if there is not None:
                _must_be_void(path, day, there, is_over)
            try:
                alive.acquire(timeout=0)
            except Timeout:
                msg = f"{day} is being made by another process of this run, {run}"
                raise ClaimedError(msg) from None
            claim = {
                "run": run,
                "pid": os.getpid(),
                "host": socket.gethostname(),
                "at": f"{datetime.now(UTC):%Y-%m-%d %H:%M:%S} UTC",
            }
            mine = replace(path, _dumps(path, claim), seen=seen)
            if mine is None:  # Another machine was faster: see who it is.
                alive.release()
    holding = _Holding(path, claim, mine)
    try:
        with holding:
            yield holding.must_be_mine
    finally:
        with exclusive(claims):
            holding.give_up()
            alive.release()
            Path(alive.lock_file).unlink(missing_ok=True)


class _Holding:
    """A claim of this process; in a store it is renewed while this is entered."""

    def __init__(self, path: StoragePath, claim: dict[str, Any], mine: Seen) -> None:
        self._path, self._claim, self._mine = path, claim, mine
        self._lock, self._over = threading.Lock(), threading.Event()
        self._thread = threading.Thread(target=self._renewing, daemon=True)

    def must_be_mine(self) -> None:
        """Refuse to go on without the claim; of a store, it holds for a while from now.

        Raises:
            CommitError: it was lost.
        """
        with self._lock:
            if isinstance(self._path, Path):
                mine = read_seen(self._path) == self._mine
            else:
                mine = self._renewed()
        if not mine:
            now = _claim_in(read_seen(self._path))
            by = f"taken over by run {now['run']}" if now else "given up"
            msg = (
                f"run {self._claim['run']} may not commit {self._path.name[:-5]}, which was {by} "
                "meanwhile; what it wrote stays invisible."
            )
            raise CommitError(msg)

    def give_up(self) -> None:
        """Let the day be claimed by others at once, if it was not before."""
        if isinstance(self._path, Path):
            if read_seen(self._path) == self._mine:
                self._path.unlink()
            return
        try:
            # Not removed: by then it might be another's.
            replace(self._path, b"", seen=self._mine)
        except StorageError as error:
            log.warning("%s; the claim runs out by itself", error)

    def _renewed(self) -> bool:
        again = _dumps(self._path, self._claim)
        now = replace(self._path, again, seen=self._mine)
        self._mine = now or self._mine
        return now is not None

    def _renewing(self) -> None:
        while not self._over.wait(LEASE / 3):
            try:
                with self._lock:
                    if not self._renewed():
                        return
            except StorageError as error:
                log.warning("%s; the claim is renewed later", error)

    def __enter__(self) -> None:
        if not isinstance(self._path, Path):
            self._thread.start()

    def __exit__(self, *error: object) -> None:
        self._over.set()
        if self._thread.is_alive():
            self._thread.join()


def _must_be_void(
    path: StoragePath, day: str, there: dict[str, Any], is_over: Callable[[str], bool]
) -> None:
    """Respect a claim that holds; clear away one whose process is dead."""
    run = there["run"]
    if isinstance(path, Path) or there["host"] == socket.gethostname():
        lock = FileLock(local(path).parent / f"{day}-{run}.lock")
        try:
            lock.acquire(timeout=0)
        except Timeout:
            pass
        else:
            lock.release()
            Path(lock.lock_file).unlink(missing_ok=True)
            return
    elif there["until"] < time.time():
        return
    if is_over(run):
        return
    msg = (
        f"{day} is being made by run {run} (process {there['pid']} on "
        f"{there['host']}, since {there['at']}), so this run does not touch it. "
        "Wait for it, or cancel it, then run the day again."
    )
    if not isinstance(path, Path):
        msg += f" If its machine is gone, the claim holds for {LEASE:.0f} s at most."
    raise ClaimedError(msg)


def _claim_in(seen: Seen) -> dict[str, Any] | None:
    try:
        return json.loads(seen.data or b"")
    except ValueError:  # Given up; or torn by a power cut, it names nobody.
        return None


def _dumps(path: StoragePath, claim: dict[str, Any]) -> bytes:
    lease = {} if isinstance(path, Path) else {"until": time.time() + LEASE}
    return json.dumps({**claim, **lease}).encode()
