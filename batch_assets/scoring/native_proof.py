"""Call compiled code in a process of its own, before this one does.

What is wrong with compiled code ends the process that calls it, with no error to catch.
It knows no release: a package, and rows to try it on.
"""

import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch

from batch_assets.errors import ReleaseError
from batch_assets.scoring.native import LEAST_ROWS, NativeModule

# To import torch, load the code and run it; it has just been compiled, which takes longer.
PROOF_SECONDS = 600.0
# As much of what the process said as goes into an error.
LAST_WORDS = 2_000


def prove_native(package: Path, device: torch.device, features: np.ndarray) -> None:
    """Run a package on rows in another process, all at once and a few.

    Args:
        package: a `.pt2` of `aoti_compile_and_package`.
        device: the one that it was compiled for.
        features: float32 (features, rows).

    Raises:
        ReleaseError: that process did not come through.
    """
    with tempfile.TemporaryDirectory(prefix="batch-assets-proof-") as folder:
        rows = Path(folder) / "rows.npy"
        np.save(rows, features)
        command = [sys.executable, "-P", "-m", __name__, package, str(device), rows]
        try:
            done = subprocess.run(
                [str(word) for word in command],
                env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                errors="replace",
                timeout=PROOF_SECONDS,
                # A Ctrl-C is for this process to answer: here it would look like a crash.
                start_new_session=True,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            msg = (
                f"compiled code gave no answer within {PROOF_SECONDS:.0f} s in a process "
                "of its own. It was not called in this one, and nothing was scored. Set "
                "compile to false."
            )
            raise ReleaseError(msg) from error
    if done.returncode:
        msg = (
            f"compiled code ended a process of its own with {_ending(done.returncode)}: "
            f"{done.stderr.strip()[-LAST_WORDS:] or 'it said nothing'}. It was not "
            "called in this one, and nothing was scored. Set compile to false."
        )
        raise ReleaseError(msg)


def _ending(code: int) -> str:
    return f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"


def run(package: Path, device: torch.device, rows: Path) -> None:
    """Load a package and run it on rows, on each side of its special cases."""
    torch.set_num_threads(1)
    features = torch.from_numpy(np.load(rows)).to(device)
    module = NativeModule(package, device)
    with torch.inference_mode():
        for count in sorted({1, min(LEAST_ROWS, len(features.T)), len(features.T)}):
            for column in module(features[:, :count].T):
                column.cpu()


if __name__ == "__main__":
    run(Path(sys.argv[1]), torch.device(sys.argv[2]), Path(sys.argv[3]))
