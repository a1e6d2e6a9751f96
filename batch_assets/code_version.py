"""Which code runs: the version of this package, and the commit of the project.

It knows nothing of what the code does.
"""

import subprocess
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

PACKAGE = "batch-assets"
# A repository on a slow disk must not hold a night up.
SECONDS = 10


@cache
def code_version(project: Path) -> str:
    """Return what code makes the nights of a project, as `batch-assets 0.2.0, 1a2b3c4d5e6f`.

    A commit that ends in `+changes` has files beside it that are not committed. Without
    a repository, or without git, the package's version is all that is known.
    """
    try:
        package = f"{PACKAGE} {version(PACKAGE)}"
    except PackageNotFoundError:  # It runs from a folder that was never installed.
        package = PACKAGE
    command = ["git", "-C", str(project), "describe", "--always", "--exclude=*"]
    try:
        told = subprocess.run(
            [*command, "--abbrev=12", "--dirty=+changes"],
            capture_output=True,
            text=True,
            timeout=SECONDS,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return package
    return f"{package}, {told.stdout.strip()}"
