"""Open a Delta table, and read what its log says. It writes nothing."""

import re
from typing import Any

import pyarrow as pa
from deltalake import DeltaTable

from batch_assets.errors import StorageError
from batch_assets.storage import StoragePath, delta_options

ANSI = re.compile(r"\x1b\[[0-9;]*m")


def open_delta(path: StoragePath) -> DeltaTable:
    """Open a Delta table.

    Raises:
        TableNotFoundError: there is none.
        StorageError: its bucket does not answer.
    """
    options = delta_options(path)
    try:
        return DeltaTable(str(path), storage_options=options)
    except OSError as error:
        if options is None:
            raise
        msg = f"{path} can't be opened: {one_line(error)}"
        raise StorageError(msg) from error


def one_line(error: Exception) -> str:
    """Return an error in one line: Delta writes it for a terminal, in several."""
    return " ".join(ANSI.sub("", str(error)).split())


def actions_of(table: DeltaTable | None, *columns: str) -> list[dict[str, Any]]:
    """Return what the log says of each committed file; of no table, nothing."""
    if table is None:
        return []
    actions = pa.table(table.get_add_actions(flatten=True))
    return actions.select(columns).to_pylist() if len(actions) else []
