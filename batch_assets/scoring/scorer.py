"""A release on a device: features in, outputs out. It knows no file and no chunk."""

import ctypes
import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from weakref import WeakSet

import numpy as np
import torch

from batch_assets.errors import ConfigError, GoldenBatchError
from batch_assets.models.answers import Question, answers, question_of
from batch_assets.models.contract import FEATURES
from batch_assets.models.formats import golden_batch, load_module
from batch_assets.models.input_rows import InputRows, longest_allowed, longest_of
from batch_assets.models.likeness import unlike
from batch_assets.models.release import Release
from batch_assets.models.tokenizing import Tokenizing, tokenised
from batch_assets.scoring.compiled import compiled_module
from batch_assets.scoring.cuda import CudaStream, fill
from batch_assets.scoring.device import Device
from batch_assets.scoring.device_errors import out_of_memory
from batch_assets.scoring.precision import casting, set_float32_products
from batch_assets.scoring.usage import Usage

# Positions of sequences in a batch where nobody said how many rows it has. On a CPU they
# should stay in the caches: a transformer of width 64 took 191, 235 and 293 us a row in
# batches of 4,096, 8,192 and 16,384 on a core of a Xeon.
AUTO_TOKENS = {"cpu": 1 << 12, "cuda": 1 << 18}
# Short rows are asked together, but not in any number: what the model gives of a row, such
# as a score for each item, does not get shorter with it.
MOST_ROWS_OF_BATCH = 4

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


class _Own(threading.local):
    """What a thread has on a CUDA device."""

    cuda_stream: CudaStream | None = None


class Abandoned(BaseException):
    """The run is over. Not an Exception: it is no fault of the rows."""


class Scorer:
    """Loads a release once, proves it on its golden batch, then scores batches.

    It may be shared by threads: each has its own cuda_stream on CUDA. `batch_rows` is how many
    rows the model gets at once: as many as the device was found with, or fewer once its
    memory ran out. Where the device pads, the model never sees fewer. `usage` is of a
    CUDA device.
    """

    def __init__(self, release: Release, device: Device) -> None:
        """Load the model.

        Args:
            release: opened by the registry, so its bytes are verified.
            device: where to run.

        Raises:
            GoldenBatchError: the outputs of the golden batch are not those recorded.
            ConfigError: there is nothing to compile it with, or it does not compute in
                that precision.
            ReleaseError: it can't be loaded, or not be compiled.
        """
        self.release = release
        self._tokenizing = Tokenizing.of(release)
        self.device = device
        self.usage = Usage(device.torch) if device.kind == "cuda" else None
        _must_compute_in(device, release)
        if device.kind == "cuda":
            set_float32_products("tf32" if device.precision == "tf32" else "ieee")
        self._module: Callable[..., Any] = (
            compiled_module(release, device, device.compiled)
            if device.compiled
            else load_module(release, device.torch)
        )
        if device.kind == "cuda":
            # What loading began on its stream is there before another stream reads it.
            torch.cuda.synchronize(device.torch)
        self.batch_rows = device.batch_rows
        # Of the longest sequences: a batch is bounded by what all of them have together.
        self._longest = longest_allowed(release.contract)
        if self._longest and device.batch_rows_from == "default":
            self.batch_rows = max(AUTO_TOKENS[device.kind] // self._longest, 1)
        self._shrinking = threading.Lock()
        self._abandoned, self._lost = threading.Event(), threading.Event()
        self._own = _Own()
        self._streams: WeakSet[CudaStream] = WeakSet()
        self._replay_golden_batch()
        if self.usage:
            self.usage.forget_time()
            # Whoever loads need not be one who scores: its buffers are let go.
            self._own = _Own()

    @property
    def tolerance(self) -> float:
        """How far an output may be off what the release once said, on this device."""
        golden = self.release.manifest.golden
        return golden.within(self.device.kind, self.device.precision)

    def score(
        self, rows: np.ndarray | InputRows
    ) -> tuple[dict[str, np.ndarray], Spent]:
        """Score rows, a batch at a time; in smaller batches where memory runs out.

        Texts are tokenised here. Rows with sequences or texts are asked by their length, so
        that little of a batch is padding.

        Args:
            rows: or of features alone the matrix, float32 (features, rows), row-major:
                one run of memory per column.

        Returns:
            Each column of the outputs, (rows,) or (rows, width), in the order of the
            rows, and where the seconds went.

        Raises:
            Abandoned: the run is over.
        """
        source, order, lengths = self._in_order(self.tokenised(InputRows.of(rows)))
        outputs = {
            column.name: column.empty(len(source))
            for column in self.release.contract.output_columns
        }
        seconds = 0.0
        cuda_stream = self._cuda_stream()
        if cuda_stream:
            cuda_stream.copy_seconds = 0.0
            if not source.columns:
                source = cuda_stream.sent(source)
        start = 0
        with self._computing():
            while start < len(source):
                if self.abandoned:
                    raise Abandoned
                stop = self._stop(start, len(source), lengths)
                begin = time.perf_counter()
                self._fill(outputs, source, start, stop)
                seconds += time.perf_counter() - begin
                start = stop
        if order is not None:
            back = np.argsort(order)
            outputs = {name: values[back] for name, values in outputs.items()}
        return outputs, Spent(seconds, cuda_stream.copy_seconds if cuda_stream else 0.0)

    def tokenised(self, rows: InputRows) -> InputRows:
        """Return rows with their texts as the ids of tokens, if they have any."""
        return tokenised(rows, self._tokenizing)

    def _in_order(
        self, rows: InputRows
    ) -> tuple[InputRows, np.ndarray | None, np.ndarray | None]:
        """The rows as they are asked, which they are, and their lengths; None if as given."""
        lengths = longest_of(rows, self.release.contract)
        if lengths is None:
            return rows, None, None
        order = np.argsort(lengths, kind="stable")
        return rows.take(order), order, lengths[order]

    def _stop(self, start: int, rows: int, lengths: np.ndarray | None) -> int:
        """Where the batch that begins at a row ends."""
        if lengths is None or not self._longest:
            return min(start + self.batch_rows, rows)
        some = lengths[start : start + MOST_ROWS_OF_BATCH * self.batch_rows]
        # All are as long as the last, once they are padded.
        tokens = np.maximum(some, 1) * np.arange(1, len(some) + 1)
        most = np.searchsorted(tokens, self.batch_rows * self._longest, side="right")
        return start + max(int(most), 1)

    def abandon(self) -> None:
        """Let every thread give up at its next batch: the run is over."""
        self._abandoned.set()

    @property
    def abandoned(self) -> bool:
        return self._abandoned.is_set()

    def lose_device(self) -> None:
        """Remember that this process can't use its device any more.

        The buffers of its streams stay for good: torch asks the device before it frees
        them, and ends the process when that fails.
        """
        self._lost.set()
        for stream in self._streams:
            ctypes.pythonapi.Py_IncRef(ctypes.py_object(stream))

    @property
    def lost_device(self) -> bool:
        return self._lost.is_set()

    def _fill(
        self,
        outputs: dict[str, np.ndarray],
        rows: InputRows,
        start: int,
        stop: int,
    ) -> None:
        """Score a batch; halve it until it fits, and remember the size that did.

        A size is remembered only when the whole batch that was too big is done. If a
        single row of it runs out of memory, the size was not at fault, and the row's
        own error goes out: it must not leave the night at one row a batch.
        """
        asked = size = self._bucket(stop - start, self.batch_rows)
        while start < stop:
            end = min(start + size, stop)
            columns = self._try(rows.slice(start, end), size)
            # Tried again out here: a caught error's traceback holds the tensors of
            # the batch that did not fit.
            if columns is None:
                size = self._bucket(end - start, size) // 2
                self._free_cache()
                continue
            for name, column in columns.items():
                outputs[name][start:end] = column
            start = end
        if size < asked:
            self._remember(asked, size)

    def _bucket(self, rows: int, size: int) -> int:
        """The rows that the model sees of a batch that has `rows` of `size`."""
        if self.release.contract.inputs:
            return rows
        return self.device.bucket(rows, size)

    def _try(self, rows: InputRows, size: int) -> dict[str, np.ndarray] | None:
        """The outputs of a batch, or None if it needs more memory than there is."""
        try:
            return self._forward(rows, size)
        except (MemoryError, RuntimeError) as error:
            smallest = self._bucket(len(rows), size) == 1
            if smallest or not out_of_memory(error):
                raise
            return None

    def _free_cache(self) -> None:
        if self.device.kind == "cuda":
            torch.cuda.empty_cache()

    def _remember(self, asked: int, size: int) -> None:
        # Several threads run out of memory at once; the smallest size is the last word.
        with self._shrinking:
            if self._longest:
                # So many of all that were asked: they were not of the longest.
                size = max(self.batch_rows * size // asked, 1)
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

    def forward(
        self, rows: np.ndarray | InputRows, size: int = 0
    ) -> dict[str, np.ndarray]:
        """Score rows at once, as `score` does a batch; it fails if memory runs out.

        Their texts are tokenised.
        Where there are fewer than `size`, the model sees the device's bucket of them.
        """
        with self._computing():
            return self._forward(InputRows.of(rows), size)

    def _forward(self, rows: InputRows, size: int) -> dict[str, np.ndarray]:
        count = len(rows)
        manifest = self.release.manifest
        cuda_stream = self._cuda_stream()
        if rows.columns:
            if cuda_stream:
                return cuda_stream.ask(
                    lambda: question_of(rows, manifest, self.device.torch),
                    self._answers,
                )
            columns = self._answers(question_of(rows, manifest))
            return {name: column.numpy() for name, column in columns.items()}
        features = rows.features
        bucket = max(self._bucket(count, size), count)
        if cuda_stream:
            return cuda_stream.run(features, bucket, self._columns)
        if isinstance(features, torch.Tensor):
            msg = "rows were sent to a device that is not there"
            raise TypeError(msg)
        if count < bucket:
            room = np.empty((len(features), bucket), np.float32)
            fill(room, features)
            features = room
        # The transposed view costs nothing; the matrix product takes it.
        columns = self._columns(torch.from_numpy(features).T)
        return {name: column.numpy()[:count] for name, column in columns.items()}

    def _columns(self, features: torch.Tensor) -> dict[str, torch.Tensor]:
        rows = len(features)
        return self._answers(Question(rows, rows, {FEATURES: features}, {}))

    def _answers(self, question: Question) -> dict[str, torch.Tensor]:
        return answers(self._module, question, self.release.manifest)

    def _cuda_stream(self) -> CudaStream | None:
        """The stream of the thread that asks, with its buffers; a CPU has none."""
        if self.usage and self._own.cuda_stream is None:
            self._own.cuda_stream = CudaStream(
                self.device.torch, self.release.contract.output_columns, self.usage
            )
            self._streams.add(self._own.cuda_stream)
        return self._own.cuda_stream

    @contextmanager
    def _computing(self) -> Iterator[None]:
        """What the model runs in. Entered once for many batches: it takes microseconds."""
        with torch.inference_mode(), casting(self.device):
            yield

    def _replay_golden_batch(self) -> None:
        rows, recorded = golden_batch(self.release)
        # As any other rows: in the batches, and padded to the buckets, of the night.
        outputs, _ = self.score(rows)
        expected = {name: column.numpy() for name, column in recorded.items()}
        contract, tolerance = self.release.contract, self.tolerance
        for name, rows_unlike in unlike(outputs, expected, contract, tolerance):
            if rows_unlike.any():
                gap = float(np.abs(outputs[name] - expected[name])[rows_unlike].max())
                msg = (
                    f"release {self.release.name} {self.release.short} does not "
                    f"reproduce its golden batch on {self.device.name} in "
                    f"{self.device.computes_in}: output '{name}' is off by up to "
                    f"{gap:.3g} in {int(rows_unlike.sum())} of {len(rows)} rows, expected "
                    f"at most {tolerance:.3g}. Nothing was scored.{self._way_out()}"
                )
                raise GoldenBatchError(msg)

    def _way_out(self) -> str:
        """What to do if the golden batch is not reproduced in another way than usual."""
        if self.device.computes_in == "float32":
            return ""
        where = f"{self.device.kind} {self.device.precision}"
        return (
            f" Score it in float32 and with compile false; or, if so much is no loss, "
            f"write the release with a tolerance for '{where}'."
        )


def _must_compute_in(device: Device, release: Release) -> None:
    """Refuse a precision that is torch's alone."""
    spec = release.manifest.model
    if spec.versions and device.precision != "float32":
        msg = (
            f"release {release.name} {release.short} is stored as {spec.format}, which "
            f"computes in its own precision, and '{device.precision}' was asked for. "
            "Nothing was scored. Set precision to 'float32'."
        )
        raise ConfigError(msg)
