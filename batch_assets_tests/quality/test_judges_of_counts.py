"""Gates over counts: each passes, and each fails, with the numbers that it judged by."""

import pyarrow as pa
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from batch_assets.lake.reconciliation import Books, ControlTotal, Page
from batch_assets.quality.evidence import DayEvidence
from batch_assets.quality.judges.shares import (
    coverage,
    dead_letter_share,
    most_dead_letters,
    quarantine_share,
)
from batch_assets.quality.judges.volume import volume
from batch_assets.spec import GateLimits
from batch_assets_tests.days_by_hand import books_of, of_books, verdict_of
from batch_assets_tests.toys import DAY

CLOSING = (
    "raw_is_validated_plus_quarantined",
    "validated_is_scored_plus_carried_plus_dead",
)


def total(*keys: int) -> ControlTotal:
    return ControlTotal.of(pa.array(keys, pa.int64()))


def of_days(rows: dict[str, int], limits: GateLimits | None = None) -> DayEvidence:
    return DayEvidence(DAY, limits or GateLimits(), rows_by_day=lambda: rows)


def test_closed_books_pass_with_their_counts():
    books = books_of(10, quarantined=2, scored=7, dead=1)

    validation, scoring = (verdict_of(gate, of_books(books)) for gate in CLOSING)

    assert (validation.passed, scoring.passed) == (True, True)
    assert validation.numbers == {
        "raw_rows": 10,
        "validated_rows": 8,
        "quarantined_rows": 2,
        "open_shards": 0,
    }
    assert scoring.numbers == {
        "validated_rows": 8,
        "scored_rows": 7,
        "dead_letters": 1,
        "carried_rows": 0,
        "open_shards": 0,
    }
    assert "in each of 1 shards" in validation.why


def test_open_books_fail_with_their_shards():
    books = Books(
        DAY,
        {
            2: Page(raw=total(1, 2), validated=total(1, 1)),
            5: Page(raw=total(3), validated=total(3), scored=total(3)),
        },
    )

    validation, scoring = (verdict_of(gate, of_books(books)) for gate in CLOSING)

    assert (validation.passed, validation.blocks) == (False, True)
    assert validation.why == "raw is not validated plus quarantined in 1 shards: [2]"
    assert validation.numbers["open_shards"] == 1
    assert (scoring.passed, scoring.blocks) == (False, True)
    assert scoring.why == (
        "validated is not scored plus carried plus dead in 1 shards: [2]"
    )


@pytest.mark.parametrize("gate", CLOSING)
def test_a_day_that_is_not_committed_does_not_pass_as_closed(gate):
    verdict = verdict_of(gate, of_books(Books(DAY, {})))

    assert not verdict.passed
    assert verdict.why == f"{DAY} is not committed"


@pytest.mark.parametrize(
    ("quarantined", "passed"), [(0, True), (20, True), (21, False), (1000, False)]
)
def test_the_quarantine_share_has_a_limit(quarantined, passed):
    limits = GateLimits(max_quarantine_share=0.02)
    evidence = of_books(books_of(1000, quarantined=quarantined), limits)

    verdict = verdict_of("quarantine_share_is_within_limit", evidence)

    assert (verdict.passed, verdict.blocks) == (passed, True)
    assert verdict.numbers == {"share": quarantined / 1000, "limit": 0.02}
    assert verdict.why.startswith(
        f"{quarantined:,} of 1,000 raw rows are quarantined: "
    )


@pytest.mark.parametrize(("dead", "passed"), [(0, True), (9, True), (10, False)])
def test_the_dead_letter_share_is_of_the_validated_rows(dead, passed):
    books = books_of(1000, quarantined=100, scored=900 - dead, dead=dead)
    evidence = of_books(books, GateLimits(max_dead_letter_share=0.01))

    verdict = verdict_of("dead_letter_share_is_within_limit", evidence)

    assert (verdict.passed, verdict.blocks) == (passed, True)
    assert verdict.numbers == {"share": dead / 900, "limit": 0.01}


@pytest.mark.parametrize(
    ("scored", "passed"), [(1000, True), (990, True), (989, False)]
)
def test_coverage_is_of_the_raw_rows(scored, passed):
    evidence = of_books(books_of(1000, scored=scored), GateLimits(min_coverage=0.99))

    verdict = verdict_of("coverage_is_within_limit", evidence)

    assert (verdict.passed, verdict.blocks) == (passed, True)
    assert verdict.numbers == {"coverage": scored / 1000, "limit": 0.99}


def test_an_allowed_empty_day_has_no_shares():
    evidence = of_books(books_of(0))

    assert quarantine_share(evidence).passed
    assert dead_letter_share(evidence).passed
    assert coverage(evidence).passed


@pytest.mark.parametrize(
    ("rows", "passed", "change"),
    [(100, True, 0.0), (150, True, 0.5), (151, False, 0.51), (49, False, 0.51)],
)
def test_volume_is_held_against_the_median_of_the_days_before(rows, passed, change):
    by_day = {"2026-01-02": 90, "2026-01-03": 100, "2026-01-04": 900, DAY: rows}
    # A later day is no history, so that a backfill is judged as its night was.
    by_day["2026-01-06"] = 5
    evidence = of_days(by_day, GateLimits(max_volume_change=0.5))

    verdict = verdict_of("volume_is_like_the_days_before", evidence)

    assert (verdict.passed, verdict.blocks) == (passed, False)
    assert verdict.numbers == {
        "raw_rows": rows,
        "trailing_days": 3,
        "trailing_median": 100,
        "change": pytest.approx(change),
        "limit": 0.5,
    }


def test_volume_looks_back_only_as_far_as_asked():
    by_day = {f"2026-01-{n:02d}": 1 for n in range(1, 4)} | {
        "2026-01-04": 100,
        DAY: 100,
    }

    assert volume(of_days(by_day, GateLimits(volume_days=1))).passed
    assert not volume(of_days(by_day, GateLimits(volume_days=4))).passed


@pytest.mark.parametrize(
    ("by_day", "passed"),
    [
        ({DAY: 7}, True),
        ({}, True),
        ({"2026-01-04": 0, DAY: 0}, True),
        ({"2026-01-04": 0, DAY: 7}, False),
        ({"2026-01-04": 7}, False),
    ],
    ids=str,
)
def test_volume_without_rows_or_history(by_day, passed):
    assert volume(of_days(by_day)).passed is passed


@example(rows=100, share=0.29)  # 100 times 0.29 is 28.999999999999996
@given(rows=st.integers(0, 5_000), share=st.floats(0, 1))
def test_as_many_dead_letters_may_be_as_keep_their_gate_open(rows, share):
    limits = GateLimits(max_dead_letter_share=share)

    def is_open(dead: int) -> bool:
        page = Page(validated=ControlTotal(rows, 0), dead=ControlTotal(dead, 0))
        return dead_letter_share(of_books(Books(DAY, {0: page}), limits)).passed

    most = most_dead_letters(rows, limits)
    assert is_open(most)
    assert most >= rows or not is_open(most + 1)
