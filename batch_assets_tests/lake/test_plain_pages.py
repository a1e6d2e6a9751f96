"""Columns read as they lie: the same values as Arrow's, or nothing at all."""

import os
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from deltalake import DeltaTable

from batch_assets.errors import CorruptPartError
from batch_assets.lake import plain_pages
from batch_assets.lake.page_layout import (
    COMPACT,
    FAST,
    NUMBERS,
    RECORDS,
    PageLayout,
    layout_for,
)
from batch_assets.lake.part_writer import PartWriter
from batch_assets.lake.parts import open_part, read_plain_columns
from batch_assets.lake.receipts import ValidatedReceipt
from batch_assets.lake.reconciliation import ControlTotal
from batch_assets.lake.tables import Lake
from batch_assets.storage import storage_path
from batch_assets_tests.toys import (
    DAY,
    SHARDS,
    copy_rows,
    features_of,
    make_contract,
    make_rows,
    validate,
)

SCHEMA = pa.schema(
    [
        pa.field("user_id", pa.int64(), nullable=False),
        ("age", pa.float32()),
        ("visits", pa.float32()),
        ("fingerprint", pa.int64()),
    ]
)
ODD = [np.nan, -0.0, np.inf, -np.inf, 1e-45, np.finfo(np.float32).max]


def rows_of(n: int) -> pa.Table:
    """Any bits at all, among them those that a comparison by value would take for others."""
    random = np.random.default_rng(n)
    age = random.integers(0, 2**32, n, dtype=np.uint32).view(np.float32)
    age[: len(ODD)] = np.array(ODD, np.float32)[:n]
    visits = random.standard_normal(n, dtype=np.float32)
    keys = random.integers(-(2**63), 2**63 - 1, n)
    return pa.table([keys, age, visits, keys[::-1]], schema=SCHEMA)


def write(
    path: Path,
    rows: pa.Table,
    layout: PageLayout = FAST,
    *,
    row_group_rows: int = 100,
    schema: pa.Schema = SCHEMA,
) -> None:
    total = ControlTotal.of(rows[schema.names[0]])
    receipt = ValidatedReceipt(DAY, 0, 0, "ab", total, "raw", "contract")
    with PartWriter(
        path, schema, row_group_rows=row_group_rows, layout=layout
    ) as writer:
        writer.write(rows)
        writer.finish(receipt)


def read(
    path: Path, *names: str, groups: list[int] | None = None
) -> dict[str, np.ndarray] | None:
    """Columns of a part, read as they lie; None if they lie otherwise."""
    part, file = open_part(path)
    with file:
        wanted = list(range(len(part.groups))) if groups is None else groups
        count = sum(part.groups[group] for group in wanted)
        types = {
            name: np.int64 if file.schema_arrow.field(name).type == "int64" else "<f4"
            for name in names
        }
        rooms = {name: np.full(count, 7, kind) for name, kind in types.items()}
        return rooms if read_plain_columns(part, file, wanted, rooms) else None


@pytest.mark.parametrize("n", [1, 99, 100, 250, 1_001])
def test_each_bit_is_as_it_was_written(tmp_path: Path, n: int) -> None:
    rows, path = rows_of(n), tmp_path / "part.parquet"
    write(path, rows)

    columns = read(path, *SCHEMA.names)

    assert columns is not None
    for name, values in columns.items():
        assert values.tobytes() == rows[name].to_numpy().tobytes()


def test_row_groups_come_in_the_order_in_which_they_are_asked_for(
    tmp_path: Path,
) -> None:
    rows, path = rows_of(450), tmp_path / "part.parquet"
    write(path, rows)

    columns = read(path, "visits", groups=[4, 0, 2])

    visits = rows["visits"].to_numpy()
    expected = np.concatenate([visits[400:450], visits[:100], visits[200:300]])
    assert columns is not None
    np.testing.assert_array_equal(columns["visits"], expected)


def test_a_part_without_rows_has_nothing_to_read(tmp_path: Path) -> None:
    write(tmp_path / "part.parquet", rows_of(0))

    columns = read(tmp_path / "part.parquet", "age", "visits")

    assert columns is not None
    assert [len(values) for values in columns.values()] == [0, 0]


def test_a_large_row_group_is_one_page_and_many_columns_are_read_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Arrow ends a page at 20,000 rows or at a megabyte, if nobody tells it otherwise."""
    names = [f"f{number}" for number in range(40)]
    schema = pa.schema(
        [pa.field("user_id", pa.int64()), *((name, pa.float32()) for name in names)]
    )
    values = np.random.default_rng(1).random((40, 300_000), dtype=np.float32)
    rows = pa.table([np.arange(300_000), *values], schema=schema)
    path = tmp_path / "part.parquet"
    write(path, rows, row_group_rows=1 << 20, schema=schema)
    requests = []
    preadv = os.preadv
    monkeypatch.setattr(
        os, "preadv", lambda *asked: requests.append(asked) or preadv(*asked)
    )

    columns = read(path, *names)

    assert columns is not None
    np.testing.assert_array_equal(np.stack(list(columns.values())), values)
    assert len(requests) == 40  # a column of a row group is more than READ_BYTES

    requests.clear()
    monkeypatch.setattr(plain_pages, "READ_BYTES", 16 * 300_000 * 4)
    assert read(path, *names) is not None
    assert len(requests) == 3


def test_what_the_disk_gives_in_pieces_is_put_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows, path = rows_of(250), tmp_path / "part.parquet"
    write(path, rows)
    preadv = os.preadv

    def a_little(descriptor: int, rooms: list[memoryview], at: int) -> int:
        return preadv(descriptor, [rooms[0][:33]], at)

    monkeypatch.setattr(os, "preadv", a_little)

    columns = read(path, "age", "visits")

    assert columns is not None
    assert columns["age"].tobytes() == rows["age"].to_numpy().tobytes()


@pytest.mark.parametrize("layout", [RECORDS, NUMBERS, COMPACT])
def test_what_lies_otherwise_is_left_to_arrow(
    tmp_path: Path, layout: PageLayout
) -> None:
    write(tmp_path / "part.parquet", rows_of(250), layout)

    assert read(tmp_path / "part.parquet", "age", "visits") is None


def with_options(path: Path, rows: pa.Table, **changes: Any) -> None:
    """Write a part of which the pages are as Arrow's options say."""
    layout = type(
        "Layout",
        (),
        {
            "as_in_memory": True,
            "schema": lambda _, schema: FAST.schema(schema),
            "options": lambda _, schema, n: FAST.options(schema, n) | changes,
        },
    )()
    write(path, rows, layout)


@pytest.mark.parametrize(
    "changes",
    [
        {"max_rows_per_page": 30, "write_batch_size": 10},
        {"compression": "zstd"},
        {"use_dictionary": True},
        {"column_encoding": {"age": "BYTE_STREAM_SPLIT"}, "use_dictionary": False},
        {"data_page_version": "2.0"},
    ],
    ids=str,
)
def test_no_other_kind_of_page_is_taken_for_a_plain_one(
    tmp_path: Path, changes: dict[str, Any]
) -> None:
    rows, path = rows_of(250), tmp_path / "part.parquet"
    with_options(path, rows, **changes)

    assert read(path, "age", "visits") is None
    assert pq.read_table(path)["visits"].to_pylist() == rows["visits"].to_pylist()


def test_columns_that_are_not_beside_each_other_are_left_to_arrow(
    tmp_path: Path,
) -> None:
    write(tmp_path / "part.parquet", rows_of(250))

    assert read(tmp_path / "part.parquet", "age", "fingerprint") is None
    assert read(tmp_path / "part.parquet", "visits", "age") is None


def test_no_flipped_bit_is_read_as_data(tmp_path: Path) -> None:
    """Each byte of the file: refused, left to Arrow, or without any effect."""
    rows, path = rows_of(60), tmp_path / "part.parquet"
    write(path, rows, row_group_rows=40)
    expected = {name: rows[name].to_numpy().tobytes() for name in SCHEMA.names}
    whole = bytearray(path.read_bytes())
    refused, silent = 0, []

    for at in range(len(whole)):
        whole[at] ^= 1 << at % 8
        path.write_bytes(whole)
        whole[at] ^= 1 << at % 8
        try:
            columns = read(path, *SCHEMA.names)
        except (CorruptPartError, KeyError, StopIteration, ValueError):
            refused += 1
            continue
        if columns and {n: v.tobytes() for n, v in columns.items()} != expected:
            silent.append(at)

    assert silent == []
    assert refused > 60 * (8 + 4 + 4 + 8)


def test_a_file_that_ends_early_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "part.parquet"
    write(path, rows_of(250))
    part, file = open_part(path)
    os.truncate(path, 500)

    with file, pytest.raises(CorruptPartError, match=r"it ends at byte \d"):
        read_plain_columns(part, file, [2], {"age": np.empty(50, np.float32)})


def test_a_file_that_is_gone_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "part.parquet"
    write(path, rows_of(250))
    part, file = open_part(path)
    path.unlink()

    with file, pytest.raises(CorruptPartError, match="can't be read"):
        read_plain_columns(part, file, [0], {"age": np.empty(100, np.float32)})


def test_a_null_is_never_written_where_there_are_to_be_none(tmp_path: Path) -> None:
    rows = rows_of(3).set_column(1, "age", pa.array([1.0, None, 2.0], pa.float32()))

    with pytest.raises(ValueError, match="null"):
        write(tmp_path / "part.parquet", rows)

    assert list(tmp_path.iterdir()) == []


def test_a_directory_is_fast_and_a_bucket_compact_unless_said(tmp_path: Path) -> None:
    bucket = storage_path("s3://bucket/root")

    assert layout_for(tmp_path) is FAST
    assert layout_for(bucket) is COMPACT
    assert layout_for(tmp_path, "compact") is COMPACT
    assert layout_for(bucket, "fast") is FAST


@pytest.mark.parametrize("key_dtype", ["int64", "string"])
def test_every_reader_of_the_table_gets_a_day_of_each_layout(
    lake: Lake, key_dtype: str
) -> None:
    contract = make_contract(key_dtype)
    for day, layout in (("2026-01-05", COMPACT), ("2026-01-06", FAST)):
        rows = make_rows(500, key_dtype=key_dtype)
        copy_rows(lake, rows, day=day, shards=SHARDS, contract=contract)
        validate(lake, day=day, contract=contract, layout=layout)

    table = str(lake.validated_features.path)
    expected = {
        key: row
        for key, row in zip(
            rows["user_id"].to_pylist(),
            np.nan_to_num(features_of(rows, contract).numpy(), nan=-1).tolist(),
            strict=True,
        )
    }
    names = ", ".join(contract.feature_names)
    readers = {
        "deltalake": DeltaTable(table).to_pyarrow_table(),
        "polars": pl.read_delta(table).to_arrow(),
        "duckdb": duckdb.sql(
            f"SELECT user_id, day, {names} "
            f"FROM read_parquet('{table}/**/*.parquet', hive_partitioning = true)"
        ).to_arrow_table(),
    }
    for reader, whole in readers.items():
        for day in ("2026-01-05", "2026-01-06"):
            its = pl.from_arrow(whole).with_columns(pl.col("day").cast(pl.String))
            its = its.filter(pl.col("day") == day)
            features = its.select(contract.feature_names).fill_nan(-1).rows()
            found = dict(
                zip(its["user_id"].to_list(), map(list, features), strict=True)
            )
            assert found == expected, (reader, day)
