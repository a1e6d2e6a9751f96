"""Who may write a day: one run at a time.

A claim is a file that names a run. It holds as long as the run's process lives, which
a lock on a file of its own tells, and the run is not over, which the caller tells. A
claim that holds is respected; any other is taken over, and then the run that made it
can't commit any more. It knows neither tables nor what a run is.
"""

import json
import os
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from batch_assets.errors import ClaimedError, CommitError


@contextmanager
def claimed(
    folder: Path, day: str, run: str, is_over: Callable[[str], bool]
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
    claims.mkdir(parents=True, exist_ok=True)
    path = claims / f"{day}.json"
    alive = FileLock(claims / f"{day}-{run}.lock")
    with FileLock(claims / ".lock"):
        there = _read(path)
        if there is not None:
            _must_be_void(claims, day, there, is_over)
        try:
            alive.acquire(timeout=0)
        except Timeout:
            msg = f"{day} is being made by another process of this run, {run}"
            raise ClaimedError(msg) from None
        _write(path, run)

    def still_mine() -> None:
        now = _read(path)
        if now is None or now["run"] != run:
            by = f"taken over by run {now['run']}" if now else "given up"
            msg = (
                f"run {run} may not commit {day}, which was {by} meanwhile; what it "
                "wrote stays invisible."
            )
            raise CommitError(msg)

    try:
        yield still_mine
    finally:
        with FileLock(claims / ".lock"):
            now = _read(path)
            if now is not None and now["run"] == run:
                path.unlink()
            alive.release()
            Path(alive.lock_file).unlink(missing_ok=True)


def _must_be_void(
    claims: Path, day: str, there: dict[str, Any], is_over: Callable[[str], bool]
) -> None:
    """Respect a claim that holds; clear away one whose process is dead."""
    run = there["run"]
    lock = FileLock(claims / f"{day}-{run}.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        if is_over(run):
            return
        msg = (
            f"{day} is being made by run {run} (process {there['pid']} on "
            f"{there['host']}, since {there['at']}), so this run does not touch it. "
            "Wait for it, or cancel it, then run the day again."
        )
        raise ClaimedError(msg) from None
    lock.release()
    Path(lock.lock_file).unlink(missing_ok=True)


def _read(path: Path) -> dict[str, Any] | None:
    try:
        claim = json.loads(path.read_bytes())
    # Torn by a power cut, it names nobody.
    except (FileNotFoundError, ValueError):
        return None
    return claim


def _write(path: Path, run: str) -> None:
    claim = {
        "run": run,
        "pid": os.getpid(),
        "host": socket.gethostname(),
        "at": f"{datetime.now(UTC):%Y-%m-%d %H:%M:%S} UTC",
    }
    beside = path.with_suffix(".tmp")
    beside.write_text(json.dumps(claim), encoding="utf-8")
    beside.replace(path)
