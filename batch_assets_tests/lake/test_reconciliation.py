"""The books: counts and key checksums that must agree."""

import pyarrow as pa
import pytest

from batch_assets.errors import BooksError
from batch_assets.lake.reconciliation import (
    Books,
    ControlTotal,
    Page,
    must_close,
    total_of,
)
from batch_assets.lake.shards import WORD_MASK, hash_key


def total(*keys: int | None) -> ControlTotal:
    return ControlTotal.of(pa.array(keys, pa.int64()))


def test_a_tally_counts_rows_and_sums_their_hashes():
    assert total(1, 2) == ControlTotal(2, (hash_key(1) + hash_key(2)) & WORD_MASK)


def test_a_null_key_counts_as_a_row():
    assert total(1, None) == ControlTotal(2, hash_key(1))


def test_tallies_add_up_in_any_split_and_order():
    assert total(3) + total(1, 2) == total(1, 2, 3)
    assert total_of([total(2), total(), total(3, 1)]) == total(1, 2, 3)
    assert total_of([]) == ControlTotal()


def test_a_sum_of_checksums_stays_within_a_word():
    assert ControlTotal(1, WORD_MASK) + ControlTotal(1, 2) == ControlTotal(2, 1)


@pytest.mark.parametrize(
    "page",
    [
        Page(),
        Page(raw=total(1, 2, 3), validated=total(3, 1), quarantined=total(2)),
        Page(raw=total(1), quarantined=total(1)),
    ],
)
def test_validation_closes_when_every_row_went_somewhere(page):
    assert page.validation_closes


@pytest.mark.parametrize(
    ("validated", "quarantined"),
    [
        pytest.param(total(1, 2), total(), id="one lost"),
        pytest.param(total(1, 2, 3), total(3), id="one on both sides"),
        pytest.param(total(1, 1), total(3), id="one lost, another doubled"),
        pytest.param(total(1, 2, 4), total(), id="one swapped"),
        pytest.param(total(), total(), id="all lost"),
    ],
)
def test_validation_stays_open_when_a_row_is(validated, quarantined):
    page = Page(raw=total(1, 2, 3), validated=validated, quarantined=quarantined)

    assert not page.validation_closes


def test_scoring_closes_on_validated_rows():
    closed = Page(validated=total(1, 2), scored=total(2), dead=total(1))
    doubled = Page(validated=total(1, 2), scored=total(2), dead=total(2))

    assert closed.scoring_closes
    assert not doubled.scoring_closes


def test_the_books_name_their_open_shards():
    books = Books(
        "2026-01-05",
        {
            0: Page(raw=total(1), validated=total(1), scored=total(1)),
            3: Page(raw=total(2), validated=total(2)),
            7: Page(raw=total(3, 4), validated=total(4)),
        },
    )

    assert books.open_after_validation() == [7]
    assert books.open_after_scoring() == [3, 7]


def test_the_total_is_the_sum_of_the_pages():
    books = Books(
        "2026-01-05",
        {
            0: Page(total(1, 2), total(1), total(2), total(1), total()),
            1: Page(total(3), total(3), total(), total(), total(3)),
        },
    )

    assert books.total == Page(
        total(1, 2, 3), total(1, 3), total(2), total(1), total(3)
    )


def test_errors_in_two_shards_do_not_cancel_out_in_the_open_shards():
    books = Books(
        "2026-01-05",
        {
            0: Page(raw=total(1), validated=total(2)),
            1: Page(raw=total(2), validated=total(1)),
        },
    )

    assert books.total.validation_closes
    assert books.open_after_validation() == [0, 1]


def test_a_shard_that_closes_passes():
    must_close("2026-01-05", {3: total(1, 2)}, scored={3: total(2)}, dead={3: total(1)})


@pytest.mark.parametrize(
    "scored",
    [
        pytest.param(total(1), id="one lost"),
        pytest.param(total(1, 1), id="one lost, another doubled"),
    ],
)
def test_a_shard_that_does_not_close_is_refused_with_every_tally(scored):
    whole = total(1, 2)

    with pytest.raises(BooksError) as refused:
        must_close("2026-01-05", {3: whole}, scored={3: scored}, dead={})

    assert str(refused.value) == (
        f"the books of 2026-01-05 don't close in shard 3: 2 rows, keys {whole.keys:016x}"
        f" came in, but scored: {scored.rows} rows, keys {scored.keys:016x}; dead: 0 "
        f"rows, keys {0:016x} went out. Nothing was committed; what is served stays."
    )
