"""What an earlier run of the same job left, and whether it is whole.

A part is taken over only after its bytes were hashed, every page of it was read, and its
keys were compared with its receipt. It scores nothing and removes nothing.
"""

import logging
from typing import TypeVar, cast

from batch_assets.errors import CorruptPartError
from batch_assets.lake.parts import Part, verified_part
from batch_assets.lake.receipts import DeadLettersReceipt, PredictionsReceipt
from batch_assets.models.release import Release
from batch_assets.scoring.chunk_task import ChunkTask, Scored
from batch_assets.storage import StoragePath

R = TypeVar("R", PredictionsReceipt, DeadLettersReceipt)

log = logging.getLogger(__name__)


def completed_chunk(task: ChunkTask, release: Release) -> Scored | None:
    """Return the chunk, if an earlier run of the same job left it whole."""
    if not task.predictions.exists():
        return None
    try:
        part = _own(task, task.predictions, PredictionsReceipt, release)
        dead = None
        if part.receipt.dead:
            dead = _own(task, task.dead_letters, DeadLettersReceipt, release)
            _must_be_a_pair(part, dead)
    except CorruptPartError as error:
        log.warning("%s; the chunk is scored again", error)
        return None
    return Scored(part, dead)


def _must_be_a_pair(
    part: Part[PredictionsReceipt], dead: Part[DeadLettersReceipt]
) -> None:
    """Refuse the dead letters of another attempt: each row is in one of the two."""
    if (named := part.receipt.dead) != dead.sha256:
        msg = (
            f"part {dead.path} was sealed as {dead.sha256[:12]}, and {part.path.name} "
            f"of the predictions goes with {str(named)[:12]}"
        )
        raise CorruptPartError(msg)


def _own(
    task: ChunkTask, path: StoragePath, kind: type[R], release: Release
) -> Part[R]:
    """The part at this path, if it is whole and of this very chunk."""
    part = verified_part(path, release.contract.key.name)
    receipt = part.receipt
    whose = (receipt.day, receipt.shard, receipt.chunk, receipt.job)
    made_by = getattr(receipt, "release", "")
    if (
        not isinstance(receipt, kind)
        or whose != (task.day, task.shard, task.chunk, task.job)
        or made_by != release.digest
    ):
        msg = (
            f"part {path} is of {receipt.table} {receipt.day}, shard {receipt.shard}, "
            f"chunk {receipt.chunk}, job {receipt.job[:16]}, release {made_by[:12]}"
        )
        raise CorruptPartError(msg)
    return cast("Part[R]", part)
