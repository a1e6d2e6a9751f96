"""What a device's precision is to torch. It knows no model and no row."""

from contextlib import AbstractContextManager, nullcontext
from typing import Literal

import torch

from batch_assets.scoring.device import Device

# What torch casts to by itself where it may; the others are float32 all along, of which
# `tf32` rounds what goes into a product of matrices to 10 bits.
CAST_TO: dict[str, torch.dtype] = {
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}


def casting(device: Device) -> AbstractContextManager[object]:
    """Return what a model runs in, on a device, for the precision that it has."""
    if device.precision not in CAST_TO:
        return nullcontext()
    return torch.autocast(device.kind, CAST_TO[device.precision])


def set_float32_products(how: Literal["ieee", "tf32"]) -> None:
    """Set how float32 matrices are multiplied on CUDA devices, for the whole process.

    Left alone, torch takes TF32 for convolutions and recurrent layers, and float32 for
    the rest: a model would be neither. It is said by torch's old names, too: torch refuses
    to tell what they are where the two differ, and exporting and compiling ask for them.
    """
    torch.backends.cuda.matmul.allow_tf32 = how == "tf32"
    torch.backends.cudnn.allow_tf32 = how == "tf32"
    torch.backends.cuda.matmul.fp32_precision = how
    torch.backends.cudnn.conv.fp32_precision = how  # type: ignore[attr-defined]
    torch.backends.cudnn.rnn.fp32_precision = how  # type: ignore[attr-defined]
