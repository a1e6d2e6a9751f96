"""Open a Delta table, and read what its log says. It writes nothing."""

import re
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from deltalake import DeltaTable
from deltalake.exceptions import DeltaError, TableNotFoundError

from batch_assets.errors import LakeError, StorageError
from batch_assets.storage import StoragePath, advice, delta_options

ANSI = re.compile(r"\x1b\[[0-9;]*m")


def open_delta(path: StoragePath) -> DeltaTable:
    """Open a Delta table.

    Raises:
        TableNotFoundError: there is none.
        StorageError: it can't be read: its storage does not answer, or its log is torn.
    """
    try:
        return DeltaTable(str(path), storage_options=delta_options(path))
    except TableNotFoundError:
        raise
    except OSError as error:
        msg = f"{path} can't be opened: {one_line(error)}. {advice(path)}"
        raise StorageError(msg) from error
    except DeltaError as error:
        msg = (
            f"{path} can't be opened: {one_line(error)}. An entry of its log is damaged: of "
            f"{path}/_delta_log, take the newest file aside if its bytes are not lines of "
            "JSON, and run the day again"
        )
        raise StorageError(msg) from error


def entries_of(
    path: StoragePath, table: DeltaTable, most: int | None = None
) -> list[dict[str, Any]]:
    """Return what the entries of a log say of themselves, the newest first.

    A table is opened without it, and may have been opened although one is damaged.

    Args:
        path: of the table.
        table: the same, opened.
        most: how many entries; all if left out.

    Raises:
        LakeError: one of them is damaged.
        StorageError: its storage does not answer.
    """
    try:
        return table.history(most)
    except OSError as error:
        msg = f"the log of {path} can't be read: {one_line(error)}. {advice(path)}"
        raise StorageError(msg) from error
    except DeltaError as error:
        newest = table.version()
        for back in range(newest + 1):
            try:
                table.history(back + 1)
            except DeltaError:
                raise damaged_entry(path, newest - back, error) from error
        raise


def damaged_entry(path: StoragePath, version: int, error: Exception) -> LakeError:
    """Return what to say of an entry of a log that is not what was written."""
    entry = path / "_delta_log" / f"{version:020}.json"
    return LakeError(
        f"{entry} is damaged: {error}. Nothing was changed. Bring a copy of it back; if "
        "it is the newest of its table, take it aside and run its day again"
    )


def one_line(error: Exception) -> str:
    """Return an error in one line: Delta writes it for a terminal, in several."""
    # Of some it tells its own functions, too, from the first on.
    return " ".join(ANSI.sub("", str(error)).partition("   0: ")[0].split())


def actions_of(table: DeltaTable | None, *columns: str) -> list[dict[str, Any]]:
    """Return what the log says of each committed file; of no table, nothing."""
    if table is None:
        return []
    actions = pa.table(table.get_add_actions(flatten=True))
    return actions.select(columns).to_pylist() if len(actions) else []


def rows_by_day(table: DeltaTable) -> dict[str, int]:
    """Return the committed row count of each day, from the log alone."""
    actions = pa.table(table.get_add_actions(flatten=True))
    if not len(actions):
        return {}
    # Added up by Arrow: a table has a file for each chunk of each night.
    summed = actions.group_by("partition.day", use_threads=False).aggregate(
        [("num_records", "sum")]
    )
    days = summed["partition.day"].to_pylist()
    return dict(sorted(zip(days, summed["num_records_sum"].to_pylist(), strict=True)))


def files_of(table: DeltaTable, day: str) -> list[tuple[str, int]]:
    """Return the committed files of a day as the log has them, with their bytes."""
    actions = pa.table(table.get_add_actions(flatten=True))
    if not len(actions):
        return []
    # Before any of it is Python's: of all nights it would be gigabytes.
    some = actions.filter(pc.equal(actions["partition.day"], day))
    paths, sizes = some["path"].to_pylist(), some["size_bytes"].to_pylist()
    return list(zip(paths, sizes, strict=True))


def same_type(one: pa.DataType, other: pa.DataType) -> bool:
    """Tell whether Delta keeps two types of Arrow as one."""
    strings = {pa.string(), pa.large_string(), pa.string_view()}
    return one == other or {one, other} <= strings
