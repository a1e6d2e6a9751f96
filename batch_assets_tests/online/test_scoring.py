"""Rows that come online are judged and scored as the night does, each for itself."""

import asyncio
import dataclasses
import json
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from batch_assets.errors import ScoringError
from batch_assets.lake.tables import Lake
from batch_assets.models.release import Release, open_release
from batch_assets.online.scoring import (
    BadRequestError,
    BadRowError,
    Limits,
    LiveRelease,
    OutputError,
    TooLongError,
)
from batch_assets.scoring.device import find_device
from batch_assets.scoring.engines.local import LocalEngine
from batch_assets.scoring.faults import FaultError
from batch_assets.scoring.model_process import ModelProcess
from batch_assets.spec import GateLimits
from batch_assets_tests.releases_by_hand import make_by_hand
from batch_assets_tests.steps import score_rows
from batch_assets_tests.stuck import (
    DIES_AWAY,
    LEAVES,
    LOOPS,
    RAISES,
    STRAYS,
    Risk,
    children,
)
from batch_assets_tests.toys import (
    DAY,
    copy_rows,
    expected_risk,
    make_contract,
    make_rows,
    read_day,
    validate,
    write_toy_release,
)

GOOD = {"user_id": 7, "age": 30, "visits": 2.5, "plan": "pro", "active": True}
ROWS = 60


class Odd(torch.nn.Module):
    """The mean of five columns."""

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return features.mean(dim=1)


class Halved(Risk):
    """Not what a release of `Risk` was made of."""

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return super().forward(features) / 2


@contextmanager
def live_of(release: Release, **changes: Any) -> Iterator[LiveRelease]:
    limits = dataclasses.replace(Limits(max_queue=100, max_seconds=30.0), **changes)
    there = children()
    live = LiveRelease(release, find_device("cpu"), limits)
    try:
        yield live
    finally:
        asyncio.run(live.close())
    assert children() == there


@pytest.fixture(scope="module")
def live(toy_release: Release) -> Iterator[LiveRelease]:
    with live_of(toy_release) as live:
        yield live


def run(live: LiveRelease, main: Coroutine[Any, Any, Any]) -> Any:
    """What a main program gives, in the one event loop of a release."""

    async def then_close() -> Any:
        found = await main
        await live.close()
        return found

    return asyncio.run(then_close())


def body(*rows: Any) -> bytes:
    return json.dumps({"rows": rows}).encode()


def as_asked(live: LiveRelease, rows: pa.Table) -> list[dict[str, Any]]:
    """Raw rows, once they went through JSON."""
    return live.rows(body(*rows.to_pylist()))


# What is asked


@pytest.mark.parametrize(
    ("change", "name", "found", "expected"),
    [
        ({"age": 3.5}, "age", "number 3.5", "int16"),
        ({"age": 3.0}, "age", "number 3.0", "int16"),
        ({"age": True}, "age", "boolean True", "int16"),
        ({"age": "3"}, "age", "string '3'", "int16"),
        ({"age": 40_000}, "age", "integer 40000", "int16"),
        ({"visits": "many"}, "visits", "string 'many'", "float32"),
        ({"visits": False}, "visits", "boolean False", "float32"),
        ({"plan": 1}, "plan", "integer 1", "string"),
        ({"active": 1}, "active", "integer 1", "bool"),
        ({"user_id": None}, "user_id", "null", "int64"),
        ({"user_id": "7"}, "user_id", "string '7'", "int64"),
        ({"user_id": 2**63}, "user_id", "integer 9223372036854775808", "int64"),
        ({"user_id": [7]}, "user_id", "array [7]", "int64"),
        ({"ages": 3}, "ages", "integer 3", "nothing"),
    ],
)
def test_a_column_that_is_retyped_or_extra_is_named_with_found_and_expected(
    live: LiveRelease, change: dict[str, Any], name: str, found: str, expected: str
) -> None:
    with pytest.raises(BadRequestError, match="nothing was done") as refused:
        live.rows(body(GOOD, GOOD | change))

    (problem,) = refused.value.problems
    assert (problem.row, problem.name) == (1, name)
    assert (problem.found, problem.expected) == (found, expected)
    assert f"'{name}', got: {found}, expected: {expected}" in str(refused.value)


def test_every_missing_column_is_named(live: LiveRelease) -> None:
    with pytest.raises(BadRequestError, match="2 columns are missing") as refused:
        live.rows(body({k: v for k, v in GOOD.items() if k not in ("age", "plan")}))

    assert [(p.name, p.found, p.expected) for p in refused.value.problems] == [
        ("age", "nothing", "int16"),
        ("plan", "nothing", "string"),
    ]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (b"{", "is no JSON"),
        (b"", "is no JSON"),
        (b"\xff", "is no JSON"),
        (b"[]", "the body is not"),
        (b'{"rows": []}', "at least one"),
        (b'{"rows": 1}', "the body is not"),
        (b'{"rows": [1]}', "the body is not"),
        (b'{"row": []}', "the body is not"),
    ],
)
def test_a_body_of_another_shape_is_refused(
    live: LiveRelease, text: bytes, said: str
) -> None:
    with pytest.raises(BadRequestError, match=said):
        live.rows(text)


def test_more_rows_than_may_wait_are_too_many(live: LiveRelease) -> None:
    assert len(live.rows(body(*[GOOD] * 100))) == 100
    with pytest.raises(TooLongError, match="100 rows at most"):
        live.rows(body(*[GOOD] * 101))


def test_outputs_may_have_any_name_that_a_contract_may(tmp_path: Path) -> None:
    names = ["model_config", "copy", "_hidden", "class", "json"]
    contract = make_contract(features=[{"name": n, "dtype": "float32"} for n in names])
    release = write_toy_release(
        tmp_path / "odd",
        module=Odd(),
        contract=contract,
        golden_inputs=torch.ones(4, 5),
        reference={},
    )
    with live_of(release) as live:
        row = {"user_id": 1} | dict.fromkeys(names, 0.25)
        (answer,) = live.score(live.rows(body(row)))

    assert answer == {"risk": 0.25}


# How it is scored


def test_scores_are_the_nights_to_the_bit_in_the_same_batch_and_close_in_any(
    lake: Lake, toy_release: Release, live: LiveRelease
) -> None:
    copy_rows(lake, make_rows(ROWS), shards=1)
    validate(lake)
    score_rows(
        lake,
        toy_release,
        DAY,
        LocalEngine(find_device("cpu"), workers=1),
        chunk_rows=100,
        gates=GateLimits(),
    )
    night = {
        row["user_id"]: row["risk"] for row in read_day(lake, "predictions").to_pylist()
    }
    # In the order in which the night had them.
    (part,) = lake.validated_features.parts(DAY)
    keys = pq.read_table(part.path, columns=["user_id"])["user_id"]
    by_key = {row["user_id"]: row for row in make_rows(ROWS).to_pylist()}
    rows = live.rows(body(*(by_key[key] for key in keys.to_pylist())))

    together = [answer["risk"] for answer in live.score(rows)]
    alone = [answer["risk"] for row in rows for answer in live.score([row])]

    expected = [night[row["user_id"]] for row in rows]
    assert together == expected
    tolerance = toy_release.manifest.golden.tolerance["cpu"]
    np.testing.assert_allclose(alone, expected, rtol=tolerance, atol=tolerance)


def test_string_keys_and_keys_that_are_there_twice_are_scored(
    string_release: Release,
) -> None:
    rows = make_rows(5, key_dtype="string")
    with live_of(string_release) as live:
        asked = as_asked(live, rows)
        answers = live.score(asked + asked)

    expected = expected_risk(rows)
    found = [answer["risk"] for answer in answers]
    np.testing.assert_allclose(found, [*expected, *expected], rtol=1e-5)


@pytest.mark.parametrize("bad_rows", [1, 3])
def test_bad_rows_are_named_as_in_quarantine_and_the_others_are_scored(
    lake: Lake, live: LiveRelease, bad_rows: int
) -> None:
    bad = [
        GOOD | {"age": 121, "plan": "gold"},
        GOOD | {"age": None, "user_id": 8},
        GOOD | {"visits": float("inf"), "active": None, "user_id": 9},
    ][:bad_rows]
    copy_rows(lake, pa.Table.from_pylist(bad, make_contract().raw_schema()))
    validate(lake)
    rules = {
        row["user_id"]: row["rules"]
        for row in read_day(lake, "quarantined_rows").to_pylist()
    }
    rows = as_asked(live, make_rows(4))

    answers = live.score([rows[0], *live.rows(body(*bad)), *rows[1:]])

    assert [type(answer) for answer in answers] == [dict, *[BadRowError] * bad_rows] + [
        dict
    ] * 3
    found = [answer.rules for answer in answers[1 : 1 + bad_rows]]
    assert found == [rules[row["user_id"]] for row in bad]
    good = [answers[0], *answers[1 + bad_rows :]]
    expected = expected_risk(make_rows(4))
    np.testing.assert_allclose([a["risk"] for a in good], expected, rtol=1e-5)


def test_a_batch_of_bad_rows_alone_never_reaches_the_model(
    live: LiveRelease, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ModelProcess, "score", None)
    (answer,) = live.score(live.rows(body(GOOD | {"age": None})))
    assert str(answer) == "age is null"


def test_a_null_that_is_allowed_reaches_the_model(live: LiveRelease) -> None:
    (answer,) = live.score(live.rows(body(GOOD | {"visits": None})))
    row = pa.Table.from_pylist([GOOD | {"visits": None}], make_contract().raw_schema())
    np.testing.assert_allclose(answer["risk"], expected_risk(row), rtol=1e-5)


def test_an_output_that_is_no_number_is_an_error_of_its_row(moody: Release) -> None:
    with live_of(moody) as live:
        rows = live.rows(body(GOOD, GOOD | {"age": STRAYS}, GOOD))
        first, stray, last = live.score(rows)

    assert isinstance(stray, OutputError)
    assert str(stray) == "output 'risk' is nan"
    assert first == last


def test_a_row_that_the_model_raises_on_fails_alone(moody: Release) -> None:
    async def main(live: LiveRelease) -> list[Any]:
        ages = [30, RAISES, *range(20, 50)]
        rows = live.rows(body(*(GOOD | {"age": age} for age in ages)))
        answers = await asyncio.gather(*(live.submit([row]) for row in rows))
        return [answer for (answer,) in answers]

    with live_of(moody) as live:
        answers = run(live, main(live))

    assert str(answers.pop(1)) == "ValueError: no risk at that age"
    assert all(0 < answer["risk"] < 1 for answer in answers)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("age", "said"),
    [
        (LOOPS, "TimeoutError: no answer within 1.0 s"),
        (DIES_AWAY, "the model's process ended with signal "),
        (LEAVES, "the model's process ended with "),
    ],
)
def test_a_row_that_hangs_or_kills_the_model_fails_alone(
    moody: Release, age: int, said: str
) -> None:
    async def main(live: LiveRelease) -> list[Any]:
        ages = [30, age, 40]
        rows = live.rows(body(*(GOOD | {"age": each} for each in ages)))
        answers = await live.submit(rows)
        (again,) = await live.submit(rows[:1])
        assert again == answers[0]
        return answers

    with live_of(moody, max_seconds=1.0) as live:
        first, bad, last = run(live, main(live))

    assert isinstance(bad, FaultError)
    assert str(bad).startswith(said)
    assert 0 < first["risk"] < 1
    assert 0 < last["risk"] < 1


def test_a_release_that_does_not_reproduce_its_golden_batch_does_not_start(
    tmp_path: Path,
) -> None:
    made = write_toy_release(
        tmp_path / "release",
        module=Risk(),
        model_format="safetensors",
        import_path="batch_assets_tests.stuck:Risk",
    )
    halved = {"import_path": "batch_assets_tests.online.test_scoring:Halved"}
    release = open_release(
        make_by_hand(made, tmp_path / "hand", lambda m: m["model"].update(halved))
    )
    with (
        live_of(release) as live,
        pytest.raises(ScoringError, match="does not reproduce its golden batch"),
    ):
        live.start()
