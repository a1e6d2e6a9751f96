"""Validation: every raw row becomes features or is quarantined, and is counted."""

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
)
from batch_assets.lake.books import Tally
from batch_assets.quality.rules import RULES, RowRules, Split
from batch_assets.quality.validation import contract_of, duplicated_keys
from batch_assets_tests.toys import (
    DAY,
    ROW_GROUP_ROWS,
    copy_rows,
    make_contract,
    make_rows,
    read_day,
    validate,
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
    assert done.tally == done.raw == Tally.of(rows["user_id"])
    assert (done.quarantine, done.quarantined, done.rules) == (Tally(), [], {})
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
    assert done.tally + done.quarantine == done.raw == Tally.of(rows["user_id"])
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

    assert (done.tally.rows, done.quarantine.rows) == (0, 50)
    assert is_closed(lake)


def test_an_allowed_empty_day_closes(lake):
    copy_rows(lake, make_rows(0), allow_empty=True)

    done = validate(lake)

    assert done.tally == Tally()
    assert len(lake.validated_features.parts(DAY)) == 4


def test_features_lie_in_row_groups_for_the_scorer(lake):
    copy_rows(lake, make_rows(1000), shards=1)

    done = validate(lake, row_group_rows=300)

    with pq.ParquetFile(done.parts[0].path) as file:
        rows = [file.metadata.row_group(i).num_rows for i in range(file.num_row_groups)]
        column = file.metadata.row_group(0).column(1)
    assert rows == [300, 300, 300, 100]
    assert "BYTE_STREAM_SPLIT" in column.encodings
    assert not column.has_dictionary_page


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
    assert second.tally.rows == 90
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
    assert "- retyped: 'age', got: int16, expected: int64" in str(refused.value)
    assert len(read_day(lake, "validated_features")) == 100


def test_a_day_without_raw_features_is_refused(lake):
    with pytest.raises(LakeError, match=f"raw_features has no {DAY}"):
        validate(lake)


@pytest.mark.parametrize("side", ["good", "bad"])
def test_a_day_that_loses_rows_is_not_committed(lake, monkeypatch, side):
    whole = RowRules.split

    def forgetful(self: RowRules, rows: pl.DataFrame, duplicated: pl.Series) -> Split:
        found = whole(self, rows, duplicated)
        kept = {"good": found.good, "bad": found.bad}
        kept[side] = kept[side][1:]
        return Split(**kept, counts=found.counts)

    monkeypatch.setattr(RowRules, "split", forgetful)
    copy_rows(lake, with_bad_ages(make_rows(1000), 30))

    with pytest.raises(BooksError, match=f"the books of {DAY} don't close in shard"):
        validate(lake)

    assert lake.validated_features.parts(DAY) == []
    assert lake.quarantined_rows.parts(DAY) == []


def test_a_day_that_loses_a_row_and_doubles_another_is_not_committed(lake, monkeypatch):
    whole = RowRules.split

    def confused(self: RowRules, rows: pl.DataFrame, duplicated: pl.Series) -> Split:
        found = whole(self, rows, duplicated)
        good = pl.concat([found.good[1:], found.good[1:2]])
        return Split(good, found.bad, found.counts)

    monkeypatch.setattr(RowRules, "split", confused)
    copied = copy_rows(lake, make_rows(1000))

    with pytest.raises(BooksError, match="don't close") as refused:
        validate(lake)

    # The counts agree; only the keys tell.
    rows = copied.parts[0].receipt.tally.rows
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


def test_a_flipped_bit_of_the_raw_rows_commits_nothing(lake):
    copied = copy_rows(lake, make_rows(1000))
    path = copied.parts[2].path
    with pq.ParquetFile(path) as file:
        chunk = file.metadata.row_group(1).column(2)
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
