"""A store over a real one, whose operations meet the faults of a plan.

It answers for a directory or a bucket: what is under it is real, and so is the damage.
"""

import errno
import io
import threading
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

from batch_assets.storage import ReadableFile, Store, Versioned, access
from batch_assets_tests.faults.plan import Fault, Faults

WRITE = (
    Fault.FAIL,
    Fault.LOST,
    Fault.TEAR,
    Fault.FLIP,
    Fault.LIE,
    Fault.LATE,
    Fault.DELAY,
    Fault.CLOCK,
)
FOLDER = (Fault.FAIL, Fault.LOST, Fault.LIE, Fault.DELAY)
READ = (Fault.FAIL, Fault.DELAY, Fault.STALE, Fault.CLOCK)
OPEN = (Fault.FAIL, Fault.DELAY)
LATE_SECONDS = 0.2

P = TypeVar("P")


def broken(path: object) -> OSError:
    return OSError(errno.EIO, "Input/output error, as planned", str(path))


def damaged(data: bytes, fault: Fault | None) -> bytes:
    if fault is Fault.TEAR:
        return data[: len(data) // 2]
    if fault is Fault.FLIP and data:
        at = len(data) // 2
        return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]
    return data


class FaultyStore(Store[Any]):
    """The real store, as its operations meet faults."""

    def __init__(self, real: Store[Any], faults: Faults) -> None:
        self._real, self._faults = real, faults
        self.is_local, self.has_links = real.is_local, real.has_links
        self.has_locks, self.advice = real.has_locks, real.advice
        # What a file held before it was replaced, for whoever reads it stale.
        self._before: dict[str, Versioned] = {}

    def local(self, path: Any) -> Path:
        return self._real.local(path)

    def put_file(self, local_path: Path, path: Any) -> None:
        self._put("put", local_path, path, self._real.put_file)

    def put_new(self, local_path: Path, path: Any) -> bool:
        return bool(self._put("put new", local_path, path, self._real.put_new))

    def _put(
        self, operation: str, local_path: Path, path: Any, put: Callable[..., Any]
    ) -> Any:
        fault = self._faults.draw(operation, path, WRITE)
        if fault is Fault.FAIL:
            raise broken(path)
        if fault is Fault.LIE:
            local_path.unlink()
            return True
        if fault is Fault.LATE:
            waiting = local_path.with_name(f"{local_path.name}.waiting")
            local_path.rename(waiting)
            later(lambda: put(waiting, path))
            return True
        if fault in (Fault.TEAR, Fault.FLIP):
            local_path.write_bytes(damaged(local_path.read_bytes(), fault))
        done = put(local_path, path)
        if fault is Fault.LOST:
            raise broken(path)
        return done

    def put_folder(
        self, local_folder: Path, path: Any, *, last: str, prove: Callable[[Any], None]
    ) -> None:
        fault = self._faults.draw("put folder", path, FOLDER)
        if fault is Fault.FAIL:
            raise broken(path)
        if fault is Fault.LIE:
            local_folder.rename(local_folder.with_name(f".gone-{local_folder.name}"))
            return
        self._real.put_folder(local_folder, path, last=last, prove=prove)
        if fault is Fault.LOST:
            raise broken(path)

    def has_folder(self, path: Any, *, last: str) -> bool:
        fault = self._faults.draw("has folder", path, READ)
        if fault is Fault.FAIL:
            raise broken(path)
        return fault is not Fault.STALE and self._real.has_folder(path, last=last)

    def hide_tree(self, path: Any, *, first: str) -> Any:
        fault = self._faults.draw("hide", path, (Fault.FAIL, Fault.DELAY))
        if fault is Fault.FAIL:
            raise broken(path)
        return self._real.hide_tree(path, first=first)

    def remove_tree(self, path: Any) -> None:
        if self._faults.draw("remove", path, FOLDER):
            raise broken(path)
        self._real.remove_tree(path)

    def read_versioned(self, path: Any) -> Versioned:
        fault = self._faults.draw("read", path, READ)
        if fault is Fault.FAIL:
            raise broken(path)
        if fault is Fault.STALE and str(path) in self._before:
            return self._before[str(path)]
        return self._real.read_versioned(path)

    def replace_if_unchanged(
        self, path: Any, data: bytes, seen: Versioned
    ) -> Versioned | None:
        fault = self._faults.draw("replace", path, WRITE)
        if fault is Fault.FAIL:
            raise broken(path)
        if fault is Fault.LIE:
            return Versioned(data, seen.tag)
        if fault is Fault.LATE:
            later(lambda: self._real.replace_if_unchanged(path, data, seen))
            return Versioned(data, seen.tag)
        self._before[str(path)] = seen
        done = self._real.replace_if_unchanged(path, damaged(data, fault), seen)
        if fault is Fault.LOST:
            raise broken(path)
        return Versioned(data, done.tag) if done else None

    def readable(self, path: Any, *, whole: bool) -> ReadableFile:
        if self._faults.draw("open", path, OPEN):
            raise broken(path)
        return self._real.readable(path, whole=whole)

    def read_ahead(self, path: Any, spans: Iterable[tuple[int, int]]) -> None:
        self._real.read_ahead(path, spans)

    def copy_into(self, path: Any, file: io.BufferedRandom) -> None:
        if self._faults.draw("copy", path, OPEN):
            raise broken(path)
        self._real.copy_into(path, file)

    def delta_options(self, path: Any) -> dict[str, str] | None:
        return self._real.delta_options(path)


def later(put: Callable[[], Any]) -> None:
    """Do it a while later, unless the process ends before."""

    def unless_it_is_too_late() -> None:
        with suppress(OSError):
            put()

    timer = threading.Timer(LATE_SECONDS, unless_it_is_too_late)
    timer.daemon = True
    timer.start()


def install_store(faults: Faults) -> None:
    """Lay the faults under everything; only ever in a process of its own."""
    access._directory = FaultyStore(access._directory, faults)  # type: ignore[assignment]
    access._bucket = FaultyStore(access._bucket, faults)  # type: ignore[assignment]
