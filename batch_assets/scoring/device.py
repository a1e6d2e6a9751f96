"""Which device scores, and how: a setting becomes a device that is there, or an error.

It knows no model and no row. torch is imported where a device is looked for: what only
names one, as a project's definitions do, does not wait for it.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self, get_args

from batch_assets.errors import ConfigError, DeviceError

if TYPE_CHECKING:
    import torch

Precision = Literal["float32", "tf32", "bfloat16", "float16"]
PRECISIONS: tuple[str, ...] = get_args(Precision)
# The compute capability from which on CUDA devices have TF32: Ampere.
TF32_CAPABILITY = (8, 0)
# What a CPU computes a precision with, as torch.cpu.get_capabilities() calls it: one of
# these is enough, on x86 and on ARM. Without any, torch converts forth and back.
CPU_INSTRUCTIONS = {
    "bfloat16": ("avx512_bf16", "amx_bf16", "bf16", "sve_bf16"),
    "float16": ("avx512_fp16", "amx_fp16", "fp16_arith"),
}
# Rows of a batch where none is set. On a CPU a batch should stay in the caches: an MLP
# 64-256-256-3 ran 1.07 M rows/s at 4,096 rows and 0.53 M at 65,536 on two EPYC cores.
AUTO_BATCH_ROWS = {"cpu": 4_096, "cuda": 65_536}


@dataclass(frozen=True)
class Device:
    """A device that is there, and how it is used.

    `memory` is in bytes. `batch_rows_from` says who chose the rows of a batch: a person,
    a sweep, or nobody. Where batches are `padded`, the model sees `batch_rows` rows each
    time. `compiled` is where compiled code is kept; without it, nothing is compiled.
    """

    kind: Literal["cpu", "cuda"]
    index: int
    name: str
    memory: int
    precision: Precision
    batch_rows: int
    batch_rows_from: Literal["default", "sweep", "set"] = "default"
    padded: bool = False
    compiled: Path | None = None

    @property
    def computes_in(self) -> str:
        """The settings that change an output: the precision, and whether compiled."""
        return self.precision + (" compiled" if self.compiled else "")

    @property
    def arithmetic(self) -> str:
        """What else than the release decides the last bits of an output."""
        return f"{self.kind} {self.computes_in}"

    @property
    def label(self) -> str:
        """What all devices of its make are called."""
        return f"{self.kind} {self.name}"

    @property
    def torch(self) -> "torch.device":
        import torch

        if self.kind == "cpu":
            return torch.device("cpu")
        return torch.device("cuda", self.index)

    def bucket(self, rows: int, size: int) -> int:
        """Return the rows that the model sees of a batch that has `rows` of `size`."""
        if self.padded:
            return size
        if self.compiled:
            return min(size, _rounded(rows))
        return rows

    def for_chunks(self, rows: int) -> Self:
        """For chunks of so many rows: no batch is padded to more than a chunk has."""
        if not self.padded:
            return self
        return replace(self, batch_rows=min(self.batch_rows, rows))


def _rounded(rows: int) -> int:
    """Rows, rounded up to one of four numbers for each doubling.

    oneDNN keeps what it made for each number of rows that it has met, in each thread: 2 ms
    and 1.4 MB of an MLP 64-256-256-3, and each chunk's last batch has another number.
    """
    step = max((1 << (rows - 1).bit_length()) >> 3, 1)
    return -(-rows // step) * step


def find_device(
    device: str = "auto",
    precision: str = "float32",
    batch_rows: str = "auto",
    compiled: Path | None = None,
) -> Device:
    """Turn settings into a device.

    Args:
        device: `auto` (CUDA if there is any), `cpu`, `cuda`, or `cuda:N`.
        precision: `float32`, `tf32` (CUDA alone), `bfloat16` or `float16`.
        batch_rows: `auto`, or how many rows the model gets at once.
        compiled: where compiled code is kept, if the model is to be compiled.

    Raises:
        DeviceError: the device is not there, or can't compute in that precision.
        ConfigError: a setting is not one of these.
    """
    import torch

    kind, index = _kind(device)
    asked = asked_for(kind, precision, batch_rows, compiled)
    if kind == "cuda":
        properties = torch.cuda.get_device_properties(index)
        name, memory = properties.name, properties.total_memory
        must_have_tf32(precision, name, (properties.major, properties.minor))
    else:
        name = _cpu_name()
        must_have_tf32(precision, name, None)
        must_compute(precision, name, torch.cpu.get_capabilities())
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return replace(asked, index=index, name=name, memory=memory)


def asked_for(
    kind: Literal["cpu", "cuda"],
    precision: str,
    batch_rows: str,
    compiled: Path | None,
) -> Device:
    """Return a device as far as settings tell, on a machine that nobody has asked yet.

    Raises:
        ConfigError: a setting is not one of those of `find_device`.
    """
    if precision not in PRECISIONS:
        msg = f"precision is one of {', '.join(PRECISIONS)}, got '{precision}'"
        raise ConfigError(msg)
    if batch_rows != "auto" and not (batch_rows.isdecimal() and int(batch_rows)):
        msg = f"batch_rows is 'auto' or a number above 0, got '{batch_rows}'"
        raise ConfigError(msg)
    rows = AUTO_BATCH_ROWS[kind] if batch_rows == "auto" else int(batch_rows)
    return Device(
        kind,
        0,
        "no worker was asked",
        0,
        precision,  # type: ignore[arg-type]
        rows,
        "default" if batch_rows == "auto" else "set",
        # A CPU has nothing to win by rows that nobody asked for.
        padded=kind == "cuda",
        compiled=compiled,
    )


def must_have_tf32(
    precision: str, name: str, capability: tuple[int, int] | None
) -> None:
    """Refuse TF32 where torch would compute in float32 without a word.

    Args:
        precision: one of `PRECISIONS`.
        name: of the device.
        capability: of a CUDA device; None of a CPU.

    Raises:
        DeviceError: the device has none.
    """
    if precision == "tf32" and (capability or (0, 0)) < TF32_CAPABILITY:
        what = (
            f"of capability {capability[0]}.{capability[1]}" if capability else "a CPU"
        )
        msg = (
            f"precision 'tf32' was asked for, but {name} is {what}: TF32 is of CUDA "
            "devices from capability 8.0 (Ampere) on. Nothing was scored. Set precision "
            "to 'float32', or run on such a device."
        )
        raise DeviceError(msg)


def must_compute(precision: str, name: str, capabilities: Mapping[str, Any]) -> None:
    """Refuse a precision that a CPU has no instructions for.

    Args:
        precision: one of `PRECISIONS`.
        name: of the CPU.
        capabilities: of the CPU, as `torch.cpu.get_capabilities()` has them.

    Raises:
        DeviceError: it has none of them.
    """
    needed = CPU_INSTRUCTIONS.get(precision, ())
    if needed and not any(capabilities.get(flag) for flag in needed):
        msg = (
            f"precision '{precision}' was asked for, but this CPU ({name}) has no "
            f"instructions for it: one of {', '.join(needed)} was expected, none was "
            "found. It would be slower than float32, and less exact. Nothing was "
            "scored. Set precision to 'float32', or run on a CPU that has them."
        )
        raise DeviceError(msg)


def _kind(device: str) -> tuple[Literal["cpu", "cuda"], int]:
    import torch

    devices = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if device == "cpu" or (device == "auto" and not devices):
        return "cpu", 0
    if device in ("auto", "cuda"):
        index = 0
    elif device.startswith("cuda:") and device[5:].isdecimal():
        index = int(device[5:])
    else:
        msg = f"device is 'auto', 'cpu', 'cuda' or 'cuda:N', got '{device}'"
        raise ConfigError(msg)
    if index >= devices:
        msg = (
            f"device '{device}' was asked for, but torch {torch.__version__} sees "
            f"{devices} CUDA devices here. Nothing was scored. Set device to 'cpu' or "
            "'auto', or run where the device is."
        )
        raise DeviceError(msg)
    return "cuda", index


def _cpu_name() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            for line in file:
                if line.startswith("model name"):
                    return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return "CPU"
