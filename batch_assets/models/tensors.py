"""Rows as tensors, and the one way in which a model is called with them.

Rows become tensors at the last moment: only then is a sequence padded, to the longest of
its batch. It knows no file, no tokenizer and no device.
"""

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch

from batch_assets.models.contract import FEATURES, Contract
from batch_assets.models.input_rows import InputRows, Lists
from batch_assets.models.input_specs import Ids, Text, Vector
from batch_assets.models.input_specs import Sequence as SequenceSpec
from batch_assets.models.release import Takes


def not_too_few(rows: InputRows, contract: Contract) -> InputRows:
    """Return rows with one more at the end where ragged sequences hold next to nothing.

    torch.export takes for granted that there are two rows, and two elements.
    """
    ragged = [
        column.name
        for one in contract.inputs
        if isinstance(one, SequenceSpec) and one.form == "ragged"
        for column in one.columns
    ]
    few = [name for name in ragged if len(rows.columns[name].values) < 2]  # type: ignore[union-attr]
    if not ragged or (len(rows) > 1 and not few):
        return rows
    more = rows.take(np.append(np.arange(len(rows)), len(rows) - 1))
    columns = dict(more.columns)
    for name in ragged:
        lists = columns[name]
        assert isinstance(lists, Lists)
        values = np.append(lists.values, np.zeros(2, lists.values.dtype))
        offsets = lists.offsets.copy()
        offsets[-1] = len(values)
        columns[name] = Lists(values, offsets)
    return InputRows(more.features, columns, more.side)


def padded_names(contract: Contract) -> set[str]:
    """Return the tensors (rows, longest) that are as wide as the longest of their batch."""
    return {
        name
        for one in contract.inputs
        if isinstance(one, Text)
        or (isinstance(one, SequenceSpec) and one.form == "padded")
        for name in (
            one.tensors
            if isinstance(one, Text)
            else (*(column.name for column in one.columns), one.mask)
        )
    }


def tensors_of(rows: InputRows, contract: Contract) -> dict[str, torch.Tensor]:
    """Return what the model is called with: tensors by name, in the contract's order.

    `features` (rows, features), a transposed view; ids int64 (rows,); a vector float32
    (rows, size); of a sequence each column padded (rows, longest) with `<name>_mask`,
    or its values (elements,) with `<name>_offsets` (rows + 1,); of a text, which must be
    tokenised, the ids int64 (rows, longest) and their mask.
    """
    tensors: dict[str, torch.Tensor] = {}
    if contract.features:
        # The transposed view costs nothing; the matrix product takes it.
        tensors[FEATURES] = torch.from_numpy(rows.features).T
    for one in contract.inputs:
        if isinstance(one, SequenceSpec):
            if one.given:
                tensors |= _of_sequence(one, rows)
        elif isinstance(one, Text):
            tensors |= _of_text(one, rows)
        else:
            values = rows.columns[one.name]
            tensors[one.name] = torch.from_numpy(np.ascontiguousarray(values))
    return tensors


def _of_sequence(one: SequenceSpec, rows: InputRows) -> dict[str, torch.Tensor]:
    tensors: dict[str, torch.Tensor] = {}
    for column in one.columns:
        lists = rows.columns[column.name]
        assert isinstance(lists, Lists)
        if one.form == "ragged":
            tensors[column.name] = torch.from_numpy(np.ascontiguousarray(lists.values))
            extra = one.offsets, lists.offsets
        else:
            values, there = lists.padded()
            tensors[column.name] = torch.from_numpy(values)
            extra = one.mask, there
    tensors[extra[0]] = torch.from_numpy(np.ascontiguousarray(extra[1]))
    return tensors


def _of_text(one: Text, rows: InputRows) -> dict[str, torch.Tensor]:
    tokens = rows.columns[one.name]
    if not isinstance(tokens, Lists) or tokens.values.dtype == np.uint8:
        msg = f"text '{one.name}' was not tokenised before the model was asked"
        raise TypeError(msg)
    ids, there = tokens.padded(one.pad or 0)
    given = torch.from_numpy(ids.astype(np.int64)), torch.from_numpy(there)
    return dict(zip(one.tensors, given, strict=True))


def call(
    module: Callable[..., Any], tensors: Mapping[str, torch.Tensor], takes: Takes
) -> Any:
    """Ask a module, which takes its tensors in their order, by name, or in one dict."""
    if takes == "position":
        return module(*tensors.values())
    if takes == "dict":
        return module(dict(tensors))
    return module(**tensors)


def usual_takes(module: Any, contract: Contract) -> Takes:
    """Return how a module takes its tensors where nobody says: by position or by name.

    One matrix of features has no name to go by. Neither need a single tensor have one
    that the module knows; of several a mistake in the order would not be seen.
    """
    if not contract.inputs:
        return "position"
    alone = not contract.features and len(contract.inputs) == 1
    if not alone or not isinstance(contract.inputs[0], Ids | Vector):
        return "name"
    takes = inspect.signature(getattr(module, "forward", module)).parameters.values()
    needed = [one.name for one in takes if one.default is one.empty]
    return "name" if contract.inputs[0].name in needed else "position"
