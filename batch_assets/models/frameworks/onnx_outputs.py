"""Which outputs of an ONNX graph are what a release declares. It knows no input."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from batch_assets.errors import ReleaseError
from batch_assets.models.columns import quoted
from batch_assets.models.frameworks.base import Declared

# What converters of classifiers give: the class, and the probabilities of all.
LABELS = ("label", "output_label")
PROBABILITIES = ("probabilities", "output_probability")


@dataclass(frozen=True)
class GraphOutputs:
    """The outputs that are asked for, and how they become an answer.

    Attributes:
        names: as the graph has them.
        named: whether they are those that are declared.
        probable: whether it is one, with the probability of each class.
        declared: by the release.
    """

    names: tuple[str, ...]
    named: bool
    probable: bool
    declared: Declared

    def answer(self, found: list[np.ndarray], device: torch.device) -> Any:
        """Return what was found as a release's module gives it."""
        if self.probable:
            classes = found[0].shape[1] if found[0].ndim == 2 else 2
            given = self.declared.answer(found[0], classes)
            if isinstance(given, tuple):
                return tuple(one.to(device) for one in given)
            return given.to(device)
        tensors = [torch.from_numpy(one).to(device) for one in found]
        if self.named:
            return dict(zip(self.names, tensors, strict=True))
        return tensors[0] if len(tensors) == 1 else tuple(tensors)


def outputs_of(session: Any, declared: Declared) -> GraphOutputs:
    """Return which outputs of a graph count: by their names, or all in their order.

    Raises:
        ReleaseError: they are not those that are declared, or no tensors of numbers.
    """
    types = {one.name: one.type for one in session.get_outputs()}
    names, named, probable = tuple(types), False, False
    if set(declared.gives) <= set(types):
        names, named = declared.gives, True
    elif len(types) == 2 and names[0] in LABELS and names[1] in PROBABILITIES:
        names, probable = names[1:], True
    elif len(types) not in (1, len(declared.gives)):
        msg = (
            f"the ONNX graph gives {quoted(list(types))}, and the release declares "
            f"{quoted(list(declared.gives))}: name its outputs as these, or let it give "
            "as many, in this order."
        )
        raise ReleaseError(msg)
    for name in names:
        _must_be_numbers(name, types[name])
    return GraphOutputs(names, named, probable, declared)


def _must_be_numbers(name: str, kind: str) -> None:
    if kind.startswith("tensor(") and kind != "tensor(string)":
        return
    how = (
        "convert it with the option zipmap=False"
        if kind.startswith("seq(map(")
        else "let it give numbers"
    )
    msg = (
        f"the ONNX graph gives '{name}' as {kind}, expected a tensor of numbers with a "
        f"row for each: {how}."
    )
    raise ReleaseError(msg)
