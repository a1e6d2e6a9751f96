"""A release on a device: features in, outputs out. It knows no file and no chunk."""

import logging
import threading
import time
from contextlib import nullcontext
from dataclasses import dataclass

import numpy as np
import torch

from batch_assets.errors import GoldenBatchError
from batch_assets.models.contract import OUTPUT_TYPES
from batch_assets.models.formats import columns_of, golden_batch, load_module
from batch_assets.models.release import Release
from batch_assets.scoring.device import PRECISIONS, Device

# What a RuntimeError says where torch raises no OutOfMemoryError: its allocator on the
# CPU, a pinned buffer, a library's workspace, and any of them inside TorchScript.
OUT_OF_MEMORY = (
    "DefaultCPUAllocator: can't allocate memory",
    "CUDA out of memory",
    "CUDA error: out of memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_ALLOC_FAILED",
)

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Spent:
    """Seconds that a scorer took: in the model, and for copies to the device and back.

    The copies are part of the first; on a CPU there are none.
    """

    model: float = 0.0
    copy: float = 0.0

    def __add__(self, other: "Spent") -> "Spent":
        return Spent(self.model + other.model, self.copy + other.copy)


class _Lane(threading.local):
    """What a thread has on a CUDA device: its stream, its pinned memory, its copies."""

    stream: torch.cuda.Stream | None = None
    pinned: torch.Tensor | None = None
    copy_seconds = 0.0


class Abandoned(BaseException):
    """The run is over. Not an Exception: it is no fault of the rows."""


class Scorer:
    """Loads a release once, proves it on its golden batch, then scores batches.

    It may be shared by threads: each has its own stream and pinned buffer on CUDA.
    `batch_rows` is how many rows the model gets at once: as many as the device was
    found with, or fewer once its memory ran out.
    """

    def __init__(self, release: Release, device: Device) -> None:
        """Load the model.

        Args:
            release: opened by the registry, so its bytes are verified.
            device: where to run.

        Raises:
            GoldenBatchError: the outputs of the golden batch are not those recorded.
        """
        self.release = release
        self.device = device
        self._module = load_module(release, device.torch)
        self.batch_rows = device.batch_rows
        self._shrinking = threading.Lock()
        self._abandoned = threading.Event()
        self._lane = _Lane()
        self._replay_golden_batch()

    @property
    def tolerance(self) -> float:
        """How far an output may be off what the release once said, on this device."""
        return self.release.manifest.golden.tolerance.get(self.device.kind, 0.0)

    def score(self, features: np.ndarray) -> tuple[dict[str, np.ndarray], Spent]:
        """Score rows, a batch at a time; in smaller batches where memory runs out.

        Args:
            features: float32 (features, rows), row-major: one run of memory per column.

        Returns:
            Each output as (rows,), and where the seconds went.

        Raises:
            Abandoned: the run is over.
        """
        rows = features.shape[1]
        contract = self.release.contract
        outputs = {
            o.name: np.empty(rows, OUTPUT_TYPES[o.dtype].to_pandas_dtype())
            for o in contract.outputs
        }
        seconds = 0.0
        self._lane.copy_seconds = 0.0
        start = 0
        while start < rows:
            if self.abandoned:
                raise Abandoned
            stop = min(start + self.batch_rows, rows)
            begin = time.perf_counter()
            self._fill(outputs, features, start, stop)
            seconds += time.perf_counter() - begin
            start = stop
        return outputs, Spent(seconds, self._lane.copy_seconds)

    def abandon(self) -> None:
        """Let every thread give up at its next batch: the run is over."""
        self._abandoned.set()

    @property
    def abandoned(self) -> bool:
        return self._abandoned.is_set()

    def _fill(
        self,
        outputs: dict[str, np.ndarray],
        features: np.ndarray,
        start: int,
        stop: int,
    ) -> None:
        """Score a batch; halve it until it fits, and remember the size that did.

        A size is remembered only when the whole batch that was too big is done. If a
        single row of it runs out of memory, the size was not at fault, and the row's
        own error goes out: it must not leave the night at one row a batch.
        """
        asked = size = stop - start
        while start < stop:
            end = min(start + size, stop)
            columns = self._try(features[:, start:end])
            # Tried again out here: a caught error's traceback holds the tensors of
            # the batch that did not fit.
            if columns is None:
                size = (end - start) // 2
                self._free_cache()
                continue
            for name, column in columns.items():
                outputs[name][start:end] = column
            start = end
        if size < asked:
            self._remember(asked, size)

    def _try(self, features: np.ndarray) -> dict[str, np.ndarray] | None:
        """The outputs of a batch, or None if it needs more memory than there is."""
        try:
            return self.forward(features)
        except (MemoryError, RuntimeError) as error:
            if features.shape[1] == 1 or not out_of_memory(error):
                raise
            return None

    def _free_cache(self) -> None:
        if self.device.kind == "cuda":
            torch.cuda.empty_cache()

    def _remember(self, asked: int, size: int) -> None:
        # Several threads run out of memory at once; the smallest size is the last word.
        with self._shrinking:
            if size >= self.batch_rows:
                return
            self.batch_rows = size
        log.warning(
            "%s %s ran out of memory at %d rows a batch on %s; batches have at most %d "
            "rows from now on",
            self.release.name,
            self.release.short,
            asked,
            self.device.name,
            size,
        )

    def forward(self, features: np.ndarray) -> dict[str, np.ndarray]:
        """Score rows at once, as `score` does a batch; it fails if memory runs out."""
        with torch.inference_mode(), self._autocast():
            if self.device.kind == "cpu":
                # The transposed view costs nothing; the matrix product takes it.
                result = self._module(torch.from_numpy(features).T)
                columns = columns_of(result, self.release.contract, features.shape[1])
                return {name: column.numpy() for name, column in columns.items()}
            return self._forward_cuda(features)

    def _forward_cuda(self, features: np.ndarray) -> dict[str, np.ndarray]:
        lane, stream = self._lane, self._stream()
        begin, sent, scored, back = (
            torch.cuda.Event(enable_timing=True) for _ in range(4)
        )
        with torch.cuda.stream(stream):
            packing = time.perf_counter()
            pinned = self._pinned(features.shape)
            pinned.numpy()[...] = features
            lane.copy_seconds += time.perf_counter() - packing
            begin.record()
            on_device = pinned.to(self.device.torch, non_blocking=True)
            sent.record()
            columns = columns_of(
                self._module(on_device.T), self.release.contract, features.shape[1]
            )
            scored.record()
            on_host = {n: c.to("cpu", non_blocking=True) for n, c in columns.items()}
            back.record()
            # The copies back are asynchronous, and the buffer is used again.
            stream.synchronize()
        # An event tells milliseconds.
        lane.copy_seconds += (
            begin.elapsed_time(sent) + scored.elapsed_time(back)
        ) / 1e3
        return {name: column.numpy() for name, column in on_host.items()}

    def _stream(self) -> torch.cuda.Stream:
        if self._lane.stream is None:
            self._lane.stream = torch.cuda.Stream(self.device.torch)
        return self._lane.stream

    def _pinned(self, shape: tuple[int, ...]) -> torch.Tensor:
        size, lane = shape[0] * shape[1], self._lane
        if lane.pinned is None or lane.pinned.numel() < size:
            lane.pinned = torch.empty(size, dtype=torch.float32, pin_memory=True)
        return lane.pinned[:size].view(shape)

    def _autocast(self) -> torch.autocast | nullcontext:
        if self.device.precision == "float32":
            return nullcontext()
        return torch.autocast(self.device.kind, PRECISIONS[self.device.precision])

    def _replay_golden_batch(self) -> None:
        inputs, expected = golden_batch(self.release)
        found = self.forward(np.ascontiguousarray(inputs.numpy().T))
        tolerance = self.tolerance
        for name, column in expected.items():
            want = column.numpy()
            close = np.isclose(
                found[name], want, rtol=tolerance, atol=tolerance, equal_nan=True
            )
            if not close.all():
                gap = float(np.abs(found[name][~close] - want[~close]).max())
                msg = (
                    f"release {self.release.name} {self.release.short} does not "
                    f"reproduce its golden batch on {self.device.name} in "
                    f"{self.device.precision}: output '{name}' is off by up to "
                    f"{gap:.3g} in {int((~close).sum())} of {len(want)} rows, expected "
                    f"at most {tolerance:.3g}. Nothing was scored."
                )
                raise GoldenBatchError(msg)


def out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out, on the device or on the host."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(
        text in str(error) for text in OUT_OF_MEMORY
    )
