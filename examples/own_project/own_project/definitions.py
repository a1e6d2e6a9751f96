"""What Dagster loads: all that lies under defs/, and what its assets are given."""

from pathlib import Path

import dagster as dg

from batch_assets.definitions import project_defs


@dg.definitions
def defs() -> dg.Definitions:
    return project_defs(Path(__file__).parent)
