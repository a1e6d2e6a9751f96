"""This project, without Dagster: a validated day, scored and committed.

The release is compiled, and the rows of a batch are those that its sweep found, as
`benchmarks.tune` has left them: a user does that once for a release.
"""

import shutil
from collections.abc import Callable
from importlib.metadata import version

from batch_assets.incremental.reuse import Incremental
from batch_assets.lake.day_run import DayRun
from batch_assets.lake.tables import Lake
from batch_assets.models.registry import Registry
from batch_assets.models.release import Release
from batch_assets.scoring.compiled import COMPILED
from batch_assets.scoring.device import Device, find_device
from batch_assets.scoring.engines.factory import open_pool
from batch_assets.scoring.engines.local import GRACE_SECONDS, LocalEngine
from batch_assets.scoring.engines.workers import RemoteEngine
from batch_assets.scoring.night import Night, score_day
from batch_assets.scoring.plan import ScoringSettings
from batch_assets.scoring.sweep_results import Sweeps
from batch_assets.spec import GateLimits, Ray, Spark
from benchmarks.column import Work, main
from benchmarks.work import CHUNK_ROWS, DAY, PIPELINE


def run(work: Work) -> None:
    run_on(compiled(work), work)


def compiled(work: Work) -> Device:
    return find_device("cpu", compiled=work.root / COMPILED)


def run_on(device: Device, work: Work) -> None:
    """Score the day on a device."""
    release = release_of(work)
    tuned = Sweeps(work.root).tuned(release, device)
    assert tuned.batch_rows_from == "sweep", "benchmarks.tune comes first"
    night_of(LocalEngine(tuned), work, release, DAY)


def run_on_engine(settings: Ray | Spark, work: Work) -> None:
    """Score the day on an engine that is started, as `run` does on this machine."""
    folder, release = Lake(work.root, PIPELINE).exchange_folder(DAY), release_of(work)
    with open_pool(settings, folder, device="cpu", grace_seconds=GRACE_SECONDS) as pool:
        engine = RemoteEngine(
            pool,
            precision="float32",
            batch_rows="auto",
            compile=True,
            chunk_rows=CHUNK_ROWS,
            root=work.root,
        )
        night_of(engine, work, release, DAY)


def release_of(work: Work) -> Release:
    return Registry(work.root).require(work.size, work.version)


def night_of(
    engine: LocalEngine | RemoteEngine,
    work: Work,
    release: Release,
    day: str,
    incremental: Incremental | None = None,
) -> Night:
    """A night without Dagster."""
    return score_day(
        DayRun(Lake(work.root, PIPELINE), day),
        release,
        engine,
        ScoringSettings(GateLimits(), CHUNK_ROWS, incremental=incremental),
    )


def show(work: Work) -> None:
    """Where the predictions are; a night leaves them in its lake."""
    parts = Lake(work.root, PIPELINE).predictions.parts(DAY)
    for number, part in enumerate(parts):
        (work.out / f"{number}.parquet").symlink_to(part.path)


def forget(work: Work) -> None:
    """Let the next night be the first one."""
    lake = Lake(work.root, PIPELINE)
    for table in (lake.predictions, lake.dead_letters):
        shutil.rmtree(table.path, ignore_errors=True)


def measure(run: Callable[[Work], None], startup_s: float | None = None) -> None:
    """Be a column of this project."""
    main(
        run,
        f"batch-assets {version('batch-assets')}",
        before=forget,
        after=show,
        startup_s=startup_s,
    )


if __name__ == "__main__":
    measure(run)
