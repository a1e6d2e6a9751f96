import math

import pytest

from batch_assets.alerts.words import spoken, told_numbers


@pytest.mark.parametrize(
    ("name", "number", "label", "said"),
    [
        ("raw_rows", 918_000.0, "raw", "918,000 rows"),
        ("rows", 1, "rows", "1 row"),
        ("trailing_days", 28.0, "trailing", "28 days"),
        ("share", 0.370_37, "share", "37.04 %"),
        ("known_share", 1.0, "known share", "100 %"),
        ("coverage", 0.999_5, "coverage", "99.95 %"),
        ("age", 129_600.0, "age", "1 day 12 hours"),
        ("stale_after_seconds", 5_400, "stale after", "1 hour 30 minutes"),
        ("risk_psi", 5.085_1, "risk psi", "5.085"),
        ("risk_psi", 12_345.67, "risk psi", "12,345.7"),
        ("limit", 0.25, "limit", "0.25"),
        ("served_there", "nothing", "served there", "nothing"),
        ("risk_psi", math.nan, "risk psi", "not known"),
        ("raw_rows", math.inf, "raw rows", "not known"),
        ("usual", None, "usual", "not known"),
    ],
)
def test_a_number_is_told_with_its_unit_and_its_thousands(name, number, label, said):
    assert told_numbers({name: number}) == {label: said}


def test_a_limit_is_of_what_stands_beside_it():
    assert told_numbers({"share": 0.37, "limit": 0.01}) == {
        "share": "37 %",
        "limit": "1 %",
    }


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (0, "0 seconds"),
        (-5, "0 seconds"),
        (1, "1 second"),
        (61, "1 minute 1 second"),
        (3_600, "1 hour"),
        (1_000 * 86_400 + 1, "1,000 days 1 second"),
    ],
)
def test_a_time_is_told_in_its_largest_units(seconds, said):
    assert spoken(seconds) == said
