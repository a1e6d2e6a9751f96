"""This project, without Dagster: a validated day, scored and committed."""

import shutil
from importlib.metadata import version

from batch_assets.lake.tables import Lake
from batch_assets.models.registry import Registry
from batch_assets.scoring.device import find_device
from batch_assets.scoring.engines.local import LocalEngine
from batch_assets.scoring.night import score_night
from batch_assets.spec import Gates
from benchmarks.column import Work, main
from benchmarks.work import CHUNK_ROWS, DAY, PIPELINE


def run(work: Work) -> None:
    lake = Lake(work.root, PIPELINE)
    device = find_device("cpu")
    score_night(
        lake,
        Registry(work.root).require(work.size, work.version),
        DAY,
        LocalEngine(device),
        chunk_rows=CHUNK_ROWS,
        precision=device.precision,
        gates=Gates(),
    )
    show(lake, work)


def show(lake: Lake, work: Work) -> None:
    """Where the predictions are; a night leaves them in its lake."""
    for number, part in enumerate(lake.predictions.parts(DAY)):
        (work.out / f"{number}.parquet").symlink_to(part.path)


def forget(lake: Lake) -> None:
    """Let the next night be the first one."""
    for table in (lake.predictions, lake.dead_letters):
        shutil.rmtree(table.path, ignore_errors=True)


if __name__ == "__main__":
    main(
        run,
        f"batch-assets {version('batch-assets')}",
        before=lambda work: forget(Lake(work.root, PIPELINE)),
    )
