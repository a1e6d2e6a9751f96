"""How much of a CUDA device a run used: its memory, and the time in which it computed.

It knows no row, and nothing of what other processes do on the device.
"""

import threading
from array import array

import numpy as np
import torch

MEBI = 1 << 20


class Usage:
    """What the streams of one scorer used, from when it was made.

    The device computes while any stream is between the two events around its model:
    the union over the streams, which their sum is not when they overlap. Gaps in which
    a stream waits for the host to launch a kernel count as computing.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._lock = threading.Lock()
        # 16 bytes a batch; millions of them are small beside a chunk.
        self._begins, self._ends = array("d"), array("d")
        # All times are counted from here: one clock for all streams. It tells float32
        # milliseconds, in steps of one after four hours, up or down alike.
        self._origin = torch.cuda.Event(enable_timing=True)
        self._origin.record(torch.cuda.current_stream(device))
        self._origin.synchronize()
        torch.cuda.reset_peak_memory_stats(device)

    def computed(self, begin: torch.cuda.Event, end: torch.cuda.Event) -> None:
        """Count a batch that is done, by the events around the model."""
        span = self._origin.elapsed_time(begin), self._origin.elapsed_time(end)
        with self._lock:
            self._begins.append(span[0])
            self._ends.append(span[1])

    def forget_time(self) -> None:
        """Count the time anew; the memory goes on."""
        with self._lock:
            self._begins, self._ends = array("d"), array("d")

    @property
    def busy_seconds(self) -> float:
        """For how long the device computed."""
        with self._lock:
            begins, ends = np.array(self._begins), np.array(self._ends)
        return covered(begins, ends) / 1e3

    @property
    def peak_allocated_mib(self) -> float:
        """The most memory that tensors took at once."""
        return torch.cuda.max_memory_allocated(self._device) / MEBI

    @property
    def peak_reserved_mib(self) -> float:
        """The most memory that torch held at once, with what it kept for later."""
        return torch.cuda.max_memory_reserved(self._device) / MEBI


def covered(begins: np.ndarray, ends: np.ndarray) -> float:
    """Return how much of a line intervals cover, where they overlap but once."""
    if not len(begins):
        return 0.0
    order = np.argsort(begins)
    begins, ends = begins[order], ends[order]
    # How far all intervals before this one reach.
    reached = np.concatenate(([begins[0]], np.maximum.accumulate(ends)[:-1]))
    return float(np.maximum(ends - np.maximum(begins, reached), 0).sum())
