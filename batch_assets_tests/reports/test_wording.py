"""How numbers and values are written."""

import pytest

from batch_assets.reports.wording import count, number, plain, seconds, share, value

NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize(
    ("given", "text"),
    [
        (0.0, "0"),
        (1234567.0, "1,234,567"),
        (1234.5678, "1,235"),
        (0.123456, "0.1235"),
        (-0.5, "-0.5"),
        (12.0345, "12.03"),
        (0.00001234, "1.234e-05"),
        (1e30, "1e+30"),
        (NAN, "not a number"),
        (INF, "infinite"),
        (-INF, "minus infinite"),
        (None, "missing"),
    ],
)
def test_a_number_has_separators_and_is_never_a_word_of_python(given, text):
    assert number(given) == text


@pytest.mark.parametrize(
    ("given", "text"),
    [
        (None, "missing"),
        (NAN, "not a number"),
        (True, "true"),
        (1234, "1,234"),
        ([1.5, None, NAN, 4.0], "[1.5, missing, not a number, … 4 in all]"),
        ([], "[]"),
        ("x" * 60, "x" * 47 + "…"),
        ("a\x00b\nc", "a b c"),
        (b"\xff", "b'\\xff'"),
    ],
)
def test_a_value_is_short_and_readable(given, text):
    assert value(given) == text


@pytest.mark.parametrize(
    ("part", "whole", "text"),
    [
        (0, 0, "0 %"),
        (0, 10, "0 %"),
        (1, 3, "33.33 %"),
        (1, 2, "50 %"),
        (1, 1_000_000, "below 0.01 %"),
        (999_999, 1_000_000, "above 99.99 %"),
        (7, 7, "100 %"),
    ],
)
def test_a_share_never_says_none_or_all_of_what_is_not(part, whole, text):
    assert share(part, whole) == text


@pytest.mark.parametrize(
    ("given", "text"),
    [
        (0.0123, "12 ms"),
        (3.21, "3.2 s"),
        (119.97, "120.0 s"),
        (3_599, "59 min 59 s"),
        (90_000, "25 h 0 min"),
    ],
)
def test_a_duration_has_its_unit(given, text):
    assert seconds(given) == text


def test_words_of_python_for_odd_numbers_are_replaced_in_sentences_alone():
    assert plain("output 'risk' is nan") == "output 'risk' is not a number"
    assert plain("visits is NaN") == "visits is not a number"
    assert plain("x is -inf, y is inf") == "x is minus infinite, y is infinite"
    kept = "finance, information, 'nan', inf_rate, nan_share"
    assert plain(kept) == kept


def test_one_is_no_plural():
    assert (count(1, "row"), count(0, "row"), count(2_000, "row")) == (
        "1 row",
        "0 rows",
        "2,000 rows",
    )
