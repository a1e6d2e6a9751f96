"""A worker's own stream on a CUDA device, with buffers that are allocated once.

It takes a batch to the device, through a model, and back. It belongs to one thread
and knows neither release nor chunk.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import TypeVar

import numpy as np
import torch

from batch_assets.models.answers import Question
from batch_assets.models.input_rows import InputRows
from batch_assets.models.output_specs import OutputColumn
from batch_assets.models.outputs import OUTPUT_TYPES
from batch_assets.scoring.usage import Usage

# From (rows, features) on the device to each output as (rows,), by its name.
Model = Callable[[torch.Tensor], Mapping[str, torch.Tensor]]


Matrix = TypeVar("Matrix", np.ndarray, torch.Tensor)


def fill(room: Matrix, features: Matrix) -> None:
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
        self, device: torch.device, outputs: Sequence[OutputColumn], usage: Usage
    ) -> None:
        """Open a stream.

        Args:
            device: a CUDA device.
            outputs: the columns of the outputs.
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

    def sent(self, rows: InputRows) -> InputRows:
        """Return the rows on the device, if they can be sent there in one piece."""
        features = rows.features
        if isinstance(features, np.ndarray):
            there = self.send(features)
            return rows if there is None else InputRows(there)
        return rows

    def ask(
        self,
        asked: Callable[[], Question],
        model: Callable[[Question], Mapping[str, torch.Tensor]],
    ) -> dict[str, np.ndarray]:
        """Score rows of several tensors.

        Args:
            asked: what puts them on the device; it is called with the stream current.
            model: what gives the outputs, likewise.
        """
        with torch.cuda.stream(self.stream):
            self._begun.record()
            question = asked()
            self._sent.record()
            columns = model(question)
            self._scored.record()
            back = {name: column.cpu().numpy() for name, column in columns.items()}
            self._back.record()
            self.stream.synchronize()
        self._count()
        return back

    def send(self, features: np.ndarray) -> torch.Tensor | None:
        """Copy all rows of a chunk to the device in one piece.

        The device fetches them by itself if they lie in pinned memory. What lies between
        the columns goes with them: to leave it out would be a copy for each column.

        Args:
            features: float32 (features, rows), each column one run of memory.

        Returns:
            The same on the device; None if they lie elsewhere, or the device has no
            room for them.
        """
        begin = time.perf_counter()
        host = torch.from_numpy(features)
        if not host.numel() or not host.is_pinned():
            return None
        (columns, rows), apart = host.shape, host.stride(0)
        flat = host.as_strided(((columns - 1) * apart + rows,), (1,))
        try:
            # It waits for the copy, so that torch does not: else it would ask the device
            # once the rows are let go, and end the process where the device is lost.
            with torch.cuda.stream(self.stream):
                sent = flat.to(self._device)
        except torch.OutOfMemoryError:
            return None
        self.copy_seconds += time.perf_counter() - begin
        return sent.as_strided((columns, rows), (apart, 1))

    def run(
        self, features: np.ndarray | torch.Tensor, bucket: int, model: Model
    ) -> dict[str, np.ndarray]:
        """Score rows, padded to a bucket.

        Args:
            features: float32 (features, rows), on the host or as they were sent.
            bucket: how many rows the model sees; no less than there are.
            model: what gives the outputs; it is called with the stream current.
        """
        rows = features.shape[1]
        with torch.cuda.stream(self.stream):
            # A batch that failed half-way may still be on its way out of these buffers.
            self.stream.synchronize()
            begin = time.perf_counter()
            buffers = self._buffers_for(features.shape[0], bucket)
            if isinstance(features, np.ndarray):
                fill(buffers.sent.numpy(), features)
                self.copy_seconds += time.perf_counter() - begin
                self._begun.record()
                buffers.on_device.copy_(buffers.sent, non_blocking=True)
            else:
                self._begun.record()
                fill(buffers.on_device, features)
            self._sent.record()
            columns = model(buffers.on_device.T)
            self._scored.record()
            for name, column in columns.items():
                buffers.back[name][:rows].copy_(column[:rows], non_blocking=True)
            self._back.record()
            # The copies back are asynchronous.
            self.stream.synchronize()
        self._count()
        # Copied: the next batch writes over them.
        return {name: buffers.back[name][:rows].numpy().copy() for name in columns}

    def _count(self) -> None:
        # An event tells milliseconds.
        self.copy_seconds += (
            self._begun.elapsed_time(self._sent) + self._scored.elapsed_time(self._back)
        ) / 1e3
        self._usage.computed(self._sent, self._scored)

    def _buffers_for(self, features: int, bucket: int) -> "_Buffers":
        if self._buffers is None or self._buffers.on_device.shape != (features, bucket):
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
        outputs: Sequence[OutputColumn],
        device: torch.device,
    ) -> None:
        self._shape = (features, rows)
        self.on_device = torch.empty(self._shape, dtype=torch.float32, device=device)
        self.back = {
            column.name: torch.empty(
                rows if column.width is None else (rows, column.width),
                dtype=OUTPUT_TYPES[column.dtype],
                pin_memory=True,
            )
            for column in outputs
        }

    @cached_property
    def sent(self) -> torch.Tensor:
        """What rows go to the device from that do not lie in pinned memory themselves."""
        return torch.empty(self._shape, dtype=torch.float32, pin_memory=True)
