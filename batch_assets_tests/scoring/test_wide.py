"""Thousands of features: the time of a night grows with them, not with their square."""

import gc
import time
from collections.abc import Callable

import numpy as np
import polars as pl
import pyarrow as pa
import pytest

from batch_assets.lake.delta_log import open_delta
from batch_assets.lake.tables import Lake
from batch_assets.models.contract import Contract
from batch_assets.quality.rules import RowRules
from batch_assets_tests.toys import copy_rows, make_contract, read_day, validate

# Eight times the features: 8 times the time, or 64 times where it is quadratic. The
# limit is as far from the one as from the other.
FEW, MANY = 500, 4_000
AT_MOST = 23


def wide_contract(features: int) -> Contract:
    return make_contract(
        features=[
            {"name": f"f{n}", "dtype": "float32", "min": -1, "max": 1}
            for n in range(features)
        ]
    )


def wide_rows(features: int, rows: int = 20) -> pa.Table:
    """Valid rows, but for one value."""
    values = np.random.default_rng(0).uniform(-1, 1, (features, rows))
    values[features // 2, 3] = 9
    columns = {f"f{n}": column for n, column in enumerate(values.astype(np.float32))}
    schema = wide_contract(features).raw_schema()
    return pa.table({"user_id": np.arange(rows), **columns}, schema=schema)


def cpu_seconds(act: Callable[[], object]) -> float:
    """The least of seven: whoever else is on this machine only adds to it.

    The collector of garbage waits: it walks all that other tests have left, and more
    objects wake it more often.
    """
    taken = []
    gc.disable()
    try:
        for _ in range(7):
            begin = time.process_time()
            act()
            taken.append(time.process_time() - begin)
    finally:
        gc.enable()
    return min(taken)


def checking(features: int) -> Callable[[], object]:
    contract = wide_contract(features)
    schema = contract.raw_schema()
    return lambda: contract.check_schema(schema, "the source")


def declaring(features: int) -> Callable[[], object]:
    declared = wide_contract(features).model_dump()
    return lambda: Contract.model_validate(declared)


def splitting(features: int) -> Callable[[], object]:
    rules = RowRules(wide_contract(features))
    rows, twice = pl.DataFrame(wide_rows(features)), pl.Series([], dtype=pl.Int64)
    return lambda: rules.split(rows, twice)


@pytest.mark.parametrize("work", [checking, declaring, splitting])
def test_eight_times_the_features_take_about_eight_times_as_long(work):
    few, many = cpu_seconds(work(FEW)), cpu_seconds(work(MANY))

    assert many < AT_MOST * few


def test_a_table_takes_days_of_many_features(root):
    def committing(features: int) -> Callable[[], object]:
        contract = wide_contract(features)
        table = Lake(root, f"of_{features}").raw_features
        table.path.mkdir(parents=True)
        table._create(contract.raw_schema())
        return lambda: table._add_columns(open_delta(table.path), contract.raw_schema())

    few, many = cpu_seconds(committing(FEW)), cpu_seconds(committing(MANY))

    assert many < AT_MOST * few


def test_one_bad_value_among_thousands_is_the_only_one_named(lake):
    contract = wide_contract(MANY)
    copy_rows(lake, wide_rows(MANY), contract=contract)

    found = validate(lake, contract=contract)

    assert found.rules == {f"f{MANY // 2} is above max": 1}
    (bad,) = read_day(lake, "quarantined_rows").to_pylist()
    assert bad["user_id"] == 3
    assert bad["rules"] == [f"f{MANY // 2} is above max"]
