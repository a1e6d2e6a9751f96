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
from batch_assets.storage import (
    StoragePath,
    Versioned,
    exclusive,
    has_locks,
    local,
    looks,
    read_versioned,
    replace_if_unchanged,
)

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
    alive = FileLock(local(claims) / f"{day}-{run}.lock")
    written = None
    while written is None:
        with exclusive(claims):
            seen = read_versioned(path)
            current = _claim_in(seen)
            if current is not None:
                _must_be_void(path, day, current, is_over)
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
            written = replace_if_unchanged(path, _dumps(path, claim), seen=seen)
            if written is None:  # Another machine was faster: see who it is.
                alive.release()
    holder = _Holder(path, claim, written)
    try:
        with holder:
            yield holder.must_hold
    finally:
        with exclusive(claims):
            holder.give_up()
            alive.release()
            Path(alive.lock_file).unlink(missing_ok=True)


def is_held(folder: StoragePath, day: str, run: str) -> bool:
    """Tell whether a run has claimed a day, and its process lives."""
    claims = folder / ".claims"
    path = claims / f"{day}.json"
    # Whoever claims or gives up is waited for: to try a lock is to hold it a moment.
    with exclusive(claims):
        claim = _claim_in(read_versioned(path))
        if claim is None or claim["run"] != run:
            return False
        if has_locks(path) or claim["host"] == socket.gethostname():
            return not _is_free(local(claims) / f"{day}-{run}.lock")
        return bool(claim["until"] >= time.time())


class _Holder:
    """A claim of this process; one that runs out is renewed while this is entered."""

    def __init__(
        self, path: StoragePath, claim: dict[str, Any], written: Versioned
    ) -> None:
        self._path, self._claim, self._written = path, claim, written
        self._runs_out = not has_locks(path)
        self._lock, self._over = threading.Lock(), threading.Event()
        self._thread = threading.Thread(target=self._renew_often, daemon=True)

    def must_hold(self) -> None:
        """Refuse to go on without the claim; one that runs out holds anew from now.

        Raises:
            CommitError: it was lost.
        """
        with self._lock:
            holds = self._renew() if self._runs_out else self._is_unchanged()
        if not holds:
            current = _claim_in(read_versioned(self._path))
            how = f"taken over by run {current['run']}" if current else "given up"
            day = self._path.name.removesuffix(".json")
            msg = (
                f"run {self._claim['run']} may not commit {day}, which was {how} "
                "meanwhile; what it wrote stays invisible."
            )
            raise CommitError(msg)

    def give_up(self) -> None:
        """Let the day be claimed by others at once, if it was not before."""
        if not self._runs_out:
            if self._is_unchanged():
                self._path.unlink()
            return
        try:
            # Not removed: by then it might be another's.
            replace_if_unchanged(self._path, b"", seen=self._written)
        except StorageError as error:
            log.warning("%s; the claim runs out by itself", error)

    def _is_unchanged(self) -> bool:
        # A file system may show for a moment what was there before.
        return any(read_versioned(self._path) == self._written for _ in looks())

    def _renew(self) -> bool:
        data = _dumps(self._path, self._claim)
        renewed = replace_if_unchanged(self._path, data, seen=self._written)
        self._written = renewed or self._written
        return renewed is not None

    def _renew_often(self) -> None:
        while not self._over.wait(LEASE / 3):
            try:
                with self._lock:
                    if not self._renew():
                        return
            except StorageError as error:
                log.warning("%s; the claim is renewed later", error)

    def __enter__(self) -> None:
        if self._runs_out:
            self._thread.start()

    def __exit__(self, *error: object) -> None:
        self._over.set()
        if self._thread.is_alive():
            self._thread.join()


def _must_be_void(
    path: StoragePath, day: str, claim: dict[str, Any], is_over: Callable[[str], bool]
) -> None:
    """Respect a claim that holds; clear away one whose process is dead."""
    run = claim["run"]
    if has_locks(path) or claim["host"] == socket.gethostname():
        if _is_free(local(path).parent / f"{day}-{run}.lock"):
            return
    elif claim["until"] < time.time():
        return
    if is_over(run):
        return
    msg = (
        f"{day} is being made by run {run} (process {claim['pid']} on "
        f"{claim['host']}, since {claim['at']}), so this run does not touch it. "
        "Wait for it, or cancel it, then run the day again."
    )
    if not has_locks(path):
        msg += f" If its machine is gone, the claim holds for {LEASE:.0f} s at most."
    raise ClaimedError(msg)


def _is_free(path: Path) -> bool:
    """Tell whether no process holds a lock; a file of nobody's is removed."""
    lock = FileLock(path)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        return False
    lock.release()
    path.unlink(missing_ok=True)
    return True


def _claim_in(content: Versioned) -> dict[str, Any] | None:
    try:
        claim: dict[str, Any] = json.loads(content.data or b"")
    except ValueError:  # Given up; or torn by a power cut, it names nobody.
        return None
    return claim


def _dumps(path: StoragePath, claim: dict[str, Any]) -> bytes:
    lease = {} if has_locks(path) else {"until": time.time() + LEASE}
    return json.dumps({**claim, **lease}).encode()
