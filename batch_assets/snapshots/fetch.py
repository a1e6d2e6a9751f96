"""A version as files of this machine: where it lies, or copied down from an object store.

Of a store, what is copied is hashed before anybody maps it, and a file that an earlier
version has too is not copied again. It knows nothing of what the files hold.
"""

import hashlib
import os
import shutil
import time
from contextlib import suppress
from pathlib import Path

from batch_assets.errors import SnapshotError
from batch_assets.snapshots.manifest import (
    MANIFEST,
    ShardFile,
    SnapshotManifest,
    read_manifest,
    version_folder,
    versions,
)
from batch_assets.storage import StoragePath, fetch, is_local, local, open_bytes

# A copy that nobody asked for in so long is removed; others may be at a younger one.
SPARED_SECONDS = 3600


def fetched(snapshots: StoragePath, version: str) -> Path:
    """The folder of a version on this machine.

    Raises:
        SnapshotError: of an object store, the version is not whole there.
    """
    folder = version_folder(snapshots, version)
    if is_local(folder):
        return local(folder)
    manifest = read_manifest(folder, version)
    here = local(folder)
    here.mkdir(parents=True, exist_ok=True)
    os.utime(here)
    copies = versions(here.parent)
    for entry in manifest.files:
        _fetch(folder, entry, here, copies)
    path = here / MANIFEST
    fetch(folder / MANIFEST, path)
    if read_manifest(here, version) != manifest:
        msg = f"{folder} was changed while it was copied to {here}"
        raise SnapshotError(msg)
    _forget(here.parent, version)
    return here


def must_be_whole(path: StoragePath, entry: ShardFile) -> None:
    """Refuse a file that is not, to the byte, what its manifest says.

    Of a bucket, it is copied down for that.

    Raises:
        SnapshotError: it is truncated or altered.
        OSError: it can't be read.
    """
    with open_bytes(path) as file:
        size = file.seek(0, os.SEEK_END)
        if size != entry.size:
            msg = f"{path} has {size} bytes, its manifest says {entry.size}"
            raise SnapshotError(msg)
        file.seek(0)
        sha = hashlib.file_digest(file, "sha256").hexdigest()
    if sha != entry.sha256:
        msg = f"{path} hashes to {sha}, its manifest says {entry.sha256}"
        raise SnapshotError(msg)


def _fetch(
    folder: StoragePath, entry: ShardFile, here: Path, copies: list[SnapshotManifest]
) -> None:
    """A file of a version, whole, from this machine if it is there already."""
    path = here / entry.name
    for copy in reversed(copies):
        for other in copy.files:
            if other.sha256 == entry.sha256 and not path.exists():
                with suppress(OSError):
                    path.hardlink_to(here.parent / f"v={copy.version}" / other.name)
    with suppress(OSError, SnapshotError):
        must_be_whole(path, entry)
        return
    path.unlink(missing_ok=True)
    try:
        fetch(folder / entry.name, path)
        must_be_whole(path, entry)
    except (OSError, SnapshotError) as error:
        path.unlink(missing_ok=True)
        msg = f"{folder / entry.name} was not copied whole: {error}"
        raise SnapshotError(msg) from error


def _forget(copies: Path, version: str) -> None:
    """Remove the copies of versions that nobody has asked for lately, but the last."""
    there = sorted(copies.glob("v=*"), key=lambda folder: folder.stat().st_mtime)
    for folder in there[:-2]:
        age = time.time() - folder.stat().st_mtime
        if folder.name != f"v={version}" and age > SPARED_SECONDS:
            shutil.rmtree(folder, ignore_errors=True)
