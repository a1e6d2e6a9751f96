"""Where things are: the project's folder, and `<root>` with what the nights leave.

`BATCH_ASSETS_ROOT` names `<root>`, for the command line and for Dagster alike; it is
`data/` in the project if it is not set. It knows nothing of what lies there.
"""

import os
from pathlib import Path

ROOT = "BATCH_ASSETS_ROOT"
MARK = "dagster.yaml"


def project_folder(start: Path | None = None) -> Path:
    """The nearest folder from here upwards that holds a dagster.yaml, or this one."""
    here = (start or Path.cwd()).resolve()
    for folder in (here, *here.parents):
        if (folder / MARK).is_file():
            return folder
    return here


def data_root() -> Path:
    """`<root>`: the lake, the models and the snapshots."""
    named = os.environ.get(ROOT)
    return Path(named).expanduser().resolve() if named else project_folder() / "data"
