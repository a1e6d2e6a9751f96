"""Row rules: which row breaks which, and rows as the model gets them."""

import math

import numpy as np
import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from polars.testing import assert_frame_equal

from batch_assets.models.contract import Contract, Feature
from batch_assets.quality.rules import RULES, RowRules, Split
from batch_assets_tests.toys import make_contract, make_rows

GOOD = {"user_id": 1, "age": 30, "visits": 2.5, "plan": "pro", "active": True}
ALL_TYPES = [
    {"name": dtype, "dtype": dtype, "min": -5, "max": 5}
    for dtype in ("float32", "float64", "int8", "int16", "int32", "int64")
]


def split(*rows: dict, duplicated: tuple = (), key_dtype: str = "int64") -> Split:
    contract = make_contract(key_dtype)
    table = pa.Table.from_pylist(list(rows), schema=contract.raw_schema())
    frame = pl.DataFrame(table)
    keys = pl.Series(duplicated, dtype=frame["user_id"].dtype)
    return RowRules(contract).split(frame, keys)


@pytest.mark.parametrize(
    ("change", "rules"),
    [
        ({"user_id": None}, ["user_id is null"]),
        ({"age": None}, ["age is null"]),
        ({"age": -1}, ["age is below min"]),
        ({"age": 121}, ["age is above max"]),
        ({"visits": math.nan}, ["visits is NaN"]),
        ({"visits": math.inf}, ["visits is infinite"]),
        ({"visits": -math.inf}, ["visits is infinite"]),
        ({"visits": -0.5}, ["visits is below min"]),
        ({"visits": 1000.5}, ["visits is above max"]),
        ({"plan": "gold"}, ["plan is an unknown category"]),
        ({"plan": "Pro"}, ["plan is an unknown category"]),
        ({"plan": ""}, ["plan is an unknown category"]),
        ({"plan": None}, ["plan is null"]),
        ({"active": None}, ["active is null"]),
        (
            {"age": 121, "plan": "gold", "visits": math.nan},
            ["age is above max", "plan is an unknown category", "visits is NaN"],
        ),
    ],
    ids=str,
)
def test_a_row_that_breaks_a_rule_is_kept_whole_with_its_name(change, rules):
    row = GOOD | change

    found = split(GOOD | {"user_id": 9}, row)

    assert found.good["user_id"].to_list() == [9]
    kept = found.bad.to_dicts()[0]
    assert sorted(kept.pop(RULES)) == rules
    assert {k: repr(v) for k, v in kept.items()} == {k: repr(v) for k, v in row.items()}
    assert found.counts == dict.fromkeys(rules, 1)


@pytest.mark.parametrize(
    "change",
    [
        {"age": 0},
        {"age": 120},
        {"visits": 0.0},
        {"visits": 1000.0},
        {"visits": None},
        {"user_id": -(2**63)},
        {"plan": "free"},
    ],
    ids=str,
)
def test_a_row_at_the_edge_of_the_rules_is_good(change):
    found = split(GOOD | change)

    assert (len(found.good), len(found.bad), found.counts) == (1, 0, {})


def test_every_row_of_a_duplicated_key_is_quarantined():
    found = split(
        GOOD, GOOD | {"age": 31}, GOOD | {"user_id": 2}, duplicated=(1,)
    )  # fmt: skip

    assert found.good["user_id"].to_list() == [2]
    assert found.bad.select("user_id", "age").rows() == [(1, 30), (1, 31)]
    assert found.counts == {"user_id is there more than once": 2}


def test_null_keys_are_null_and_not_duplicated():
    found = split(GOOD | {"user_id": None}, GOOD | {"user_id": None})

    assert found.counts == {"user_id is null": 2}


def test_a_string_key_obeys_the_same_rules():
    found = split(
        GOOD | {"user_id": "a"},
        GOOD | {"user_id": None},
        GOOD | {"user_id": "b"},
        duplicated=("b",),
        key_dtype="string",
    )

    assert found.good["user_id"].to_list() == ["a"]
    assert found.counts == {
        "user_id is null": 1,
        "user_id is there more than once": 1,
    }


@pytest.mark.parametrize("feature", ALL_TYPES, ids=lambda f: f["dtype"])
def test_every_number_has_inclusive_bounds(feature):
    contract = make_contract(features=[feature])
    name = feature["name"]
    rows = {"user_id": range(5), name: [-6, -5, 0, 5, 6]}
    table = pa.Table.from_pydict(rows, schema=contract.raw_schema())

    found = RowRules(contract).split(pl.DataFrame(table), pl.Series([], dtype=pl.Int64))

    assert found.good[name].to_list() == [-5.0, 0.0, 5.0]
    assert found.bad[RULES].to_list() == [
        [f"{name} is below min"],
        [f"{name} is above max"],
    ]


@pytest.mark.parametrize(("low", "high"), [(-1000, 1000), (0.5, 1.5), (-1e30, 1e30)])
def test_bounds_need_not_fit_the_integer_type(low, high):
    contract = make_contract(
        features=[{"name": "n", "dtype": "int8", "min": low, "max": high}]
    )
    rows = {"user_id": [1, 2], "n": [1, 1]}
    table = pa.Table.from_pydict(rows, schema=contract.raw_schema())

    found = RowRules(contract).split(pl.DataFrame(table), pl.Series([], dtype=pl.Int64))

    assert len(found.good) == 2


def test_a_good_row_becomes_floats_in_the_models_order():
    found = split(GOOD, GOOD | {"user_id": 2, "plan": "free", "active": False})

    assert found.good.schema == {
        "user_id": pl.Int64,
        "age": pl.Float32,
        "visits": pl.Float32,
        "plan": pl.Float32,
        "active": pl.Float32,
    }
    # free and pro are the categories 0 and 1.
    assert found.good.rows() == [(1, 30.0, 2.5, 1.0, 1.0), (2, 30.0, 2.5, 0.0, 0.0)]


@pytest.mark.parametrize("dtype", ["float64", "int32", "bool", "string"])
def test_a_null_of_a_nullable_feature_becomes_nan(dtype):
    feature = {"name": "x", "dtype": dtype, "nullable": True}
    if dtype == "string":
        feature["categories"] = ["a"]
    contract = make_contract(features=[feature])
    table = pa.Table.from_pydict(
        {"user_id": [1], "x": [None]}, schema=contract.raw_schema()
    )

    found = RowRules(contract).split(pl.DataFrame(table), pl.Series([], dtype=pl.Int64))

    assert len(found.bad) == 0
    assert math.isnan(found.good["x"][0])


def test_a_category_is_its_position_in_the_contract():
    plan = {"name": "plan", "dtype": "string", "categories": ["z", "a", "m"]}
    contract = make_contract(features=[plan])
    table = pa.Table.from_pydict(
        {"user_id": [1, 2, 3], "plan": ["a", "m", "z"]}, schema=contract.raw_schema()
    )

    found = RowRules(contract).to_features(pl.DataFrame(table))

    assert found["plan"].to_list() == [1.0, 2.0, 0.0]


@pytest.mark.parametrize("n", [0, 500])
def test_valid_rows_are_all_good(n):
    rows = pl.DataFrame(make_rows(n))

    found = RowRules(make_contract()).split(rows, pl.Series([], dtype=pl.Int64))

    assert found.good["user_id"].to_list() == rows["user_id"].to_list()
    assert len(found.bad) == 0
    assert found.bad.columns == [*rows.columns, RULES]


def test_a_finite_number_that_float32_can_not_hold_is_quarantined():
    contract = make_contract(features=[{"name": "x", "dtype": "float64"}])
    rows = pl.DataFrame({"user_id": [1, 2, 3], "x": [1e39, -1e300, 3e38]})

    found = RowRules(contract).split(rows, pl.Series(dtype=pl.Int64))

    assert found.counts == {"x is too large for float32": 2}
    assert found.good["x"].is_finite().all()


@pytest.mark.parametrize("name", ["filter", "columns", "__age", "validate", "key"])
def test_a_feature_may_bear_any_name(name):
    contract = make_contract(features=[{"name": name, "dtype": "float64", "max": 1}])
    rows = pl.DataFrame({"user_id": [1, 2], name: [0.5, 2.0]})

    found = RowRules(contract).split(rows, pl.Series(dtype=pl.Int64))

    assert found.counts == {f"{name} is above max": 1}
    assert found.good.columns == ["user_id", name]
    assert found.bad.columns == ["user_id", name, RULES]


def values_of(feature: dict) -> st.SearchStrategy:
    """Values around every edge of a feature's rules, and null."""
    match feature["dtype"]:
        case "string":
            some = st.sampled_from(["a", "b", "A", ""])
        case "bool":
            some = st.booleans()
        case "float32" | "float64" as dtype:
            width = int(dtype[5:])
            edges = [
                math.nan,
                math.inf,
                -math.inf,
                -0.0,
                5.0,
                0.1,
                3.4028234663852886e38,
            ]
            if width == 64:
                edges += [3.402823466385289e38, -1e39, 0.1 + 1e-12]
            some = st.sampled_from(edges) | st.floats(-10, 10, width=width)
        case dtype:
            bits = int(dtype[3:])
            low, high = -(2 ** (bits - 1)), 2 ** (bits - 1) - 1
            some = st.sampled_from([low, high]) | st.integers(-7, 7)
    return st.none() | some if feature["nulls"] else some


@st.composite
def batches(draw: st.DrawFn) -> tuple[Contract, pa.Table, list[int]]:
    """A contract of one feature, a few rows, and the keys that are said to be twice."""
    dtype = draw(
        st.sampled_from(
            ["string", "bool", "float32", "float64", "int8", "int16", "int32", "int64"]
        )
    )
    feature = {"name": "x", "dtype": dtype, "nullable": draw(st.booleans())}
    if dtype == "string":
        feature["categories"] = ["a", "b"]
    elif dtype != "bool":
        bounds = st.none() | st.sampled_from([-5, 0.1, 2.5, 5, -1e30, 300])
        low, high = draw(bounds), draw(bounds)
        if low is not None and high is not None and low > high:
            low, high = high, low
        feature |= {"min": low, "max": high}
    contract = make_contract(features=[feature])
    values = values_of(feature | {"nulls": draw(st.booleans())})
    rows = draw(st.lists(values, max_size=4))
    keys = draw(
        st.lists(st.integers(0, 3) | st.none(), min_size=len(rows), max_size=len(rows))
    )
    table = pa.table({"user_id": keys, "x": rows}, schema=contract.raw_schema())
    return contract, table, draw(st.lists(st.integers(0, 9), max_size=2))


@settings(max_examples=400, deadline=None)
@given(batches())
def test_a_batch_is_screened_as_the_rules_would_judge_it(batch):
    contract, table, duplicated = batch
    rules, rows = RowRules(contract), pl.DataFrame(table)
    keys = pl.Series(duplicated, dtype=pl.Int64)

    screened = rules.split(rows, keys)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RowRules, "suspects", lambda *_: contract.features)
        judged = rules.split(rows, keys)

    assert_frame_equal(screened.good, judged.good)
    assert_frame_equal(screened.bad, judged.bad)


@settings(max_examples=400, deadline=None)
@given(batches())
def test_a_row_is_judged_as_plain_python_would_judge_it(batch):
    contract, table, duplicated = batch
    (feature,) = contract.features
    rows = table.to_pylist()

    split = RowRules(contract).split(
        pl.DataFrame(table), pl.Series(duplicated, dtype=pl.Int64)
    )

    wanted = [rules_by_hand(feature, row, duplicated) for row in rows]
    assert split.bad[RULES].to_list() == [rules for rules in wanted if rules]
    assert len(split.good) == sum(not rules for rules in wanted)


def rules_by_hand(feature: Feature, row: dict, duplicated: list[int]) -> list[str]:
    """What is wrong with a row, in the order in which quarantine names it."""
    value, key = row["x"], row["user_id"]
    wrong = []
    if value is None:
        wrong += [] if feature.nullable else ["x is null"]
    elif isinstance(value, float) and not math.isfinite(value):
        wrong.append("x is NaN" if math.isnan(value) else "x is infinite")
    elif isinstance(value, str):
        wrong += [] if value in "ab" and value else ["x is an unknown category"]
    else:
        if feature.dtype == "float64" and abs(value) > 3.4028234663852886e38:
            wrong.append("x is too large for float32")
        if feature.min is not None and value < in_type(feature, feature.min):
            wrong.append("x is below min")
        if feature.max is not None and value > in_type(feature, feature.max):
            wrong.append("x is above max")
    if key is None:
        wrong.append("user_id is null")
    if key in duplicated:
        wrong.append("user_id is there more than once")
    return wrong


def in_type(feature: Feature, bound: float) -> float:
    """A bound as a column of the feature's type is compared with it."""
    return float(np.float32(bound)) if feature.dtype == "float32" else bound


def test_features_that_are_as_they_should_be_are_not_looked_at_row_by_row():
    contract = make_contract()
    rows = make_rows(50).to_pylist()
    rows[3] |= {"age": 999}
    rows[7] |= {"plan": "gold"}
    rows[9] |= {"user_id": None}
    frame = pl.DataFrame(pa.Table.from_pylist(rows, schema=contract.raw_schema()))
    rules = RowRules(contract)
    keys = pl.Series([], dtype=pl.Int64)

    suspects = [rules.suspects(batch) for batch in (frame, frame[10:])]
    splits = [rules.split(batch, keys) for batch in (frame, frame[10:], frame[9:])]

    assert [[f.name for f in some] for some in suspects] == [["age", "plan"], []]
    assert [len(split.bad) for split in splits] == [3, 0, 1]
    assert len(splits[0].good) == 47
