"""Rows that are handed in: every type gives the same rows, and what is none is named."""

import duckdb
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.dataset as ds
import pytest

from batch_assets.errors import SourceError
from batch_assets.lake import handed_rows as module
from batch_assets.lake.handed_rows import handed_rows

TABLE = pa.table(
    {
        "user_id": pa.array(range(1_000), pa.int64()),
        "plan": pa.array(["free", None] * 500, pa.large_string()),
        "visits": pa.array([0.5, None] * 500, pa.float32()),
    }
)
# Each type, and how the table is said in it.
TYPES = {
    "polars.DataFrame": pl.DataFrame,
    "polars.LazyFrame": lambda table: pl.DataFrame(table).lazy(),
    "pandas.DataFrame": lambda table: table.to_pandas(),
    "pandas, by its key": lambda table: table.to_pandas().set_index("user_id"),
    "pyarrow.Table": lambda table: table,
    "pyarrow.Table in pieces": lambda table: pa.concat_tables(
        [table.slice(0, 333), table.slice(333)]
    ),
    "pyarrow.RecordBatch": lambda table: table.combine_chunks().to_batches()[0],
    "pyarrow.RecordBatchReader": lambda table: table.to_reader(max_chunksize=7),
    "pyarrow.Dataset": ds.dataset,
    "duckdb relation": lambda table: duckdb.connect().from_arrow(table),
}


@pytest.mark.parametrize("name", TYPES)
def test_every_type_of_rows_gives_the_same_rows(name, tmp_path):
    given = handed_rows([TYPES[name](TABLE)], "daily", tmp_path)

    rows = pl.DataFrame(given.reader().read_all())
    assert rows["user_id"].to_list() == TABLE["user_id"].to_pylist()
    assert rows["plan"].to_list() == TABLE["plan"].to_pylist()
    assert rows["visits"].to_list() == TABLE["visits"].to_pylist()
    again = handed_rows([TYPES[name](TABLE)], "daily", _made(tmp_path / "again"))
    assert again.digest == given.digest
    # A stream is read once: what was hashed is what is taken.
    assert given.reader().read_all().equals(given.table)


def _made(folder):
    folder.mkdir()
    return folder


def test_a_digest_is_of_the_rows_and_not_of_how_they_are_cut(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "HASHED_ROWS", 64)
    whole = handed_rows([TABLE.combine_chunks()], "daily", tmp_path)
    cut = [TABLE.slice(at, 123) for at in range(0, 1_000, 123)]

    assert handed_rows(cut, "daily", tmp_path).digest == whole.digest


@pytest.mark.parametrize("change", ["value", "order", "type", "name", "fewer"])
def test_other_rows_have_another_digest(change, tmp_path):
    other = {
        "value": TABLE.set_column(2, "visits", pa.array([0.5] * 1_000, pa.float32())),
        "order": TABLE.take(list(range(999, -1, -1))),
        "type": TABLE.set_column(2, "visits", TABLE["visits"].cast("float64")),
        "name": TABLE.rename_columns(["user_id", "plan", "visit"]),
        "fewer": TABLE.slice(1),
    }[change]

    digests = {handed_rows([one], "daily", tmp_path).digest for one in (TABLE, other)}
    assert len(digests) == 2


@pytest.mark.parametrize(
    ("value", "named"),
    [
        (None, "NoneType"),
        ({"user_id": [1]}, "dict"),
        ([{"user_id": 1}], "list"),
        ("data/users.parquet", "str"),
        (TABLE["user_id"], "ChunkedArray"),
        (pl.Series([1]), "Series"),
        (pd.Series([1]), "Series"),
        (pl.DataFrame, "type"),
    ],
    ids=lambda one: one if isinstance(one, str) else "",
)
def test_a_value_of_another_type_is_named_with_what_is_taken(value, named, tmp_path):
    with pytest.raises(SourceError, match=f"daily of .* type {named}, .*LazyFrame"):
        handed_rows([value], "daily of 2026-01-05", tmp_path)


def test_pieces_of_a_day_have_the_same_columns(tmp_path):
    with pytest.raises(SourceError, match=r"other columns or types .*user_id int64"):
        handed_rows([TABLE, TABLE.select(["plan"])], "daily", tmp_path)


@pytest.mark.parametrize(
    "value",
    [
        pl.scan_parquet("no/such.parquet"),
        pd.DataFrame({"user_id": [1, "two", 3.0]}),
        duckdb.connect().sql("SELECT error('broken')"),
    ],
    ids=["no file", "mixed types", "a query that fails"],
)
def test_rows_that_cant_be_read_are_an_error_that_says_whose(value, tmp_path):
    with pytest.raises(
        SourceError, match="daily of 2026-01-05 can't be read as a table"
    ):
        handed_rows([value], "daily of 2026-01-05", tmp_path)
