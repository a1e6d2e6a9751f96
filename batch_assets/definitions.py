"""The front door: what Dagster loads."""

from pathlib import Path

import dagster as dg

from batch_assets.resources import EngineResource, GpuResource, StorageResource


def project_defs(folder: Path, gpu: GpuResource | None = None) -> dg.Definitions:
    """Load every pipeline under a package's defs/, and what their assets are given.

    Args:
        folder: of the package.
        gpu: the device that scores, where it is not the usual one.
    """
    return dg.Definitions.merge(
        dg.load_from_defs_folder(path_within_project=folder),
        dg.Definitions(
            resources={
                "storage": StorageResource(),
                "gpu": gpu or GpuResource(),
                "engine": EngineResource(),
            },
            # A killed run must not leave a child behind that keeps the device.
            executor=dg.in_process_executor,
        ),
    )


@dg.definitions
def defs() -> dg.Definitions:
    """Load this project's own."""
    return project_defs(Path(__file__).parent)
