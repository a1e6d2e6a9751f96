"""Validation: every raw row becomes features or is quarantined, and is counted."""

from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from polars.testing import assert_frame_equal

from batch_assets.errors import (
    BatchAssetsError,
    BooksError,
    ContractError,
    CorruptPartError,
    LakeError,
    SourceError,
)
from batch_assets.lake.commits import RawCommit
from batch_assets.lake.page_layout import COMPACT, FAST
from batch_assets.lake.pins import PinnedRows
from batch_assets.lake.reconciliation import ControlTotal
from batch_assets.lake.shards import hash_keys, shard_of
from batch_assets.lake.tables import Lake
from batch_assets.quality.rules import RULES, RowRules, Split
from batch_assets.quality.validation import contract_of, duplicated_keys
from batch_assets_tests.toys import (
    DAY,
    ROW_GROUP_ROWS,
    copy_rows,
    make_contract,
    make_rows,
    pin_rows,
    read_day,
    validate,
    write_events,
)


def with_bad_ages(rows: pa.Table, count: int) -> pa.Table:
    """The rows, with ages above the limit in the first few of them."""
    ages = rows["age"].to_pylist()
    return rows.set_column(
        1, "age", pa.array([300] * count + ages[count:], type=pa.int16())
    )


def doubled(rows: pa.Table, count: int) -> pa.Table:
    """The rows, with the first few of them once more at the end."""
    return pa.concat_tables([rows, rows.slice(0, count)])


def is_closed(lake) -> bool:
    books = lake.books(DAY)
    return bool(books.pages) and books.open_after_validation() == []


@pytest.mark.parametrize("key_dtype", ["int64", "string"])
def test_valid_rows_all_become_features(lake, key_dtype):
    contract = make_contract(key_dtype)
    rows = make_rows(1000, key_dtype=key_dtype)
    copy_rows(lake, rows, contract=contract)

    done = validate(lake, contract=contract)

    found = read_day(lake, "validated_features")
    ordered = rows.sort_by("user_id")
    assert found["user_id"].equals(ordered["user_id"])
    assert_frame_equal(
        pl.DataFrame(found), RowRules(contract).to_features(pl.DataFrame(ordered))
    )
    assert done.total == done.raw == ControlTotal.of(rows["user_id"])
    assert (done.quarantine, done.quarantined, done.rules) == (ControlTotal(), [], {})
    assert is_closed(lake)


def test_bad_rows_wait_whole_and_typed(lake, toy_contract):
    rows = with_bad_ages(make_rows(1000), 30)
    copy_rows(lake, rows)

    done = validate(lake)

    found = read_day(lake, "quarantined_rows")
    expected = rows.slice(0, 30).sort_by("user_id")
    assert found.drop([RULES]).equals(expected)
    assert found.schema.field("age").type == pa.int16()
    assert found[RULES].to_pylist() == [["age is above max"]] * 30
    assert done.rules == {"age is above max": 30}
    assert done.total + done.quarantine == done.raw == ControlTotal.of(rows["user_id"])
    assert done.quarantine.rows == 30


def test_the_books_close_in_every_shard(lake):
    copy_rows(lake, with_bad_ages(doubled(make_rows(1000), 5), 30))

    validate(lake)

    pages = lake.books(DAY).pages
    assert is_closed(lake)
    assert len(pages) == 4
    assert sum(page.quarantined.rows for page in pages.values()) == 35


def test_a_null_key_is_quarantined_and_the_books_close(lake):
    keys = pa.array([None, None, *range(98)], pa.int64())
    copy_rows(lake, make_rows(100).set_column(0, "user_id", keys))

    done = validate(lake)

    assert done.rules == {"user_id is null": 2}
    assert is_closed(lake)


def test_a_duplicate_in_another_row_group_is_found(lake):
    rows = doubled(make_rows(3 * ROW_GROUP_ROWS), 3)
    copied = copy_rows(lake, rows, shards=1)
    with pq.ParquetFile(copied.parts[0].path) as file:
        assert file.num_row_groups == 4

    done = validate(lake)

    assert done.rules == {"user_id is there more than once": 6}
    found = read_day(lake, "quarantined_rows")["user_id"].to_pylist()
    assert found == sorted(rows["user_id"][:3].to_pylist() * 2)


def test_a_day_of_nothing_but_bad_rows_closes(lake):
    copy_rows(lake, with_bad_ages(make_rows(50), 50))

    done = validate(lake)

    assert (done.total.rows, done.quarantine.rows) == (0, 50)
    assert is_closed(lake)


def test_an_allowed_empty_day_closes(lake):
    copy_rows(lake, make_rows(0), allow_empty=True)

    done = validate(lake)

    assert done.total == ControlTotal()
    assert len(lake.validated_features.parts(DAY)) == 4


def test_features_lie_in_row_groups_for_the_scorer(lake):
    copy_rows(lake, make_rows(1000), shards=1)

    done = validate(lake, row_group_rows=300)

    with pq.ParquetFile(done.parts[0].path) as file:
        rows = [file.metadata.row_group(i).num_rows for i in range(file.num_row_groups)]
        column = file.metadata.row_group(0).column(1)
    assert rows == [300, 300, 300, 100]
    assert "PLAIN" in column.encodings
    assert column.compression == "UNCOMPRESSED"
    assert not column.has_dictionary_page


def test_features_are_compact_where_that_is_said(lake):
    copy_rows(lake, make_rows(1000), shards=1)

    done = validate(lake, row_group_rows=300, layout=COMPACT)

    with pq.ParquetFile(done.parts[0].path) as file:
        column = file.metadata.row_group(0).column(1)
    assert "BYTE_STREAM_SPLIT" in column.encodings
    assert column.compression == "LZ4"
    assert not column.has_dictionary_page


def test_a_day_that_is_there_stays_as_it_lies(lake):
    copy_rows(lake, make_rows(1000))
    first = validate(lake, layout=COMPACT)

    second = validate(lake, layout=FAST)

    assert second.unchanged
    assert second.parts == first.parts
    assert not any(part.as_in_memory for part in second.parts)


def test_validating_again_changes_nothing(lake):
    copy_rows(lake, with_bad_ages(make_rows(100), 3))
    first = validate(lake)
    version = lake.validated_features.last_commit(DAY).version

    second = validate(lake)

    assert second.unchanged
    assert not first.unchanged
    assert (second.job, second.parts, second.quarantined, second.raw) == (
        first.job,
        first.parts,
        first.quarantined,
        first.raw,
    )
    assert second.rules == first.rules
    assert lake.validated_features.last_commit(DAY).version == version


def test_changed_raw_rows_are_validated_again(lake):
    copy_rows(lake, with_bad_ages(make_rows(100), 3))
    first = validate(lake)
    copy_rows(lake, make_rows(90, seed=1))

    second = validate(lake)

    assert second.job != first.job
    assert second.total.rows == 90
    assert lake.quarantined_rows.parts(DAY) == []
    assert is_closed(lake)


def test_another_contract_is_another_job(lake, toy_contract):
    copy_rows(lake, make_rows(100))
    first = validate(lake)
    age = toy_contract.features[0].model_copy(update={"max": 50.0})
    stricter = toy_contract.model_copy(
        update={"features": (age, *toy_contract.features[1:])}
    )

    second = validate(lake, contract=stricter)

    assert second.job != first.job
    assert second.quarantine.rows > 0
    assert contract_of(second.parts) == stricter.digest
    assert is_closed(lake)


def test_a_contract_that_the_raw_columns_do_not_keep_is_refused(lake):
    copy_rows(lake, make_rows(100))
    validate(lake)
    wider = make_contract(
        features=[{"name": "age", "dtype": "int64"}, {"name": "mood", "dtype": "int8"}]
    )

    with pytest.raises(ContractError) as refused:
        validate(lake, contract=wider)

    assert "- 1 missing: 'mood'" in str(refused.value)
    assert "- 3 extra: 'visits'" in str(refused.value)
    assert len(read_day(lake, "validated_features")) == 100


def test_a_day_without_raw_features_is_refused(lake):
    with pytest.raises(LakeError, match=f"raw_features has no {DAY}"):
        validate(lake)


@pytest.mark.parametrize("side", ["good", "bad"])
def test_a_day_that_loses_rows_is_not_committed(lake, monkeypatch, side):
    whole = RowRules.split

    def forgetful(self: RowRules, rows: pl.DataFrame, *others: Any) -> Split:
        found = whole(self, rows, *others)
        kept = {"good": found.good, "bad": found.bad}
        kept[side] = kept[side][1:]
        return Split(**kept)

    monkeypatch.setattr(RowRules, "split", forgetful)
    copy_rows(lake, with_bad_ages(make_rows(1000), 30))

    with pytest.raises(BooksError, match=f"the books of {DAY} don't close in shard"):
        validate(lake)

    assert lake.validated_features.parts(DAY) == []
    assert lake.quarantined_rows.parts(DAY) == []


def test_a_day_that_loses_a_row_and_doubles_another_is_not_committed(lake, monkeypatch):
    whole = RowRules.split

    def confused(self: RowRules, rows: pl.DataFrame, *others: Any) -> Split:
        found = whole(self, rows, *others)
        good = pl.concat([found.good[1:], found.good[1:2]])
        return Split(good, found.bad)

    monkeypatch.setattr(RowRules, "split", confused)
    copied = copy_rows(lake, make_rows(1000))

    with pytest.raises(BooksError, match="don't close") as refused:
        validate(lake)

    # The counts agree; only the keys tell.
    rows = copied.parts[0].receipt.total.rows
    assert f"{rows:,} rows" in str(refused.value).split("came in")[0]
    assert f"validated: {rows:,} rows" in str(refused.value)
    assert lake.validated_features.parts(DAY) == []


def test_a_guard_that_raises_commits_neither_side(lake):
    def lost() -> None:
        msg = "the lock was lost"
        raise BatchAssetsError(msg)

    copy_rows(lake, with_bad_ages(make_rows(100), 3))

    with pytest.raises(BatchAssetsError, match="the lock was lost"):
        validate(lake, guard=lost)

    assert lake.validated_features.parts(DAY) == []
    assert lake.quarantined_rows.parts(DAY) == []


@pytest.mark.parametrize("column", [0, 2], ids=["key", "feature"])
def test_a_flipped_bit_of_the_raw_rows_commits_nothing(lake, column):
    copied = copy_rows(lake, make_rows(1000))
    path = copied.parts[2].path
    with pq.ParquetFile(path) as file:
        chunk = file.metadata.row_group(1).column(column)
    data = bytearray(path.read_bytes())
    data[chunk.data_page_offset + chunk.total_compressed_size // 2] ^= 1
    path.write_bytes(data)

    with pytest.raises(CorruptPartError, match="can't be read"):
        validate(lake)

    assert lake.validated_features.parts(DAY) == []


def test_progress_counts_every_raw_row(lake):
    seen: list[int] = []
    copy_rows(lake, with_bad_ages(make_rows(1000), 30))

    validate(lake, progress=seen.append)

    assert sum(seen) == 1000


def test_keys_that_share_a_hash_are_not_taken_for_one(tmp_path, monkeypatch):
    pq.write_table(pa.table({"k": [1, 2, 3, 3]}), tmp_path / "a.parquet")
    monkeypatch.setattr(
        "batch_assets.quality.validation.hash_keys", lambda keys: np.zeros(len(keys))
    )

    assert duplicated_keys(tmp_path / "a.parquet", "k").to_list() == [3]


@pytest.mark.parametrize("name", ["user_id", "select", "Order"])
def test_duplicated_keys_are_found_under_any_name(tmp_path, name):
    pq.write_table(
        pa.table({name: [1, 2, 2, None, None, 3, 3]}), tmp_path / "a.parquet"
    )

    found = duplicated_keys(tmp_path / "a.parquet", name)

    assert sorted(found.to_list()) == [2, 3]


def test_parts_of_two_contracts_are_refused(lake):
    copy_rows(lake, make_rows(10))
    one = validate(lake).parts
    other = validate(lake, contract=make_contract(features=[
        {"name": "age", "dtype": "int16"},
        *[f.model_dump() for f in make_contract().features[1:]],
    ])).parts  # fmt: skip

    with pytest.raises(ContractError, match="under 2 contracts, expected 1"):
        contract_of([*one, *other])


@pytest.mark.parametrize("key_dtype", ["int64", "string"])
def test_a_pinned_day_is_validated_as_a_copied_one(lake, root, key_dtype):
    contract = make_contract(key_dtype)
    rows = with_bad_ages(make_rows(1000, key_dtype=key_dtype), 30)
    other = Lake(root / "other", lake.pipeline)
    copy_rows(other, rows, contract=contract)
    copied = validate(other, contract=contract)
    pin_rows(lake, rows, contract=contract)

    pinned = validate(lake, contract=contract, row_group_rows=50)

    for table in ("validated_features", "quarantined_rows"):
        found, expected = (pl.DataFrame(read_day(at, table)) for at in (lake, other))
        assert_frame_equal(found, expected)
    assert (pinned.total, pinned.quarantine, pinned.raw, pinned.rules) == (
        copied.total,
        copied.quarantine,
        copied.raw,
        copied.rules,
    )
    assert is_closed(lake)


def test_a_pinned_day_has_a_part_for_each_piece_and_shard(lake):
    rows = with_bad_ages(make_rows(1000), 3)
    pin_rows(lake, rows, files=10)

    done = validate(lake, row_group_rows=50)

    places = [(part.receipt.chunk, part.receipt.shard) for part in done.parts]
    assert places == [(piece, shard) for piece in range(5) for shard in range(4)]
    assert len(done.quarantined) == len({p.receipt.shard for p in done.quarantined})
    for part in done.parts:
        keys = pq.read_table(part.path, partitioning=None)["user_id"]
        assert set(shard_of(hash_keys(keys), 4)) == {part.receipt.shard}


def test_the_pieces_of_a_pinned_day_do_not_depend_on_the_cores(lake, root, monkeypatch):
    other = Lake(root / "other", lake.pipeline)
    found = []
    for place, cores in ((lake, {0}), (other, {0, 1, 2, 3, 4, 5, 6})):
        monkeypatch.setattr("os.sched_getaffinity", lambda _, cores=cores: cores)
        pin_rows(place, make_rows(1000), files=10, project=root)
        found.append([part.sha256 for part in validate(place).parts])

    assert found[0] == found[1]


def test_the_version_that_was_pinned_is_validated_though_the_table_moved_on(lake):
    rows = make_rows(300)
    pinned = pin_rows(lake, rows)
    write_events(lake, make_rows(100, first=1001), mode="overwrite")

    done = validate(lake)

    assert done.total == pinned.total == ControlTotal.of(rows["user_id"])
    assert read_day(lake, "validated_features")["user_id"].to_pylist() == sorted(
        rows["user_id"].to_pylist()
    )


def test_a_pinned_version_that_was_vacuumed_says_what_to_do(lake):
    pin_rows(lake, make_rows(300))
    table = write_events(lake, make_rows(100, first=1001), mode="overwrite")
    table.vacuum(0, dry_run=False, enforce_retention_duration=False)

    with pytest.raises(SourceError, match="vacuumed.*Materialise raw_features"):
        validate(lake)

    assert lake.validated_features.parts(DAY) == []


def test_a_duplicate_in_another_piece_of_a_pinned_day_is_found(lake):
    rows = doubled(make_rows(500), 3)
    pin_rows(lake, rows, files=5)

    done = validate(lake, row_group_rows=25)

    assert done.rules == {"user_id is there more than once": 6}
    assert is_closed(lake)


def test_null_keys_of_a_pinned_day_are_quarantined(lake):
    keys = pa.array([None, None, *range(98)], pa.int64())
    pin_rows(lake, make_rows(100).set_column(0, "user_id", keys))

    assert validate(lake).rules == {"user_id is null": 2}
    assert is_closed(lake)


def test_an_allowed_empty_pinned_day_closes(lake):
    pin_rows(lake, make_rows(0), allow_empty=True)

    assert validate(lake).total == ControlTotal()
    assert len(lake.validated_features.parts(DAY)) == 4


@pytest.mark.parametrize("lost", [1, 0], ids=["lost", "doubled"])
def test_the_keys_of_a_pinned_day_tell_what_the_second_reading_lost(
    lake, monkeypatch, lost
):
    """The books have two sides of their own: the same rows are read twice."""
    pin_rows(lake, make_rows(500))
    whole = PinnedRows.batches

    def forgetful(self, columns, piece=None):
        for batch in whole(self, columns, piece):
            yield batch[lost:] if lost else batch.take([0, *range(len(batch) - 1)])

    monkeypatch.setattr(PinnedRows, "batches", forgetful)

    with pytest.raises(BooksError, match="don't close in shard"):
        validate(lake)

    assert lake.validated_features.parts(DAY) == []


def test_a_pinned_version_that_does_not_keep_the_contract_is_refused(lake):
    pin_rows(lake, make_rows(100))
    wider = make_contract(features=[{"name": "mood", "dtype": "int8"}])

    with pytest.raises(ContractError, match="1 missing: 'mood'"):
        validate(lake, contract=wider)


def test_an_error_in_one_piece_leaves_nothing_half_written(lake, monkeypatch):
    whole = RowRules.split

    def fails(self: RowRules, rows: pl.DataFrame, *others: Any) -> Split:
        if 77 in rows["user_id"]:
            msg = "77 is cursed"
            raise ValueError(msg)
        return whole(self, rows, *others)

    monkeypatch.setattr(RowRules, "split", fails)
    copy_rows(lake, make_rows(1000))

    with pytest.raises(ValueError, match="cursed"):
        validate(lake)

    assert lake.validated_features.parts(DAY) == []
    assert not list(lake.folder.rglob("*.tmp"))


def test_a_pinned_day_that_lost_a_shard_is_refused(lake):
    parts = pin_rows(lake, make_rows(300)).parts
    schema = pa.schema([("user_id", pa.int64())])
    lake.raw_features.commit_day(
        DAY, [parts[0], *parts[2:]], schema, RawCommit("ab", {})
    )

    with pytest.raises(LakeError, match=r"of the shards \[0, 2, 3\], expected 0 to 2"):
        validate(lake)
