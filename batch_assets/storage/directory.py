"""Storage in a directory: names are given by renaming, and locks reach everybody."""

import io
import os
import shutil
import uuid
from collections.abc import Callable, Hashable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from batch_assets.storage.base import ReadableFile, Store, Versioned

# How a file ends that is still being written, or was when its process died.
BESIDE = ".tmp"
REMOVING = ".removing-"


class DirectoryStore(Store[Path]):
    """The directories of this machine, those of shared file systems among them."""

    is_local = has_links = has_locks = True
    advice = "Make room, or give the permission, and run it again"

    def local(self, path: Path) -> Path:
        return path

    def put_file(self, local_path: Path, path: Path) -> None:
        local_path.replace(path)
        sync_folder(path.parent)

    def put_new(self, local_path: Path, path: Path) -> bool:
        try:
            os.link(local_path, path)
        except FileExistsError:
            return False
        except OSError:
            # Not every file system has links: on one without, the last to come wins.
            local_path.replace(path)
        sync_folder(path.parent)
        return True

    def put_folder(
        self,
        local_folder: Path,
        path: Path,
        *,
        last: str,
        prove: Callable[[Path], None],
    ) -> None:
        # The very files that were written are renamed: there is no copy to prove.
        try:
            local_folder.rename(path)
        except OSError as error:
            if not path.is_dir():
                raise
            msg = f"{path} is there already"
            raise FileExistsError(msg) from error
        sync_folder(path.parent)

    def has_folder(self, path: Path, *, last: str) -> bool:
        return path.is_dir()

    def hide_tree(self, path: Path, *, first: str) -> Path:
        return path.rename(path.with_name(f"{REMOVING}{path.name}"))

    def remove_tree(self, path: Path) -> None:
        shutil.rmtree(path)

    def read_versioned(self, path: Path) -> Versioned:
        try:
            return Versioned(path.read_bytes())
        except FileNotFoundError:
            return Versioned(None)

    def replace_if_unchanged(
        self, path: Path, data: bytes, seen: Versioned
    ) -> Versioned | None:
        if self.read_versioned(path) != seen:
            return None
        write_whole(path, data)
        return Versioned(data)

    def readable(self, path: Path, *, whole: bool) -> ReadableFile:
        return ReadableFile(path, path.stat().st_size)

    def read_ahead(self, path: Path, spans: Iterable[tuple[int, int]]) -> None:
        with path.open("rb") as file:
            for start, end in spans:
                os.posix_fadvise(
                    file.fileno(), start, end - start, os.POSIX_FADV_WILLNEED
                )

    def identity(self, path: Path) -> Hashable:
        found = path.stat()
        return found.st_ino, found.st_size, found.st_mtime_ns

    def copy_into(self, path: Path, file: io.BufferedRandom) -> None:
        with path.open("rb") as original:
            shutil.copyfileobj(original, file)

    def delta_options(self, path: Path) -> dict[str, str] | None:
        return None


def name_beside(path: Path) -> Path:
    """Return a name in a file's folder that nobody has, for what will replace it."""
    return path.with_name(f"{path.name}.{uuid.uuid4().hex}{BESIDE}")


@contextmanager
def written_beside(path: Path) -> Iterator[Path]:
    """Give another name to write a file under; in the end it takes the file's own.

    Whoever opens the file finds all of it, the old or the new one. If the body raises,
    what was written is removed.
    """
    beside = name_beside(path)
    try:
        yield beside
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)


def write_whole(path: Path, data: bytes) -> None:
    """Write a file in one step, which outlasts a power cut."""
    with written_beside(path) as beside, beside.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Make renames in a folder outlast a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
