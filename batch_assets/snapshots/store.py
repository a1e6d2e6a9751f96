"""What a pipeline serves: its versions, and the files beside them that say which one.

    v=<version>/     a version
    CURRENT          the version that was published, or rolled back to, last
    PIN              the version that readers take instead, as long as the file is there
    BLOCKED          until when the nights publish nothing, and who wanted that
    denylist.json    items that no ranking shows, whichever version is served
    history.jsonl    what was done to these, before it was done

Each of these files is replaced whole or not at all. On this machine that is done under
one lock, which nobody holds for long; in a bucket, only if it is still the one that was
seen. It knows nothing of what a version holds.
"""

import logging
import re
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import UTC, datetime

from pydantic import ValidationError

from batch_assets.errors import NotServedError, SnapshotError
from batch_assets.snapshots.denylist import DENYLIST, Denylist
from batch_assets.snapshots.history import Block, HistoryEntry, withdrawn_in
from batch_assets.snapshots.manifest import NAMED, SnapshotManifest, read_manifest
from batch_assets.storage import (
    JsonLog,
    StoragePath,
    Versioned,
    each,
    exclusive,
    read_versioned,
    replace_if_unchanged,
    storage_path,
)

CURRENT = "CURRENT"
PIN = "PIN"
BLOCKED = "BLOCKED"
HISTORY = "history.jsonl"

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Pointer:
    """A file that names a version, as it was when it was read."""

    path: StoragePath
    content: Versioned

    @property
    def version(self) -> str | None:
        """The version that it named; None if it was not there.

        Raises:
            SnapshotError: it was there but named no version.
        """
        if self.content.data is None:
            return None
        text = self.content.data.decode("utf-8", "replace").strip()
        if not text:
            msg = f"{self.path} is empty, so it names no version"
            raise SnapshotError(msg)
        return text

    def version_or_none(self) -> str | None:
        """Return the version, or None if it named none: that stops no publisher."""
        try:
            return self.version
        except SnapshotError as error:
            log.warning("%s; the next version takes its place", error)
            return None

    def move(self, version: str) -> bool:
        """Let it name another version; return whether it still was what was read."""
        data = version.encode() + b"\n"
        return replace_if_unchanged(self.path, data, seen=self.content) is not None


class SnapshotStore:
    """The versions of one pipeline under a root, and what is served of them."""

    folder: StoragePath

    def __init__(self, root: StoragePath, pipeline: str) -> None:
        self.folder = root / "snapshots" / pipeline

    @classmethod
    def at(cls, folder: "SnapshotStore | StoragePath | str") -> "SnapshotStore":
        """Return the store in a folder, a directory or `s3://…`; a store as it is."""
        if isinstance(folder, SnapshotStore):
            return folder
        store = cls.__new__(cls)
        store.folder = storage_path(folder) if isinstance(folder, str) else folder
        return store

    def __str__(self) -> str:
        return str(self.folder)

    @property
    def pipeline(self) -> str:
        return self.folder.name

    def exists(self) -> bool:
        """Tell whether there is anything."""
        return self.folder.is_dir()

    def lock(self) -> AbstractContextManager[None]:
        """Lock what is served, to look at it and change it, for milliseconds."""
        return exclusive(self.folder)

    # Which version is served.

    def pointer(self, name: str) -> Pointer:
        """Read CURRENT or PIN, to be moved afterwards."""
        path = self.folder / name
        return Pointer(path, read_versioned(path))

    def current(self) -> str | None:
        """Return the version that CURRENT names, or None.

        Raises:
            SnapshotError: CURRENT is there but names no version.
        """
        return self.pointer(CURRENT).version

    def pinned(self) -> str | None:
        """Return the version that PIN names, or None.

        Raises:
            SnapshotError: PIN is there but names no version.
        """
        return self.pointer(PIN).version

    def served(self) -> str | None:
        """Return the version that readers take: the pinned one, or else the current one.

        Raises:
            SnapshotError: as `current` and `pinned`.
        """
        return self.pinned() or self.current()

    def must_serve(self) -> str:
        """Return the version that readers take.

        Raises:
            NotServedError: there is none.
            SnapshotError: as `served`.
        """
        version = self.served()
        if version is None:
            msg = f"nothing is served at {self}: no {CURRENT}. Run a night first"
            raise NotServedError(msg)
        return version

    def denylist(self) -> Denylist:
        """Return the items that readers do not show now.

        Raises:
            SnapshotError: the list can't be read.
        """
        path = self.folder / DENYLIST
        return Denylist.loads(read_versioned(path).data, str(path))

    def block(self) -> Block | None:
        """Return what keeps the nights from publishing, if anything does now."""
        data = read_versioned(self.folder / BLOCKED).data
        if data is None:
            return None
        try:
            block = Block.model_validate_json(data)
        except ValidationError:
            # Somebody blocked it. Which is enough to know, and no reason to fail a night.
            now = datetime.now(UTC)
            why = f"{self.folder / BLOCKED} can't be read"
            ever = now.replace(year=9999)
            return Block(at=now, until=ever, by="somebody", why=why, version=None)
        return block if block.until > datetime.now(UTC) else None

    def held_back(self, version: str) -> str | None:
        """Return why a person does not want a version published, if anybody does not.

        Args:
            version: a version, or the day of some.
        """
        if block := self.block():
            return str(block)
        try:
            withdrawn = self.withdrawn()
        except SnapshotError as error:
            return str(error)
        for other, entry in withdrawn.items():
            if other[:NAMED].startswith(version[:NAMED]):
                return (
                    f"{other} was rolled back by {entry.by} at "
                    f"{entry.at:%Y-%m-%d %H:%M} UTC: {entry.why}"
                )
        return None

    def overwrite(self, name: str, text: str) -> None:
        """Replace a small file beside the versions, whatever it holds."""
        path = self.folder / name
        data = text.encode() + b"\n"
        while replace_if_unchanged(path, data, seen=read_versioned(path)) is None:
            continue

    # What was done to it.

    def record(self, entry: HistoryEntry) -> None:
        """Add to the history, before it is done; only for whoever holds the lock."""
        line = entry.model_dump_json(exclude_none=True)
        self._history().append(line.encode())

    def history(self) -> tuple[list[HistoryEntry], list[int]]:
        """Return every entry, oldest first, and the numbers of unreadable lines."""
        entries, unreadable = self._history().read()
        return entries, list(unreadable)

    def withdrawn(self) -> dict[str, HistoryEntry]:
        """Return which versions were rolled back from since the last unblock, and by whom.

        Raises:
            SnapshotError: a line can't be read, so that a rollback may be missing.
        """
        entries, unreadable = self.history()
        if unreadable:
            msg = (
                f"{self.folder / HISTORY}: lines {unreadable} can't be read, so what was "
                "rolled back is not certain, and nothing is published. Mend or remove them"
            )
            raise SnapshotError(msg)
        return withdrawn_in(entries)

    def _history(self) -> JsonLog[HistoryEntry]:
        return JsonLog(self.folder / HISTORY, HistoryEntry)

    # Which versions there are.

    def version_folder(self, version: str) -> StoragePath:
        """Return where a version lies.

        Raises:
            SnapshotError: no version can have that name.
        """
        if not re.fullmatch(r"[\w.-]+", version, re.ASCII) or version.startswith("."):
            msg = f"{version!r} is not the name of a version"
            raise SnapshotError(msg)
        return self.folder / f"v={version}"

    def version_names(self) -> list[str]:
        """Return the names of all versions that there are, whole or not, sorted."""
        folders = self.folder.iterdir() if self.exists() else ()
        return sorted(path.name[2:] for path in folders if path.name[:2] == "v=")

    def manifest(self, version: str) -> SnapshotManifest:
        """Return the manifest of a version.

        Raises:
            SnapshotError: it is not there, not whole, or of another version.
        """
        return read_manifest(self.version_folder(version), version)

    def versions(self) -> list[SnapshotManifest]:
        """Return the versions whose manifest is whole, oldest first."""

        def read(version: str) -> SnapshotManifest | None:
            try:
                # A copy under another name is somebody's backup, and no version.
                return self.manifest(version)
            except SnapshotError:
                return None

        manifests = [m for m in each(self.folder, read, self.version_names()) if m]
        return sorted(manifests, key=lambda manifest: manifest.created_at)

    def versions_of(self, predictions: str) -> list[str]:
        """Return the versions made of the predictions of this digest, oldest first."""
        return [m.version for m in self.versions() if m.predictions == predictions]
