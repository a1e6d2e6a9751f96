"""What models give, in the forms that people write them in, as tensors by name or place.

A tensor, a tuple or list of them, a dict, a named tuple, a dataclass, or what a library
makes of these. It knows no contract.
"""

import dataclasses
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from batch_assets.models.release import Takes

CLASS = """class Adapter(torch.nn.Module):
    def __init__(self, model):
        super().__init__()
        self.model = model

"""


def plain(result: Any) -> Any:
    """Return a result as a tensor, a tuple, or a dict by name; else as it is.

    What a dict, a named tuple or a dataclass has beside tensors is left out.
    """
    if isinstance(result, torch.Tensor):
        return result
    named = None
    if isinstance(result, Mapping):
        named = dict(result)
    elif hasattr(result, "_asdict"):
        named = result._asdict()
    elif dataclasses.is_dataclass(result) and not isinstance(result, type):
        fields = dataclasses.fields(result)
        named = {field.name: getattr(result, field.name) for field in fields}
    if named is not None:
        return {
            str(name): one
            for name, one in named.items()
            if isinstance(one, torch.Tensor)
        }
    return tuple(result) if isinstance(result, tuple | list) else result


def shape_of(result: Any) -> str:
    """Return what a model gave, for an error."""
    if isinstance(result, torch.Tensor):
        return f"a tensor of the shape {tuple(result.shape)}"
    given = plain(result)
    if isinstance(given, dict):
        shapes = {name: tuple(one.shape) for name, one in given.items()}
        return f"{_kind(result)} of the tensors {shapes}"
    if isinstance(given, tuple):
        inside = [
            tuple(one.shape) if isinstance(one, torch.Tensor) else type(one).__name__
            for one in given[:10]
        ]
        return f"{len(given)} columns of the shapes {inside}"
    return f"a {type(result).__name__}"


def adapter(result: Any, names: Sequence[str]) -> str:
    """Return how an error goes on: with the class to write so that a model gives these.

    Args:
        result: what it gave.
        names: what it should give: a tensor each.
    """
    back = _taken(plain(result), names, by_attribute=not isinstance(result, Mapping))
    if back is None:
        return (
            ". No adapter makes that of what it gave: change the model, or declare what "
            "it gives."
        )
    return (
        "; around a model that can't be changed:\n"
        f"{CLASS}"
        "    def forward(self, *given, **named):\n"
        "        out = self.model(*given, **named)\n"
        f"        return {back}"
    )


def _taken(given: Any, names: Sequence[str], *, by_attribute: bool) -> str | None:
    """The code that takes tensors of these names out of a result; None if there is none."""
    if isinstance(given, dict):
        left = iter([name for name in given if name not in names])
        found = {name: name if name in given else next(left, None) for name in names}
        if None in found.values() or list(found) == list(found.values()):
            return None
        one = "out.{}" if by_attribute else "out['{}']"
        pairs = [f"'{name}': {one.format(other)}" for name, other in found.items()]
        return "{" + ", ".join(pairs) + "}"
    if isinstance(given, tuple) and len(given) >= len(names):
        return ", ".join(f"out[{at}]" for at in range(len(names)))
    if not isinstance(given, torch.Tensor) or given.ndim != 2:
        return None
    if len(names) == 1:
        return f"out[:, {given.shape[1] - 1}]"
    if given.shape[1] < len(names):
        return None
    return ", ".join(f"out[:, {at}]" for at in range(len(names)))


def input_adapter(
    module: Callable[..., Any], names: Sequence[str], takes: Takes
) -> str:
    """Return the class to write so that a model is given what it takes.

    Args:
        module: whose forward takes something else.
        names: of the tensors that it is given.
        takes: how it is given them.
    """
    forward = getattr(module, "forward", module)
    arguments = [
        name
        for name, one in inspect.signature(forward).parameters.items()
        if one.kind
        in (one.POSITIONAL_ONLY, one.POSITIONAL_OR_KEYWORD, one.KEYWORD_ONLY)
    ]
    mine = {name: f"given['{name}']" if takes == "dict" else name for name in names}
    # Of one argument it is the name alone that was wrong, or what it was given.
    alone = len(arguments) == len(names) == 1
    usual = mine[names[0]] if alone and takes == "name" else "..."
    passed = ", ".join(
        f"{name}={usual if alone else mine.get(name, usual)}" for name in arguments
    )
    return (
        f"{CLASS}"
        f"    def forward(self, {'given' if takes == 'dict' else ', '.join(names)}):\n"
        f"        return self.model({passed})"
    )


def _kind(result: Any) -> str:
    return "a dict" if type(result) is dict else f"a {type(result).__name__}"
