"""A function of the project as a source: what it may give, and what is known of it."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from batch_assets.errors import ContractError, EmptySourceError, SourceError
from batch_assets.lake.raw import Copied
from batch_assets.lake.sources import PythonSource
from batch_assets.lake.tables import Lake
from batch_assets_tests.steps import take
from batch_assets_tests.toys import DAY, context_of, copying, make_contract, read_day

HEAD = """\
from __future__ import annotations

import datetime
from dataclasses import dataclass

import pandas as pd
import polars as pl
import pyarrow as pa

from batch_assets.lake.sources import SourceDay


@dataclass
class User:
    user_id: int


KEYS = [User(1).user_id, 2]
USERS = {"user_id": KEYS, "age": [3, 4], "visits": [0.5, None], "plan": ["free"] * 2}
ROWS = USERS | {"active": [True, False]}


"""
Write = Callable[[str], Path]


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Write:
    """Writes the module of the source; the first time or in place of what is there."""
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "toy_rows", raising=False)

    def written(body: str) -> Path:
        path = tmp_path / "toy_rows.py"
        path.write_text(HEAD + body, encoding="utf-8")
        return path

    return written


def source(**options: Any) -> PythonSource:
    return PythonSource(kind="python", **{"callable": "toy_rows:rows"} | options)


def copy(lake: Lake, folder: Path, **changes: Any) -> Copied:
    arguments = copying(make_contract()) | changes
    options = arguments.pop("options", {})
    return take(lake, source(**options), context_of(folder), **arguments)


TAKEN = """\
def rows(asked):
    table = pa.table(ROWS, schema=asked.columns)
    {}
"""


@pytest.mark.parametrize(
    "gives",
    [
        "return table",
        "return table.to_reader()",
        "yield table",
        "yield from table.to_batches(max_chunksize=1)",
        "yield table.to_batches()[0]",
        "return [table.slice(0, 1), table.slice(1)]",
        "yield pl.DataFrame(table)",
        "return pl.DataFrame(table)",
        "yield table.slice(0, 1); yield pl.DataFrame(table.slice(1))",
        "yield table.slice(0, 1); yield table.slice(1).select(table.schema.names[::-1])",
    ],
)
def test_what_a_function_gives_is_arrow_in_whatever_form(lake, tmp_path, write, gives):
    write(TAKEN.format(gives))

    copied = copy(lake, tmp_path)

    assert copied.total.rows == 2
    assert read_day(lake, "raw_features")["user_id"].to_pylist() == [1, 2]


def test_a_frame_of_pandas_is_taken_too(lake, tmp_path, write):
    write(
        "def rows(asked):\n"
        "    frame = pd.DataFrame(ROWS).astype({'age': 'int16', 'visits': 'float32'})\n"
        "    yield frame[frame.user_id > 1]\n"
    )

    with source().read(context_of(tmp_path)) as reader:
        found = reader.read_all()

    assert found["user_id"].to_pylist() == [2]
    assert found.schema.names == ["user_id", "age", "visits", "plan", "active"]


def test_a_function_is_told_the_day_and_what_is_wanted(lake, tmp_path, write):
    write(
        "def rows(asked: SourceDay):\n"
        "    assert asked.day == datetime.date(2026, 1, 5)\n"
        "    assert (asked.timezone, asked.key) == ('UTC', 'user_id')\n"
        "    assert asked.columns.field('visits').type == pa.float32()\n"
        "    assert asked.arguments == {'users': 2, 'plans': ['free']}\n"
        "    assert asked.project.is_dir()\n"
        "    yield pa.table(ROWS, schema=asked.columns)\n"
    )

    arguments = {"users": 2, "plans": ["free"]}
    assert copy(lake, tmp_path, options={"arguments": arguments}).total.rows == 2


@pytest.mark.parametrize(
    ("body", "error"),
    [
        ("yield pa.table(ROWS, schema=asked.columns); raise ValueError('half-way')", "ValueError: half-way"),
        ("raise KeyError('x')", "KeyError: 'x'"),
        ("return 7", "'int' object is not iterable"),
        ("return None", "not iterable"),
        ("yield ROWS", "it gave a dict; expected a RecordBatch or Table"),
        ("yield table; yield table.drop(['age'])", "batch 2 of .* other columns than the first"),
        ("yield table; yield pa.table(ROWS)", "batch 2 of .* got .*'visits' double.*; expected .*'visits' float"),
    ],
)  # fmt: skip
def test_a_function_that_fails_half_way_leaves_nothing(
    lake, tmp_path, write, body, error
):
    write(TAKEN.format(body))

    with pytest.raises(SourceError, match=error) as refused:
        copy(lake, tmp_path)

    assert "toy_rows:rows" in str(refused.value)
    assert lake.raw_features.parts(DAY) == []


def test_what_a_function_gives_is_checked_against_the_contract(lake, tmp_path, write):
    write("def rows(asked):\n    yield pa.table(ROWS)\n")

    with pytest.raises(ContractError, match="retyped: 'age', got: int64"):
        copy(lake, tmp_path)


@pytest.mark.parametrize("gives", ["return []", "yield from ()", "return table[:0]"])
def test_a_function_that_gives_no_rows_is_an_empty_source(lake, tmp_path, write, gives):
    write(TAKEN.format(gives))

    with pytest.raises(EmptySourceError):
        copy(lake, tmp_path)
    assert copy(lake, tmp_path, allow_empty=True).total.rows == 0


def test_another_source_is_another_job_and_other_rows_of_the_same_are_not(
    lake, tmp_path, write
):
    counts = tmp_path / "calls"
    counted = (
        "def rows(asked):\n"
        "    path = asked.project / 'calls'\n"
        "    calls = len(path.read_text()) if path.exists() else 0\n"
        "    path.write_text('x' * (calls + 1))\n"
        "    yield pa.table(ROWS, schema=asked.columns).slice(0, 1 + calls % 2)\n"
    )
    write(counted)

    first, again = copy(lake, tmp_path), copy(lake, tmp_path)
    write(counted + "# The same, but for this line.\n")
    other = copy(lake, tmp_path)
    argued = copy(lake, tmp_path, options={"arguments": {"a": 1}})

    assert (first.total.rows, again.total.rows) == (1, 1)
    assert (again.unchanged, again.job) == (True, first.job)
    assert (other.unchanged, other.total.rows) == (False, 2)
    assert len({first.job, other.job, argued.job}) == 3
    assert counts.read_text() == "xxx"


def test_what_is_run_is_the_file_as_it_is_now(tmp_path, write):
    """A process may have been started before the file was changed."""
    for users in (1, 2):
        write(f"def rows(asked):\n    yield pa.table({{'user_id': [{users}]}})\n")
        with source().read(context_of(tmp_path)) as reader:
            assert reader.read_all()["user_id"].to_pylist() == [users]


@pytest.mark.parametrize(
    ("body", "callable_", "error"),
    [
        ("", "toy_rows:rows", "can't be used: KeyError: 'rows'"),
        ("rows = (", "toy_rows:rows", "can't be used: SyntaxError"),
        ("raise OSError('no')", "toy_rows:rows", "can't be used: OSError: no"),
        ("", "nowhere.at_all:rows", "no file of a module 'nowhere.at_all'"),
        ("", "sys:rows", "no file of a module 'sys'"),
        ("rows = 7", "toy_rows:rows", "raised .*'int' object is not callable"),
    ],
)
def test_a_function_that_is_not_there_is_named(tmp_path, write, body, callable_, error):
    write(body)

    asked = source(callable=callable_).read(context_of(tmp_path))
    with pytest.raises(SourceError, match=error), asked:
        pytest.fail("it was read")


def test_the_code_of_a_source_is_the_file_of_its_function(tmp_path, write):
    path = write("")

    assert source().code(tmp_path) == [path]
    assert source(callable="nowhere.at_all:rows").code(tmp_path) == []
