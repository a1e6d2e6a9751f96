"""What an earlier run of the same job left, and whether it is whole.

A part is taken over only after every page of it was read and its keys were compared
with its receipt. It scores nothing and removes nothing.
"""

import logging
from pathlib import Path

from batch_assets.errors import CorruptPartError
from batch_assets.lake.books import Tally
from batch_assets.lake.parts import Part, open_part, read_batches
from batch_assets.models.release import Release
from batch_assets.scoring.chunk import ChunkTask, Scored

log = logging.getLogger(__name__)


def left_before(task: ChunkTask, release: Release) -> Scored | None:
    """The chunk, if an earlier run of the same job left it whole."""
    if not task.predictions.exists():
        return None
    try:
        part = _verified(task.predictions, release.contract.key.name)
        facts = part.receipt.facts
        dead = None
        if facts["dead"]:
            dead = _verified(task.dead_letters, release.contract.key.name)
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


def _verified(path: Path, key: str) -> Part:
    """A part whose every page was read and whose keys are those of its receipt."""
    part, file = open_part(path)
    file.close()
    tally = Tally()
    for batch in read_batches(path, rows=65_536):
        tally += Tally.of(batch[key])
    if tally != part.receipt.tally:
        msg = f"part {path} holds {tally}, its receipt says {part.receipt.tally}"
        raise CorruptPartError(msg)
    return part
