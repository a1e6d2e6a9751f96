"""Contracts: what a model expects, and how a source is held against it."""

import pyarrow as pa
import pytest
from pydantic import ValidationError

from batch_assets.errors import ContractError
from batch_assets.models.contract import Contract
from batch_assets_tests.toys import make_contract

AGE = {"name": "age", "dtype": "int16", "min": 0, "max": 120}
RISK = {"name": "risk", "dtype": "float32", "min": 0, "max": 1}


def test_the_three_schemas_are_those_of_the_contract(toy_contract):
    key = pa.field("user_id", pa.int64(), nullable=False)

    assert toy_contract.raw_schema() == pa.schema(
        [
            ("user_id", pa.int64()),
            ("age", pa.int16()),
            ("visits", pa.float32()),
            ("plan", pa.string()),
            ("active", pa.bool_()),
        ]
    )
    assert toy_contract.feature_schema() == pa.schema(
        [key, *((n, pa.float32()) for n in ("age", "visits", "plan", "active"))]
    )
    assert toy_contract.prediction_schema() == pa.schema(
        [
            key,
            ("risk", pa.float32()),
            ("model_name", pa.string()),
            ("model_version", pa.string()),
        ]
    )


@pytest.mark.parametrize(
    ("feature", "error"),
    [
        ({"name": "plan", "dtype": "string"}, "categories go with dtype 'string'"),
        (AGE | {"categories": ["a"]}, "categories go with dtype 'string'"),
        ({"name": "active", "dtype": "bool", "min": 0}, "a bool has no min or max"),
        (
            {"name": "plan", "dtype": "string", "categories": ["a"], "max": 1},
            "a string has no min or max",
        ),
        (AGE | {"min": 121}, r"min 121\.0 is above max 120\.0"),
        (
            {"name": "plan", "dtype": "string", "categories": ["a", "b", "a"]},
            "a category is listed twice",
        ),
        ({"name": "age", "dtype": "uint8"}, "dtype"),
        ({"name": "1st", "dtype": "int8"}, "should match pattern"),
        ({"name": "a b", "dtype": "int8"}, "should match pattern"),
        (AGE | {"mim": 0}, "Extra inputs"),
    ],
)
def test_a_wrong_feature_is_refused(feature, error):
    with pytest.raises(ValidationError, match=error):
        make_contract(features=[feature])


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"features": [AGE, AGE]}, "columns named twice: 'age'"),
        ({"features": [AGE | {"name": "user_id"}]}, "columns named twice: 'user_id'"),
        ({"outputs": [RISK, RISK]}, "columns named twice: 'risk'"),
        ({"outputs": [RISK | {"name": "user_id"}]}, "columns named twice: 'user_id'"),
        ({"features": [AGE | {"name": "shard"}]}, "the lake uses itself: 'shard'"),
        ({"outputs": [RISK | {"name": "day"}]}, "the lake uses itself: 'day'"),
        (
            {"key": {"name": "model_name", "dtype": "int64"}},
            "the lake uses itself: 'model_name'",
        ),
        ({"features": []}, "features or inputs, and this has neither"),
        ({"outputs": []}, "at least 1 item"),
        ({"key": {"name": "user_id", "dtype": "float64"}}, "'int64' or 'string'"),
        ({"owner": "ada"}, "Extra inputs"),
    ],
)
def test_a_wrong_contract_is_refused(changes, error):
    with pytest.raises(ValidationError, match=error):
        make_contract(**changes)


def test_a_feature_and_an_output_may_share_a_name():
    contract = make_contract(outputs=[RISK | {"name": "age"}])

    assert contract.output_names == ["age"]


def test_a_contract_survives_the_way_through_json(toy_contract):
    assert Contract.model_validate_json(toy_contract.model_dump_json()) == toy_contract


@pytest.mark.parametrize(
    "features",
    [
        [AGE | {"max": 121}],
        [AGE | {"nullable": True}],
        [AGE | {"dtype": "int32"}],
        [AGE | {"name": "years"}],
        [AGE, AGE | {"name": "years"}],
        [AGE | {"name": "years"}, AGE],
    ],
    ids=str,
)
def test_the_digest_changes_with_any_feature(features):
    assert make_contract(features=features).digest not in {
        make_contract(features=[AGE]).digest,
        make_contract(features=features[::-1] if len(features) > 1 else [AGE]).digest,
    }


def test_the_digest_changes_with_the_order_of_categories():
    def digest(*categories: str) -> str:
        plan = {"name": "plan", "dtype": "string", "categories": categories}
        return make_contract(features=[plan]).digest

    assert digest("free", "pro") != digest("pro", "free")


def test_the_digest_changes_with_the_key():
    assert make_contract("string").digest != make_contract("int64").digest


def test_the_digest_does_not_change_with_the_outputs(toy_contract):
    other = make_contract(outputs=[RISK, RISK | {"name": "reach"}])

    assert other.digest == toy_contract.digest


@pytest.mark.parametrize(
    "dtype",
    [
        pa.string(),
        pa.large_string(),
        pa.string_view(),
        pa.dictionary(pa.int8(), pa.string()),
        pa.dictionary(pa.int32(), pa.large_string()),
    ],
    ids=str,
)
def test_any_kind_of_string_column_is_a_string(toy_contract, dtype):
    schema = toy_contract.raw_schema().set(3, pa.field("plan", dtype))

    toy_contract.check_schema(schema, "the source")


def test_the_order_of_columns_is_free(toy_contract):
    schema = toy_contract.raw_schema()

    toy_contract.check_schema(pa.schema(list(schema)[::-1]), "the source")


def test_every_wrong_column_is_named_with_got_and_expected(toy_contract):
    schema = pa.schema(
        [
            ("user_id", pa.string()),
            ("age", pa.int16()),
            ("age", pa.int16()),
            ("plan", pa.dictionary(pa.int8(), pa.int64())),
            ("note", pa.string()),
            ("mood", pa.string()),
        ]
    )

    with pytest.raises(ContractError) as refused:
        toy_contract.check_schema(schema, "the source")

    assert str(refused.value).splitlines() == [
        "the source does not keep the contract; nothing was read or written.",
        "- 2 missing: 'visits', 'active'",
        "- 2 extra: 'note', 'mood'",
        "- 1 there twice: 'age'",
        "- retyped: 'user_id', got: string, expected: int64",
        "- retyped: 'plan', got: int64, expected: string",
        "Mend the source, or approve a release whose contract has these columns.",
    ]


@pytest.mark.parametrize(
    ("column", "dtype", "said"),
    [
        ("age", pa.int32(), "int32"),
        ("visits", pa.float64(), "float64"),
        ("active", pa.int8(), "int8"),
    ],
)
def test_a_wider_type_is_another_type(toy_contract, column, dtype, said):
    schema = toy_contract.raw_schema()
    index = schema.get_field_index(column)

    with pytest.raises(ContractError, match=f"'{column}', got: {said}"):
        toy_contract.check_schema(schema.set(index, pa.field(column, dtype)), "it")
