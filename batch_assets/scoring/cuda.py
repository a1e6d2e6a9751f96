"""A worker's own stream on a CUDA device, with buffers that are allocated once.

It takes a batch to the device, through a model, and back. It belongs to one thread
and knows neither release nor chunk.
"""

import time
from collections.abc import Callable, Mapping

import numpy as np
import torch

from batch_assets.scoring.usage import Usage

# From (rows, features) on the device to each output as (rows,), by its name.
Model = Callable[[torch.Tensor], Mapping[str, torch.Tensor]]


def fill(room: np.ndarray, features: np.ndarray) -> None:
    """Put rows (features, rows) into a bucket; the last one fills what is left.

    A row that is there gives the model nothing that it was not asked for anyway. Zeros
    would break the contract, and a model may raise on them: on CUDA, an index out of
    its range takes the whole process's context with it.
    """
    rows = features.shape[1]
    room[:, :rows] = features
    room[:, rows:] = features[:, -1:]


class CudaStream:
    """One thread's stream on a device, with the buffers of its last size of batch.

    Nothing is allocated for a batch but what the model itself allocates.
    """

    def __init__(
        self, device: torch.device, outputs: Mapping[str, torch.dtype], usage: Usage
    ) -> None:
        """Open a stream.

        Args:
            device: a CUDA device.
            outputs: the type of each output.
            usage: where the seconds of the device are counted.
        """
        self.stream = torch.cuda.Stream(device)
        # Spent on copies, packing included, since it was last set to zero.
        self.copy_seconds = 0.0
        self._device, self._outputs, self._usage = device, outputs, usage
        self._buffers: _Buffers | None = None
        self._begun, self._sent, self._scored, self._back = (
            torch.cuda.Event(enable_timing=True) for _ in range(4)
        )

    def run(
        self, features: np.ndarray, bucket: int, model: Model
    ) -> dict[str, np.ndarray]:
        """Score rows, padded to a bucket.

        Args:
            features: float32 (features, rows).
            bucket: how many rows the model sees; no less than there are.
            model: what gives the outputs; it is called with the stream current.
        """
        rows = features.shape[1]
        with torch.cuda.stream(self.stream):
            # A batch that failed half-way may still be on its way out of these buffers.
            self.stream.synchronize()
            begin = time.perf_counter()
            buffers = self._buffers_for(features.shape[0], bucket)
            fill(buffers.sent.numpy(), features)
            self.copy_seconds += time.perf_counter() - begin
            self._begun.record()
            buffers.on_device.copy_(buffers.sent, non_blocking=True)
            self._sent.record()
            columns = model(buffers.on_device.T)
            self._scored.record()
            for name, column in columns.items():
                buffers.back[name][:rows].copy_(column[:rows], non_blocking=True)
            self._back.record()
            # The copies back are asynchronous.
            self.stream.synchronize()
        # An event tells milliseconds.
        self.copy_seconds += (
            self._begun.elapsed_time(self._sent) + self._scored.elapsed_time(self._back)
        ) / 1e3
        self._usage.computed(self._sent, self._scored)
        # Copied: the next batch writes over them.
        return {name: buffers.back[name][:rows].numpy().copy() for name in columns}

    def _buffers_for(self, features: int, bucket: int) -> "_Buffers":
        if self._buffers is None or self._buffers.sent.shape != (features, bucket):
            # Let go first: after memory ran out there may not be room for both.
            self._buffers = None
            self._buffers = _Buffers(features, bucket, self._outputs, self._device)
        return self._buffers


class _Buffers:
    """What a batch of one size needs: pinned, on the device, and pinned again.

    Made with the stream current, to which torch's allocator ties the memory on
    the device: what another batch gets of it is ordered after this one.
    """

    def __init__(
        self,
        features: int,
        rows: int,
        outputs: Mapping[str, torch.dtype],
        device: torch.device,
    ) -> None:
        shape = (features, rows)
        self.sent = torch.empty(shape, dtype=torch.float32, pin_memory=True)
        self.on_device = torch.empty(shape, dtype=torch.float32, device=device)
        self.back = {
            name: torch.empty(rows, dtype=dtype, pin_memory=True)
            for name, dtype in outputs.items()
        }
