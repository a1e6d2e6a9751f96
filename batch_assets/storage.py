"""Where things lie: in a directory, or as objects under a prefix of a bucket.

A directory is a plain `Path`. An `ObjectPath` answers to those of a path's methods that
this project asks for, so that most code need not know which of the two it has. What an
object store does otherwise than a disk is done here: nothing is renamed or locked there,
but a put is whole or not at all, and can be made to hold only if the object is still the
one that was seen. It knows nothing of what lies where.

`AWS_ENDPOINT_URL`, `AWS_ACCESS_KEY_ID`, `AWS_SECRET_ACCESS_KEY`, `AWS_REGION` and
`AWS_ALLOW_HTTP` say how to reach a store, to this and to Delta alike.
"""

import functools
import io
import os
import shutil
import tempfile
import uuid
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar

import obstore
from filelock import FileLock
from obstore.exceptions import AlreadyExistsError, BaseError, PreconditionError
from obstore.store import S3Store

from batch_assets.errors import ConfigError, StorageError

CACHE = "BATCH_ASSETS_CACHE"
SCHEME = "s3://"
# How a file ends that is still being written, or was when its process died.
BESIDE = ".tmp"
# A footer is mostly within so many bytes of the end: one request opens a file.
TAIL_BYTES = 64 << 10
# An object is copied down in ranges of so many bytes, so many at once: a single stream
# is far slower than the network, and a lost one is begun anew.
RANGE_BYTES = 8 << 20
STREAMS = 4
# Small requests wait, they don't compute: a day's footers are opened so many at once.
# Whole objects are copied so many at once.
WAITING = 32
COPYING = 4
# A store that does not answer to a first request within this is not there. Once it has
# answered, it may take this long to come back: a night outlives its restart.
FIRST_ANSWER = timedelta(seconds=10)
COMES_BACK = timedelta(minutes=3)
# More than there is time for: where nothing listens, sixty were over in 20 seconds.
RETRIES = 10_000

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True, order=True, slots=True)
class ObjectPath:
    """An object, or all those under a prefix, in a bucket: a `Path` in what it answers to.

    It holds two strings, so it can be sent anywhere; the process that asks it something
    reaches the store by its own environment.
    """

    bucket: str
    key: str = ""

    def __str__(self) -> str:
        return f"{SCHEME}{self.bucket}/{self.key}".rstrip("/")

    def __truediv__(self, name: str) -> "ObjectPath":
        return ObjectPath(self.bucket, f"{self.key}/{name}".strip("/"))

    def as_posix(self) -> str:
        return str(self)

    @property
    def name(self) -> str:
        return self.key.rpartition("/")[2]

    @property
    def parent(self) -> "ObjectPath":
        return ObjectPath(self.bucket, self.key.rpartition("/")[0])

    def with_name(self, name: str) -> "ObjectPath":
        return self.parent / name

    def exists(self) -> bool:
        """Whether there is an object of this very name."""
        try:
            self.stat()
        except FileNotFoundError:
            return False
        return True

    def is_dir(self) -> bool:
        """Whether there is any object under this."""
        with _explained(self):
            prefix = f"{self.key}/" if self.key else None
            return any(obstore.list(_store(self.bucket), prefix, chunk_size=1))

    def stat(self) -> "ObjectStat":
        with _explained(self):
            found = obstore.head(_store(self.bucket), self.key)
            return ObjectStat(found["size"], found["last_modified"])

    def read_bytes(self) -> bytes:
        return read_seen(self).content(self)

    def read_text(self, encoding: str) -> str:
        return self.read_bytes().decode(encoding)

    def iterdir(self) -> Iterator["ObjectPath"]:
        """What lies right below this: objects, and prefixes of more of them."""
        with _explained(self):
            found = obstore.list_with_delimiter(_store(self.bucket), self.key or None)
            keys = [one["path"] for one in found["objects"]]
            keys += [prefix.rstrip("/") for prefix in found["common_prefixes"]]
        return iter([ObjectPath(self.bucket, key) for key in sorted(keys)])

    def mkdir(self, *, parents: bool = False, exist_ok: bool = False) -> None:
        """Nothing: a prefix is there when something is under it."""

    def unlink(self, *, missing_ok: bool = False) -> None:
        if not missing_ok:
            self.stat()
        with _explained(self):
            obstore.delete(_store(self.bucket), self.key)


@dataclass(frozen=True)
class ObjectStat:
    """Bytes of an object, and when it was put there."""

    st_size: int
    modified: datetime

    @property
    def st_mtime(self) -> float:
        return self.modified.timestamp()


@dataclass(frozen=True)
class Seen:
    """What lay in a place when it was read; nothing, if `data` is None.

    `tag` is a store's own name for it.
    """

    data: bytes | None
    tag: str | None = None

    def content(self, place: "StoragePath") -> bytes:
        """The bytes.

        Raises:
            FileNotFoundError: there were none.
        """
        if self.data is None:
            msg = f"{place} is not there"
            raise FileNotFoundError(msg)
        return self.data


StoragePath = Path | ObjectPath
# What Arrow reads a file from.
Readable = Path | io.BufferedIOBase


def storage_path(text: str, base: Path | None = None) -> StoragePath:
    """The place that a person named: a directory, or `s3://BUCKET/PREFIX`.

    Args:
        text: as it was named.
        base: what a directory is relative to; where one stands, if left out.

    Raises:
        ConfigError: it is another kind of URL, or names no bucket.
    """
    scheme, there, rest = text.partition("://")
    if not there:
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


def below(place: StoragePath, above: StoragePath) -> str:
    """The way from a place to one below it, with slashes."""
    return PurePosixPath(place.as_posix()).relative_to(above.as_posix()).as_posix()


def local(place: StoragePath) -> Path:
    """The directory of a place on this machine: itself, or what stands for it in a cache.

    Whatever is written before it is put there, copied down, locked or only of use here
    is kept in it. `BATCH_ASSETS_CACHE` names the cache, `~/.cache/batch-assets` if it is
    not set; all of it may be removed while nothing runs.
    """
    if isinstance(place, Path):
        return place
    cache = os.environ.get(CACHE) or "~/.cache/batch-assets"
    return Path(cache).expanduser().resolve() / place.bucket / place.key


@contextmanager
def exclusive(folder: StoragePath) -> Iterator[None]:
    """One process of this machine at a time; for a directory, that is everybody.

    Of an object store, others may be at it on their machines: `replace` tells.
    """
    here = local(folder)
    here.mkdir(parents=True, exist_ok=True)
    with FileLock(here / ".lock"):
        yield


def put_file(here: Path, place: StoragePath) -> None:
    """Give a finished file its place: from then on it is there, whole, and not here.

    Args:
        here: on this machine; of a directory, in the same one. Its bytes are synced.
        place: its final name.
    """
    if isinstance(place, Path):
        here.replace(place)
        sync_folder(place.parent)
        return
    with _explained(place):
        obstore.put(_store(place.bucket), place.key, here)
    here.unlink()


def put_new(here: Path, place: StoragePath) -> bool:
    """The same, unless there is a file of that name; whether it has it now.

    Not every file system has links: on one without, the last to come takes the name.
    """
    try:
        if isinstance(place, Path):
            try:
                os.link(here, place)
            except FileExistsError:
                return False
            except OSError:
                here.replace(place)
            sync_folder(place.parent)
            return True
        with _explained(place):
            store = _store(place.bucket)
            # In one request: pieces can't be put under a condition.
            obstore.put(store, place.key, here, mode="create", use_multipart=False)
    except AlreadyExistsError:
        return False
    return True


def read_seen(place: StoragePath) -> Seen:
    """What lies in a place now, to be replaced by something made of it."""
    if isinstance(place, Path):
        try:
            return Seen(place.read_bytes())
        except FileNotFoundError:
            return Seen(None)
    try:
        with _explained(place):
            found = obstore.get(_store(place.bucket), place.key)
            return Seen(bytes(found.bytes()), found.meta["e_tag"])
    except FileNotFoundError:
        return Seen(None)


def replace(place: StoragePath, data: bytes, *, seen: Seen) -> Seen | None:
    """Write a whole file, if what was seen there is still there.

    Of several that have seen the same, one succeeds. In a directory these must hold
    `exclusive` from before they have seen it.

    Returns:
        What is there now, or None if it was changed meanwhile, and is as it was.
    """
    if isinstance(place, Path):
        if read_seen(place) != seen:
            return None
        beside = place.with_name(f"{place.name}.{uuid.uuid4().hex}{BESIDE}")
        try:
            with beside.open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            put_file(beside, place)
        finally:
            beside.unlink(missing_ok=True)
        return Seen(data)
    mode: Any = "create" if seen.data is None else {"e_tag": seen.tag}
    try:
        with _explained(place):
            done = obstore.put(_store(place.bucket), place.key, data, mode=mode)
            return Seen(data, done["e_tag"])
    except (AlreadyExistsError, PreconditionError):
        # Its answer may have been lost, and the put done again.
        now = read_seen(place)
        return now if now.data == data else None


def source(place: StoragePath, *, whole: bool = False) -> Readable:
    """What Arrow reads a file from: itself, or the ranges of an object that it asks for.

    Args:
        place: of the file.
        whole: all of it will be read: an object is `copied` at once.

    Raises:
        FileNotFoundError: it is not there.
    """
    if isinstance(place, Path):
        return place
    if not whole:
        return Ranges(place)
    return copied(place)


def copied(place: ObjectPath) -> io.BufferedRandom:
    """A copy of an object on this machine, without a name, so that it never stays.

    Raises:
        FileNotFoundError: there is no such object.
    """
    scratch = local(ObjectPath(place.bucket))
    scratch.mkdir(parents=True, exist_ok=True)
    file = tempfile.TemporaryFile(dir=scratch)  # noqa: SIM115
    _copy_down(place, file)
    return file


def size_of(readable: Readable) -> int:
    """The bytes of what `source` gave."""
    if isinstance(readable, Path):
        return readable.stat().st_size
    return readable.seek(0, os.SEEK_END)


def fetch(place: ObjectPath, here: Path) -> None:
    """Copy an object to a file on this machine, which appears when it is whole."""
    here.parent.mkdir(parents=True, exist_ok=True)
    beside = here.with_name(f"{here.name}.{uuid.uuid4().hex}{BESIDE}")
    try:
        with beside.open("w+b") as file:
            _copy_down(place, file)
        beside.replace(here)
    finally:
        beside.unlink(missing_ok=True)


def remove_tree(place: StoragePath, first: str | None = None) -> None:
    """Remove all that is under a place; in a store `first` is gone before the others."""
    if isinstance(place, Path):
        shutil.rmtree(place)
        return
    if first is not None:
        (place / first).unlink(missing_ok=True)
    with _explained(place):
        store = _store(place.bucket)
        for found in obstore.list(store, f"{place.key}/"):
            obstore.delete(store, [one["path"] for one in found])


def each(
    place: StoragePath,
    work: Callable[[Item], Result],
    items: Sequence[Item],
    *,
    at_once: int = WAITING,
) -> list[Result]:
    """The results of work that mostly waits for a place, in the order of the items.

    On a disk there is nothing to wait for: one is done after the other.
    """
    if isinstance(place, Path) or len(items) < 2:
        return [work(item) for item in items]
    with ThreadPoolExecutor(min(at_once, len(items)), "store") as pool:
        return list(pool.map(work, items))


def delta_options(place: StoragePath) -> dict[str, str] | None:
    """What Delta needs beside the environment, to commit atomically in a store."""
    if isinstance(place, Path):
        return None
    _store(place.bucket)  # What is wrong with the store is said better here.
    return {
        "aws_conditional_put": "etag",
        "max_retries": str(RETRIES),
        "retry_timeout": f"{COMES_BACK.seconds}s",
    }


def sync_folder(folder: Path) -> None:
    """Make renames in a folder outlast a power cut."""
    fd = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


class Ranges(io.BufferedIOBase):
    """An object as a file. Its end is there at once, other ranges as they are read.

    All are of one version of the object, or it is an error.
    """

    def __init__(self, place: ObjectPath) -> None:
        self._place, self._at = place, 0
        self._tag: str | None = None
        found = self._get({"suffix": TAIL_BYTES})
        self._tag, self._size = found.meta["e_tag"], found.meta["size"]
        self._tail = bytes(found.bytes())
        self._tail_at = self._size - len(self._tail)

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        start = {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._size}
        self._at = start[whence] + offset
        return self._at

    def read(self, size: int | None = -1) -> bytes:
        left = max(self._size - self._at, 0)
        size = left if size is None or size < 0 else min(size, left)
        start, self._at = self._at, self._at + size
        if start >= self._tail_at:
            return self._tail[start - self._tail_at :][:size]
        return bytes(self._get((start, start + size)).bytes()) if size else b""

    def _get(self, wanted: Any) -> Any:
        place = self._place
        options: Any = {"range": wanted}
        if self._tag is not None:
            options["if_match"] = self._tag
        try:
            with _explained(place):
                return obstore.get(_store(place.bucket), place.key, options=options)
        except PreconditionError as error:
            msg = f"{place} was replaced while it was read"
            raise OSError(msg) from error


def _copy_down(place: ObjectPath, file: io.BufferedRandom) -> None:
    size = place.stat().st_size
    store, descriptor = _store(place.bucket), file.fileno()

    def copy(start: int) -> None:
        with _explained(place):
            length = min(RANGE_BYTES, size - start)
            data = obstore.get_range(store, place.key, start=start, length=length)
            os.pwrite(descriptor, data, start)

    with ThreadPoolExecutor(STREAMS, "range") as pool:
        list(pool.map(copy, range(0, size, RANGE_BYTES)))


def _store(bucket: str) -> S3Store:
    """The client of a bucket, which has answered once.

    Raises:
        ConfigError: there is no such bucket, it may not be used, or no store answers.
    """
    settings = {k: v for k, v in os.environ.items() if k.startswith("AWS_")}
    return _client(bucket, tuple(settings.items()))


@functools.cache
def _client(bucket: str, settings: tuple[tuple[str, str], ...]) -> S3Store:
    # The settings are read from the environment; named here, a change makes another.
    try:
        knocking: Any = {"max_retries": 2, "retry_timeout": FIRST_ANSWER}
        door = S3Store(bucket, retry_config=knocking)
        next(iter(door.list(chunk_size=1)), None)
    except BaseError as error:
        raise ConfigError(_what_is_wrong(bucket, _line(error))) from error
    waiting: Any = {"max_retries": RETRIES, "retry_timeout": COMES_BACK}
    return S3Store(bucket, retry_config=waiting)


def _what_is_wrong(bucket: str, said: str) -> str:
    for mark, msg in (
        (
            "NoSuchBucket",
            f"there is no bucket '{bucket}' at {_endpoint()}. Create it, or set "
            "BATCH_ASSETS_ROOT to another",
        ),
        (
            "http://169.254.169.254",
            "there are no credentials: AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY are "
            "not set, and this machine gives none",
        ),
        (
            "403 Forbidden",
            f"{_endpoint()} does not let us into the bucket '{bucket}'. Check "
            "AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_REGION and what they allow",
        ),
        (
            "builder error",
            f"{_endpoint()} is not reached by a plain http:// URL unless "
            "AWS_ALLOW_HTTP is true",
        ),
    ):
        if mark in said:
            return f"{msg}. It said: {said}"
    return (
        f"no object store answers at {_endpoint()} for the bucket '{bucket}'. Check "
        f"AWS_ENDPOINT_URL and AWS_REGION, and that it runs. It said: {said}"
    )


def _endpoint() -> str:
    return os.environ.get("AWS_ENDPOINT_URL") or "AWS"


@contextmanager
def _explained(place: ObjectPath) -> Iterator[None]:
    """What a store says, as an error of this project; what is not there, as of a disk."""
    try:
        yield
    except FileNotFoundError as error:
        msg = f"{place} is not there"
        raise FileNotFoundError(msg) from error
    except (AlreadyExistsError, PreconditionError):
        raise
    except BaseError as error:
        if "416 Range Not Satisfiable" in str(error):
            msg = f"{place} is empty, or shorter than it was"
            raise OSError(msg) from error
        msg = (
            f"{place} can't be reached: {_line(error)}. What is committed and served is "
            "as it was; run it again when the store answers."
        )
        raise StorageError(msg) from error


def _line(error: Exception) -> str:
    """What a client said, without what it adds for its developers."""
    said = str(error).partition("\n\nDebug source")[0]
    return " ".join(said.split()).rstrip(".")
