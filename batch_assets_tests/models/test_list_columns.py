"""Lists of other types in a source: cast where each value fits, refused with the query."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
import pytest
from pydantic import ValidationError

from batch_assets import Column, Sequence
from batch_assets.errors import ContractError, SourceError
from batch_assets.lake.sources import ParquetSource, ReadContext
from batch_assets.lake.tables import Lake
from batch_assets.models.columns import check_columns
from batch_assets_tests.histories import NAME, make_contract, make_rows
from batch_assets_tests.toys import DAY, copy_rows, not_utf8, read_day, validate


def retyped(rows: pa.Table, **types: pa.DataType) -> pa.Table:
    for name, dtype in types.items():
        at = rows.schema.get_field_index(name)
        rows = rows.set_column(at, name, rows[name].cast(dtype))
    return rows


@pytest.mark.parametrize(
    "types",
    [
        {"taste": pa.list_(pa.float32(), 4)},
        {"taste": pa.large_list(pa.float32()), "items": pa.large_list(pa.int64())},
        {"days_ago": pa.list_(pa.float16())},
        {"days_ago": pa.list_(pa.int16())},
        {"items": pa.list_(pa.uint32())},
    ],
    ids=str,
)
def test_a_list_whose_every_value_fits_makes_the_same_day(
    root: Path, types: dict[str, pa.DataType]
) -> None:
    contract, rows = make_contract(), make_rows(60)
    if "uint32" in str(types):
        # So that all of them fit, none is in the vocabulary.
        small = [[n % 9 for n in range(len(one))] for one in rows["items"].to_pylist()]
        at = rows.schema.get_field_index("items")
        rows = rows.set_column(at, "items", pa.array(small, pa.list_(pa.int64())))
    days = []
    for name, table in (("as_is", rows), ("retyped", retyped(rows, **types))):
        lake = Lake(root / name, NAME)
        copy_rows(lake, table, contract=contract, project=root / name / "project")
        validate(lake, contract=contract)
        days.append(read_day(lake, "validated_features"))
    # NaN equals nothing, so as they are written.
    assert str(days[0].to_pylist()) == str(days[1].to_pylist())
    assert len(days[0]) == 60


@pytest.mark.parametrize(
    ("name", "dtype", "said"),
    [
        (
            "days_ago",
            pa.list_(pa.float64()),
            "got: list of float64, expected: list of float32",
        ),
        (
            "items",
            pa.list_(pa.string()),
            "got: list of string, expected: list of int64",
        ),
        ("items", pa.int64(), "got: int64, expected: list of int64"),
        ("device", pa.list_(pa.int64()), "got: list of int64, expected: int64"),
    ],
)
def test_a_list_that_may_not_fit_is_refused(
    name: str, dtype: pa.DataType, said: str
) -> None:
    expected = make_contract().raw_schema()
    at = expected.get_field_index(name)
    got = expected.set(at, pa.field(name, dtype))
    with pytest.raises(ContractError, match=f"retyped: '{name}', {said}"):
        check_columns(got, expected, "the source")


def test_the_query_that_the_error_prints_turns_lists_and_stops_at_what_changes() -> (
    None
):
    expected = pa.schema([("user_id", pa.int64()), ("items", pa.list_(pa.int64()))])
    got = pa.schema([("user_id", pa.int64()), ("items", pa.list_(pa.float64()))])
    with pytest.raises(ContractError) as error:
        check_columns(got, expected, "the source")
    _, _, query = str(error.value).partition("SELECT")
    query = "SELECT" + query.partition("\nMend")[0]
    with duckdb.connect() as connection:
        whole = query.replace(
            "-- your query", "SELECT 1 AS user_id, [1.0, 2.0] AS items"
        )
        assert connection.execute(whole).fetchall() == [(1, [1, 2])]
        torn = query.replace("-- your query", "SELECT 1 AS user_id, [1.5] AS items")
        with pytest.raises(duckdb.Error, match="is no whole number"):
            connection.execute(torn).fetchall()


def test_a_row_with_text_in_a_list_that_is_not_utf8_is_quarantined(root: Path) -> None:
    *others, _, _ = make_contract().inputs
    words = Column(name="items", dtype="string", vocabulary="words")
    contract = make_contract(
        inputs=(*others, Sequence(name="history", columns=(words,), max_length=3)),
        vocabularies={**make_contract().vocabularies, "words": ("tea",)},
        outputs=make_contract().outputs[:1],
    )
    rows = make_rows(3).select(contract.raw_schema().names[:-1])
    texts = not_utf8([b"tea", b"tea", b"t\xff", b"\xfe", b"tea"])
    lists = pa.ListArray.from_arrays(pa.array([0, 1, 4, 5], pa.int32()), texts)
    lake = Lake(root, NAME)
    copy_rows(lake, rows.append_column("items", lists), contract=contract)

    validated = validate(lake, contract=contract)

    assert validated.rules == {"items is not UTF-8": 1}
    (bad,) = read_day(lake, "quarantined_rows").to_pylist()
    assert bad["user_id"] == rows["user_id"][1].as_py()
    assert bad["rules"] == ["items is not UTF-8 at byte 1 (ff) of element 1"]
    assert bad["items"] == ["tea", "t\ufffd", "\ufffd"]
    good = read_day(lake, "validated_features")
    kept = {rows["user_id"][at].as_py() for at in (0, 2)}
    assert set(good["user_id"].to_pylist()) == kept


def test_a_row_with_an_id_that_is_not_utf8_is_quarantined(root: Path) -> None:
    contract, rows = make_contract(), make_rows(3)
    at = rows.schema.get_field_index("region")
    lake = Lake(root, NAME)
    broken = not_utf8([b"north", b"\xff\xfe", b"east"])
    copy_rows(lake, rows.set_column(at, "region", broken), contract=contract)

    validate(lake, contract=contract)

    (bad,) = read_day(lake, "quarantined_rows").to_pylist()
    assert bad["region"] == "\ufffd\ufffd"
    assert bad["rules"][0] == "region is not UTF-8 at byte 0 (ff)"


@pytest.mark.parametrize("name", ["items", "days_ago", "taste"])
@pytest.mark.parametrize("ends", [[0, 5, 2, 5], [0, -1, 2, 5]], ids=["falls", "below"])
def test_a_list_of_a_negative_length_is_refused(
    root: Path, name: str, ends: list[int]
) -> None:
    contract, rows = make_contract(), make_rows(3)
    at = rows.schema.get_field_index(name)
    dtype = rows.schema.field(name).type
    lists = pa.Array.from_buffers(
        dtype,
        3,
        [None, pa.py_buffer(np.array(ends, np.int32))],
        children=[pa.array(range(5), dtype.value_type)],
    )
    batch = rows.set_column(at, name, lists).to_batches()[0]

    class Handed(ParquetSource):
        """No file can hold such a list: a function of the project can."""

        @contextmanager
        def read(self, context: ReadContext) -> Iterator[pa.RecordBatchReader]:
            yield pa.RecordBatchReader.from_batches(batch.schema, [batch])

    lake = Lake(root, NAME)
    source = Handed(kind="parquet", glob="days/{{ day }}.parquet")
    said = f"column '{name}' of .* a list of a negative length"
    with pytest.raises(SourceError, match=said):
        copy_rows(lake, make_rows(3), contract=contract, source=source)
    assert not lake.raw_features.parts(DAY)


@pytest.mark.parametrize(
    ("lengths", "said"),
    [
        ({"max_length": -1}, "max_length"),
        ({"max_length": 0}, "max_length"),
        ({"max_length": 3, "min_length": -1}, "min_length"),
        ({"max_length": 3, "longest": -1}, "longest"),
        ({"max_length": 3, "min_length": 4}, "min_length ≤ max_length ≤ longest"),
    ],
)
def test_a_sequence_is_of_no_negative_length(
    lengths: dict[str, int], said: str
) -> None:
    with pytest.raises(ValidationError, match=said) as refused:
        Sequence(name="s", columns=(Column(name="a", size=3),), **lengths)
    assert refused.value.error_count() == 1
