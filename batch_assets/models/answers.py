"""A release's answers to rows: its module, and the stages after it.

It is the same for whoever writes a release, proves it, or scores a night with it.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch

from batch_assets.models.input_rows import InputRows, Lists, SideItems
from batch_assets.models.outputs import columns_of
from batch_assets.models.post import Listed, listed_of, processed
from batch_assets.models.release import Manifest
from batch_assets.models.tensors import call, not_too_few, tensors_of

CPU = torch.device("cpu")
NOTHING = SideItems(Lists.of([[]], "int64"))


class Question(NamedTuple):
    """Rows as tensors on a device: what the module gets, and what its stages do.

    `rows` are those that the module sees, of which the first `asked` are of interest.
    """

    rows: int
    asked: int
    tensors: dict[str, torch.Tensor]
    listed: dict[str, Listed]


def question_of(
    rows: InputRows, manifest: Manifest, device: torch.device = CPU
) -> Question:
    """Return rows as tensors on a device."""
    asked = len(rows)
    rows = not_too_few(rows, manifest.contract)
    tensors = {
        name: one.to(device, non_blocking=True)
        for name, one in tensors_of(rows, manifest.contract).items()
    }
    listed = {}
    for name in manifest.post.listed if manifest.post else ():
        lists = rows.columns[name]
        assert isinstance(lists, Lists)
        listed[name] = listed_of(lists, device)
    for name in manifest.post.table_names if manifest.post else ():
        # Of golden rows, no day is known.
        listed[name] = listed_of(rows.side.get(name, NOTHING), device)
    return Question(len(rows), asked, tensors, listed)


def answers(
    module: Callable[..., Any], question: Question, manifest: Manifest
) -> dict[str, torch.Tensor]:
    """Return the columns of each output, as declared, on the device of the question.

    Raises:
        ReleaseError: what the module gives is not what is declared.
        ScoringError: a value does not fit its declared type.
    """
    result = call(module, question.tensors, manifest.model.takes)
    if manifest.post:
        left = processed(result, manifest.post, question.listed)
        result = {c.name: left[c.name] for c in manifest.contract.output_columns}
    columns = columns_of(result, manifest.contract, question.rows)
    if question.asked == question.rows:
        return columns
    return {name: values[: question.asked] for name, values in columns.items()}
