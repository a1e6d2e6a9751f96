"""Where there is a C++ compiler: the mark of a test that needs one, and a model that is worth it."""

import os
import shutil
from typing import Any

import pytest
import torch


def compiles(test: Any) -> Any:
    """Marks a test that needs a C++ compiler, and the code that it makes."""
    compiler = shutil.which(os.environ.get("CXX", "g++"))
    for mark in (
        pytest.mark.slow,
        pytest.mark.skipif(compiler is None, reason="no C++ compiler"),
        pytest.mark.filterwarnings("ignore"),  # torch's own, of torch.
    ):
        test = mark(test)
    return test


class Deep(torch.nn.Module):
    """A risk that takes a while, the same each time it is built."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(7)
        sizes = [(4, 256), (256, 256), (256, 1)]
        self.layers = torch.nn.ParameterList(
            torch.randn(size, generator=generator) / size[0] ** 0.5 for size in sizes
        )

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        hidden = torch.nan_to_num(features) * torch.tensor([0.01, 0.001, 1.0, 1.0])
        for layer in self.layers:
            hidden = torch.tanh(hidden @ layer)
        return (hidden + 1) / 2
