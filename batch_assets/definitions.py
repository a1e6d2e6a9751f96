"""The front door: what Dagster loads."""

from pathlib import Path

import dagster as dg

from batch_assets.assets.needs import must_be_includable
from batch_assets.assets.pipeline import TABLES
from batch_assets.assets.reading import tables_io_manager
from batch_assets.component import ScoringPipeline
from batch_assets.resources import EngineResource, GpuResource, StorageResource


def project_defs(folder: Path, gpu: GpuResource | None = None) -> dg.Definitions:
    """Load every pipeline under a package's defs/, and what their assets are given.

    Args:
        folder: of the package.
        gpu: the device that scores, where it is not the usual one.
    """
    loaded = dg.Definitions.merge(
        dg.load_from_defs_folder(path_within_project=folder),
        dg.Definitions(
            resources={
                "storage": StorageResource(),
                "gpu": gpu or GpuResource(),
                "engine": EngineResource(),
                TABLES: tables_io_manager,
            },
            # A killed run must not leave a child behind that keeps the device.
            executor=dg.in_process_executor,
        ),
    )
    tree = loaded.component_tree
    for one in tree.get_all_components(of_type=ScoringPipeline) if tree else []:
        must_be_includable(one.spec, loaded.assets or [])
    return loaded


@dg.definitions
def defs() -> dg.Definitions:
    """Load this project's own."""
    return project_defs(Path(__file__).parent)
