"""An append-only file of JSON, an entry a line, in a directory or in a bucket.

A line is added by replacing the whole file, so that none is ever torn by whoever is
killed, and none is lost where two machines add at once.
"""

import getpass
import os
from collections.abc import Callable
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
        return self._parse(read_versioned(self.path).data or b"")

    def _parse(self, data: bytes) -> tuple[list[Entry], dict[int, ValidationError]]:
        entries, unreadable = [], {}
        for number, line in enumerate(data.splitlines(), 1):
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
        self.extend(lambda _: [line])

    def extend(self, decide: Callable[[list[Entry]], list[bytes]]) -> None:
        """Add the lines that are decided on after a look at the entries, in one step.

        It is decided again if somebody added something between the look and the step, so
        that of several who would do the same thing, one does. In a directory, only for
        whoever holds the lock of the file's folder.
        """
        while True:
            seen = read_versioned(self.path)
            data = seen.data or b""
            lines = decide(self._parse(data)[0])
            if not lines:
                return
            if data and not data.endswith(b"\n"):
                data += b"\n"
            data += b"".join(line + b"\n" for line in lines)
            if replace_if_unchanged(self.path, data, seen=seen):
                return


def this_user() -> str:
    """Return who runs this process, as an entry names them."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # A container may know the number alone.
        return f"uid {os.getuid()}"
