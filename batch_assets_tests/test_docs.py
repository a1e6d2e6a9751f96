"""What the docs say of the contract is what the code does."""

import re
from pathlib import Path
from typing import get_args

import pytest

from batch_assets.models.columns import SQL_TYPES
from batch_assets.models.contract import (
    FEATURE_TYPES,
    KEY_TYPES,
    RESERVED,
    Contract,
    Feature,
    KeySpec,
)
from batch_assets.models.input_specs import Column, Ids, Sequence, Text, Vector
from batch_assets.models.output_specs import (
    OUTPUT_TYPES,
    Label,
    Output,
    Ranking,
    VectorOutput,
)

DOCS = Path(__file__).parents[1] / "docs"
TEXT = (DOCS / "contract.md").read_text(encoding="utf-8")


def table_after(line: str) -> list[list[str]]:
    """The rows of the first table after a line, a list of cells each."""
    _, _, rest = TEXT.partition(line)
    rows = re.findall(
        r"^\|(.*)\|$", rest.partition("\n\n|")[2].partition("\n\n")[0], re.M
    )
    return [
        [cell.strip() for cell in row.split("|")] for row in rows if "---" not in row
    ]


def test_the_table_of_types_is_that_of_the_code():
    rows = {row[0].strip("`"): row[1:5] for row in table_after("## Types")}

    assert rows == {
        name: [
            f"`{SQL_TYPES[name]}`",
            *("yes" if name in types else "" for types in (KEY_TYPES, FEATURE_TYPES, OUTPUT_TYPES)),
        ]
        for name in FEATURE_TYPES
    }  # fmt: skip


@pytest.mark.parametrize(
    ("model", "types"),
    [(KeySpec, KEY_TYPES), (Feature, FEATURE_TYPES), (Output, OUTPUT_TYPES)],
    ids=lambda x: getattr(x, "__name__", ""),
)
def test_what_may_be_declared_is_what_has_a_type(model, types):
    assert set(get_args(model.model_fields["dtype"].annotation)) == set(types)
    assert set(types) <= set(SQL_TYPES)


@pytest.mark.parametrize(
    "model",
    [
        KeySpec,
        Feature,
        Output,
        Ids,
        Vector,
        Sequence,
        Text,
        Column,
        Label,
        VectorOutput,
        Ranking,
    ],
)
def test_every_field_of_the_contract_is_in_the_docs(model):
    (row,) = re.findall(rf"^\| `{model.__name__}`, .*\| (.*) \|$", TEXT, re.M)

    assert re.findall(r"`(\w+)`", row) == list(model.model_fields)


def test_the_names_that_are_taken_are_in_the_docs():
    (told,) = re.findall(r"names for itself: (.*?)\.", TEXT, re.S)

    assert set(re.findall(r"`(\w+)`", told)) == RESERVED
    assert list(Contract.model_fields) == [
        *("key", "features", "inputs", "vocabularies", "outputs")
    ]
