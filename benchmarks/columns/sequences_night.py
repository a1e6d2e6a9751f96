"""This project on histories or texts, by their length: a validated day, scored and committed."""

import shutil

from batch_assets.lake.day_run import DayRun
from batch_assets.lake.tables import Lake
from batch_assets.models.registry import Registry
from batch_assets.scoring.device import find_device
from batch_assets.scoring.engines.local import LocalEngine
from batch_assets.scoring.night import score_day
from batch_assets.scoring.plan import ScoringSettings
from batch_assets.spec import GateLimits
from benchmarks.column import Work, main
from benchmarks.histories import CHUNK_ROWS, DAY


def run(work: Work) -> None:
    release = Registry(work.root).require(work.size, work.version)
    engine = LocalEngine(find_device("cpu"))
    settings = ScoringSettings(GateLimits(), CHUNK_ROWS)
    score_day(DayRun(Lake(work.root, work.size), DAY), release, engine, settings)


def show(work: Work) -> None:
    """Where the predictions are; a night leaves them in its lake."""
    for number, part in enumerate(Lake(work.root, work.size).predictions.parts(DAY)):
        (work.out / f"{number}.parquet").symlink_to(part.path)


def forget(work: Work) -> None:
    """Let the next night be the first one."""
    lake = Lake(work.root, work.size)
    for table in (lake.predictions, lake.dead_letters):
        shutil.rmtree(table.path, ignore_errors=True)


def measure() -> None:
    main(run, "batch-assets", before=forget, after=show)


if __name__ == "__main__":
    measure()
