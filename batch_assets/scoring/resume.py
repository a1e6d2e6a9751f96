"""What an earlier run of the same job left, and whether it is whole.

A part is taken over only after every page of it was read and its keys were compared
with its receipt. It scores nothing and removes nothing.
"""

import logging

from batch_assets.errors import CorruptPartError
from batch_assets.lake.parts import verified_part
from batch_assets.models.release import Release
from batch_assets.scoring.chunk import ChunkTask, Scored

log = logging.getLogger(__name__)


def left_before(task: ChunkTask, release: Release) -> Scored | None:
    """The chunk, if an earlier run of the same job left it whole."""
    if not task.predictions.exists():
        return None
    try:
        part = verified_part(task.predictions, release.contract.key.name)
        facts = part.receipt.facts
        dead = None
        if facts["dead"]:
            dead = verified_part(task.dead_letters, release.contract.key.name)
        same = (
            (part.receipt.job, part.receipt.day) == (task.job, task.day)
            and (part.receipt.shard, part.receipt.chunk) == (task.shard, task.chunk)
            and tuple(facts["row_groups"]) == task.row_groups
            and facts["release"] == release.digest
            and (dead is None or dead.receipt.job == task.job)
        )
    except CorruptPartError as error:
        log.warning("%s; the chunk is scored again", error)
        return None
    return Scored(part, dead) if same else None
