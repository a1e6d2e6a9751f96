"""A version as files of this machine: where it lies, or copied down from a bucket.

Of a bucket, what is copied is hashed before anybody maps it, and a file that an earlier
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
)
from batch_assets.snapshots.store import SnapshotStore
from batch_assets.storage import StoragePath, fetch, is_local, local, open_bytes

# A copy that nobody asked for in so long is removed; others may be at a younger one.
SPARED_SECONDS = 3600


def fetched(store: SnapshotStore, version: str) -> Path:
    """Return the folder of a version on this machine.

    Raises:
        SnapshotError: of a bucket, the version is not whole there.
    """
    folder = store.version_folder(version)
    local_folder = local(folder)
    if is_local(folder):
        return local_folder
    manifest = store.manifest(version)
    local_folder.mkdir(parents=True, exist_ok=True)
    os.utime(local_folder)
    copies = SnapshotStore.at(local_folder.parent).versions()
    for entry in manifest.files:
        _fetch(folder / entry.name, entry, local_folder, copies)
    fetch(folder / MANIFEST, local_folder / MANIFEST)
    if read_manifest(local_folder, version) != manifest:
        msg = f"{folder} was changed while it was copied to {local_folder}"
        raise SnapshotError(msg)
    _forget(local_folder.parent, version)
    return local_folder


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
    path: StoragePath,
    entry: ShardFile,
    local_folder: Path,
    copies: list[SnapshotManifest],
) -> None:
    """Copy a file of a version, unless this machine has a whole one already."""
    local_path = local_folder / entry.name
    for copy in reversed(copies):
        for other in copy.files:
            if other.sha256 == entry.sha256 and not local_path.exists():
                with suppress(OSError):
                    copied = local_folder.parent / f"v={copy.version}" / other.name
                    local_path.hardlink_to(copied)
    with suppress(OSError, SnapshotError):
        must_be_whole(local_path, entry)
        return
    local_path.unlink(missing_ok=True)
    try:
        fetch(path, local_path)
        must_be_whole(local_path, entry)
    except (OSError, SnapshotError) as error:
        local_path.unlink(missing_ok=True)
        msg = f"{path} was not copied whole: {error}"
        raise SnapshotError(msg) from error


def _forget(copies: Path, version: str) -> None:
    """Remove the copies of versions that nobody has asked for lately, but the last."""
    folders = sorted(copies.glob("v=*"), key=lambda folder: folder.stat().st_mtime)
    for folder in folders[:-2]:
        age = time.time() - folder.stat().st_mtime
        if folder.name != f"v={version}" and age > SPARED_SECONDS:
            shutil.rmtree(folder, ignore_errors=True)
