"""An append-only file of JSON, an entry a line, in a directory or in a bucket.

A line is added by replacing the whole file, so that none is ever torn by whoever is
killed, and none is lost where two machines add at once.
"""

import getpass
import os
from typing import Generic, TypeVar

from pydantic import BaseModel, ValidationError

from batch_assets.storage.access import (
    StoragePath,
    read_versioned,
    replace_if_unchanged,
)

Entry = TypeVar("Entry", bound=BaseModel)


class JsonLog(Generic[Entry]):
    """The entries of one file."""

    def __init__(self, path: StoragePath, entry: type[Entry]) -> None:
        self.path = path
        self._entry = entry

    def read(self) -> tuple[list[Entry], dict[int, ValidationError]]:
        """Return every entry, oldest first, and the numbers of unreadable lines."""
        entries, unreadable = [], {}
        lines = (read_versioned(self.path).data or b"").splitlines()
        for number, line in enumerate(lines, 1):
            try:
                entries.append(self._entry.model_validate_json(line))
            except ValidationError as error:
                # A blank line says nothing.
                if line.strip():
                    unreadable[number] = error
        return entries, unreadable

    def is_torn(self) -> bool:
        """Tell whether the last line has no end: somebody else wrote or cut it."""
        data = read_versioned(self.path).data or b"\n"
        return not data.endswith(b"\n")

    def append(self, line: bytes) -> None:
        """Add a line of JSON; a torn one before it is ended first.

        In a directory, only for whoever holds the lock of the file's folder.
        """
        while True:
            seen = read_versioned(self.path)
            data = seen.data or b""
            if data and not data.endswith(b"\n"):
                data += b"\n"
            if replace_if_unchanged(self.path, data + line + b"\n", seen=seen):
                return


def this_user() -> str:
    """Return who runs this process, as an entry names them."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # A container may know the number alone.
        return f"uid {os.getuid()}"
