"""`pack` gives the very tensors that a night gives a model."""

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pytest
import torch

from batch_assets import Contract, pack
from batch_assets.errors import ContractError
from batch_assets.lake.tables import Lake
from batch_assets.models.input_rows import InputRows, input_columns
from batch_assets.models.tensors import tensors_of
from batch_assets_tests.histories import NAME
from batch_assets_tests.histories import make_contract as contract_of_histories
from batch_assets_tests.histories import make_rows as histories
from batch_assets_tests.toys import DAY, copy_rows, make_contract, make_rows, validate
from batch_assets_tests.training.frames import make_frame


def of_a_night(
    root: Path, contract: Contract, rows: pa.Table
) -> dict[str, torch.Tensor]:
    """What lies in validated features of these rows, by their keys."""
    lake = Lake(root, NAME)
    copy_rows(lake, rows, contract=contract)
    validate(lake, contract=contract)
    parts = lake.validated_features.parts(DAY)
    table = pa.concat_tables(
        pa.parquet.read_table(part.path, partitioning=None) for part in parts
    ).select(contract.feature_schema().names)
    table = table.cast(contract.feature_schema()).sort_by(contract.key.name)
    features = np.stack([table[name].to_numpy() for name in contract.feature_names])
    packed = InputRows(features.astype(np.float32), input_columns(table, contract))
    return tensors_of(packed.take(np.arange(len(packed))), contract)


@pytest.mark.parametrize(
    ("contract", "rows"),
    [
        (make_contract(), make_rows(300)),
        (contract_of_histories(), histories(300)),
    ],
    ids=["features", "histories"],
)
def test_it_is_what_a_night_gives(
    root: Path, contract: Contract, rows: pa.Table
) -> None:
    rows = rows.sort_by(contract.key.name)
    given, want = pack(contract, rows), of_a_night(root, contract, rows)
    assert list(given) == list(want)
    for name, tensor in want.items():
        assert given[name].dtype == tensor.dtype
        assert given[name].shape == tensor.shape
        torch.testing.assert_close(given[name], tensor, rtol=0, atol=0, equal_nan=True)
    # And it is the caller's own.
    for tensor in given.values():
        tensor += tensor


@pytest.mark.parametrize("turned", [pl.DataFrame.to_pandas, pl.DataFrame.to_arrow])
def test_frames_of_every_library_without_a_key_and_with_other_columns(
    turned: Any,
) -> None:
    frame = make_frame()
    contract = Contract.from_frame(
        frame, key="customer", outputs="risk", without=["late", "day"]
    )
    want = pack(contract, frame)["features"]
    other = frame.drop("customer").select(reversed(frame.drop("customer").columns))
    got = pack(contract, turned(other))["features"]
    torch.testing.assert_close(got, want, rtol=0, atol=0, equal_nan=True)
    assert got.shape == (len(frame), 4)


def test_rows_that_would_be_quarantined_are_counted_by_rule() -> None:
    frame = make_frame()
    contract = Contract.from_frame(
        frame, key="customer", outputs="risk", without=["late", "day"]
    )
    worse = frame.with_columns(
        pl.when(pl.int_range(pl.len()) < 5).then(500).otherwise("age").cast(pl.Int16).alias("age"),
        pl.when(pl.int_range(pl.len()) == 7).then(pl.lit("gold")).otherwise("plan").alias("plan"),
    )  # fmt: skip
    with pytest.raises(
        ContractError,
        match=r"6 rows .*'age is above max': 5, 'plan is an unknown category': 1",
    ):
        pack(contract, worse)


def test_a_column_that_lacks_or_is_of_another_type_is_named() -> None:
    frame = make_frame()
    contract = Contract.from_frame(
        frame, key="customer", outputs="risk", without=["late", "day"]
    )
    with pytest.raises(ContractError, match="1 missing: 'age'"):
        pack(contract, frame.drop("age"))
    with pytest.raises(ContractError, match="'age', got: string, expected: int16"):
        pack(contract, frame.with_columns(pl.col("age").cast(pl.Utf8)))
