"""What models give, in the forms that people write them in, as tensors by name or place.

A tensor, a tuple or list of them, a dict, a named tuple, a dataclass, or what a library
makes of these. It knows no contract.
"""

import dataclasses
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

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
    """Return the class to write so that a model gives these, from what it gave.

    Args:
        result: what it gave.
        names: what it should give: a tensor each.
    """
    given = plain(result)
    if isinstance(given, dict) and given:
        have = list(given)
        pairs = [
            f"'{name}': out['{name if name in given else have[at % len(have)]}']"
            for at, name in enumerate(names)
        ]
        back = "{" + ", ".join(pairs) + "}"
        if hasattr(result, "_asdict") or dataclasses.is_dataclass(result):
            back = back.replace("out['", "out.").replace("']", "")
    elif isinstance(given, tuple) and len(given) >= len(names):
        back = ", ".join(f"out[{at}]" for at in range(len(names)))
    elif isinstance(given, torch.Tensor) and given.ndim == 2 and len(names) == 1:
        back = f"out[:, {given.shape[1] - 1}]"
    else:
        back = ", ".join(f"out[:, {at}]" for at in range(len(names)))
    return (
        f"{CLASS}"
        "    def forward(self, *given):\n"
        "        out = self.model(*given)\n"
        f"        return {back}"
    )


def input_adapter(module: Callable[..., Any], names: Sequence[str]) -> str:
    """Return the class to write so that a model is given what it takes.

    Args:
        module: whose forward takes something else.
        names: of the tensors that it is given.
    """
    forward = getattr(module, "forward", module)
    takes = [
        name
        for name, one in inspect.signature(forward).parameters.items()
        if one.kind
        in (one.POSITIONAL_ONLY, one.POSITIONAL_OR_KEYWORD, one.KEYWORD_ONLY)
    ]
    passed = ", ".join(f"{name}=..." for name in takes)
    return (
        f"{CLASS}"
        f"    def forward(self, {', '.join(names)}):\n"
        f"        return self.model({passed})"
    )


def _kind(result: Any) -> str:
    return "a dict" if type(result) is dict else f"a {type(result).__name__}"
