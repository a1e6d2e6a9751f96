"""Real engines for tests: a local Ray and a local Spark, started once, and nights on them.

An engine that finds Ray or Spark running uses it and leaves it running, so that a file of
tests starts each once.
"""

import os
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from batch_assets.lake.tables import Lake
from batch_assets.models.release import Release
from batch_assets.parallel import ParallelMap
from batch_assets.scoring.compiled import COMPILED
from batch_assets.scoring.device import find_device
from batch_assets.scoring.engines.factory import open_parallel_map, open_pool
from batch_assets.scoring.engines.local import LocalEngine
from batch_assets.scoring.engines.workers import RemoteEngine, WorkerPool
from batch_assets.scoring.night import Night
from batch_assets.spec import EngineSpec, GateLimits, Local, Ray, Spark
from batch_assets.storage import StoragePath, local
from batch_assets_tests.steps import score_rows
from batch_assets_tests.toys import DAY, NAME

ENGINES: dict[str, EngineSpec] = {
    "local": Local(kind="local"),
    "ray": Ray(kind="ray", workers=2),
    "spark": Spark(kind="spark", settings={"spark.master": "local[2,3]"}),
}
OPEN = GateLimits(max_quarantine_share=1, max_dead_letter_share=1)
GRACE_SECONDS = 20.0
CHUNK_ROWS = 100


@contextmanager
def running_ray(gpus: int = 0) -> Iterator[None]:
    """A Ray on this machine that takes it for one of two CPUs, whatever it has."""
    import ray

    ray.init(address="local", num_cpus=2, num_gpus=gpus, include_dashboard=False)
    try:
        yield
    finally:
        ray.shutdown()


@contextmanager
def running_spark() -> Iterator[str]:
    """A Spark of two workers on hosts of their own, as far as Spark can tell; its master.

    It begins a second attempt of a task on another host only.
    """
    import pyspark

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    master = f"spark://127.0.0.1:{port}"
    spark = Path(pyspark.__file__).parent / "bin" / "spark-class"
    commands = [["master.Master", "--host", "127.0.0.1", "--port", port]] + [
        ["worker.Worker", "--host", host, "--cores", "1", "--memory", "1g", master]
        for host in ("127.0.0.2", "127.0.0.3")
    ]
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        for name, *arguments in commands:
            process = stack.enter_context(
                subprocess.Popen(
                    [spark, f"org.apache.spark.deploy.{name}", *arguments],
                    env={**os.environ, "SPARK_WORKER_DIR": folder},
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                )
            )
            stack.callback(process.terminate)
            if name == "master.Master":
                wait_until_it_listens(int(port))
        yield master


def wait_until_it_listens(port: int) -> None:
    end = time.monotonic() + 60
    while True:
        with (
            suppress(ConnectionRefusedError),
            socket.create_connection(("127.0.0.1", port)),
        ):
            return
        assert time.monotonic() < end
        time.sleep(0.1)


@contextmanager
def pool_of(
    engine: Ray | Spark, root: StoragePath, **changes: Any
) -> Iterator[WorkerPool]:
    arguments = {"device": "cpu", "grace_seconds": GRACE_SECONDS} | changes
    with open_pool(engine, folder_of(root), **arguments) as pool:
        yield pool


def folder_of(root: StoragePath) -> StoragePath:
    return Lake(root, NAME).exchange_folder(DAY)


def engine_on(
    pool: WorkerPool, root: StoragePath, *, compile: bool = False
) -> RemoteEngine:
    return RemoteEngine(
        pool,
        precision="float32",
        batch_rows="auto",
        compile=compile,
        chunk_rows=CHUNK_ROWS,
        root=root,
    )


@contextmanager
def scoring_on(
    engine: EngineSpec, root: StoragePath, *, compile: bool = False
) -> Iterator[LocalEngine | RemoteEngine]:
    if engine.kind == "local":
        compiled = local(root) / COMPILED if compile else None
        yield LocalEngine(find_device("cpu", compiled=compiled), workers=2)
        return
    with pool_of(engine, root) as pool:
        yield engine_on(pool, root, compile=compile)


@contextmanager
def mapping_on(engine: EngineSpec, root: StoragePath) -> Iterator[ParallelMap]:
    with open_parallel_map(
        engine, folder_of(root), grace_seconds=GRACE_SECONDS
    ) as parallel_map:
        yield parallel_map


def score(
    lake: Lake, release: Release, engine: Any, day: str = DAY, **changes: Any
) -> Night:
    """Score a day in chunks of a row group; `changes` go to `score_day`."""
    arguments: dict[str, Any] = {
        "chunk_rows": CHUNK_ROWS,
        "gates": OPEN,
    }
    return score_rows(lake, release, day, engine, **(arguments | changes))


def parts_on_disk(lake: Lake) -> dict[str, bytes]:
    """Every part of every table by its path, committed or not, to the byte."""
    return {
        str(path.relative_to(lake.folder)): path.read_bytes()
        for path in sorted(lake.folder.rglob("*.parquet"))
        # What was measured and judged lies in files that Delta names, by chance.
        if not path.relative_to(lake.folder)
        .parts[0]
        .endswith(("_metrics", "_verdicts"))
    }


def litter(lake: Lake) -> list[Path]:
    """What workers have left behind beside whole parts."""
    return [*lake.folder.rglob("*.tmp"), *lake.folder.glob(".spread-*")]
