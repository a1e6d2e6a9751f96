"""Quantities are read to the letter, and what is wrong with them is said."""

import pytest

from batch_assets.cli.quantities import (
    above_0,
    per_hour_of,
    rows_of,
    seconds_of,
    share_of,
)


@pytest.mark.parametrize(
    ("text", "rows"),
    [
        *(("500M", 500_000_000), ("1.5B", 1_500_000_000), ("2K", 2_000)),
        *(("7", 7), ("500_000_000", 500_000_000), ("0.1K", 100)),
        ("9999.999999999B", 9_999_999_999_999),
    ],
)
def test_rows_are_exact(text, rows):
    assert rows_of(text) == rows


@pytest.mark.parametrize(
    "text",
    ["", "0", "-1", "500m", "500MB", "5e8", "1,000", "0.0001K", "1.5", "inf", "99999B"],
)
def test_what_is_no_number_of_rows_is_refused(text):
    with pytest.raises(ValueError, match=f"got '{text}'"):
        rows_of(text)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("6h", 21_600), ("90m", 5_400), ("45s", 45), ("1h30m", 5_400), ("0.5h", 1_800)],
)
def test_how_long_is_in_hours_minutes_and_seconds(text, seconds):
    assert seconds_of(text) == seconds


@pytest.mark.parametrize(
    "text", ["", "6", "h", "0h", "-6h", "6 h", "30m1h", "6H", "9e9h"]
)
def test_how_long_without_its_unit_is_refused(text):
    with pytest.raises(ValueError, match=f"got '{text}'"):
        seconds_of(text)


def test_how_often_is_in_an_hour():
    assert per_hour_of("0.05/h") == 0.05
    assert per_hour_of("0/h") == 0
    for text in ("0.05", "0.05/m", "-1/h", "5%/h", "nan/h"):
        with pytest.raises(ValueError, match=f"got '{text}'"):
            per_hour_of(text)


def test_prices_and_shares_have_bounds():
    assert (above_0("2.5"), share_of("0.7"), share_of("0")) == (2.5, 0.7, 0)
    for text in ("0", "-2.5", "$2.5", "nan", "inf"):
        with pytest.raises(ValueError, match="above 0"):
            above_0(text)
    for text in ("1", "70", "-0.1", "nan", "70%"):
        with pytest.raises(ValueError, match="from 0 to below 1"):
            share_of(text)
