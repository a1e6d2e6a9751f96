"""Compiled code that is run without the interpreter's lock.

torch's own loader of AOTInductor packages holds the lock while the code runs
(https://github.com/pytorch/pytorch/issues/197516): two workers would take turns, and
no time limit would ever be looked at. The code itself has
a C interface (`torch/csrc/inductor/aoti_runtime/interface.h`), which is called here
through ctypes; ctypes lets go of the lock. This knows no release and trusts the file.
"""

import ctypes
import os
import tempfile
import weakref
import zipfile
from contextlib import nullcontext
from pathlib import Path
from typing import BinaryIO

import torch

from batch_assets.errors import ConfigError, ReleaseError

# Of the rows that code is compiled for. A single row is a special case to torch: it is
# given as two. The most is more than a chunk has, and lets 32 bits count most tensors.
LEAST_ROWS, MOST_ROWS = 2, 1 << 20
# So many threads can be in the code at once; another one waits for its turn.
AT_ONCE = max(8, os.cpu_count() or 1)
# Says why a call into torch failed, in the thread that made it.
FAILED_IN_TORCH = "API call failed"
# What is called here is private to torch: of another version it may be another thing, and
# a call of it ends the process. Add one after the tests of compiled code have passed.
WRITTEN_FOR = ("2.13",)

_pointer_of = ctypes.pythonapi.PyCapsule_GetPointer
_pointer_of.argtypes = [ctypes.py_object, ctypes.c_char_p]
_pointer_of.restype = ctypes.c_void_p
_capsule_of = ctypes.pythonapi.PyCapsule_New
_capsule_of.argtypes = [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p]
_capsule_of.restype = ctypes.py_object
_Input = ctypes.c_void_p * 1


def must_be_written_for(version: str) -> None:
    """Refuse to call compiled code through another torch than this was written for.

    Args:
        version: of torch, such as `2.13.0+cpu`.

    Raises:
        ConfigError: it is another one.
    """
    if not version.startswith(tuple(f"{known}." for known in WRITTEN_FOR)):
        msg = (
            f"compile was asked for, and this is torch {version}: compiled code is "
            f"called through names that are private to torch {', '.join(WRITTEN_FOR)}, "
            "and with another one the process could crash. Nothing was scored. Install "
            "that torch, or set compile to false."
        )
        raise ConfigError(msg)


class NativeModule:
    """A package of AOTInductor: float32 (features, rows) in, columns out.

    It is called as the eager module is, with the transposed view (rows, features), by
    any number of threads.
    """

    def __init__(self, package: Path | BinaryIO, device: torch.device) -> None:
        """Unpack and load.

        Args:
            package: a `.pt2` of `aoti_compile_and_package`, or its bytes; they are trusted.
            device: the one that it was compiled for.

        Raises:
            ConfigError: torch is another than this was written for.
            ReleaseError: the code asks for more than its C interface has.
        """
        must_be_written_for(torch.__version__)
        self._folder = tempfile.TemporaryDirectory(prefix="batch-assets-compiled-")
        library = _unpack(package, Path(self._folder.name))
        self._library = ctypes.CDLL(str(library))
        self._device = device
        self._container = ctypes.c_void_p()
        # The weights go to the device that is current.
        with torch.cuda.device(device) if device.type == "cuda" else nullcontext():
            self._call(
                "AOTInductorModelContainerCreateWithDevice",
                ctypes.byref(self._container),
                ctypes.c_size_t(AT_ONCE),
                str(device).encode(),
                str(library.parent).encode(),
            )
        if device.type == "cpu":
            # It is in memory now, and a process that is killed leaves nothing behind.
            # On CUDA the kernels lie beside it, and each is read when first needed.
            self._folder.cleanup()
        weakref.finalize(
            self,
            self._library.AOTInductorModelContainerDelete,
            ctypes.c_void_p(self._container.value),
        ).atexit = False  # Then a thread may still be in it.
        columns = ctypes.c_size_t()
        self._call(
            "AOTInductorModelContainerGetNumOutputs",
            self._container,
            ctypes.byref(columns),
        )
        self._outputs = ctypes.c_void_p * columns.value

    def __call__(self, features: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Each output as (rows,).

        Raises:
            RuntimeError: the code failed, with the reason that torch gives.
        """
        # The code reads one run of memory; a batch of a chunk is a piece of longer ones.
        packed = features.T.contiguous()
        rows = packed.shape[1]
        if rows < LEAST_ROWS:
            packed = packed.expand(-1, LEAST_ROWS).contiguous()
        outputs = self._run(packed)
        if rows < LEAST_ROWS:
            return tuple(column[:rows] for column in outputs)
        return tuple(outputs)

    def _run(self, packed: torch.Tensor) -> list[torch.Tensor]:
        # The code takes over what it is given, and gives away what it makes.
        aoti = torch._C._aoti
        (given,) = aoti.unsafe_alloc_void_ptrs_from_tensors([packed])
        borrowed, made = _Input(_pointer_of(given, None)), self._outputs()
        self._call(
            "AOTInductorModelContainerRun",
            self._container,
            borrowed,
            ctypes.c_size_t(1),
            made,
            ctypes.c_size_t(len(made)),
            self._stream(),
            None,
        )
        capsules = [_capsule_of(pointer, None, None) for pointer in made]
        return aoti.alloc_tensors_by_stealing_from_void_ptrs(capsules)

    def _stream(self) -> ctypes.c_void_p:
        if self._device.type != "cuda":
            return ctypes.c_void_p()
        return ctypes.c_void_p(torch.cuda.current_stream(self._device).cuda_stream)

    def _call(self, name: str, *arguments: object) -> None:
        if not getattr(self._library, name)(*arguments):
            return
        message = ctypes.c_char_p()
        self._library.AOTInductorGetLastError(ctypes.byref(message))
        why = (message.value or b"").decode(errors="replace")
        if FAILED_IN_TORCH in why:
            # Such as memory that ran out; the code itself only knows the call.
            why = f"{_what_torch_said()} ({why})"
        msg = f"compiled code failed in {name}: {why}"
        raise RuntimeError(msg)


def _what_torch_said() -> str:
    """The reason of the last call into torch that failed in this thread."""
    torch_cpu = ctypes.CDLL("libtorch_cpu.so")  # It is there: found by its name.
    torch_cpu.torch_exception_get_what.restype = ctypes.c_char_p
    return (torch_cpu.torch_exception_get_what() or b"").decode(errors="replace")


def _unpack(package: Path | BinaryIO, folder: Path) -> Path:
    """Unpack a package; give its library."""
    with zipfile.ZipFile(package) as archive:
        archive.extractall(folder)
    (library,) = folder.rglob("*.so")
    others = [
        path.name
        for path in library.parent.glob("*.json")
        if not path.name.endswith("_metadata.json")
    ]
    if others:
        # Calls to operators that have no C interface are described there.
        msg = (
            "the model uses an operator that compiled code can't call by itself "
            f"({', '.join(others)} in the package). Nothing was scored. Set compile to "
            "false, or write the model without it."
        )
        raise ReleaseError(msg)
    return library
