"""Parts: whole and with their receipt, or not there at all."""

import json
import os
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from batch_assets.errors import CorruptPartError
from batch_assets.lake.page_layout import (
    COMPACT,
    FAST,
    NUMBERS,
    RECORDS,
    PageLayout,
)
from batch_assets.lake.part_writer import PartWriter
from batch_assets.lake.parts import (
    RECEIPT,
    Part,
    open_part,
    read_batches,
    read_columns,
    verified_part,
)
from batch_assets.lake.receipts import (
    OutputSummary,
    PredictionsReceipt,
    read_receipt,
)
from batch_assets.lake.reconciliation import ControlTotal

SCHEMA = pa.schema([("user_id", pa.int64()), ("score", pa.float32())])

LAYOUTS = [RECORDS, NUMBERS, COMPACT, FAST]


def rows_of(n: int) -> pa.Table:
    return pa.table(
        {"user_id": np.arange(n), "score": np.arange(n, dtype=np.float32) / 7}
    )


def receipt_of(rows: pa.Table, **changes: Any) -> PredictionsReceipt:
    fields: dict[str, Any] = {
        "day": "2026-01-05",
        "shard": 3,
        "chunk": 2,
        "job": "ab" * 32,
        "total": ControlTotal.of(rows["user_id"]),
        "release": "cd" * 32,
        "outputs": {"risk": OutputSummary(3, 1.5, 0.0, 1.0, [1, 2])},
    }
    return PredictionsReceipt(**fields | changes)


def write_part(path: Path, rows: pa.Table, layout: PageLayout = NUMBERS) -> Part:
    with PartWriter(path, SCHEMA, row_group_rows=100, layout=layout) as writer:
        writer.write(rows)
        return writer.finish(receipt_of(rows))


def read_all(path: Path) -> pa.Table:
    read = list(read_batches(path, rows=64))
    return pa.Table.from_batches(read).cast(SCHEMA) if read else SCHEMA.empty_table()


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("n", [0, 1, 100, 250])
def test_a_part_gives_back_its_rows_and_receipt(tmp_path, n, layout):
    rows, path = rows_of(n), tmp_path / "part.parquet"

    written = write_part(path, rows, layout)

    part, file = open_part(path)
    file.close()
    size = path.stat().st_size
    assert part == written
    assert (part.path, part.size, part.receipt) == (path, size, receipt_of(rows))
    assert part.as_in_memory == layout.as_in_memory
    assert (sum(part.groups), len(part.groups)) == (n, file.num_row_groups)
    assert read_all(path).equals(rows)


def test_no_row_group_holds_rows_of_two_kinds(tmp_path):
    path, rows = tmp_path / "part.parquet", rows_of(500)
    with PartWriter(path, SCHEMA, row_group_rows=100, kinds=2) as writer:
        for start in range(0, 500, 50):
            kind = int(start % 200 == 0)
            writer.write(rows.slice(start, 50), kind)
        kinds = writer.flush()
        part = writer.finish(receipt_of(rows))

    assert sorted(zip(kinds, part.groups, strict=True)) == [
        *((0, 50), (0, 100), (0, 100), (0, 100)),
        *((1, 50), (1, 100)),
    ]
    found = [read_columns(path, ["user_id"], [group]) for group in range(6)]
    keys = rows["user_id"].to_pylist()
    for kind, table in zip(kinds, found, strict=True):
        starts = {keys.index(key) // 50 * 50 for key in table["user_id"].to_pylist()}
        assert {int(start % 200 == 0) for start in starts} == {kind}


def test_the_disk_is_told_what_is_read_next_and_no_more(tmp_path, monkeypatch):
    path, rows = tmp_path / "part.parquet", rows_of(500)
    write_part(path, rows)
    told = []
    monkeypatch.setattr(os, "posix_fadvise", lambda fd, *asked: told.append(asked))

    read_columns(path, ["user_id"], [1, 3])

    footer = pq.read_metadata(path)
    groups = [
        [footer.row_group(group).column(at) for at in range(footer.num_columns)]
        for group in (1, 3)
    ]
    for (start, length, how), columns in zip(told, groups, strict=True):
        starts = [c.dictionary_page_offset or c.data_page_offset for c in columns]
        assert how == os.POSIX_FADV_WILLNEED
        assert start == min(starts)
        assert length == sum(column.total_compressed_size for column in columns)


def test_a_receipt_survives_the_way_through_json():
    receipt = receipt_of(rows_of(3))

    assert read_receipt(receipt.dumps()) == receipt


@pytest.mark.parametrize(
    "change",
    [
        {"day": "2026-01-06"},
        {"job": "ef" * 32},
        {"tally": {"rows": 3, "keys": 1}},
        {"facts": {}},
    ],
)
def test_an_altered_receipt_is_refused(change):
    record = json.loads(receipt_of(rows_of(3)).dumps())
    record["body"] |= change

    with pytest.raises(ValueError, match="digest is not that of its content"):
        read_receipt(json.dumps(record).encode())


def test_row_groups_have_a_fixed_size_however_the_rows_come(tmp_path):
    rows, path = rows_of(250), tmp_path / "part.parquet"

    with PartWriter(path, SCHEMA, row_group_rows=100) as writer:
        for batch in rows.to_batches(max_chunksize=33):
            writer.write(batch)
        writer.finish(receipt_of(rows))

    with pq.ParquetFile(path) as file:
        groups = [
            file.metadata.row_group(i).num_rows for i in range(file.num_row_groups)
        ]
    assert groups == [100, 100, 50]
    assert read_all(path).equals(rows)


def test_one_large_write_is_cut_into_row_groups(tmp_path):
    write_part(tmp_path / "part.parquet", rows_of(450))

    with pq.ParquetFile(tmp_path / "part.parquet") as file:
        assert file.num_row_groups == 5


def test_floats_are_split_by_byte_and_integers_are_differences(tmp_path):
    write_part(tmp_path / "part.parquet", rows_of(200))

    with pq.ParquetFile(tmp_path / "part.parquet") as file:
        keys, floats = (file.metadata.row_group(0).column(i) for i in (0, 1))
    assert "BYTE_STREAM_SPLIT" in floats.encodings
    assert "DELTA_BINARY_PACKED" in keys.encodings
    assert not floats.has_dictionary_page
    assert not keys.has_dictionary_page
    assert {keys.compression, floats.compression} == {"ZSTD"}


def test_a_part_without_finish_leaves_nothing(tmp_path):
    with PartWriter(
        tmp_path / "shard=3" / "part.parquet", SCHEMA, row_group_rows=100
    ) as writer:
        writer.write(rows_of(250))

    assert list((tmp_path / "shard=3").iterdir()) == []


def test_an_error_while_writing_leaves_nothing(tmp_path):
    def die_half_way() -> None:
        with PartWriter(
            tmp_path / "part.parquet", SCHEMA, row_group_rows=100
        ) as writer:
            writer.write(rows_of(250))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        die_half_way()

    assert list(tmp_path.iterdir()) == []


def test_a_part_has_no_name_until_it_is_whole(tmp_path):
    path = tmp_path / "part.parquet"

    with PartWriter(path, SCHEMA, row_group_rows=100) as writer:
        writer.write(rows_of(250))
        before = sorted(p.name for p in tmp_path.iterdir())
        writer.finish(receipt_of(rows_of(250)))

    (beside,) = before
    assert beside.startswith("part.parquet.")
    assert beside.endswith(".tmp")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["part.parquet"]


def test_a_failed_rewrite_leaves_the_part_that_was_there(tmp_path):
    path = tmp_path / "part.parquet"
    write_part(path, rows_of(250))
    before = path.read_bytes()

    with PartWriter(path, SCHEMA, row_group_rows=100) as writer:
        writer.write(rows_of(10))

    assert path.read_bytes() == before


def test_a_missing_part_is_refused(tmp_path):
    with pytest.raises(CorruptPartError, match="can't be read"):
        open_part(tmp_path / "part.parquet")


def test_a_part_without_a_receipt_is_refused(tmp_path):
    pq.write_table(rows_of(3), tmp_path / "part.parquet")

    with pytest.raises(CorruptPartError, match="can't be read"):
        open_part(tmp_path / "part.parquet")


def test_a_part_with_another_row_count_than_its_receipt_is_refused(tmp_path):
    rows = rows_of(10)
    with PartWriter(tmp_path / "part.parquet", SCHEMA, row_group_rows=100) as writer:
        writer.write(rows[:9])
        writer.finish(receipt_of(rows))

    with pytest.raises(CorruptPartError, match="has 9 rows, its receipt says 10"):
        open_part(tmp_path / "part.parquet")


@pytest.mark.parametrize("left", [0.0, 0.001, 0.5, 0.999])
def test_a_torn_part_is_refused(tmp_path, left):
    path = tmp_path / "part.parquet"
    write_part(path, rows_of(250))
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * left)])

    with pytest.raises(CorruptPartError, match="can't be read"):
        open_part(path)


def regions_of(path: Path) -> dict[str, range]:
    """The byte ranges of a part: each column's pages, the footer, the receipt."""
    data = path.read_bytes()
    footer = len(data) - 8 - int.from_bytes(data[-8:-4], "little")
    receipt = pq.read_metadata(path).metadata[RECEIPT]
    at = data.index(receipt)
    regions = {
        "footer": range(footer, len(data)),
        "receipt": range(at, at + len(receipt)),
    }
    with pq.ParquetFile(path) as file:
        for group in range(file.num_row_groups):
            for column in range(file.metadata.num_columns):
                chunk = file.metadata.row_group(group).column(column)
                begin = chunk.data_page_offset
                if chunk.has_dictionary_page:
                    begin = min(begin, chunk.dictionary_page_offset)
                regions[f"{chunk.path_in_schema} {group}"] = range(
                    begin, begin + chunk.total_compressed_size
                )
    return regions


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_flipped_bit_is_never_read_as_data(tmp_path, layout):
    """Each byte of the pages, and of the footer: refused, or without any effect."""
    rows, path = rows_of(60), tmp_path / "part.parquet"
    part = write_part(path, rows, layout)
    whole = bytearray(path.read_bytes())
    refused: Counter[str] = Counter()
    silent = []

    for region, places in regions_of(path).items():
        for at in places:
            whole[at] ^= 1 << at % 8
            path.write_bytes(whole)
            whole[at] ^= 1 << at % 8
            try:
                found, file = open_part(path)
                file.close()
                batches = list(read_batches(path, rows=64))
            except CorruptPartError:
                refused[region] += 1
                continue
            if batches and batches[0].schema != layout.schema(SCHEMA):
                continue  # a column's name or type: whoever asks for it notices
            read = pa.Table.from_batches(batches)
            if found.receipt != part.receipt or not read.cast(SCHEMA).equals(rows):
                silent.append((region, at))

    assert silent == []
    assert refused["receipt"] == len(receipt_of(rows).dumps())


def test_no_flipped_bit_is_taken_over_by_a_later_run(tmp_path):
    """Each byte of the whole file, also those that only other readers look at."""
    path = tmp_path / "part.parquet"
    part = write_part(path, rows_of(60))
    whole = bytearray(path.read_bytes())
    assert verified_part(path, "user_id") == part

    for at in range(len(whole)):
        whole[at] ^= 1 << at % 8
        path.write_bytes(whole)
        whole[at] ^= 1 << at % 8
        with pytest.raises(CorruptPartError):
            verified_part(path, "user_id")


def test_a_row_group_that_a_flipped_bit_shortened_is_refused(tmp_path):
    path = tmp_path / "part.parquet"
    write_part(path, rows_of(250))
    data = path.read_bytes()

    for at in regions_of(path)["footer"]:
        damaged = bytearray(data)
        damaged[at] ^= 1
        path.write_bytes(damaged)
        try:
            found = pq.read_metadata(path)
        except (OSError, pa.ArrowException):
            continue
        # The file's own row count is whole: only the row groups know.
        if found.num_rows == 250 and found.row_group(0).num_rows != 100:
            break

    with pytest.raises(CorruptPartError, match="its receipt says 250"):
        open_part(path)
