"""The tensors that a night gives a model, from a frame: for training, and for tests.

It goes the way of a night's rows: the contract's types, its row rules, and what becomes of
words, nulls and long lists. It knows no model.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import torch

from batch_assets.errors import ContractError
from batch_assets.models.contract import Contract
from batch_assets.models.frames import table_of
from batch_assets.models.input_rows import InputRows
from batch_assets.models.tensors import tensors_of
from batch_assets.models.tokenizing import tokenised, with_tokenizer
from batch_assets.quality.rules import RowRules, packed


@dataclass(frozen=True)
class Packed:
    """Rows as a model gets them, which rows of the frame they are, and what the others broke."""

    rows: InputRows
    places: np.ndarray
    broken: dict[str, int]


def pack(
    contract: Contract, frame: Any, *, tokenizer: Any = None
) -> dict[str, torch.Tensor]:
    """Return the tensors that a night would give a model for the rows of a frame.

    Args:
        contract: of the release.
        frame: of polars, pandas or Arrow, with the contract's columns, raw; the key may
            be left out, and columns that the contract does not name are.
        tokenizer: of the contract's texts, as of `models.writing.save_release`.

    Returns:
        By name: `features` float32 (rows, features), a transposed view, NaN where there
        is a null; ids int64 (rows,); a vector float32 (rows, size); of a sequence its
        columns (rows, longest) with a mask, or values with offsets; of a text the ids of
        its tokens with a mask.

    Raises:
        ContractError: a column is missing or of another type, or a row breaks a rule:
            that row would be quarantined.
        ReleaseError: there are texts, and no tokenizer that can be used.
    """
    contract, tokenizing = with_tokenizer(contract, tokenizer)
    table = table_of(frame)
    found = packed_rows(contract, table)
    if found.broken:
        lost = len(table) - len(found.places)
        msg = (
            f"{lost:,} rows of the frame would be quarantined: {found.broken}. Leave "
            "them out, or let the contract allow them"
        )
        raise ContractError(msg)
    # In memory of their own, which a training loop may write into.
    own = found.rows.take(np.arange(len(found.rows)))
    return tensors_of(tokenised(own, tokenizing), contract)


def packed_rows(contract: Contract, frame: Any) -> Packed:
    """Return the rows of a frame that keep the contract's rules, as a model gets them.

    Raises:
        ContractError: a column is missing or of another type.
    """
    table = _as_declared(table_of(frame), contract)
    split = RowRules(contract).split(
        pl.DataFrame(table), pl.Series(contract.key.name, [], pl.Int64)
    )
    places = split.good[contract.key.name].to_numpy()
    return Packed(packed(split.good, contract), places, split.counts)


def _as_declared(table: pa.Table, contract: Contract) -> pa.Table:
    """The contract's columns in its types; instead of the key, each row's place.

    A frame of several days has a key more than once.
    """
    asked = list(contract.raw_schema())[1:]
    there = [field.name for field in asked if field.name in table.column_names]
    # Of the key nothing is asked here.
    bare = pa.schema(
        [pa.field(contract.key.name, pa.int64()), *table.select(there).schema]
    )
    contract.model_copy(
        update={"key": contract.key.model_copy(update={"dtype": "int64"})}
    ).check_schema(bare, "the frame")
    columns = [table[field.name].cast(field.type) for field in asked]
    names = [field.name for field in asked]
    places = pa.array(np.arange(len(table)))
    return pa.table([places, *columns], [contract.key.name, *names])
