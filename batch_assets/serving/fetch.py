"""Where versions lie: a folder of this machine, whose files are mapped where they are.

A reader asks it for the small files beside the versions, and for a folder that holds
one version. It knows nothing of what they mean.
"""

from pathlib import Path
from typing import Protocol

from batch_assets.serving.manifest import version_folder


class Shelf(Protocol):
    """What the reader needs of a place."""

    def read(self, name: str) -> bytes | None:
        """The bytes of a small file; None if it is not there."""
        ...

    def fetch(self, version: str) -> Path:
        """A folder of this machine that holds a version."""
        ...


class Folder:
    """`<root>/snapshots/<pipeline>` on this machine."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __str__(self) -> str:
        return str(self.path)

    def read(self, name: str) -> bytes | None:
        try:
            return (self.path / name).read_bytes()
        except FileNotFoundError:
            return None

    def fetch(self, version: str) -> Path:
        return version_folder(self.path, version)
