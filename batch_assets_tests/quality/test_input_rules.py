"""Lists are cut, words become positions, and each rule names the rows that break it."""

from typing import Any

import pyarrow as pa
import pytest
from pydantic import ValidationError

from batch_assets import Column, Contract, Ids, KeySpec, Output, Ranking, Sequence
from batch_assets.quality.input_rules import InputRules

WORDS = ("tea", "milk", "bread", "salt")


def contract_of(*inputs: Any, **changes: Any) -> Contract:
    arguments: dict[str, Any] = {
        "key": KeySpec(name="k", dtype="int64"),
        "inputs": inputs,
        "vocabularies": {"words": WORDS},
        "outputs": (Output(name="o"),),
    }
    return Contract(**(arguments | changes))


def sequence(**changes: Any) -> Sequence:
    column = Column(
        name="a",
        dtype="string",
        vocabulary="words",
        unknown=changes.pop("unknown", None),
    )
    arguments: dict[str, Any] = {"name": "s", "columns": (column,), "max_length": 2}
    return Sequence(**(arguments | changes))


def asked(contract: Contract, **columns: Any) -> tuple[InputRules, pa.Table]:
    names = contract.raw_schema().names[1:]
    schema = pa.schema([contract.raw_schema().field(name) for name in names])
    return InputRules(contract), pa.table(columns, schema=schema)


def broken(contract: Contract, **columns: Any) -> dict[str, list[int]]:
    rules, rows = asked(contract, **columns)
    return {
        rule: [at for at, one in enumerate(marks.tolist()) if one]
        for rule, marks in rules.broken(rows)
    }


def prepared(contract: Contract, **columns: Any) -> dict[str, list[Any]]:
    rules, rows = asked(contract, **columns)
    return {name: one.to_pylist() for name, one in rules.prepared(rows).items()}


LISTS = [["tea", "milk", "bread"], ["oil", "salt"], [], None, ["oil", "oil", "tea"]]


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, [[1, 2], [3], [], [], [0]]),
        ({"keep": "head"}, [[0, 1], [3], [], [], [0]]),
        ({"unknown": 4}, [[1, 2], [4, 3], [], [], [4, 0]]),
        ({"unknown": 4, "keep": "head"}, [[0, 1], [4, 3], [], [], [4, 4]]),
        ({"max_length": 9}, [[0, 1, 2], [3], [], [], [0]]),
        ({"max_length": None, "given": False}, [[0, 1, 2], [3], [], [], [0]]),
    ],
)
def test_a_list_is_cut_at_its_end_without_what_no_vocabulary_has(
    changes: dict[str, Any], expected: list[list[int]]
) -> None:
    assert prepared(contract_of(sequence(**changes)), a=LISTS) == {"a": expected}


def test_lists_side_by_side_lose_the_same_elements() -> None:
    columns = (
        Column(name="a", dtype="string", vocabulary="words"),
        Column(name="b", dtype="float32"),
        Column(name="c", size=9),
    )
    contract = contract_of(Sequence(name="s", columns=columns, max_length=2))
    found = prepared(
        contract,
        a=[["tea", "oil", "milk", "salt"], ["oil"]],
        b=[[0.5, 1.5, 2.5, 3.5], [4.5]],
        c=[[5, 6, 7, 8], [1]],
    )
    assert found == {"a": [[1, 3], []], "b": [[2.5, 3.5], []], "c": [[7, 8], []]}


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"min_length": 1}, {"s is shorter than 1": [2, 3]}),
        # What is left out does not count.
        ({"min_length": 2}, {"s is shorter than 2": [1, 2, 3, 4]}),
        ({"min_known": 0.5}, {"s has too few known ids": [4]}),
        ({"min_known": 1.0}, {"s has too few known ids": [1, 4]}),
        ({"min_known": 1.0, "unknown": 4}, {}),
        ({"longest": 2}, {"s is longer than 2": [0, 4]}),
        ({}, {}),
    ],
)
def test_a_rule_of_lengths_names_the_rows_that_break_it(
    changes: dict[str, Any], expected: dict[str, list[int]]
) -> None:
    assert broken(contract_of(sequence(**changes)), a=LISTS) == expected


def test_an_id_outside_of_its_size_or_vocabulary_breaks_a_rule() -> None:
    sized = Ids(name="a", size=3)
    rows = {"a": [0, 2, 3, -1, None]}
    assert broken(contract_of(sized), **rows) == {
        "a is null": [4],
        "a is no id from 0 to 2": [2, 3],
    }
    worded = Ids(name="a", dtype="string", vocabulary="words")
    rows = {"a": ["tea", "oil", "Tea", "", None]}
    assert broken(contract_of(worded), **rows) == {
        "a is null": [4],
        "a is not in the vocabulary": [1, 2, 3],
    }
    open_to_all = Ids(
        name="a", dtype="string", vocabulary="words", unknown=4, nullable=True
    )
    assert broken(contract_of(open_to_all), **rows) == {}
    assert prepared(contract_of(open_to_all), **rows) == {"a": [0, 4, 4, 4, 4]}


def test_an_id_outside_of_its_size_inside_a_list_breaks_a_rule() -> None:
    columns = Column(name="c", size=3), Column(name="d", size=9)
    contract = contract_of(Sequence(name="s", columns=columns, max_length=2))
    lists = [[0, 2], [3], [-1], [None], [2**40, 0], [2, 0, 3], [], None]
    beside = [None if one is None else [8] * len(one) for one in lists]
    # What would be cut off counts, too: it is in nobody's table.
    assert broken(contract, c=lists, d=beside) == {
        "c holds no id from 0 to 2": [1, 2, 4, 5],
        "c holds a null": [3],
    }
    assert broken(contract, c=beside, d=beside) == {
        "c holds no id from 0 to 2": [0, 1, 2, 3, 4, 5]
    }


def test_a_slice_of_a_table_is_judged_by_its_own_rows() -> None:
    contract = contract_of(sequence(min_length=1))
    rules, rows = asked(contract, a=LISTS * 3)
    whole = dict(rules.broken(rows))["s is shorter than 1"].tolist()
    part = dict(rules.broken(rows.slice(4, 6)))["s is shorter than 1"].tolist()
    assert part == whole[4:10]
    assert (
        rules.prepared(rows.slice(4, 6))["a"].to_pylist()
        == (rules.prepared(rows)["a"].to_pylist()[4:10])
    )


def test_more_are_not_ranked_than_there_are() -> None:
    with pytest.raises(
        ValidationError, match="k is 5, and the vocabulary 'words' has 4"
    ):
        contract_of(
            sequence(), outputs=(Ranking(name="next", vocabulary="words", k=5),)
        )
    with pytest.raises(ValidationError, match="at_least 4 is above k 3"):
        contract_of(
            sequence(),
            outputs=(Ranking(name="next", vocabulary="words", k=3, at_least=4),),
        )
