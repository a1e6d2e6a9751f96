"""A chunk as an engine carries it: a descriptor without a row in it, and what it left.

It scores nothing.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

from batch_assets.incremental.reuse import ReuseSource
from batch_assets.lake.parts import Part
from batch_assets.lake.receipts import DeadLettersReceipt, PredictionsReceipt
from batch_assets.lake.side_tables import SideTable
from batch_assets.spec import CHUNK_SECONDS
from batch_assets.storage import StoragePath


@dataclass(frozen=True)
class ChunkTask:
    """What it takes to score one chunk; a descriptor, without a row in it.

    `row_groups` counts from the first to one past the last. More than `max_faults`
    rows on which the model raises, or takes longer than its share of `max_seconds`, stop
    the chunk. In a replay `validated` is a part of dead letters, and `replay_of` names
    the validated part that they are of. With `reuse`, rows that have not changed take
    over their prediction. `side` are the side tables of the day. Of the rows, one in
    `profiled_one_in` is profiled, of all and by `segments`.
    """

    day: str
    shard: int
    chunk: int
    job: str
    validated: StoragePath
    row_groups: tuple[int, int]
    rows: int
    predictions: StoragePath
    dead_letters: StoragePath
    max_faults: int
    max_seconds: float = CHUNK_SECONDS
    replay_of: str | None = None
    reuse: ReuseSource | None = None
    side: tuple[SideTable, ...] = ()
    segments: tuple[str, ...] = ()
    profiled_one_in: int = 1

    @property
    def made_of(self) -> str:
        """The name of the validated part that the rows come from."""
        return self.replay_of or self.validated.name


@dataclass(frozen=True)
class Scored:
    """What a chunk left, and where its seconds went.

    `seconds` are those of each stage (read, copy, compute, write) and add up to
    the whole; `model_seconds` are those of compute and copy that were the scorer's.
    """

    part: Part[PredictionsReceipt]
    dead: Part[DeadLettersReceipt] | None
    seconds: dict[str, float] = field(default_factory=dict)
    model_seconds: float = 0.0

    @property
    def dead_rows(self) -> int:
        return self.dead.rows if self.dead else 0


def in_turn(tasks: Sequence[ChunkTask]) -> list[ChunkTask]:
    """Tasks as an engine should begin them, on however many workers.

    The largest first: at the end no worker waits long for another's last chunk. Those
    that take rows over stay beside each other: they share what they load.
    """
    return sorted(tasks, key=lambda task: 0 if task.reuse else -task.rows)
