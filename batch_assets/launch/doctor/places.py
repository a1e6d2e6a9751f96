"""`<root>`: whether it can be written, replaces files in one step, and has room.

All of it is tried with files of the doctor's own, in a folder that is gone afterwards.
"""

import os
import shutil
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from batch_assets.errors import BatchAssetsError
from batch_assets.launch.doctor.findings import Examined, Finding
from batch_assets.root import ROOT
from batch_assets.storage import (
    StoragePath,
    advice,
    beside,
    has_links,
    has_locks,
    is_local,
    local,
    put_file,
    put_new,
    read_versioned,
    remove_tree,
    replace_if_unchanged,
)

# How often a file is replaced while another thread reads it.
TIMES = 20
BYTES = 64 << 10
# By so much the clock of a store may differ: approvals and claims compare times.
APART_SECONDS = 5.0
# A night writes what the last one did, and keeps the version before it.
NIGHTS = 3
LITTLE = 1 << 30


@contextmanager
def tried_in(root: StoragePath) -> Iterator[StoragePath]:
    """Give a folder to try things in, and remove it with all that was made for it."""
    folder = root / f".doctor-{uuid.uuid4().hex}"
    made = [path for path in (local(root), *local(root).parents) if not path.exists()]
    local(folder).mkdir(parents=True)
    try:
        yield folder
    finally:
        with suppress(FileNotFoundError):
            remove_tree(folder)
        shutil.rmtree(local(folder), ignore_errors=True)
        for path in made:
            with suppress(OSError):
                path.rmdir()


def _put(path: StoragePath, data: bytes) -> None:
    unfinished = beside(path)
    unfinished.write_bytes(data)
    put_file(unfinished, path)


def permissions(examined: Examined) -> Iterator[Finding]:
    """Write, sync, read and remove a file under `<root>`."""
    root = examined.root
    try:
        with tried_in(root) as folder:
            _put(folder / "file", b"whole")
            back = read_versioned(folder / "file").data
            apart = time.time() - (folder / "file").stat().st_mtime
        left = read_versioned(folder / "file").data
    except (OSError, BatchAssetsError) as error:
        who = "" if not is_local(root) else f", as user {os.geteuid()}"
        mend = f"{advice(root)}; {ROOT} says where it lies"
        yield Finding("storage", "bad", f"{root}{who}: {error}", mend)
        return
    if back != b"whole" or left is not None:
        said = f"{root}: a file reads back as {back!r}, and as {left!r} once removed"
        yield Finding("storage", "bad", said, "keep <root> on another file system")
        return
    yield Finding("storage", "ok", f"{root}: written, synced, read back and removed")
    if abs(apart) > APART_SECONDS:
        said = f"its clock is {apart:+.1f} s from this machine's"
        yield Finding("storage", "bad", said, "let NTP set both clocks")


def replacing(examined: Examined) -> Iterator[Finding]:
    """Replace a file while it is read, make one that is there, take a lock twice."""
    root, broken = examined.root, []
    try:
        with tried_in(root) as folder:
            if torn := _torn_reads(folder / "CURRENT"):
                broken.append(f"{torn} readers saw a file that was neither old nor new")
            broken += _made_twice(folder / "claim")
            if has_locks(root):
                broken += _locked_twice(local(folder))
            if has_links(root) and not _is_linked(local(folder)):
                broken.append("there are no hard links, by which a file is made once")
    except (OSError, BatchAssetsError) as error:
        yield Finding("replacing", "bad", f"{root}: {error}", advice(root))
        return
    if broken:
        mend = "keep <root> on a file system that does: ext4, xfs, NFS 4; or in S3"
        yield Finding("replacing", "bad", f"{root}: {'; '.join(broken)}", mend)
        return
    names = "renames, exclusive creates and locks" if is_local(root) else "puts"
    yield Finding("replacing", "ok", f"{names} are in one step")


def _torn_reads(path: StoragePath) -> int:
    """How many of the reads during replacements found neither content."""
    whole = [bytes([letter]) * BYTES for letter in b"ab"]
    _put(path, whole[0])
    over, torn = threading.Event(), []

    def read() -> None:
        while not over.is_set():
            if read_versioned(path).data not in whole:
                torn.append(1)

    reader = threading.Thread(target=read)
    reader.start()
    try:
        for number in range(TIMES if is_local(path) else 2):
            _put(path, whole[number % 2])
    finally:
        over.set()
        reader.join()
    return len(torn)


def _made_twice(path: StoragePath) -> list[str]:
    """What is wrong with making a file that only one may make."""
    won = []
    for data in (b"first", b"second"):
        unfinished = beside(path)
        unfinished.write_bytes(data)
        won.append(put_new(unfinished, path))
        unfinished.unlink(missing_ok=True)
    seen = read_versioned(path)
    wrong = [] if won == [True, False] else ["two could make the same new file"]
    if seen.data == b"first":
        kept = replace_if_unchanged(path, b"third", seen=seen)
        again = replace_if_unchanged(path, b"fourth", seen=seen)
        if kept is None or again is not None:
            wrong.append("a file that was changed meanwhile was replaced")
    return wrong


def _locked_twice(folder: Path) -> list[str]:
    with FileLock(folder / ".lock"):
        try:
            with FileLock(folder / ".lock", timeout=0):
                return ["a lock that is held was taken"]
        except Timeout:
            return []


def _is_linked(folder: Path) -> bool:
    (folder / "one").touch()
    try:
        os.link(folder / "one", folder / "two")
    except OSError:
        return False
    return True


def room(examined: Examined) -> Iterator[Finding]:
    """Compare what is free with what the last night of each pipeline took."""
    folder = local(examined.root)
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    taken = sum(
        _last_night(local(examined.root) / "lake" / s.name) for s in examined.specs
    )
    said = f"{_size(free)} are free at {folder}"
    if taken:
        said += f"; the last nights took {_size(taken)}"
    mend = f"make room, or set {ROOT} to another disk"
    if free < taken:
        yield Finding("disk", "bad", said, mend)
    elif free < max(NIGHTS * taken, LITTLE):
        yield Finding("disk", "warn", said, mend)
    else:
        yield Finding("disk", "ok", said)


def _last_night(lake: Path) -> int:
    """How many bytes the newest day of a pipeline's tables has; none of a bucket."""
    size = 0
    for table in (path for path in lake.glob("*") if path.is_dir()):
        if days := sorted(table.glob("day=*")):
            size += sum(f.stat().st_size for f in days[-1].rglob("*.parquet"))
    return size


def _size(count: float) -> str:
    for unit in ("bytes", "KiB", "MiB", "GiB"):
        if count < 1024:
            return f"{count:,.0f} {unit}"
        count /= 1024
    return f"{count:,.1f} TiB"
