"""Delta tables whose files are not what they show: deleted rows, and other names."""

import pickle
from pathlib import Path

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from deltalake import WriterProperties

from batch_assets.errors import SourceError
from batch_assets.lake.pins import PinnedRows
from batch_assets_tests.delta_by_hand import (
    delete_in_place,
    rename_column,
    rows_of,
    write,
)

DAY, NEXT_DAY = "2026-01-05", "2026-01-06"
MAPPED = {"delta.columnMapping.mode": "name"}


def opened(uri: str, day: str | None = DAY) -> PinnedRows:
    return PinnedRows(uri, None, day or DAY, day and "day")


def keys_of(rows: PinnedRows, piece=None) -> list[int]:
    batches = rows.batches(["user_id"], piece)
    return [key for batch in batches for key in batch["user_id"].to_pylist()]


@pytest.mark.parametrize("inline", [True, False])
@pytest.mark.parametrize("partitioned", [True, False])
def test_a_deleted_row_does_not_come_back(tmp_path, partitioned, inline):
    """Polars, which reads the format by code of its own, sees the same rows."""
    rows = pa.concat_tables([rows_of(0, 30), rows_of(30, 40, NEXT_DAY)])
    uri = write(tmp_path, rows.combine_chunks(), partitioned=partitioned)
    gone = [0, 7, 29] if partitioned else [0, 7, 29, 30]
    delete_in_place(uri, gone, inline=inline)

    found = opened(uri)

    seen = pl.read_delta(uri).filter(pl.col("day") == DAY)["user_id"].to_list()
    left = [key for key in range(30) if key not in gone]
    assert sorted(keys_of(found)) == sorted(seen) == left
    assert found.rows == 27
    assert sorted(keys_of(opened(uri, None))) == sorted(
        pl.read_delta(uri)["user_id"].to_list()
    )


@pytest.mark.parametrize("partitioned", [True, False])
def test_a_deleted_row_is_known_by_its_place_in_the_file_and_not_in_a_piece(
    tmp_path, partitioned
):
    how = WriterProperties(max_row_group_size=10)
    uri = write(
        tmp_path, rows_of(0, 35), partitioned=partitioned, writer_properties=how
    )
    delete_in_place(uri, [*range(10, 20), 33])
    found = opened(uri)

    pieces = [keys_of(found, piece) for piece in found.pieces(10)]

    assert pieces == [[*range(10)], [*range(20, 30)], [30, 31, 32, 34]]
    # On its way to another machine, a piece has its own row groups with it.
    sent, groups = pickle.loads(pickle.dumps((found, found.pieces(10)[2])))
    assert keys_of(sent, groups) == [30, 31, 32, 34]


def test_a_file_without_deleted_rows_is_whole_beside_one_with_some(tmp_path):
    write(tmp_path, rows_of(0, 10))
    write(tmp_path, rows_of(10, 20))
    uri = write(tmp_path, rows_of(20, 30, NEXT_DAY))
    delete_in_place(uri, [1, 2])

    assert len(keys_of(opened(uri))) == 18
    assert keys_of(opened(uri, NEXT_DAY)) == [*range(20, 30)]


def test_a_day_whose_rows_are_all_deleted_has_none(tmp_path):
    uri = write(tmp_path, rows_of(0, 10))
    delete_in_place(uri, range(10))

    assert (opened(uri).rows, keys_of(opened(uri))) == (0, [])


def test_a_pin_holds_the_rows_of_before_and_after_a_deletion(tmp_path):
    uri = write(tmp_path, rows_of(0, 10))
    before = opened(uri).pin
    delete_in_place(uri, [3])
    after = opened(uri).pin
    delete_in_place(uri, [3, 4])

    assert before.files != after.files
    assert keys_of(PinnedRows.of(before)) == [*range(10)]
    assert keys_of(PinnedRows.of(after)) == [0, 1, 2, *range(4, 10)]


def test_a_folder_with_deleted_rows_may_have_any_name(tmp_path):
    day = "5 %41 æ=?#"
    uri = write(tmp_path / "a b ø", rows_of(0, 10, day))
    delete_in_place(uri, [9])

    assert keys_of(opened(uri, day)) == [*range(9)]


def test_a_deleted_row_whose_day_is_none_holds_nothing_up(tmp_path):
    rows = pa.concat_tables([rows_of(0, 9), rows_of(9, 10, DAY + "T13:00")])
    uri = write(tmp_path, rows.combine_chunks(), partitioned=False)
    with pytest.raises(SourceError, match="which is not the day"):
        opened(uri)

    delete_in_place(uri, [9])

    assert keys_of(opened(uri)) == [*range(9)]


def test_a_lost_deletion_vector_is_an_error_and_no_rows(tmp_path):
    uri = write(tmp_path, rows_of(0, 10))
    delete_in_place(uri, [2])
    for path in Path(uri).glob("deletion_vector_*.bin"):
        path.unlink()

    with pytest.raises(SourceError, match="events"):
        opened(uri)


@pytest.mark.parametrize("partitioned", [True, False])
def test_a_vector_that_is_not_of_the_file_that_is_there_is_refused(
    tmp_path, partitioned
):
    uri = write(tmp_path, rows_of(0, 10), partitioned=partitioned)
    delete_in_place(uri, [2])
    (path,) = Path(uri).rglob("*.parquet")
    pq.write_table(rows_of(0, 9).drop(["day"] if partitioned else []), path)

    with pytest.raises(
        SourceError, match="has 9 rows, its deletion vector tells of 10"
    ):
        opened(uri)


@pytest.mark.parametrize("partitioned", [True, False])
def test_columns_are_read_by_the_names_that_files_have_for_them(tmp_path, partitioned):
    rows = pa.concat_tables([rows_of(0, 10), rows_of(10, 20, NEXT_DAY)])
    uri = write(
        tmp_path, rows.combine_chunks(), partitioned=partitioned, configuration=MAPPED
    )

    found = opened(uri)

    assert found.schema.names == ["user_id", "visits"]
    batches = found.batches(["visits", "user_id"])
    assert pa.Table.from_batches(batches).to_pylist() == [
        {"visits": key / 2, "user_id": key} for key in range(10)
    ]
    assert found.rows == 10


def test_a_renamed_column_has_its_values_and_a_pin_its_name(tmp_path):
    uri = write(tmp_path, rows_of(0, 10), configuration=MAPPED)
    before = opened(uri).pin
    rename_column(uri, "user_id", "customer")
    rename_column(uri, "visits", "user_id")

    found = opened(uri)

    assert found.schema.names == ["customer", "user_id"]
    rows = pa.Table.from_batches(found.batches(["customer", "user_id"]))
    assert rows["customer"].to_pylist() == [*range(10)]
    assert rows["user_id"].to_pylist() == [key / 2 for key in range(10)]
    assert keys_of(PinnedRows.of(before)) == [*range(10)]


@pytest.mark.parametrize("partitioned", [True, False])
def test_a_renamed_day_column_tells_the_day(tmp_path, partitioned):
    rows = pa.concat_tables([rows_of(0, 10), rows_of(10, 20, NEXT_DAY)])
    uri = write(
        tmp_path, rows.combine_chunks(), partitioned=partitioned, configuration=MAPPED
    )
    rename_column(uri, "day", "dt")

    found = PinnedRows(uri, None, NEXT_DAY, "dt")

    assert keys_of(found) == [*range(10, 20)]


def test_deleted_rows_of_a_table_with_other_names_stay_deleted(tmp_path):
    uri = write(tmp_path, rows_of(0, 10), configuration=MAPPED)
    delete_in_place(uri, [4], features=["columnMapping"])

    assert keys_of(opened(uri)) == [0, 1, 2, 3, *range(5, 10)]


def test_column_mapping_by_id_is_refused_before_a_row_is_read(tmp_path):
    uri = write(tmp_path, rows_of(0, 10), configuration=MAPPED)
    log = Path(uri) / "_delta_log" / f"{0:020d}.json"
    text = log.read_text(encoding="utf-8")
    log.write_text(text.replace('mode":"name"', 'mode":"id"'), encoding="utf-8")

    with pytest.raises(SourceError, match="column mapping by id.*CREATE TABLE"):
        opened(uri)


def test_lists_of_a_mapped_table_are_read_and_a_struct_is_refused(tmp_path):
    """Its fields have other names in the files, too, and would all be null."""
    lists = rows_of(0, 2).append_column("seen", pa.array([[1, 2], None]))
    uri = write(tmp_path / "lists", lists, configuration=MAPPED)
    batches = opened(uri).batches(["seen"])
    assert pa.Table.from_batches(batches)["seen"].to_pylist() == [[1, 2], None]

    structs = lists.append_column("where", pa.array([[{"x": 1}], None]))
    uri = write(tmp_path / "structs", structs, configuration=MAPPED)
    with pytest.raises(SourceError, match="column 'where' .* has fields of its own"):
        opened(uri)
