"""What a user does once for a release on a machine: compile it, and sweep its batches.

What comes of it lies under the root, named by the release and the device: it serves
every root that has the same release.
"""

import argparse
import shutil
from pathlib import Path

from batch_assets.models.registry import Registry
from batch_assets.scoring.compiled import COMPILED
from batch_assets.scoring.device import find_device
from batch_assets.scoring.engines.local import LocalEngine
from batch_assets.scoring.sweep import Effort, sweep
from batch_assets.scoring.sweep_results import SWEEPS, Sweeps

# Past the knee of either model.
MAX_ROWS = 2_048


def tune(root: Path, model: str) -> None:
    release = Registry(root).resolve(model)
    for compiled in (None, root / COMPILED):
        device = find_device("cpu", compiled=compiled)
        workers = LocalEngine(device).workers
        Sweeps(root).keep(sweep(release, device, workers, Effort(max_rows=MAX_ROWS)))


def copy_tuning(tuned: Path, root: Path) -> None:
    for folder in (COMPILED, SWEEPS):
        shutil.copytree(tuned / folder, root / folder, dirs_exist_ok=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("root", type=Path)
    parser.add_argument("model")
    asked = parser.parse_args()
    tune(asked.root.resolve(), asked.model)
