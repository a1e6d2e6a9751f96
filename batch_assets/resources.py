"""What the assets are given: where things are, which device scores, on which engine.

What scores is imported when it is asked for. It needs torch, which takes longer to import
than all else that a project's definitions need, and most steps of a night score nothing.
"""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import dagster as dg
from filelock import FileLock
from pydantic import Field

from batch_assets.lake.tables import Lake
from batch_assets.models.registry import Registry
from batch_assets.models.release import Release
from batch_assets.parallel import ParallelMap
from batch_assets.root import data_root
from batch_assets.scoring.device import Device, find_device
from batch_assets.scoring.engines.base import Engine
from batch_assets.scoring.engines.factory import open_parallel_map, open_pool
from batch_assets.scoring.torch_import import import_torch
from batch_assets.snapshots.store import SnapshotStore
from batch_assets.spec import EngineSpec, PipelineSpec, engine_named, engine_names
from batch_assets.storage import StoragePath, local, storage_path


class StorageResource(dg.ConfigurableResource):
    """`<root>`: the lake, the models and the snapshots."""

    root: str | None = Field(
        default=None,
        description="A directory, or s3://BUCKET/PREFIX; BATCH_ASSETS_ROOT, or data/ in "
        "the project, if left out.",
    )

    @property
    def path(self) -> StoragePath:
        return storage_path(self.root) if self.root else data_root()

    def lake(self, pipeline: str) -> Lake:
        return Lake(self.path, pipeline)

    def registry(self) -> Registry:
        return Registry(self.path)

    def snapshots(self, pipeline: str) -> SnapshotStore:
        return SnapshotStore(self.path, pipeline)


class GpuResource(dg.ConfigurableResource):
    """The device that scores, and how it is used."""

    device: str = Field(
        default="auto",
        description="auto (CUDA if there is any), cpu, cuda or cuda:N. A device that is "
        "asked for by name and is not there is an error.",
    )
    precision: str = Field(
        default="float32",
        description="float32, tf32 (CUDA), bfloat16 or float16. A release is scored in less than "
        "float32 only if its golden batch stays within its tolerance.",
    )
    batch_rows: str = Field(
        default="auto",
        description="Rows that the model gets at once: auto (the knee of the release's "
        "sweep if there is one) or a number.",
    )
    compile: bool = Field(
        default=False,
        description="Compile the model, once for each release and device, and keep the "
        "code under <root>/compiled. It needs a C++ compiler and a .pt2 release; a model "
        "that can't be compiled, or is not itself then, is an error.",
    )
    lock_folder: str = Field(
        default="/tmp", description="Where the lock of a CUDA device lies."
    )

    @contextmanager
    def reserve(self, root: StoragePath) -> Iterator[Device]:
        """Hold the device, alone: one process at a time scores on a CUDA device.

        The lock dies with its process, so that an orphan can't keep the device.

        Args:
            root: `<root>`, where compiled code is kept, or what stands for it here.
        """
        import_torch()
        from batch_assets.scoring.compiled import COMPILED

        compiled = local(root) / COMPILED if self.compile else None
        device = find_device(self.device, self.precision, self.batch_rows, compiled)
        lock: AbstractContextManager[object] = nullcontext()
        if device.kind == "cuda":
            lock = FileLock(f"{self.lock_folder}/batch-assets-cuda-{device.index}.lock")
        with lock:
            yield device


class EngineResource(dg.ConfigurableResource):
    """Where features are validated and chunks are scored."""

    name: str = Field(
        default="",
        description=f"{engine_names()}, for this run; as the pipeline's YAML says, if "
        "empty.",
    )

    def of(self, spec: PipelineSpec) -> EngineSpec:
        """Return a pipeline's engine, with its settings if it is the one in the YAML."""
        return engine_named(self.name, spec.engine) if self.name else spec.engine

    @contextmanager
    def scoring(
        self,
        spec: PipelineSpec,
        day: str,
        release: Release,
        storage: StorageResource,
        gpu: GpuResource,
    ) -> Iterator[Engine]:
        """Open what scores the chunks of a day, with its device."""
        import_torch()
        from batch_assets.scoring.engines.local import LocalEngine
        from batch_assets.scoring.engines.workers import RemoteEngine
        from batch_assets.scoring.sweep_results import Sweeps

        engine, grace = self.of(spec), spec.grace_seconds
        if not engine.remote:
            with gpu.reserve(storage.path) as device:
                sweeps = Sweeps(storage.path)
                workers = sweeps.workers(release, device)
                device = sweeps.tuned(release, device).for_chunks(spec.chunk_rows)
                yield LocalEngine(device, workers, grace_seconds=grace)
            return
        folder = storage.lake(spec.name).exchange_folder(day)
        with open_pool(engine, folder, device=gpu.device, grace_seconds=grace) as pool:
            yield RemoteEngine(
                pool,
                precision=gpu.precision,
                batch_rows=gpu.batch_rows,
                compile=gpu.compile,
                chunk_rows=spec.chunk_rows,
                root=storage.path,
            )

    def mapping(
        self, spec: PipelineSpec, day: str, storage: StorageResource
    ) -> AbstractContextManager[ParallelMap]:
        """Open what does the pieces of a day that need no model."""
        folder = storage.lake(spec.name).exchange_folder(day)
        return open_parallel_map(
            self.of(spec), folder, grace_seconds=spec.grace_seconds
        )
