"""How long the workers of a night hold the interpreter's lock: sampled from outside.

Threads of one process take turns for what needs the lock, so it bounds what many cores can
do: at 0.1 us a row no more than 10 million rows a second, however many there are. py-spy
looks which thread holds it, so often a second, and stops nothing for that.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

RATE = 500
# What a worker runs; what Python does elsewhere is done once a night.
WORKER = "score_chunk"


def lock_seconds(command: Sequence[str], cwd: Path) -> float | None:
    """Run a command; return the seconds in which a worker of it held the lock.

    Returns:
        None where py-spy may not look: it needs the right to trace a process.
    """
    spy = shutil.which("py-spy", path=str(Path(sys.executable).parent))
    if spy is None:
        return None
    with tempfile.TemporaryDirectory() as folder:
        stacks = Path(folder) / "stacks"
        looking = ["record", "--gil", "--nonblocking", "--rate", str(RATE)]
        done = subprocess.run(
            [spy, *looking, "--format", "raw", "--output", str(stacks), "--", *command],
            cwd=cwd,
            env=os.environ | {"PYTHONPATH": str(cwd)},
            capture_output=True,
            check=False,
        )
        if done.returncode or not stacks.exists():
            return None
        return seconds_of(stacks.read_text(encoding="utf-8"))


def seconds_of(stacks: str) -> float:
    """Return the seconds of samples, `frame;frame;… count` a line, in a worker."""
    counts = [line.rpartition(" ") for line in stacks.splitlines()]
    return sum(int(n) for frames, _, n in counts if WORKER in frames) / RATE
