"""A validated day, planned and scored by an engine that a test may disturb."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from batch_assets.lake.tables import Lake
from batch_assets.models.release import Release
from batch_assets.scoring.chunk_task import ChunkTask, Scored
from batch_assets.scoring.night import Night
from batch_assets.scoring.plan import Plan
from batch_assets.spec import GateLimits
from batch_assets_tests.counting import Counting
from batch_assets_tests.steps import plan_day, score_rows
from batch_assets_tests.toys import (
    DAY,
    ROW_GROUP_ROWS,
    expected_risk,
    make_contract,
    make_rows,
    write_toy_release,
)

ROWS = 1_200
CHUNK_ROWS = 2 * ROW_GROUP_ROWS
OPEN = GateLimits(max_dead_letter_share=1)


class Altering(Counting):
    """An engine that does something to what the chunks left."""

    def __init__(self, alter: Callable[[list[Scored]], list[Scored]]) -> None:
        super().__init__()
        self.alter = alter

    def run(self, tasks: Sequence[ChunkTask]) -> Iterator[Scored]:
        yield from self.alter(list(super().run(tasks)))


class Stopping(Counting):
    """An engine that is killed after some chunks."""

    def __init__(self, after: int) -> None:
        super().__init__()
        self.after = after

    def run(self, tasks: Sequence[ChunkTask]) -> Iterator[Scored]:
        yield from super().run(tasks[: self.after])
        msg = "the node was preempted"
        raise ConnectionError(msg)


def plan(lake: Lake, release: Release, day: str = DAY, **changes: Any) -> Plan:
    arguments: dict[str, Any] = {
        "chunk_rows": CHUNK_ROWS,
        "gates": GateLimits(),
    }
    return plan_day(lake, release, day, **(arguments | changes))


def score(
    lake: Lake, release: Release, engine: Any = None, day: str = DAY, **changes: Any
) -> Night:
    arguments: dict[str, Any] = {
        "chunk_rows": CHUNK_ROWS,
        "gates": OPEN,
    }
    return score_rows(lake, release, day, engine or Counting(), **(arguments | changes))


def files(lake: Lake) -> dict[str, bytes]:
    """What lies in the tables of predictions and dead letters, committed or not."""
    return {
        str(path.relative_to(lake.folder)): path.read_bytes()
        for table in (lake.predictions, lake.dead_letters)
        for path in sorted(table.path.glob("day=*/*/*.parquet"))
    }


def log_of(lake: Lake) -> list[str]:
    """Every commit of predictions and dead letters."""
    return sorted(
        str(path.relative_to(lake.folder))
        for table in (lake.predictions, lake.dead_letters)
        for path in table.path.glob("_delta_log/*.json")
    )


def narrow(folder: Path, high: float = 0.9) -> Release:
    """The toy release under a contract whose output ends lower: it has dead letters."""
    outputs = [{"name": "risk", "dtype": "float32", "min": 0, "max": high}]
    return write_toy_release(folder, contract=make_contract(outputs=outputs))


def dead_share(above: float) -> tuple[int, GateLimits]:
    """How many rows the narrow release can't score, and the limit at a multiple."""
    dead = int((expected_risk(make_rows(ROWS)) > 0.9).sum())
    return dead, GateLimits(max_dead_letter_share=above * dead / ROWS)
