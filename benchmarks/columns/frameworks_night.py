"""This project on a model of another framework: a validated day, scored and committed."""

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
from benchmarks.trained import CHUNK_ROWS, DAY, PIPELINE


def run(work: Work) -> None:
    release = Registry(work.root).require(work.size, work.version)
    settings = ScoringSettings(GateLimits(), CHUNK_ROWS)
    engine = LocalEngine(find_device("cpu"))
    score_day(DayRun(Lake(work.root, PIPELINE), DAY), release, engine, settings)


def show(work: Work) -> None:
    """Where the predictions are; a night leaves them in its lake."""
    for number, part in enumerate(Lake(work.root, PIPELINE).predictions.parts(DAY)):
        (work.out / f"{number}.parquet").symlink_to(part.path)


def forget(work: Work) -> None:
    """Let the next night be the first one."""
    lake = Lake(work.root, PIPELINE)
    for table in (lake.predictions, lake.dead_letters):
        shutil.rmtree(table.path, ignore_errors=True)


if __name__ == "__main__":
    main(run, "batch-assets", before=forget, after=show)
