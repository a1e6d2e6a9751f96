"""One run that makes one day of a pipeline: what every step of it is given.

It knows the tables, and nothing of who started the run.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import pyarrow as pa

from batch_assets.lake.commits import CommitFacts, Producer
from batch_assets.lake.delta_table import Table
from batch_assets.lake.parts import Part
from batch_assets.lake.receipts import Receipt
from batch_assets.lake.tables import Lake

R = TypeVar("R", bound=Receipt)
C = TypeVar("C", bound=CommitFacts)


@dataclass(frozen=True)
class DayRun:
    """A day that is being made.

    Attributes:
        lake: the pipeline's tables.
        day: as `2026-01-05`.
        guard: raises if this run may not commit any more; called before each commit.
        progress: called with each number of rows that is done.
        producer: the run and its code, which each commit records.
    """

    lake: Lake
    day: str
    guard: Callable[[], None] = lambda: None
    progress: Callable[[int], None] = lambda rows: None
    producer: Producer | None = None

    def commit(
        self, table: Table[R, C], parts: Sequence[Part[R]], schema: pa.Schema, facts: C
    ) -> None:
        """Let the day of a table consist of these parts; see `Table.commit_day`.

        Raises:
            CommitError: this run may not commit any more, or other writers won each time.
            LakeError: a column has another type than in the days before.
        """
        table.commit_day(
            self.day, parts, schema, facts, guard=self.guard, producer=self.producer
        )
