"""What an earlier run of the same job left, and whether it is whole.

A part is taken over only after its bytes were hashed, every page of it was read, and its
keys were compared with its receipt. It scores nothing and removes nothing.
"""

import logging

from batch_assets.errors import CorruptPartError
from batch_assets.lake.parts import Part, verified_part
from batch_assets.models.release import Release
from batch_assets.scoring.chunk import ChunkTask, Scored
from batch_assets.storage import StoragePath

log = logging.getLogger(__name__)


def completed_chunk(task: ChunkTask, release: Release) -> Scored | None:
    """The chunk, if an earlier run of the same job left it whole."""
    if not task.predictions.exists():
        return None
    try:
        part = _mine(task, task.predictions, "predictions", release)
        dead = None
        if part.receipt.facts["dead"]:
            dead = _mine(task, task.dead_letters, "dead_letters", release)
            _must_be_a_pair(part, dead)
    except CorruptPartError as error:
        log.warning("%s; the chunk is scored again", error)
        return None
    return Scored(part, dead)


def _must_be_a_pair(part: Part, dead: Part) -> None:
    """Refuse the dead letters of another attempt: each row is in one of the two."""
    if (named := part.receipt.facts["dead"]) != dead.sha256:
        msg = (
            f"part {dead.path} was sealed as {dead.sha256[:12]}, and {part.path.name} "
            f"of the predictions goes with {named[:12]}"
        )
        raise CorruptPartError(msg)


def _mine(task: ChunkTask, path: StoragePath, table: str, release: Release) -> Part:
    """The part at this path, if it is whole and of this very chunk."""
    part = verified_part(path, release.contract.key.name)
    receipt = part.receipt
    found = (receipt.table, receipt.day, receipt.shard, receipt.chunk, receipt.job)
    wanted = (table, task.day, task.shard, task.chunk, task.job)
    made_by = receipt.facts["release"]
    if (*found, made_by) != (*wanted, release.digest):
        msg = (
            f"part {path} is of {receipt.table} {receipt.day}, shard {receipt.shard}, "
            f"chunk {receipt.chunk}, job {receipt.job[:16]}, release {made_by[:12]}"
        )
        raise CorruptPartError(msg)
    return part
