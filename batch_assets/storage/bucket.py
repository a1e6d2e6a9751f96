"""Storage in a bucket: nothing is renamed or locked, but a put is whole or not at all.

It can be made to hold only if the object is still the one that was seen: of several
machines that have seen the same, one succeeds.
"""

import io
import os
import tempfile
from collections.abc import Callable, Hashable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import obstore
from obstore.exceptions import AlreadyExistsError, PreconditionError

from batch_assets.storage.base import COPYING, ReadableFile, Store, Versioned
from batch_assets.storage.client import client_of, delta_options_of, explained

CACHE = "BATCH_ASSETS_CACHE"
SCHEME = "s3://"
# A footer is mostly within so many bytes of the end: one request opens a file.
TAIL_BYTES = 64 << 10
# An object is copied down in ranges of so many bytes, so many at once: a single stream
# is far slower than the network, and a lost one is begun anew.
RANGE_BYTES = 8 << 20
STREAMS = 4


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
        """Tell whether there is an object of this very name."""
        try:
            self.stat()
        except FileNotFoundError:
            return False
        return True

    def is_dir(self) -> bool:
        """Tell whether there is any object under this."""
        with explained(self):
            prefix = f"{self.key}/" if self.key else None
            return any(obstore.list(client_of(self.bucket), prefix, chunk_size=1))

    def stat(self) -> "ObjectStat":
        with explained(self):
            head = obstore.head(client_of(self.bucket), self.key)
            return ObjectStat(head["size"], head["last_modified"], head["e_tag"])

    def read_bytes(self) -> bytes:
        with explained(self):
            return bytes(obstore.get(client_of(self.bucket), self.key).bytes())

    def read_text(self, encoding: str) -> str:
        return self.read_bytes().decode(encoding)

    def iterdir(self) -> Iterator["ObjectPath"]:
        """Yield what lies right below this: objects, and prefixes of more of them."""
        with explained(self):
            client = client_of(self.bucket)
            listed = obstore.list_with_delimiter(client, self.key or None)
            keys = [item["path"] for item in listed["objects"]]
            keys += [prefix.rstrip("/") for prefix in listed["common_prefixes"]]
        return iter([ObjectPath(self.bucket, key) for key in sorted(keys)])

    def mkdir(self, *, parents: bool = False, exist_ok: bool = False) -> None:
        """Do nothing: a prefix is there when something is under it."""

    def rmdir(self) -> None:
        """Do nothing: a prefix is gone when nothing is under it."""

    def unlink(self, *, missing_ok: bool = False) -> None:
        if not missing_ok:
            self.stat()
        with explained(self):
            obstore.delete(client_of(self.bucket), self.key)


@dataclass(frozen=True)
class ObjectStat:
    """Bytes of an object, when it was put there, and what its store calls its content."""

    st_size: int
    modified: datetime
    e_tag: str | None

    @property
    def st_mtime(self) -> float:
        return self.modified.timestamp()


class BucketStore(Store[ObjectPath]):
    """The buckets of the store that the environment names."""

    is_local = has_links = has_locks = False
    advice = "Run it again when the store answers"

    def local(self, path: ObjectPath) -> Path:
        cache = os.environ.get(CACHE) or "~/.cache/batch-assets"
        return Path(cache).expanduser().resolve() / path.bucket / path.key

    def put_file(self, local_path: Path, path: ObjectPath) -> None:
        with explained(path):
            obstore.put(client_of(path.bucket), path.key, local_path)
        local_path.unlink()

    def put_new(self, local_path: Path, path: ObjectPath) -> bool:
        try:
            with explained(path):
                # In one request: pieces can't be put under a condition.
                obstore.put(
                    client_of(path.bucket),
                    path.key,
                    local_path,
                    mode="create",
                    use_multipart=False,
                )
        except AlreadyExistsError:
            return False
        return True

    def put_folder(
        self,
        local_folder: Path,
        path: ObjectPath,
        *,
        last: str,
        prove: Callable[[ObjectPath], None],
    ) -> None:
        def put(name: str) -> None:
            self.put_file(local_folder / name, path / name)
            prove(path / name)

        names = [file.name for file in local_folder.iterdir() if file.name != last]
        with ThreadPoolExecutor(COPYING, "put") as pool:
            list(pool.map(put, sorted(names)))
        self.put_file(local_folder / last, path / last)
        local_folder.rmdir()

    def has_folder(self, path: ObjectPath, *, last: str) -> bool:
        return (path / last).exists()

    def hide_tree(self, path: ObjectPath, *, first: str) -> ObjectPath:
        (path / first).unlink(missing_ok=True)
        return path

    def remove_tree(self, path: ObjectPath) -> None:
        with explained(path):
            client = client_of(path.bucket)
            for listed in obstore.list(client, f"{path.key}/"):
                obstore.delete(client, [item["path"] for item in listed])

    def read_versioned(self, path: ObjectPath) -> Versioned:
        try:
            with explained(path):
                answer = obstore.get(client_of(path.bucket), path.key)
                return Versioned(bytes(answer.bytes()), answer.meta["e_tag"])
        except FileNotFoundError:
            return Versioned(None)

    def replace_if_unchanged(
        self, path: ObjectPath, data: bytes, seen: Versioned
    ) -> Versioned | None:
        mode: Any = "create" if seen.data is None else {"e_tag": seen.tag}
        try:
            with explained(path):
                answer = obstore.put(client_of(path.bucket), path.key, data, mode=mode)
                return Versioned(data, answer["e_tag"])
        except (AlreadyExistsError, PreconditionError):
            # Its answer may have been lost, and the put done again.
            now = self.read_versioned(path)
            return now if now.data == data else None

    def readable(self, path: ObjectPath, *, whole: bool) -> ReadableFile:
        if not whole:
            ranges = Ranges(path)
            return ReadableFile(ranges, ranges.size, pre_buffer=True)
        scratch = self.local(ObjectPath(path.bucket))
        scratch.mkdir(parents=True, exist_ok=True)
        # Without a name, so that it never stays.
        file = tempfile.TemporaryFile(dir=scratch)  # noqa: SIM115
        self.copy_into(path, file)
        return ReadableFile(file, file.seek(0, os.SEEK_END))

    def read_ahead(self, path: ObjectPath, spans: Iterable[tuple[int, int]]) -> None:
        # Arrow asks for what it needs at once: `ReadableFile.pre_buffer`.
        pass

    def identity(self, path: ObjectPath) -> Hashable:
        found = path.stat()
        return found.st_size, found.modified, found.e_tag

    def copy_into(self, path: ObjectPath, file: io.BufferedRandom) -> None:
        size = path.stat().st_size
        client, descriptor = client_of(path.bucket), file.fileno()

        def copy(start: int) -> None:
            with explained(path):
                length = min(RANGE_BYTES, size - start)
                data = obstore.get_range(client, path.key, start=start, length=length)
                os.pwrite(descriptor, data, start)

        with ThreadPoolExecutor(STREAMS, "range") as pool:
            list(pool.map(copy, range(0, size, RANGE_BYTES)))

    def delta_options(self, path: ObjectPath) -> dict[str, str] | None:
        return delta_options_of(path.bucket)


class Ranges(io.BufferedIOBase):
    """An object as a file. Its end is there at once, other ranges as they are read.

    All are of one version of the object, or it is an error.
    """

    def __init__(self, path: ObjectPath) -> None:
        self._path, self._at = path, 0
        self._tag: str | None = None
        answer = self._get({"suffix": TAIL_BYTES})
        self._tag, self.size = answer.meta["e_tag"], answer.meta["size"]
        self._tail = bytes(answer.bytes())
        self._tail_at = self.size - len(self._tail)

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        start = {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self.size}
        self._at = start[whence] + offset
        return self._at

    def read(self, size: int | None = -1) -> bytes:
        left = max(self.size - self._at, 0)
        size = left if size is None or size < 0 else min(size, left)
        start, self._at = self._at, self._at + size
        if start >= self._tail_at:
            return self._tail[start - self._tail_at :][:size]
        return bytes(self._get((start, start + size)).bytes()) if size else b""

    def _get(self, byte_range: Any) -> Any:
        path = self._path
        options: Any = {"range": byte_range}
        if self._tag is not None:
            options["if_match"] = self._tag
        try:
            with explained(path):
                return obstore.get(client_of(path.bucket), path.key, options=options)
        except PreconditionError as error:
            msg = f"{path} was replaced while it was read"
            raise OSError(msg) from error
