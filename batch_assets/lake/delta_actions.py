"""What a commit says of one file of a day: that it is added, or removed.

It commits nothing.
"""

import json
import time

from deltalake.transaction import AddAction, RemoveAction

from batch_assets.lake.parts import Part
from batch_assets.lake.receipts import Receipt
from batch_assets.storage import StoragePath, below


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
