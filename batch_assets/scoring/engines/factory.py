"""From what the YAML says of an engine to one that is there. It imports none before.

Ray and Spark are extras, and each takes seconds to import or to start.
"""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial

from batch_assets.parallel import ParallelMap, on_cores
from batch_assets.scoring.engines.workers import WorkerPool, parallel_map
from batch_assets.spec import Local, Ray, Spark
from batch_assets.storage import StoragePath


def open_pool(
    engine: Ray | Spark, folder: StoragePath, *, device: str, grace_seconds: float
) -> AbstractContextManager[WorkerPool]:
    """The workers of an engine on other machines, while this is entered.

    Args:
        engine: what the YAML says.
        folder: a place beside the tables that every worker sees at the same path.
        device: `auto`, `cpu` or `cuda`.
        grace_seconds: how long items in flight may go on when the work ends early.

    Raises:
        EngineError: it is not installed, not reachable, or has no room.
        ConfigError: the device can't be had so.
    """
    if engine.kind == "ray":
        from batch_assets.scoring.engines.ray import ray_pool

        return ray_pool(engine, device=device, grace_seconds=grace_seconds)
    from batch_assets.scoring.engines.spark import spark_pool

    return spark_pool(engine, folder, device=device, grace_seconds=grace_seconds)


@contextmanager
def open_parallel_map(
    engine: Local | Ray | Spark, folder: StoragePath, *, grace_seconds: float
) -> Iterator[ParallelMap]:
    """What does pieces of work that need no model, where an engine would do them."""
    if engine.kind == "local":
        yield on_cores
        return
    if engine.kind == "ray":
        engine = engine.model_copy(update={"gpus_per_worker": None})
    with open_pool(engine, folder, device="cpu", grace_seconds=grace_seconds) as pool:
        yield partial(parallel_map, pool)
