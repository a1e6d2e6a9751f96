"""What a directory and a bucket both answer, and what passes between them and callers.

Each method's contract stands at the function of the same name in `access`. It knows
neither kind of store.
"""

import io
import time
from collections.abc import Callable, Hashable, Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self, TypeVar

# Small requests wait, they don't compute: a day's footers are opened so many at once.
# Whole objects are copied so many at once.
WAITING = 32
COPYING = 4
# What was written is looked at so many times, so far apart, before it is called missing:
# a store may be slow to show what it has.
LOOKS, LOOK_AGAIN_SECONDS = 3, 0.1

P = TypeVar("P")


def looks() -> Iterator[int]:
    """Yield once for each look at what was written, after a while from the second on."""
    for number in range(LOOKS):
        time.sleep(LOOK_AGAIN_SECONDS * number)
        yield number


@dataclass(frozen=True)
class Versioned:
    """The bytes of a file when it was read, None if there was no such file.

    `tag` is a bucket's own name for this version of it.
    """

    data: bytes | None
    tag: str | None = None

    def content(self, path: object) -> bytes:
        """Return the bytes.

        Raises:
            FileNotFoundError: there were none.
        """
        if self.data is None:
            msg = f"{path} is not there"
            raise FileNotFoundError(msg)
        return self.data


@dataclass(frozen=True)
class ReadableFile:
    """A file to be read; close it, or use it as a context manager.

    `file` is what Arrow opens, `size` is in bytes. Where `pre_buffer` holds, each read
    is a request to a bucket: Arrow is to join those of a row group.
    """

    file: Path | io.BufferedIOBase
    size: int
    pre_buffer: bool = False

    def open_bytes(self) -> AbstractContextManager[io.BufferedIOBase]:
        """Open it as a binary file, which is at its start."""
        if isinstance(self.file, Path):
            return self.file.open("rb")
        self.file.seek(0)
        return nullcontext(self.file)

    def close(self) -> None:
        """Release it; a copy on this machine is gone then."""
        if not isinstance(self.file, Path):
            self.file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


class Store(Protocol[P]):
    """Where paths of one type lie; the capabilities are those of all of them."""

    is_local: bool
    has_links: bool
    has_locks: bool
    advice: str

    def local(self, path: P) -> Path: ...

    def put_file(self, local_path: Path, path: P) -> None: ...

    def put_new(self, local_path: Path, path: P) -> bool: ...

    def put_folder(
        self, local_folder: Path, path: P, *, last: str, prove: Callable[[P], None]
    ) -> None: ...

    def has_folder(self, path: P, *, last: str) -> bool: ...

    def hide_tree(self, path: P, *, first: str) -> P: ...

    def remove_tree(self, path: P) -> None: ...

    def read_versioned(self, path: P) -> Versioned: ...

    def replace_if_unchanged(
        self, path: P, data: bytes, seen: Versioned
    ) -> Versioned | None: ...

    def readable(self, path: P, *, whole: bool) -> ReadableFile: ...

    def read_ahead(self, path: P, spans: Iterable[tuple[int, int]]) -> None: ...

    def identity(self, path: P) -> Hashable: ...

    def copy_into(self, path: P, file: io.BufferedRandom) -> None: ...

    def delta_options(self, path: P) -> dict[str, str] | None: ...
