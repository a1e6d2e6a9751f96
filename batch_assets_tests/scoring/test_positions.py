"""Histories of positions: a source whose ids are places in the table of the model."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from batch_assets import Column, Contract, Sequence
from batch_assets.lake.tables import Lake
from batch_assets.spec import GateLimits
from batch_assets_tests.histories import (
    ITEMS,
    NAME,
    make_contract,
    make_rows,
    write_histories,
)
from batch_assets_tests.nights import score
from batch_assets_tests.scoring.test_histories import must_be_as_expected
from batch_assets_tests.toys import copy_rows, read_day, validate

GATES = GateLimits(max_quarantine_share=1)


@pytest.mark.parametrize("item", [len(ITEMS), -1, 2**40])
def test_an_item_outside_of_its_size_is_quarantined(
    root: Path, tmp_path: Path, item: int
) -> None:
    lake, contract = Lake(root, NAME), of_positions()
    release = write_histories(
        tmp_path / "release",
        contract=contract,
        model_format="safetensors",
        import_path="batch_assets_tests.histories:Histories",
    )
    # A model that got it would ask for a row that its table has not.
    words = [row | {"items": in_words(row["items"])} for row in positions_of(60)]
    rows = positions_of(60)
    rows[30] |= {"items": [1, item], "days_ago": [2.0, 1.0]}
    copy_rows(
        lake, pa.Table.from_pylist(rows, contract.raw_schema()), contract=contract
    )
    validate(lake, contract=contract)
    (bad,) = read_day(lake, "quarantined_rows").to_pylist()
    assert (bad["user_id"], bad["items"]) == (31, [1, item])
    assert bad["rules"] == [f"items holds no id from 0 to {len(ITEMS) - 1}"]
    score(lake, release, gates=GATES)
    others = pa.Table.from_pylist(words[:30] + words[31:], make_contract().raw_schema())
    must_be_as_expected(read_day(lake, "predictions"), others)


def of_positions() -> Contract:
    """The contract of a source that has positions where others have words."""
    inputs = list(make_contract().inputs)
    history = inputs[3]
    assert isinstance(history, Sequence)
    items = Column(name="items", size=len(ITEMS))
    columns = (items, *history.columns[1:])
    inputs[3] = history.model_copy(update={"columns": columns})
    return make_contract(inputs=tuple(inputs))


def positions_of(n: int) -> list[dict[str, Any]]:
    records: list[dict[str, Any]] = make_rows(n).sort_by("user_id").to_pylist()
    for row in records:
        pairs = zip(row["items"], row["days_ago"], strict=True)
        known = [(ITEMS.index(item), days) for item, days in pairs if item in ITEMS]
        row["items"] = [item for item, _ in known]
        row["days_ago"] = [days for _, days in known]
    return records


def in_words(positions: list[int]) -> list[int]:
    return [ITEMS[at] for at in positions]
