"""A contract is derived from the frame that a model was trained on."""

import datetime
from typing import Any

import duckdb
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest

from batch_assets import Column, Contract, Feature, Ids, KeySpec, Output, Sequence
from batch_assets.errors import ContractError
from batch_assets_tests.training.frames import PLANS, make_frame

ASKED: dict[str, Any] = {
    "key": "customer",
    "outputs": "risk",
    "without": ["late", "day"],
}


def derived(frame: Any, **changes: Any) -> Contract:
    return Contract.from_frame(frame, **(ASKED | changes))


def test_names_order_types_nulls_ranges_and_words_are_those_of_the_frame() -> None:
    frame = make_frame()
    contract = derived(frame)
    low, high = frame["age"].min(), frame["age"].max()
    spend = frame["spend"].drop_nans()
    span = spend.max() - spend.min()
    assert contract.key == KeySpec(name="customer", dtype="string")
    assert contract.features == (
        Feature(
            name="age", dtype="int16", min=max(0, 2 * low - high), max=2 * high - low
        ),
        Feature(
            name="spend",
            dtype="float64",
            nullable=True,
            min=max(0.0, spend.min() - span),
            max=spend.max() + span,
        ),
        Feature(name="plan", dtype="string", categories=PLANS),
        Feature(name="active", dtype="bool"),
    )
    assert contract.outputs == (Output(name="risk"),)


@pytest.mark.parametrize(
    "turned",
    [
        lambda frame: frame.to_pandas(),
        lambda frame: frame.to_arrow(),
        lambda frame: frame.lazy(),
        lambda frame: frame.to_dict(),
        lambda frame: duckdb.from_arrow(frame.to_arrow()),
    ],
    ids=["pandas", "arrow", "lazy", "dict", "duckdb"],
)
def test_every_library_tells_the_same(turned: Any) -> None:
    frame = make_frame()
    assert derived(turned(frame)) == derived(frame)


@pytest.mark.parametrize(
    ("values", "feature"),
    [
        (pa.array([1, 2, 250], pa.uint8()), {"dtype": "int16", "min": 0, "max": 499}),
        (pa.array([-5, 0, 5], pa.int8()), {"dtype": "int8", "min": -15, "max": 15}),
        (pa.array([-100, 0, 100], pa.int8()), {"dtype": "int8", "min": -128, "max": 127}),
        (pa.array([7, 7, 7], pa.int64()), {"dtype": "int64"}),
        (pa.array([-3, -2, -1], pa.int32()), {"dtype": "int32", "min": -5, "max": 0}),
        (pa.array([1.5, None, 2], pa.float32()), {"dtype": "float32", "nullable": True}),
        (pa.array(np.array([1, 2, 4], np.float16)), {"dtype": "float32", "max": 7.0}),
        (pa.array([True, None, False]), {"dtype": "bool", "nullable": True}),
        (pa.array(["b", "a", None]), {"categories": ("a", "b"), "nullable": True}),
        (pd.Categorical(["lo", "hi", "lo"], ["lo", "mid", "hi"]), {"categories": ("lo", "mid", "hi")}),
        (pl.Series(["x", "y", "x"], dtype=pl.Enum(["y", "x"])), {"categories": ("y", "x")}),
    ],
    ids=str,
)  # fmt: skip
def test_each_type_of_a_column_is_a_feature(
    values: Any, feature: dict[str, Any]
) -> None:
    frame: Any = {"customer": [1, 2, 3], "x": values}
    if isinstance(values, pd.Categorical):
        frame = pd.DataFrame(frame)
    elif isinstance(values, pl.Series):
        frame = pl.DataFrame(frame)
    (found,) = derived(frame, without=()).features
    assert {name: getattr(found, name) for name in feature} == feature


def test_lists_are_vectors_and_sequences() -> None:
    frame = {
        "customer": [1, 2, 3],
        "taste": [[0.1, 0.2], [0.3, 0.4], [0.5, 0.6]],
        "seen": [[1, 2, 9], [], None],
        "tags": [["b"], ["a", "b"], []],
        "gaps": [[1.0], [], [2.0, 3.0]],
    }
    contract = derived(pa.table(frame), without=())
    kinds = [(one.name, one.kind) for one in contract.inputs]
    assert kinds == [
        ("taste", "vector"),
        ("seen", "sequence"),
        ("tags", "sequence"),
        ("gaps", "sequence"),
    ]
    assert contract.inputs[0].size == 2
    assert contract.inputs[1].columns[0].size == 10
    assert contract.inputs[1].max_length == 3
    assert contract.vocabularies == {"tags": ("a", "b")}
    assert contract.inputs[3].columns[0].dtype == "float32"


def test_what_a_caller_says_goes_before() -> None:
    films = Sequence(
        name="seen",
        columns=(Column(name="films", vocabulary="films"),),
        max_length=50,
    )
    shop = Ids(name="shop", size=2**40)
    age = Feature(name="age", dtype="int64", min=18, max=120)
    frame = {
        "age": [20, 30],
        "shop": [2**33, 1],
        "films": [[5, 7], [2**50]],
        "spend": [1.0, 2.0],
    }
    contract = derived(
        frame,
        key=KeySpec(name="user", dtype="int64"),
        without=(),
        features=[age],
        inputs=[films, shop],
        vocabularies={"films": (5, 7)},
        outputs=[Output(name="risk", min=0, max=1), "other"],
    )
    assert contract.features[0] == age
    assert [one.name for one in contract.features] == ["age", "spend"]
    assert contract.inputs == (films, shop)
    assert contract.outputs == (Output(name="risk", min=0, max=1), Output(name="other"))


@pytest.mark.parametrize(
    ("column", "said"),
    [
        ([datetime.date(2026, 1, 1)] * 3, "'x': is date, expected numbers"),
        ([datetime.datetime(2026, 1, 1)] * 3, "'x': is timestamp"),
        ([b"a", b"b", b"c"], "'x': is binary"),
        ([None] * 3, "'x': has no value"),
        ([float("nan")] * 3, "'x': has no value"),
        ([1.0, float("inf"), 2.0], "'x': holds infinity"),
        ([1, 2, 2**24 + 1], r"'x': has 16777217, which float32 does not hold: .*Ids"),
        ([{"a": 1}] * 3, "'x': is struct"),
        ([[], [], None], "'x': has nothing in its lists"),
        ([[-1], [2], []], "'x': holds ids from -1 to 2: give it as a Sequence"),
        ([[True], [], []], "'x': is a list of bool"),
    ],
    ids=str,
)
def test_what_can_be_no_input_is_named_with_all_others(column: Any, said: str) -> None:
    frame = pa.table({"customer": [1, 2, 3], "x": column, "y": [b"1", b"2", b"3"]})
    with pytest.raises(ContractError, match=said) as error:
        derived(frame, without=())
    assert "'y': is binary" in str(error.value)
    assert "without=" in str(error.value)


def test_a_column_that_can_have_no_name_is_said_in_one_line() -> None:
    frame = {"customer": [1, 2], "my age": [1, 2], "1st": [1.0, 2.0]}
    with pytest.raises(ContractError) as error:
        derived(frame, without=())
    lines = str(error.value).splitlines()
    assert lines[1].startswith("- 'my age': 'my age' is no name: letters, digits and _")
    assert lines[2].startswith("- '1st': '1st' is no name")
    assert len(lines) == 4


def test_too_many_words_are_no_categories() -> None:
    names = [f"w{n}" for n in range(1_001)]
    frame = {"customer": range(1_001), "name": names, "n": range(1_001)}
    with pytest.raises(ContractError, match=r"1,001 different words, .*Ids"):
        derived(frame, without=())


@pytest.mark.parametrize(
    ("frame", "changes", "said"),
    [
        ([1, 2], {}, "got list, expected a polars or pandas DataFrame"),
        ({"a": [1]}, {}, "has no column 'customer', so the key's type .*KeySpec"),
        ({"customer": [1.5], "a": [1]}, {}, "key 'customer' is float64"),
        ({"customer": [1], "a": [1]}, {"without": ["b"]}, r"has no \['b'\]; there are"),
        ({"customer": [1]}, {"without": ()}, "features or inputs, and this has neither"),
        ({"customer": [1], "day": [1]}, {"without": ()}, "that the lake uses"),
        ({"customer": [1], "a": [1, 2]}, {}, "can't be turned into Arrow"),
        (pd.DataFrame({"a": [1]}, index=pd.Index([5], name="customer")), {}, "reset_index"),
        (pd.DataFrame({0: [1]}), {}, "are not named by text"),
        (pd.Series([1], name="a"), {}, "expected a DataFrame"),
        (pd.DataFrame([[1, 2]], columns=["a", "a"]), {}, "two columns named 'a'|Duplicate"),
        (np.zeros((2, 2)), {}, "got ndarray"),
        ({"customer": [1], "a": [1]}, {"outputs": ()}, "no contract can be derived"),
    ],
)  # fmt: skip
def test_a_frame_that_tells_no_contract_is_one_sentence(
    frame: Any, changes: dict[str, Any], said: str
) -> None:
    with pytest.raises(ContractError, match=said):
        derived(frame, **({"without": ()} | changes))


def test_the_query_casts_what_it_can_and_stops_at_what_would_change() -> None:
    contract = derived(make_frame())
    raw = make_frame().with_columns(
        pl.col("age").cast(pl.Utf8), pl.col("active").cast(pl.Int8), "spend"
    )
    with duckdb.connect() as connection:
        connection.register("raw", raw.to_arrow())
        found = connection.sql(contract.to_sql("raw")).to_arrow_table()
        contract.check_schema(found.schema, "the query")
        assert found["age"].to_pylist() == make_frame()["age"].to_list()
        assert found["active"].to_pylist() == make_frame()["active"].to_list()
        for column, value in (("age", "1.5"), ("active", 2)):
            changed = raw.with_columns(pl.lit(value).alias(column))
            connection.register("changed", changed.to_arrow())
            with pytest.raises(duckdb.Error, match=f"{column} is no"):
                connection.sql(contract.to_sql("changed")).to_arrow_table()


def test_the_query_casts_lists_too() -> None:
    frame = {"customer": [1], "seen": [[1, 2]], "tags": [["a"]], "v": [[0.5, 1.0]]}
    contract = derived(frame, without=())
    with duckdb.connect() as connection:
        connection.execute(
            "CREATE TABLE raw AS SELECT '7' AS customer, ['1', '9'] AS seen, "
            "['a'] AS tags, [1, 2] AS v"
        )
        found = connection.sql(contract.to_sql("raw")).to_arrow_table()
        contract.check_schema(found.schema, "the query")
        assert found.to_pylist() == [
            {"customer": 7, "seen": [1, 9], "tags": ["a"], "v": [1.0, 2.0]}
        ]
        connection.execute("UPDATE raw SET seen = ['1.5']")
        with pytest.raises(duckdb.Error, match="seen is no whole number"):
            connection.execute(contract.to_sql("raw")).fetchall()
