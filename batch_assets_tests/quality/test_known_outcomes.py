"""Labels, rankings and their outcomes, of any source, at the level of the lake."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from deltalake import write_deltalake
from sklearn import metrics

from batch_assets.errors import ContractError, LakeError, SourceError
from batch_assets.lake.day_run import DayRun
from batch_assets.lake.raw import RawSettings, copy_day
from batch_assets.lake.sources import DeltaSource, ParquetSource, Source
from batch_assets.lake.tables import Lake
from batch_assets.models.contract import Contract
from batch_assets.quality.performance.columns import check_outcomes, outcome_schema
from batch_assets.quality.performance.history import read_history, write_performance
from batch_assets.quality.performance.realised import Performance, performance_of
from batch_assets.spec import OutcomesSpec
from batch_assets_tests import histories, toys
from batch_assets_tests.nights import score
from batch_assets_tests.toys import (
    DAY,
    context_of,
    copy_rows,
    make_contract,
    make_rows,
    project_of,
    read_day,
    validate,
    write_toy_release,
)

ROWS = 200
Judge = Callable[..., Performance]


def taken(
    lake: Lake,
    contract: Contract,
    rows: pa.Table,
    source: Source | None = None,
    **said: Any,
) -> OutcomesSpec:
    """Take outcomes of the day into the lake, as the asset does."""
    if source is None:
        pq.write_table(rows, project_of(lake) / f"happened-{DAY}.parquet")
        source = ParquetSource(kind="parquet", glob="happened-{{ day }}.parquet")
    spec = OutcomesSpec.model_validate({"source": source.model_dump(), **said})
    schema = outcome_schema(contract, spec)
    context = dataclasses.replace(
        context_of(project_of(lake), DAY), key=contract.key.name
    )
    copy_day(
        DayRun(lake, DAY),
        source,
        context,
        RawSettings(schema, toys.SHARDS, 100, allow_empty=True, into=lake.outcomes),
        check=lambda found: check_outcomes(found, schema, "the source"),
        newest=DAY,
    )
    return spec


@pytest.fixture
def baskets(lake: Lake, tmp_path: Path) -> pa.Table:
    """A scored day of histories, with labels and rankings; what was predicted."""
    release = histories.write_histories(tmp_path / "release")
    contract = histories.make_contract()
    copy_rows(lake, histories.make_rows(ROWS), contract=contract)
    validate(lake, contract=contract)
    score(lake, release)
    return read_day(lake, "predictions")


def judged(lake: Lake, contract: Contract, spec: OutcomesSpec, *by: str) -> Performance:
    return performance_of(lake, DAY, contract, spec, by)


@pytest.mark.parametrize("kind", [pa.string(), pa.large_string(), "dictionary"])
def test_labels_are_judged_by_their_names(lake, baskets, kind):
    contract = histories.make_contract()
    random = np.random.default_rng(0)
    came = pa.array(random.choice([*histories.CLASSES, None], len(baskets)).tolist())
    came = came.dictionary_encode() if kind == "dictionary" else came.cast(kind)
    rows = pa.table({"user_id": baskets["user_id"], "became": came})
    spec = taken(
        lake, contract, rows, output="verdict", task="multiclass", column="became"
    )
    found = judged(lake, contract, spec, "region")

    said = baskets["verdict"].to_pylist()
    pairs = [
        (one, other)
        for one, other in zip(came.to_pylist(), said, strict=True)
        if one is not None
    ]
    true, predicted = zip(*pairs, strict=True)
    assert found.whole["accuracy"].value == metrics.accuracy_score(true, predicted)
    assert found.whole["macro_f1"].value == pytest.approx(
        metrics.f1_score(true, predicted, average="macro")
    )
    assert found.arrived.unknown == len(baskets) - len(pairs)
    by_region = [line for line in found.lines if line.segment]
    assert {line.segment.column for line in by_region} == {"region"}
    assert sum(line.rows for line in by_region) <= len(pairs)


def test_a_class_that_there_is_not_is_refused(lake, baskets):
    contract = histories.make_contract()
    rows = pa.table(
        {"user_id": baskets["user_id"], "verdict": ["no such"] * len(baskets)}
    )
    spec = taken(lake, contract, rows, output="verdict", task="multiclass")

    with pytest.raises(SourceError, match=r"'no such' of \d+; expected one of"):
        judged(lake, contract, spec)


@pytest.mark.parametrize("made", [pa.list_, pa.large_list])
def test_rankings_are_judged_by_lists(lake, baskets, made):
    contract = histories.make_contract()
    items = baskets["next_items"].to_pylist()
    word = baskets["next_items"].type.value_type
    # The first half gets what was ranked first, the others what nobody ranked, or nothing.
    half = len(items) // 2
    came = [[row[0], row[0]] for row in items[:half]] + [[], None] * (len(items) // 2)
    rows = pa.table(
        {
            "user_id": baskets["user_id"],
            "bought": pa.array(came[: len(items)], made(word)),
        }
    )
    spec = taken(
        lake, contract, rows, output="next_items", task="ranking", column="bought"
    )
    found = judged(lake, contract, spec)

    assert found.whole["recall"].value == 1
    assert found.whole["ndcg"].value == 1
    assert found.arrived.unknown == sum(one is None for one in came[: len(items)])


def test_a_label_is_as_right_as_its_probability_promises(lake, baskets):
    contract = histories.make_contract()
    rows = pa.table({"user_id": baskets["user_id"], "verdict": baskets["verdict"]})
    said = {"output": "verdict", "task": "multiclass", "probability": "confidence"}
    spec = taken(lake, contract, rows, **said)

    with pytest.raises(ContractError, match="probability 'sure' is no number"):
        outcome_schema(contract, spec.model_copy(update={"probability": "sure"}))
    parts = lake.predictions.parts(DAY)
    write_performance(lake, DAY, parts, spec, judged(lake, contract, spec))
    history = read_history(lake, spec, DAY, DAY)
    assert history.realised["accuracy"][DAY].value == 1


@pytest.fixture
def scored(lake: Lake, tmp_path: Path) -> pa.Table:
    """A scored day of the toy; its rows."""
    rows = make_rows(ROWS)
    copy_rows(lake, rows)
    validate(lake)
    score(lake, write_toy_release(tmp_path / "release"))
    return rows


def test_outcomes_of_a_delta_table_are_copied_and_other_days_left_alone(lake, scored):
    both = pa.table(
        {
            "user_id": pa.concat_arrays([scored["user_id"].combine_chunks()] * 2),
            "left": [True, False] * ROWS,
            "day": [DAY] * ROWS + ["2026-01-06"] * ROWS,
        }
    )
    write_deltalake(str(project_of(lake) / "happened"), both)
    source = DeltaSource(kind="delta", table="happened")
    said = {"output": "risk", "task": "binary", "column": "left"}
    spec = taken(lake, make_contract(), both, source, **said)

    assert judged(lake, make_contract(), spec).arrived.known == ROWS
    assert lake.outcomes.parts(DAY)[0].receipt.pinned is None


def test_a_day_without_outcomes_has_no_metrics(lake, scored):
    none = pa.table(
        {"user_id": scored["user_id"][:0], "left": pa.array([], pa.bool_())}
    )
    spec = taken(
        lake, make_contract(), none, output="risk", task="binary", column="left"
    )
    found = judged(lake, make_contract(), spec, "plan")

    assert found.whole == {}
    assert (found.arrived.predicted, found.arrived.missing) == (ROWS, ROWS)
    assert found.arrived.share == 0


def test_one_outcome_alone_is_judged(lake, scored):
    one = pa.table({"user_id": scored["user_id"][:1], "left": [True]})
    spec = taken(
        lake, make_contract(), one, output="risk", task="binary", column="left"
    )
    found = judged(lake, make_contract(), spec)

    assert found.arrived.known == 1
    assert "auc" not in found.whole
    assert found.whole["log_loss"].value > 0


def test_the_key_is_no_outcome():
    spec = OutcomesSpec.model_validate(
        {
            "source": {"kind": "parquet", "glob": "x"},
            "output": "risk",
            "task": "binary",
            "column": "user_id",
        }
    )
    with pytest.raises(ContractError, match="column 'user_id' is the key"):
        outcome_schema(make_contract(), spec)


def test_keys_of_another_type_are_refused(lake, scored):
    rows = pa.table({"user_id": ["a"] * 3, "left": [True] * 3})
    with pytest.raises(ContractError, match="user_id"):
        taken(lake, make_contract(), rows, output="risk", task="binary", column="left")


def test_a_day_that_was_never_taken_is_named(lake, scored):
    spec = OutcomesSpec.model_validate(
        {
            "source": {"kind": "parquet", "glob": "x"},
            "output": "risk",
            "task": "binary",
        }
    )
    with pytest.raises(LakeError, match="outcomes has no 2026-01-05"):
        judged(lake, make_contract(), spec)


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("task", "auc", "'binary', 'multiclass', 'regression' or 'ranking'"),
        ("after_days", -1, "greater than or equal to 0"),
        ("schedule", "hourly", "a schedule runs once a day"),
        ("min_known", 2, "less than or equal to 1"),
        ("probability", "sure", "belongs to the task multiclass"),
        ("outptu", "risk", "Extra inputs are not permitted"),
    ],
)
def test_a_wrong_field_is_named(field, value, said):
    declared = {
        "source": {"kind": "parquet", "glob": "x"},
        "output": "risk",
        "task": "binary",
    }
    with pytest.raises(ValueError, match=said):
        OutcomesSpec.model_validate(declared | {field: value})
