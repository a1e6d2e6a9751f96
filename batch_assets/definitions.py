"""The front door: what Dagster loads."""

from pathlib import Path

import dagster as dg

from batch_assets.resources import GpuResource, StorageResource


@dg.definitions
def defs() -> dg.Definitions:
    """Every pipeline under defs/, and what their assets are given."""
    return dg.Definitions.merge(
        dg.load_from_defs_folder(path_within_project=Path(__file__).parent),
        dg.Definitions(
            resources={"storage": StorageResource(), "gpu": GpuResource()},
            # A killed run must not leave a child behind that keeps the device.
            executor=dg.in_process_executor,
        ),
    )
