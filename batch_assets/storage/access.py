"""Reading and writing at a path, wherever it lies: the functions that others call.

`store_of` alone looks whether a path is of a directory or of a bucket.
"""

import io
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import TypeVar, cast

from batch_assets.errors import ConfigError, StorageError
from batch_assets.storage.base import WAITING, ReadableFile, Store, Versioned, looks
from batch_assets.storage.bucket import BucketStore, ObjectPath
from batch_assets.storage.directory import DirectoryStore, name_beside, written_beside

StoragePath = Path | ObjectPath

P = TypeVar("P", bound=StoragePath)
Item = TypeVar("Item")
Result = TypeVar("Result")
_directory, _bucket = DirectoryStore(), BucketStore()

# What was said to be written and is not there is written again, so many times in all.
WRITES = 3


def store_of(path: P) -> Store[P]:
    """Return the store that a path is of."""
    store = _directory if isinstance(path, Path) else _bucket
    return cast("Store[P]", store)


def storage_path(text: str, base: Path | None = None) -> StoragePath:
    """Return the path that a person named: a directory, or `s3://BUCKET/PREFIX`.

    Args:
        text: as it was named.
        base: what a directory is relative to; the working directory, if left out.

    Raises:
        ConfigError: it is another kind of URL, or names no bucket.
    """
    scheme, is_url, rest = text.partition("://")
    if not is_url:
        return ((base or Path.cwd()) / Path(text).expanduser()).resolve()
    bucket, _, key = rest.partition("/")
    key = key.strip("/")
    odd = {"", ".", ".."}.intersection(key.split("/") if key else ())
    if scheme != "s3" or not bucket or odd:
        msg = (
            f"'{text}' is no place to keep anything: expected a directory, or "
            "s3://BUCKET/PREFIX. Set BATCH_ASSETS_ROOT to one of these."
        )
        raise ConfigError(msg)
    return ObjectPath(bucket, key)


def below(path: StoragePath, folder: StoragePath) -> str:
    """Return a path relative to a folder above it, with slashes."""
    return PurePosixPath(path.as_posix()).relative_to(folder.as_posix()).as_posix()


# What a store can do.


def is_local(path: StoragePath) -> bool:
    """Tell whether a path is of this machine, so that nothing is copied or waited for."""
    return store_of(path).is_local


def has_links(path: StoragePath) -> bool:
    """Tell whether a file may have two names."""
    return store_of(path).has_links


def has_locks(path: StoragePath) -> bool:
    """Tell whether a lock keeps out every process, and not those of one machine alone."""
    return store_of(path).has_locks


def advice(path: StoragePath) -> str:
    """Return what to do when something could not be written, as a sentence."""
    return store_of(path).advice


# On this machine.


def local(path: StoragePath) -> Path:
    """Return the path on this machine: itself, or what stands for it in a cache.

    Whatever is written before it is put there, copied down, locked or only of use here
    is kept in it. `BATCH_ASSETS_CACHE` names the cache, `~/.cache/batch-assets` if it is
    not set; all of it may be removed while nothing runs.
    """
    return store_of(path).local(path)


def beside(path: StoragePath) -> Path:
    """Return a name that nobody has, on this machine, for what will be put at a path."""
    return name_beside(local(path))


@contextmanager
def exclusive(folder: StoragePath) -> Iterator[None]:
    """Let one process of this machine in at a time; for a directory, one of all.

    Of a bucket, others may be at it on their machines: `replace_if_unchanged` tells.
    """
    from filelock import FileLock  # Who only reads does not wait for it.

    lock_folder = local(folder)
    lock = FileLock(lock_folder / ".lock")
    with _explained(folder):
        lock_folder.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


# Files.


def put_file(local_path: Path, path: StoragePath) -> None:
    """Give a finished file its path: it is there, whole, and not on this machine.

    Args:
        local_path: on this machine; for a directory, in the same one. It is synced.
        path: its final name.
    """
    store_of(path).put_file(local_path, path)


def put_new(local_path: Path, path: StoragePath) -> bool:
    """Do the same unless there is a file of that name; return whether it has it now.

    What lies on this machine may stay, and is the caller's to remove.
    """
    return store_of(path).put_new(local_path, path)


def read_versioned(path: StoragePath) -> Versioned:
    """Read what lies at a path now, to be replaced by something made of it.

    Raises:
        StorageError: it can't be read.
    """
    with _explained(path):
        return store_of(path).read_versioned(path)


def replace_if_unchanged(
    path: StoragePath, data: bytes, *, seen: Versioned
) -> Versioned | None:
    """Write a whole file, if what was seen there is still there, and read it back.

    Of several that have seen the same, one succeeds. In a directory these must hold
    `exclusive` from before they have seen it.

    Returns:
        What is there now, or None if it was changed meanwhile, and is as it was.

    Raises:
        StorageError: it can't be written, or is not there though it was said to be.
    """
    store = store_of(path)
    with _explained(path):
        for _ in range(WRITES):
            written = store.replace_if_unchanged(path, data, seen)
            if written is None:
                return None
            found = _read_back(path, data)
            if found.data == data:
                return found
            # Without a lock it may be what another machine has made of it since.
            if not store.has_locks and found != seen:
                return written
            seen = found
    msg = (
        f"{path} was said to be written, {WRITES} times, and holds something else: "
        f"{len(found.data or b'')} bytes, expected {len(data)}. See what is wrong with "
        "the disk or the store, and run it again"
    )
    raise StorageError(msg)


def _read_back(path: StoragePath, data: bytes) -> Versioned:
    """Return what lies there; of a store that is slow to show it, after some looks."""
    found = Versioned(None)
    for _ in looks():
        found = store_of(path).read_versioned(path)
        if found.data == data:
            break
    return found


@contextmanager
def _explained(path: StoragePath) -> Iterator[None]:
    """Raise what a disk says as an error of this project, with what to do next.

    Raises:
        StorageError: it can't be read or written.
    """
    try:
        yield
    except OSError as error:
        msg = (
            f"{path} can't be read or written: {error}. What is committed and served is "
            f"as it was. {advice(path)}"
        )
        raise StorageError(msg) from error


def readable(path: StoragePath, *, whole: bool = False) -> ReadableFile:
    """Open a file to be read by Arrow: itself, or those ranges that are asked for.

    Args:
        path: of the file.
        whole: all of it will be read: of a bucket, it is copied at once.

    Raises:
        FileNotFoundError: it is not there.
    """
    return store_of(path).readable(path, whole=whole)


@contextmanager
def open_bytes(path: StoragePath) -> Iterator[io.BufferedIOBase]:
    """Open a file to read all of it; of a bucket, a copy that is gone afterwards.

    Raises:
        FileNotFoundError: it is not there.
    """
    with readable(path, whole=True) as file, file.open_bytes() as opened:
        yield opened


def read_ahead(path: StoragePath, spans: Iterable[tuple[int, int]]) -> None:
    """Announce which bytes are read next, from start to end, so that a disk runs ahead.

    A bucket does not ask for the spans.
    """
    store_of(path).read_ahead(path, spans)


def fetch(path: StoragePath, local_path: Path) -> None:
    """Copy a file to one on this machine, which appears when it is whole.

    Raises:
        FileNotFoundError: it is not there.
    """
    local_path.parent.mkdir(parents=True, exist_ok=True)
    with written_beside(local_path) as unfinished, unfinished.open("w+b") as file:
        store_of(path).copy_into(path, file)


def identity(path: StoragePath) -> Hashable:
    """Return what is another value once another file lies at a path.

    Raises:
        FileNotFoundError: it is not there.
    """
    return store_of(path).identity(path)


# Folders.


def put_folder(
    local_folder: Path,
    path: StoragePath,
    *,
    last: str,
    prove: Callable[[StoragePath], None] = lambda path: None,
) -> None:
    """Give a finished folder of files its path; it is not on this machine then.

    A directory has it in one step. A bucket has it from when `last` is there.

    Args:
        local_folder: on this machine; for a directory, in the same one.
        path: its final name.
        last: the file without which the folder does not count.
        prove: raises if a file is not what was put; for each that was copied.

    Raises:
        FileExistsError: a directory has a folder of that name.
    """
    store_of(path).put_folder(local_folder, path, last=last, prove=prove)


def has_folder(path: StoragePath, *, last: str) -> bool:
    """Tell whether a folder is there that was put with this `last` file.

    Raises:
        StorageError: nobody can say.
    """
    with _explained(path):
        return store_of(path).has_folder(path, last=last)


def hide_tree(path: StoragePath, *, first: str) -> StoragePath:
    """Take a folder from its readers, in a moment, before its removal.

    Args:
        path: of the folder.
        first: the file without which it does not count.

    Returns:
        Where it lies now; in a directory, beside and beginning with `REMOVING`.
    """
    return store_of(path).hide_tree(path, first=first)


def remove_tree(path: StoragePath) -> None:
    """Remove a folder with all that is in it.

    Raises:
        FileNotFoundError: there is no such directory; of a bucket, never.
    """
    store_of(path).remove_tree(path)


def delta_options(path: StoragePath) -> dict[str, str] | None:
    """Return what Delta needs beside the environment, to commit atomically."""
    return store_of(path).delta_options(path)


def each(
    path: StoragePath,
    work: Callable[[Item], Result],
    items: Sequence[Item],
    *,
    at_once: int = WAITING,
) -> list[Result]:
    """Return the results of work that mostly waits for a path, in the items' order.

    On a disk there is nothing to wait for: one is done after the other.
    """
    if is_local(path) or len(items) < 2:
        return [work(item) for item in items]
    with ThreadPoolExecutor(min(at_once, len(items)), "store") as pool:
        return list(pool.map(work, items))
