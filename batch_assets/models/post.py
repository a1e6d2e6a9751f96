"""Run the stages between a model and its outputs, where the model has run.

What is tensor work stays on the model's device. It knows neither file nor chunk.
"""

import functools
import hashlib
import importlib.util
from collections.abc import Callable, Mapping
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import Any, NamedTuple

import torch

from batch_assets.errors import ReleaseError
from batch_assets.models.input_rows import Lists, SideItems
from batch_assets.models.output_specs import NO_ITEM
from batch_assets.models.post_specs import (
    Argmax,
    Isotonic,
    Platt,
    PostProcessing,
    Python,
    Sigmoid,
    Softmax,
    Stage,
    Temperature,
    Threshold,
    TopK,
)
from batch_assets.models.results import adapter, plain, shape_of

Tensors = dict[str, torch.Tensor]
# How an error calls it.
MODEL = "the model"


class Listed(NamedTuple):
    """Items that are listed: of which row each is, and its position; int64 (items,).

    `rows` is None where each item is listed for every row.
    """

    rows: torch.Tensor | None
    items: torch.Tensor


def processed(
    result: Any, post: PostProcessing, listed: Mapping[str, Listed]
) -> Tensors:
    """Return all tensors that are there after the last stage.

    Args:
        result: what the model gave: a tensor, a tuple in the order of `post.gives`, or
            these by name.
        post: the stages.
        listed: by column, the items that each row lists.

    Raises:
        ReleaseError: the model or a function gave something else.
    """
    tensors = named(result, post.gives, MODEL)
    for stage in post.stages:
        tensors |= _run(stage, tensors, listed)
    return tensors


def named(result: Any, names: tuple[str, ...], who: str) -> Tensors:
    """Return what was given as tensors by these names.

    Raises:
        ReleaseError: it is something else.
    """
    given = plain(result)
    if isinstance(given, torch.Tensor):
        given = (given,)
    if isinstance(given, dict) and set(names) <= set(given):
        given = tuple(given[name] for name in names)
    if (
        not isinstance(given, tuple | list)
        or len(given) != len(names)
        or not all(isinstance(one, torch.Tensor) for one in given)
    ):
        msg = f"{who} gave {shape_of(result)}, expected the tensors {list(names)}"
        if who == MODEL:
            msg += adapter(result, names)
        raise ReleaseError(msg)
    return dict(zip(names, given, strict=True))


def _run(stage: Stage, tensors: Tensors, listed: Mapping[str, Listed]) -> Tensors:
    if isinstance(stage, Python):
        given = [tensors[name] for name in stage.takes]
        return named(function_of(stage)(*given), stage.gives, stage.path)
    values = tensors[stage.of]
    match stage:
        case Argmax():
            # Of equals the first, on every device: torch.argmax promises none.
            best = values.amax(dim=1)
            classes = torch.arange(values.shape[1], device=values.device)
            at = torch.where(values == best[:, None], classes, values.shape[1])
            found = {stage.into: at.amin(dim=1).to(torch.int32)}
            return found | ({stage.confidence: best} if stage.confidence else {})
        case TopK():
            return _top_k(stage, values, tensors, listed)
        case _:
            return {stage.leaves[0]: _elementwise(stage, values)}


def _elementwise(stage: Stage, values: torch.Tensor) -> torch.Tensor:
    match stage:
        case Softmax():
            return values.float().softmax(dim=1)
        case Sigmoid():
            return values.float().sigmoid()
        case Temperature():
            return values.float() / stage.by
        case Platt():
            return (stage.slope * values.float() + stage.intercept).sigmoid()
        case Threshold():
            # Each limit as the score's own type has it, as `bounds` of an output.
            limits = torch.tensor(stage.at, dtype=values.dtype, device=values.device)
            reached = (values[:, None] >= limits).sum(dim=1)
            # NaN has reached none, and is no class.
            return torch.where(values.isnan(), -1, reached).to(torch.int32)
        case Isotonic():
            return _interpolated(stage, values)
    msg = f"no such stage: {stage.kind}"
    raise TypeError(msg)


def _interpolated(stage: Isotonic, values: torch.Tensor) -> torch.Tensor:
    x, y = (
        torch.tensor(table, dtype=torch.float64, device=values.device)
        for table in (stage.x, stage.y)
    )
    wide = values.double().clamp(x[0], x[-1])
    above = torch.searchsorted(x, wide.contiguous()).clamp(1, len(x) - 1)
    low, high = x[above - 1], x[above]
    share = (wide - low) / (high - low)
    # NaN stays NaN: it is no probability.
    return (y[above - 1] + share * (y[above] - y[above - 1])).float()


def _top_k(
    stage: TopK,
    scores: torch.Tensor,
    tensors: Tensors,
    listed: Mapping[str, Listed],
) -> Tensors:
    """The best of a vocabulary, or of candidates, without those that a row lists."""
    scores = scores.float()
    items = tensors[stage.candidates] if stage.candidates else None
    if scores.ndim != 2 or (items is not None and items.shape != scores.shape):
        got = tuple(scores.shape), None if items is None else tuple(items.shape)
        msg = f"top_k: expected scores (rows, n), and as many candidates, got {got}"
        raise ReleaseError(msg)
    out = torch.zeros_like(scores, dtype=torch.bool)
    for name in stage.without:
        out |= _listed_here(listed[name], scores, items)
    if items is not None:
        out |= items == NO_ITEM
    # A NaN is no score: it stays in front, where the row is found to be at fault.
    kept = torch.where(scores.isnan(), torch.inf, scores).masked_fill(out, -torch.inf)
    k = min(stage.k, scores.shape[1])
    at = _best(kept, k, items)
    chosen = at if items is None else items.gather(1, at)
    gone = out.gather(1, at)
    best = scores.gather(1, at).masked_fill(gone, 0.0)
    chosen = chosen.to(torch.int64).masked_fill(gone, NO_ITEM)
    short = (0, stage.k - k)
    pad = torch.nn.functional.pad
    return {
        stage.into: pad(chosen, short, value=NO_ITEM),
        f"{stage.into}_scores": pad(best, short),
    }


def _best(scores: torch.Tensor, k: int, items: torch.Tensor | None) -> torch.Tensor:
    """Where the k best scores of each row are, the best first; of equals the lower item.

    `topk` takes any of the scores that equal the last one it takes, and leaves equals in
    any order: other ones on another device.
    """
    values, at = scores.topk(k, dim=1)
    last = values[:, -1:]
    torn = ((scores == last).sum(dim=1) > (values == last).sum(dim=1)).nonzero()[:, 0]
    order = torch.arange(scores.shape[1], device=scores.device).expand_as(scores)
    order = order if items is None else items
    if len(torn):
        by_item = order[torn].argsort(dim=1, stable=True)
        sorted_scores = scores[torn].gather(1, by_item)
        best = sorted_scores.argsort(dim=1, descending=True, stable=True)[:, :k]
        at[torn] = by_item.gather(1, best)
    at = at.gather(1, order.gather(1, at).argsort(dim=1, stable=True))
    by_score = scores.gather(1, at).argsort(dim=1, descending=True, stable=True)
    return at.gather(1, by_score)


def _listed_here(
    listed: Listed, scores: torch.Tensor, items: torch.Tensor | None
) -> torch.Tensor:
    """Which scores are of an item that its row lists, (rows, n)."""
    rows, count = scores.shape
    if items is None:
        out = torch.zeros_like(scores, dtype=torch.bool)
        # An item that is not ranked at all needs no filter.
        ranked = listed.items < count
        if listed.rows is None:
            out[:, listed.items[ranked]] = True
        else:
            out[listed.rows[ranked], listed.items[ranked]] = True
        return out
    if listed.rows is None:
        return torch.isin(items, listed.items)
    # A row and an item as one number: one search instead of a comparison of each pair.
    most = 1 + max(int(some.max()) for some in (items, listed.items) if some.numel())
    pairs = listed.rows * most + listed.items
    asked = torch.arange(rows, device=items.device)[:, None] * most + items
    return torch.isin(asked, pairs)


def listed_of(lists: Lists | SideItems, device: torch.device) -> Listed:
    """Return the items of lists, or of a side table, on a device."""
    if isinstance(lists, SideItems):
        if lists.group is None:
            items = torch.from_numpy(lists.lists.slice(0, 1).values)
            return Listed(None, items.to(device))
        lists = lists.lists.take(lists.group)
    rows = torch.repeat_interleave(
        torch.arange(len(lists)), torch.from_numpy(lists.lengths)
    )
    items = torch.from_numpy(lists.values)
    return Listed(rows.to(device), items.to(device))


@functools.cache
def function_of(stage: Python) -> Callable[..., Any]:
    """Return a stage's function, whose file is the one that the release was written with.

    What is run is what was hashed: the file is not read a second time for it.

    Raises:
        ReleaseError: it is not there, or another.
    """
    spec, source = _source_of(stage.path)
    actual = hashlib.sha256(source).hexdigest()
    if actual != stage.sha256:
        msg = (
            f"the source of '{stage.path}' hashes to {actual}, the release was written "
            f"with {stage.sha256 or 'none'}. Nothing of it was run. Install the version "
            "that the release was written with, or write the release again."
        )
        raise ReleaseError(msg)
    module = importlib.util.module_from_spec(spec)
    name = stage.path.partition(":")[2]
    try:
        exec(compile(source, str(spec.origin), "exec"), module.__dict__)
        found: Callable[..., Any] = module.__dict__[name]
    # It is a user's own, and can raise anything.
    except Exception as error:
        msg = f"'{stage.path}' can't be used: {type(error).__name__}: {error}"
        raise ReleaseError(msg) from error
    return found


def source_digest(path: str) -> str:
    """Return the sha256 of the file that an import path `package.module:function` is in.

    Raises:
        ReleaseError: there is no such file.
    """
    return hashlib.sha256(_source_of(path)[1]).hexdigest()


def _source_of(path: str) -> tuple[ModuleSpec, bytes]:
    name = path.partition(":")[0]
    try:
        spec = importlib.util.find_spec(name)
    except (ImportError, ValueError):
        spec = None
    if spec is None or not spec.origin or not Path(spec.origin).is_file():
        msg = f"the source of '{path}' is not there: no file of a module '{name}'"
        raise ReleaseError(msg)
    return spec, Path(spec.origin).read_bytes()
