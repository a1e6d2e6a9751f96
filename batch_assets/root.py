"""Where things are: the project's folder, and `<root>` with what the nights leave.

`BATCH_ASSETS_ROOT` names `<root>`, for the command line and for Dagster alike: a
directory, or `s3://BUCKET/PREFIX`; it is `data/` in the project if it is not set. It
knows nothing of what lies there.
"""

import os
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from batch_assets.storage import StoragePath

ROOT = "BATCH_ASSETS_ROOT"
MARK = "dagster.yaml"


def project_folder(start: Path | None = None) -> Path:
    """Return the nearest folder upwards that is a Dagster project, or this very one.

    A project holds a dagster.yaml, or a pyproject.toml with a `[tool.dg]`.
    """
    start = (start or Path.cwd()).resolve()
    for folder in (start, *start.parents):
        settings = folder / "pyproject.toml"
        if (folder / MARK).is_file() or (
            settings.is_file() and "[tool.dg" in settings.read_text(encoding="utf-8")
        ):
            return folder
    return start


def data_root() -> "StoragePath":
    """Return `<root>`: the lake, the models and the snapshots.

    Raises:
        ConfigError: it is neither a directory nor in an object store that is known.
    """
    # A command that only prints its help does not wait for the clients of buckets.
    from batch_assets.storage import storage_path

    # Relative to the project, wherever in it one stands.
    return storage_path(os.environ.get(ROOT) or "data", project_folder())
