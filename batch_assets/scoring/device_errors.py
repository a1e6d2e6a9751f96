"""What an error says of the device: that its memory ran out, or that it is lost.

Torch has no type for most of it, and other libraries have none of torch's. It knows no row.
"""

import torch

# What a RuntimeError says where torch raises no OutOfMemoryError: its allocator on the
# CPU, a pinned buffer, a library's workspace, and any of them inside TorchScript.
OUT_OF_MEMORY = (
    "DefaultCPUAllocator: can't allocate memory",
    "CUDA out of memory",
    "CUDA error: out of memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_ALLOC_FAILED",
)
# What torch, its libraries and compiled code say of a call to the device that failed.
FAILED_CALLS = (
    "CUDA error",
    "CUDA driver error",
    "CUDA failure",
    "CUDNN_STATUS_EXECUTION_FAILED",
    "CUDNN_STATUS_INTERNAL_ERROR",
)


def out_of_memory(error: BaseException) -> bool:
    """Return whether an error says that memory ran out, on device or host."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and _says(OUT_OF_MEMORY, str(error))


def lost_device(said: str) -> bool:
    """Return whether an error says that its process can't use the device any more.

    An index out of its range ends what a process has on a CUDA device: each call fails
    from then on, whatever its rows. Errors that leave the rest alone can't all be told
    from those, and are counted as such; that memory ran out can.
    """
    return _says(FAILED_CALLS, said) and not _says(OUT_OF_MEMORY, said)


def _says(texts: tuple[str, ...], said: str) -> bool:
    return any(text in said for text in texts)
