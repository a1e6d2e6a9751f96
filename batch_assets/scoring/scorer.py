"""A release on a device: features in, outputs out. It knows no file and no chunk."""

import threading
import time
from contextlib import nullcontext

import numpy as np
import torch

from batch_assets.errors import GoldenBatchError
from batch_assets.models.contract import OUTPUT_TYPES
from batch_assets.models.formats import columns_of, golden_batch, load_module
from batch_assets.models.release import Release
from batch_assets.scoring.device import PRECISIONS, Device


class Scorer:
    """Loads a release once, proves it on its golden batch, then scores batches.

    It may be shared by threads: each has its own stream and pinned buffer on CUDA.
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
        self._own = threading.local()
        self._replay_golden_batch()

    def score(self, features: np.ndarray) -> tuple[dict[str, np.ndarray], float]:
        """Score rows, a batch at a time.

        Args:
            features: float32 (features, rows), row-major: one run of memory per column.

        Returns:
            Each output as (rows,), and the seconds that the model took.
        """
        rows = features.shape[1]
        contract = self.release.contract
        outputs = {
            o.name: np.empty(rows, OUTPUT_TYPES[o.dtype].to_pandas_dtype())
            for o in contract.outputs
        }
        seconds = 0.0
        for start in range(0, rows, self.device.batch_rows):
            stop = min(start + self.device.batch_rows, rows)
            begin = time.perf_counter()
            columns = self._forward(features[:, start:stop])
            seconds += time.perf_counter() - begin
            for name, column in columns.items():
                outputs[name][start:stop] = column
        return outputs, seconds

    def _forward(self, features: np.ndarray) -> dict[str, np.ndarray]:
        with torch.inference_mode(), self._autocast():
            if self.device.kind == "cpu":
                # The transposed view costs nothing; the matrix product takes it.
                result = self._module(torch.from_numpy(features).T)
                columns = columns_of(result, self.release.contract, features.shape[1])
                return {name: column.numpy() for name, column in columns.items()}
            return self._forward_cuda(features)

    def _forward_cuda(self, features: np.ndarray) -> dict[str, np.ndarray]:
        stream = self._stream()
        with torch.cuda.stream(stream):
            pinned = self._pinned(features.shape)
            pinned.numpy()[...] = features
            on_device = pinned.to(self.device.torch, non_blocking=True)
            columns = columns_of(
                self._module(on_device.T), self.release.contract, features.shape[1]
            )
            on_host = {n: c.to("cpu", non_blocking=True) for n, c in columns.items()}
            # The copies back are asynchronous, and the buffer is used again.
            stream.synchronize()
        return {name: column.numpy() for name, column in on_host.items()}

    def _stream(self) -> torch.cuda.Stream:
        if not hasattr(self._own, "stream"):
            self._own.stream = torch.cuda.Stream(self.device.torch)
        return self._own.stream

    def _pinned(self, shape: tuple[int, ...]) -> torch.Tensor:
        size = shape[0] * max(shape[1], self.device.batch_rows)
        buffer = getattr(self._own, "buffer", None)
        if buffer is None or buffer.numel() < size:
            buffer = torch.empty(size, dtype=torch.float32, pin_memory=True)
            self._own.buffer = buffer
        return buffer[: shape[0] * shape[1]].view(shape)

    def _autocast(self) -> torch.autocast | nullcontext:
        if self.device.precision == "float32":
            return nullcontext()
        return torch.autocast(self.device.kind, PRECISIONS[self.device.precision])

    def _replay_golden_batch(self) -> None:
        inputs, expected = golden_batch(self.release)
        found = self._forward(np.ascontiguousarray(inputs.numpy().T))
        tolerance = self.release.manifest.golden.tolerance.get(self.device.kind, 0.0)
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
