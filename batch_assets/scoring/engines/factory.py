"""Open what an engine's settings ask for: the workers of a machine, or of a cluster.

Each kind of engine has a module here, which is imported when it is asked for: its client
is an extra, and takes seconds to import or to start. So does torch, which a worker needs.
"""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from importlib import import_module
from typing import TYPE_CHECKING

from batch_assets.parallel import ParallelMap, on_cores
from batch_assets.scoring.torch_import import import_torch
from batch_assets.spec import EngineSpec
from batch_assets.storage import StoragePath

if TYPE_CHECKING:
    from batch_assets.scoring.engines.workers import WorkerPool


def open_pool(
    engine: EngineSpec, folder: StoragePath, *, device: str, grace_seconds: float
) -> AbstractContextManager["WorkerPool"]:
    """Open the workers of a remote engine, for as long as this is entered.

    Args:
        engine: what the YAML says.
        folder: a place beside the tables that every worker sees at the same path.
        device: `auto`, `cpu` or `cuda`.
        grace_seconds: how long items in flight may go on when the work ends early.

    Raises:
        EngineError: it is not installed, not reachable, or has no room.
        ConfigError: the device can't be had so.
    """
    import_torch()
    module = import_module(f"{__package__}.{engine.kind}")
    pool: AbstractContextManager[WorkerPool] = module.open_pool(
        engine, folder, device=device, grace_seconds=grace_seconds
    )
    return pool


@contextmanager
def open_parallel_map(
    engine: EngineSpec, folder: StoragePath, *, grace_seconds: float
) -> Iterator[ParallelMap]:
    """Open what does pieces of work that need no model, where an engine would do them."""
    if not engine.remote:
        yield on_cores
        return
    with open_pool(
        engine.without_model(), folder, device="cpu", grace_seconds=grace_seconds
    ) as pool:
        from batch_assets.scoring.engines.workers import parallel_map

        yield partial(parallel_map, pool)
