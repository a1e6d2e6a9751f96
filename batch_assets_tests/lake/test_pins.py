"""Pins: the day of one version of a Delta table, wherever the table has got to."""

import json
import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from deltalake import DeltaTable, WriterProperties, write_deltalake

from batch_assets.errors import SourceError
from batch_assets.lake.pins import PinnedRows
from batch_assets_tests.delta_by_hand import rows_of, write

DAY, NEXT_DAY = "2026-01-05", "2026-01-06"


def opened(uri: str, version: int | None = None, day: str = DAY) -> PinnedRows:
    return PinnedRows(uri, version, day, "day")


def keys_of(rows: PinnedRows, piece=None) -> list[int]:
    batches = rows.batches(["user_id"], piece)
    return [key for batch in batches for key in batch["user_id"].to_pylist()]


def change_log(uri: str, change) -> None:
    """Rewrite the first entry of a table's log, action by action."""
    path = Path(uri) / "_delta_log" / f"{0:020d}.json"
    actions = map(json.loads, path.read_text(encoding="utf-8").splitlines())
    lines = [json.dumps(change(action)) for action in actions]
    path.write_text("\n".join(lines), encoding="utf-8")


@pytest.mark.parametrize("partitioned", [True, False])
def test_the_rows_of_the_day_are_known_before_one_is_read(tmp_path, partitioned):
    rows = pa.concat_tables([rows_of(0, 30), rows_of(30, 100, NEXT_DAY)])
    uri = write(tmp_path, rows, partitioned=partitioned)

    found = opened(uri)

    assert found.schema.names == ["user_id", "visits"]
    assert found.rows == 30
    assert sorted(keys_of(found)) == list(range(30))


@pytest.mark.parametrize("partitioned", [True, False])
def test_pieces_have_every_row_group_of_the_day_once(tmp_path, partitioned):
    for start in range(0, 100, 10):
        day = NEXT_DAY if start == 50 else DAY
        uri = write(tmp_path, rows_of(start, start + 10, day), partitioned=partitioned)
    found = opened(uri)

    pieces = found.pieces(25)

    assert [len(piece) for piece in pieces] == [2, 2, 2, 2, 1]
    keys = [key for piece in pieces for key in keys_of(found, piece)]
    assert keys == keys_of(opened(uri))
    assert sorted(keys) == [*range(50), *range(60, 100)]


@pytest.mark.parametrize("partitioned", [True, False])
def test_a_file_of_several_row_groups_may_be_in_several_pieces(tmp_path, partitioned):
    how = WriterProperties(max_row_group_size=10)
    # Of two chunks the writer would make two files, in any order.
    rows = pa.concat_tables([rows_of(0, 75), rows_of(75, 100, NEXT_DAY)])
    rows = rows.combine_chunks()
    uri = write(tmp_path, rows, partitioned=partitioned, writer_properties=how)
    found = opened(uri)

    pieces = [keys_of(found, piece) for piece in found.pieces(30)]

    assert [len(keys) for keys in pieces] == [30, 30, 15]
    assert sum(pieces, []) == list(range(75)) == keys_of(found)
    assert found.rows == 75


def test_a_folder_and_a_day_may_have_any_name(tmp_path):
    day = "5 %41 æ=?#"
    uri = write(tmp_path / "a b ø", rows_of(0, 10, day))

    found = opened(uri, day=day)

    assert keys_of(PinnedRows.of(found.pin)) == list(range(10))


def test_a_row_group_that_is_larger_than_a_piece_is_one(tmp_path):
    uri = write(tmp_path, rows_of(0, 100))

    assert [len(piece) for piece in opened(uri).pieces(10)] == [1]


def test_a_day_without_rows_is_one_piece(tmp_path):
    found = opened(write(tmp_path, rows_of(0, 10)), day=NEXT_DAY)

    assert (found.rows, found.pieces(10), keys_of(found)) == (0, [[]], [])


def test_a_pin_is_read_as_it_was_though_the_table_moved_on(tmp_path):
    uri = write(tmp_path, rows_of(0, 10))
    pin = opened(uri).pin
    write(tmp_path, rows_of(10, 20))
    write_deltalake(uri, rows_of(90, 95), mode="overwrite")

    assert sorted(keys_of(PinnedRows.of(pin))) == list(range(10))
    assert pin.version == 0
    assert opened(uri).pin != pin


def test_a_table_that_was_made_anew_is_not_what_was_pinned(tmp_path):
    uri = write(tmp_path, rows_of(0, 10))
    pin = opened(uri).pin
    shutil.rmtree(uri)
    write(tmp_path, rows_of(0, 10))

    with pytest.raises(SourceError, match="made anew.*Materialise raw_features"):
        PinnedRows.of(pin)


@pytest.mark.parametrize("when", ["opening", "reading"])
def test_a_file_that_is_gone_is_named_with_what_to_do(tmp_path, when):
    uri = write(tmp_path, rows_of(0, 10))
    found = opened(uri)
    again = {
        "opening": lambda: PinnedRows.of(found.pin),
        "reading": lambda: keys_of(found),
    }
    for path in Path(uri).rglob("*.parquet"):
        path.unlink()

    with pytest.raises(SourceError, match="vacuumed.*Materialise raw_features"):
        again[when]()


def test_other_rows_in_the_files_than_the_log_tells_are_refused(tmp_path):
    uri = write(tmp_path, rows_of(0, 10))

    def lie(action: dict) -> dict:
        if "add" in action:
            stats = json.loads(action["add"]["stats"]) | {"numRecords": 11}
            action["add"]["stats"] = json.dumps(stats)
        return action

    change_log(uri, lie)

    with pytest.raises(SourceError, match="has 10 rows in the files.* tells of 11"):
        opened(uri)


def test_a_table_with_a_feature_that_nobody_knows_is_refused_by_name(tmp_path):
    """Its files may hold other rows than the table has."""
    uri = write(tmp_path, rows_of(0, 10))
    features = ["deletionVectors", "typeWidening"]

    def demand(action: dict) -> dict:
        if "protocol" in action:
            action["protocol"] = {
                "minReaderVersion": 3,
                "minWriterVersion": 7,
                "readerFeatures": features,
                "writerFeatures": features,
            }
        return action

    change_log(uri, demand)

    with pytest.raises(SourceError, match="can't be opened.*typeWidening"):
        opened(uri)


def test_a_flipped_bit_of_a_checksummed_page_is_named(tmp_path):
    uri = write(tmp_path, rows_of(0, 1000))
    (path,) = Path(uri).rglob("*.parquet")
    pq.write_table(
        rows_of(0, 1000).drop(["day"]),
        path,
        write_page_checksum=True,
        use_dictionary=False,
    )
    data = bytearray(path.read_bytes())
    data[200] ^= 1
    path.write_bytes(data)

    with pytest.raises(SourceError, match="can't be read at version 0"):
        keys_of(opened(uri))


def test_a_column_that_came_later_is_null_before(tmp_path):
    write(tmp_path, rows_of(0, 10).drop(["visits"]))
    uri = write(tmp_path, rows_of(10, 20), schema_mode="merge")

    found = opened(uri)
    visits = [b["visits"] for b in found.batches(["visits"])]

    assert pa.chunked_array(visits).null_count == 10
    assert DeltaTable(uri).version() == 1
