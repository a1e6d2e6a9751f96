"""What a commit says of the files of a day: which are added, and which removed.

It commits nothing.
"""

import json
import time
from collections.abc import Collection, Iterator, Sequence

from deltalake.transaction import AddAction, RemoveAction

from batch_assets.lake.parts import Part
from batch_assets.lake.receipts import Receipt
from batch_assets.storage import StoragePath, below


def transactions(
    table: StoragePath,
    day: str,
    committed: Collection[StoragePath],
    parts: Sequence[Part[Receipt]],
    *,
    rewritten: bool,
) -> Iterator[list[AddAction | RemoveAction]]:
    """Return what makes a day consist of these parts: none, one or two transactions.

    Args:
        table: the table's folder.
        day: the day.
        committed: the files of which it consists.
        parts: of which it is to consist.
        rewritten: whether a name is committed that holds something else by now.
    """
    # A damaged day is made again under its own names, and Delta can't remove and add
    # a name in one commit: no day first, then the whole day.
    if rewritten:
        yield [removed(table, day, path) for path in committed]
        committed = ()
    before, wanted = set(committed), {part.path for part in parts}
    stale = [removed(table, day, path) for path in committed if path not in wanted]
    new = [added(table, day, part) for part in parts if part.path not in before]
    if stale or new:
        yield [*stale, *new]


def added(table: StoragePath, day: str, part: Part[Receipt]) -> AddAction:
    """Return that a part belongs to its day from now on."""
    return AddAction(
        path=below(part.path, table),
        size=part.size,
        partition_values={"day": day, "shard": str(part.shard)},
        modification_time=int(part.path.stat().st_mtime * 1000),
        data_change=True,
        stats=json.dumps({"numRecords": part.rows}),
    )


def removed(table: StoragePath, day: str, path: StoragePath) -> RemoveAction:
    """Return that a file of a day does not belong to it any more."""
    return RemoveAction(
        path=below(path, table),
        data_change=True,
        deletion_timestamp=int(time.time() * 1000),
        partition_values={"day": day, "shard": str(shard_of(path))},
    )


def shard_of(path: StoragePath) -> int:
    """Return the shard of a part, as its folder is named."""
    return int(path.parent.name.split("=")[1])
