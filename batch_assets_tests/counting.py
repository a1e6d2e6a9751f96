"""An engine that remembers what it was given."""

from collections.abc import Generator, Sequence

from batch_assets.models.release import Release
from batch_assets.scoring.chunk_task import ChunkTask, Scored
from batch_assets.scoring.device import Device, find_device
from batch_assets.scoring.engines.local import LocalEngine


class Counting:
    """The local engine, which remembers the chunks and rows that it was given."""

    def __init__(self, workers: int = 2) -> None:
        self.engine = LocalEngine(find_device("cpu"), workers=workers)
        self.loads = 0
        self.given: list[tuple[int, int]] = []
        self.rows = 0

    @property
    def device(self) -> Device:
        return self.engine.device

    @property
    def batch_rows(self) -> int:
        return self.engine.batch_rows

    @property
    def workers(self) -> int:
        return self.engine.workers

    @property
    def usage(self) -> None:
        return None

    def load(self, release: Release) -> None:
        self.loads += 1
        self.engine.load(release)

    def run(self, tasks: Sequence[ChunkTask]) -> Generator[Scored, None, None]:
        self.given += [(task.shard, task.chunk) for task in tasks]
        self.rows += sum(task.rows for task in tasks)
        yield from self.engine.run(tasks)
