"""The raw copy: every row of the source, in its shard, in one commit."""

import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from batch_assets.errors import (
    BatchAssetsError,
    ContractError,
    EmptySourceError,
    SourceError,
)
from batch_assets.lake.parts import RECEIPT
from batch_assets.lake.pins import PinnedRows
from batch_assets.lake.raw import Copied, pin_of
from batch_assets.lake.reconciliation import ControlTotal
from batch_assets.lake.shards import hash_keys, shard_of
from batch_assets.lake.sources import ParquetSource, Source, SqlSource
from batch_assets.lake.tables import Lake
from batch_assets_tests import histories
from batch_assets_tests.steps import take
from batch_assets_tests.toys import (
    DAY,
    SHARDS,
    context_of,
    copy_rows,
    copying,
    make_contract,
    make_rows,
    pin_rows,
    project_of,
    read_day,
    write_events,
    write_source,
)

SOURCE = ParquetSource(kind="parquet", glob="days/{{ day }}.parquet")


def files_of(lake: Lake) -> set[str]:
    """Every data file of the raw table, committed or not."""
    return {str(p) for p in lake.raw_features.path.rglob("day=*/**/*") if p.is_file()}


def copy_from(lake: Lake, source: Source, folder: Path, **changes: Any) -> Copied:
    """Copy the day from a source that lies there already."""
    arguments = copying(make_contract())
    return take(lake, source, context_of(folder), **(arguments | changes))


@pytest.mark.parametrize("key_dtype", ["int64", "string"])
def test_every_row_is_copied_once(lake, key_dtype):
    rows = make_rows(1000, key_dtype=key_dtype)

    copied = copy_rows(lake, rows, contract=make_contract(key_dtype))

    assert read_day(lake, "raw_features").equals(rows.sort_by("user_id"))
    assert copied.total == ControlTotal.of(rows["user_id"])
    assert not copied.unchanged


def test_every_row_lies_in_the_shard_of_its_key(lake):
    copied = copy_rows(lake, make_rows(1000))

    assert [part.receipt.shard for part in copied.parts] == list(range(SHARDS))
    for part in copied.parts:
        keys = pq.read_table(part.path, partitioning=None)["user_id"]
        assert set(shard_of(hash_keys(keys), SHARDS)) == {part.receipt.shard}
        assert part.receipt.total == ControlTotal.of(keys)


def test_a_shard_without_rows_has_a_part_too(lake):
    copied = copy_rows(lake, make_rows(1), shards=16)

    assert [p.receipt.total.rows for p in copied.parts].count(0) == 15
    assert len(lake.raw_features.parts(DAY)) == 16


def test_row_groups_are_as_large_as_asked(lake):
    copied = copy_rows(lake, make_rows(1000), shards=1, row_group_rows=300)

    with pq.ParquetFile(copied.parts[0].path) as file:
        groups = [
            file.metadata.row_group(i).num_rows for i in range(file.num_row_groups)
        ]
    assert groups == [300, 300, 300, 100]


def test_the_commit_records_what_was_read(lake):
    copied = copy_rows(lake, make_rows(10))

    facts = lake.raw_features.last_commit(DAY).facts

    assert facts.job == copied.job
    assert facts.source["files"][0][0] == f"days/{DAY}.parquet"


def test_a_null_key_is_copied_like_any_other(lake):
    rows = make_rows(4).set_column(
        0, "user_id", pa.array([1, None, 3, None], pa.int64())
    )

    copied = copy_rows(lake, rows)

    assert copied.total == ControlTotal.of(rows["user_id"])
    assert read_day(lake, "raw_features")["user_id"].null_count == 2


@pytest.mark.parametrize("encoding", ["dictionary", "large_string"])
def test_another_encoding_of_a_string_is_the_same_column(lake, encoding):
    rows = make_rows(50)
    plan = rows["plan"]
    encoded = (
        plan.dictionary_encode() if encoding == "dictionary" else plan.cast(encoding)
    )

    copy_rows(lake, rows.set_column(3, "plan", encoded))

    assert read_day(lake, "raw_features").equals(rows.sort_by("user_id"))


def test_the_order_of_the_sources_columns_is_free(lake):
    rows = make_rows(50)

    copy_rows(lake, rows.select(rows.column_names[::-1]))

    assert read_day(lake, "raw_features").equals(rows.sort_by("user_id"))


def test_the_same_source_is_not_copied_again(lake, root):
    first = copy_rows(lake, make_rows(100))
    version = lake.raw_features.last_commit(DAY).version

    again = copy_from(
        lake,
        SOURCE,
        root / "project",
        check=lambda schema: pytest.fail("the source was opened"),
    )

    assert again.unchanged
    assert (again.job, again.parts) == (first.job, first.parts)
    assert lake.raw_features.last_commit(DAY).version == version


def test_a_changed_file_is_copied_again(lake):
    first = copy_rows(lake, make_rows(100))

    second = copy_rows(lake, make_rows(90, seed=1))

    assert not second.unchanged
    assert second.job != first.job
    assert read_day(lake, "raw_features").num_rows == 90


@pytest.mark.parametrize(
    "setting",
    [{"shards": 3}, {"row_group_rows": 7}],
    ids=str,
)
def test_a_setting_that_changes_the_parts_is_another_job(lake, root, setting):
    first = copy_rows(lake, make_rows(100))

    second = copy_rows(lake, make_rows(100), **setting)

    assert second.job != first.job
    assert not second.unchanged


def test_an_empty_source_is_an_error_and_yesterday_stays(lake):
    copy_rows(lake, make_rows(10))

    with pytest.raises(EmptySourceError, match="no rows for 2026-01-05.*allow_empty"):
        copy_rows(lake, make_rows(0))

    assert read_day(lake, "raw_features").num_rows == 10
    assert len(files_of(lake)) == SHARDS


def test_an_empty_source_can_be_allowed(lake):
    copied = copy_rows(lake, make_rows(0), allow_empty=True)

    assert copied.total == ControlTotal()
    assert len(lake.raw_features.parts(DAY)) == SHARDS


NUMBERS = (make_contract, make_rows)
HISTORIES = (histories.make_contract, histories.make_rows)


def with_text(rows: pa.Table, name: str) -> pa.Table:
    """The rows, in which a column of lists of numbers holds the same as text."""
    texts = [[str(one) for one in items] for items in rows[name].to_pylist()]
    at = rows.schema.get_field_index(name)
    return rows.set_column(at, name, pa.array(texts, pa.list_(pa.string())))


@pytest.mark.parametrize(
    ("kind", "change", "line"),
    [
        pytest.param(
            NUMBERS,
            lambda rows: rows.drop(["visits"]),
            "1 missing: 'visits'",
            id="numbers-missing",
        ),
        pytest.param(
            NUMBERS,
            lambda rows: rows.append_column("note", rows["plan"]),
            "1 extra: 'note'",
            id="numbers-extra",
        ),
        pytest.param(
            NUMBERS,
            lambda rows: rows.set_column(1, "age", rows["age"].cast("int64")),
            "retyped: 'age', got: int64, expected: int16",
            id="numbers-retyped",
        ),
        pytest.param(
            HISTORIES,
            lambda rows: rows.drop(["days_ago"]),
            "1 missing: 'days_ago'",
            id="histories-missing",
        ),
        pytest.param(
            HISTORIES,
            lambda rows: rows.append_column("more", rows["items"]),
            "1 extra: 'more'",
            id="histories-extra",
        ),
        pytest.param(
            HISTORIES,
            lambda rows: with_text(rows, "items"),
            "retyped: 'items', got: list of string, expected: list of int64",
            id="histories-retyped",
        ),
        pytest.param(
            NUMBERS,
            lambda rows: rows.rename_columns(["user", *rows.column_names[1:]]),
            "1 missing: 'user_id'",
            id="numbers-key renamed",
        ),
    ],
)
def test_a_wrong_column_is_named_and_nothing_is_written(lake, kind, change, line):
    contract_of, rows_of = kind
    with pytest.raises(ContractError) as refused:
        copy_rows(lake, change(rows_of(100)), contract=contract_of())

    assert f"- {line}" in str(refused.value).splitlines()
    assert not lake.raw_features.path.exists()


def test_a_guard_that_raises_commits_nothing(lake):
    def lost() -> None:
        msg = "the lock was lost"
        raise BatchAssetsError(msg)

    copy_rows(lake, make_rows(10))

    with pytest.raises(BatchAssetsError, match="the lock was lost"):
        copy_rows(lake, make_rows(20), guard=lost)

    assert read_day(lake, "raw_features").num_rows == 10


def test_a_source_that_breaks_off_commits_nothing(lake, root):
    (root / "features.sql").write_text(
        "SELECT range::BIGINT AS user_id, "
        "(CASE WHEN range < 900000 THEN 30 ELSE error('cursed') END)::SMALLINT AS age, "
        "1::FLOAT AS visits, 'free' AS plan, true AS active "
        "FROM range(1000000) WHERE $day IS NOT NULL",
        encoding="utf-8",
    )

    with pytest.raises(SourceError, match="cursed"):
        copy_from(
            lake,
            SqlSource(kind="sql", query="features.sql"),
            root,
            row_group_rows=100_000,
        )

    assert lake.raw_features.parts(DAY) == []
    assert files_of(lake) == set()


def test_a_torn_row_group_of_the_source_commits_nothing(lake, root):
    rows = make_rows(1000)
    path = write_source(root / "project", rows)
    pq.write_table(rows, path, row_group_size=500, write_page_checksum=True)
    with pq.ParquetFile(path) as file:
        at = file.metadata.row_group(1).column(0).data_page_offset + 100
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)

    with pytest.raises(SourceError, match=f"{DAY}.parquet can't be read"):
        copy_from(lake, SOURCE, root / "project")

    assert files_of(lake) == set()


def test_progress_counts_every_row(lake):
    seen: list[int] = []

    copy_rows(lake, make_rows(1000), progress=seen.append)

    assert sum(seen) == 1000


def test_a_copy_that_dies_leaves_no_half_day(lake):
    def die(rows: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        copy_rows(lake, make_rows(1000), progress=die)

    assert lake.raw_features.parts(DAY) == []
    assert files_of(lake) == set()


def test_each_part_carries_a_receipt(lake):
    copied = copy_rows(lake, make_rows(10))

    for part in copied.parts:
        assert RECEIPT in pq.read_metadata(part.path).metadata
        assert (part.receipt.table, part.receipt.day) == ("raw_features", DAY)


@pytest.mark.parametrize("key_dtype", ["int64", "string"])
def test_of_a_pinned_source_only_the_keys_are_written(lake, key_dtype):
    rows = make_rows(1000, key_dtype=key_dtype)

    pinned = pin_rows(lake, rows, contract=make_contract(key_dtype))

    found = read_day(lake, "raw_features")
    assert found.equals(rows.select(["user_id"]).sort_by("user_id"))
    assert pinned.total == ControlTotal.of(rows["user_id"])
    for part in pinned.parts:
        keys = pq.read_table(part.path, partitioning=None)["user_id"]
        assert set(shard_of(hash_keys(keys), SHARDS)) == {part.receipt.shard}
    assert lake.raw_features.rows_by_day() == {DAY: 1000}


def test_commit_and_receipts_name_the_version_that_is_pinned(lake, root):
    pinned = pin_rows(lake, make_rows(100), files=3)

    pin = pin_of(lake.raw_features.parts(DAY))

    assert pin.table.rstrip("/").endswith(str(root / "project" / "events"))
    assert pin.version == 2
    assert (pin.day, pin.day_column) == (DAY, "day")
    assert lake.raw_features.last_commit(DAY).facts.source == asdict(pin)
    assert all(p.receipt.pinned == pin for p in pinned.parts)
    copy_rows(lake, make_rows(10))
    assert pin_of(lake.raw_features.parts(DAY)) is None


def test_the_same_version_is_not_read_again_and_the_next_one_is(lake):
    first = pin_rows(lake, make_rows(100))

    again = pin_rows(lake, make_rows(100))
    write_events(lake, make_rows(10, first=501))
    moved = pin_rows(lake, make_rows(100))

    assert (again.unchanged, again.job) == (True, first.job)
    assert (moved.unchanged, moved.total.rows) == (False, 110)
    assert moved.job != first.job


def test_a_version_may_be_pinned_while_the_table_moves_on(lake):
    def move_on(rows: int) -> None:
        write_events(lake, make_rows(1, first=9_001))

    assert pin_rows(lake, make_rows(100), files=2, progress=move_on).total.rows == 100


def test_a_wrong_column_of_a_version_is_named_before_a_key_is_read(lake):
    with pytest.raises(ContractError, match="1 missing: 'visits'"):
        pin_rows(lake, make_rows(100).drop(["visits"]))

    assert not lake.raw_features.path.exists()


def test_a_version_without_rows_of_the_day_is_an_error(lake):
    write_events(lake, make_rows(10), day="2026-01-04")

    with pytest.raises(EmptySourceError, match=f"no rows for {DAY}"):
        pin_rows(lake, make_rows(10))


def test_keys_that_are_lost_on_the_way_commit_nothing(lake, monkeypatch):
    whole = PinnedRows.batches
    monkeypatch.setattr(
        PinnedRows, "batches", lambda *args: (batch[1:] for batch in whole(*args))
    )

    with pytest.raises(SourceError, match="gave 97 keys of 100 rows"):
        pin_rows(lake, make_rows(100), files=3)

    assert lake.raw_features.parts(DAY) == []


def test_floats_of_a_copy_have_no_dictionary(lake):
    copied = copy_rows(lake, make_rows(100), shards=1)

    with pq.ParquetFile(copied.parts[0].path) as file:
        visits = file.metadata.row_group(0).column(2)
    assert not visits.has_dictionary_page
    assert "BYTE_STREAM_SPLIT" in visits.encodings
    assert visits.compression == "LZ4"


@pytest.mark.parametrize("moment", ["before", "while"])
def test_a_source_that_is_written_to_while_it_is_read_is_not_committed(lake, moment):
    """Also if its size and its time are put back."""
    write_source(project_of(lake), make_rows(2000))
    path = project_of(lake) / "days" / f"{DAY}.parquet"
    there = path.stat()

    def touch(_: int) -> None:
        path.write_bytes(path.read_bytes())
        os.utime(path, ns=(there.st_atime_ns, there.st_mtime_ns))

    if moment == "before":
        touch(0)
        assert not copy_from(lake, SOURCE, project_of(lake)).unchanged
        touch(0)
        assert copy_from(lake, SOURCE, project_of(lake)).unchanged
        return
    with pytest.raises(SourceError, match="changed while it was read"):
        copy_from(lake, SOURCE, project_of(lake), progress=touch)
    assert lake.raw_features.parts(DAY) == []
