"""The steps of the demo: a release that may be used, its batch size, a week of nights."""

from pathlib import Path

from batch_assets.errors import PipelineError, ReleaseError
from batch_assets.launch.runner import PipelineRunner
from batch_assets.models.registry import Registry
from batch_assets.models.release import Release
from batch_assets.scoring.device import find_device
from batch_assets.scoring.sweep_results import Sweeps
from batch_assets.snapshots.version import Answer, Version
from batch_assets.storage import StoragePath

PIPELINE = "flights"
MODEL = "flight_delay"
DAYS = [f"2013-07-{number}" for number in range(22, 29)]


def approve_release(root: StoragePath, project: Path) -> Release:
    """Register the demo's release, and approve it, unless it is approved already."""
    registry = Registry(root)
    release = registry.add(project / "data" / "releases" / MODEL)
    try:
        registry.require(MODEL, release.digest)
    except ReleaseError:
        registry.approve(MODEL, release.digest, why="the demo's own release")
    return release


def find_batch_rows(root: StoragePath, release: Release) -> int | None:
    """Return how many rows a batch of the release should have here, if it was swept."""
    swept = Sweeps(root).find(release, find_device())
    return swept.knee.batch_rows if swept else None


def sweep_batch_rows(
    runner: PipelineRunner, root: StoragePath, release: Release
) -> int:
    """Sweep the release through Dagster; return how many rows a batch should have.

    Raises:
        PipelineError: the sweep failed.
    """
    if failures := runner.sweep_batch_sizes():
        raise PipelineError("\n".join(failures))
    return Sweeps(root).tuned(release, find_device()).batch_rows


def look_up_first(root: StoragePath) -> tuple[str, Answer | None]:
    """Look the first key of what is served up."""
    snapshot = Version.current(root / "snapshots" / PIPELINE)
    key = str(snapshot.shard(0).table[snapshot.manifest.key][0].as_py())
    return key, snapshot.get(key)
