"""Reference distributions: distances against numbers worked out by hand."""

import math
import shutil

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from batch_assets.errors import ReleaseError, TamperedReleaseError
from batch_assets.models.reference import (
    add_counts,
    histogram,
    ks,
    psi,
    psi_noise,
    reference_of,
)
from batch_assets.models.registry import Registry
from batch_assets.models.release import MANIFEST, sha256_of
from batch_assets_tests.releases_by_hand import make_by_hand
from batch_assets_tests.toys import write_toy_release

COUNTS = st.lists(st.integers(0, 1000), min_size=3, max_size=3)


def test_a_value_on_an_edge_belongs_above_it():
    values = np.array([-5.0, 0.0, 0.5, 1.0, 7.0])

    assert histogram(values, [0.0, 1.0]) == [1, 2, 2]


def test_a_histogram_without_values_or_edges():
    assert histogram(np.array([]), [0.0, 1.0]) == [0, 0, 0]
    assert histogram(np.array([1.0, 2.0]), []) == [2]


@given(st.lists(st.floats(-10, 10)), st.integers(0, 20))
def test_a_day_is_the_sum_of_its_chunks(values, cut):
    edges = [-1.0, 0.0, 2.5]
    chunks = [np.array(values[:cut]), np.array(values[cut:])]

    added = add_counts([histogram(chunk, edges) for chunk in chunks])

    assert added == histogram(np.array(values), edges)


def test_psi_by_hand():
    # Shares 1/2, 1/4, 1/4 against 1/4, 1/4, 1/2: twice 1/4 of the logarithm of 2.
    assert psi([2, 1, 1], [100, 100, 200]) == pytest.approx(0.5 * math.log(2))


def test_psi_takes_an_empty_bin_for_half_a_row():
    # 10, 10 against 0.5, 20: shares 1/2, 1/2 and 1/41, 40/41.
    expected = (1 / 41 - 0.5) * math.log(2 / 41) + (40 / 41 - 0.5) * math.log(80 / 41)

    assert psi([10, 10], [0, 20]) == pytest.approx(expected)


@given(COUNTS, COUNTS)
def test_psi_is_finite_symmetric_and_never_negative(one, other):
    assert 0 <= psi(one, other) < math.inf
    assert psi(one, other) == pytest.approx(psi(other, one))
    assert psi(one, one) == 0


def test_the_noise_of_psi_by_hand():
    # (1/100 + 1/50) * (2 + 3 * sqrt(4)), two degrees of freedom.
    assert psi_noise([50, 25, 25], [10, 20, 20]) == pytest.approx(0.03 * 8)


def test_the_noise_of_no_rows_is_finite():
    assert psi_noise([1, 1], [0, 0]) == pytest.approx((1 / 2 + 1) * (1 + 3 * 2**0.5))


def test_equal_distributions_seldom_exceed_the_noise():
    random = np.random.default_rng(0)
    shares = np.full(20, 0.05)
    above = 0

    for _ in range(1000):
        one, other = random.multinomial(5_000, shares, size=2)
        above += psi(one, other) > psi_noise(one, other)

    # Three standard deviations of a chi-squared with 19 degrees: about 1 in 200.
    assert 0 < above < 15


def test_ks_by_hand():
    # Cumulative shares .5 .75 1 against .25 .5 1.
    assert ks([2, 1, 1], [100, 100, 200]) == pytest.approx(0.25)


@pytest.mark.parametrize(
    ("one", "other", "expected"), [([1, 0], [0, 1], 1.0), ([3, 1], [6, 2], 0.0)]
)
def test_ks_lies_between_equal_and_apart(one, other, expected):
    assert ks(one, other) == expected


def test_a_reference_has_twenty_bins_of_equal_counts():
    reference = reference_of("risk", np.arange(2000.0))

    assert len(reference.edges) == 19
    assert reference.counts == (100,) * 20
    assert reference.daily_psi == ()


def test_a_reference_of_few_values_has_fewer_bins():
    reference = reference_of("risk", np.array([0.0] * 90 + [1.0] * 10))

    assert len(reference.counts) == len(reference.edges) + 1
    assert sum(reference.counts) == 100
    assert list(reference.edges) == sorted(set(reference.edges))


def test_a_reference_learns_how_far_its_days_are_from_the_whole():
    values = np.concatenate([np.arange(100.0), np.arange(100.0), np.arange(100) + 50])
    days = np.repeat(["mon", "tue", "wed"], 100)

    reference = reference_of("risk", values, days)

    expected = [
        psi(reference.counts, histogram(values[days == day], reference.edges))
        for day in ("mon", "tue", "wed")
    ]
    assert list(reference.daily_psi) == expected
    assert reference.daily_psi[0] == reference.daily_psi[1] < reference.daily_psi[2]


@pytest.mark.parametrize(
    ("values", "error"),
    [
        ([0.5] * 99 + [math.nan], "'risk' holds 1 NaN and 0 infinite of 100 values"),
        ([0.5] * 98 + [math.inf, -math.inf], "holds 0 NaN and 2 infinite of 100"),
        ([0.5] * 19, "'risk' has 19 values, expected at least 20"),
        ([], "has 0 values"),
        (np.zeros((50, 2)), r"float64 of the shape \(50, 2\)"),
        (np.zeros(50, complex), "complex128 of the shape"),
        (["a"] * 50, "expected a number for each row"),
        (0.5, r"of the shape \(\)"),
    ],
    ids=lambda value: str(value)[-20:],
)
def test_a_reference_that_no_night_could_be_compared_with_is_refused(values, error):
    with pytest.raises(ReleaseError, match=error):
        reference_of("risk", values)


@pytest.mark.parametrize("make", [list, tuple, np.array], ids=lambda f: f.__name__)
@pytest.mark.parametrize(
    "days", [["mon"] * 50 + ["tue"] * 50, [*range(2)] * 50], ids=str
)
def test_the_days_of_a_reference_may_be_any_sequence(make, days):
    values = np.arange(100.0)

    found = reference_of("risk", values, make(days)).daily_psi

    assert found == reference_of("risk", values, np.array(days)).daily_psi
    assert len(found) == 2
    assert found[0] > 0


@pytest.mark.parametrize(
    "days", [["mon"] * 99, ["mon"] * 101, [["mon"] * 100]], ids=len
)
def test_days_of_other_rows_are_refused(days):
    with pytest.raises(ReleaseError, match="reference_days has the shape"):
        reference_of("risk", np.arange(100.0), days)


@pytest.mark.parametrize("days", [[None] * 100, ["mon", None] * 50, [math.nan] * 100])
def test_days_that_are_not_known_are_refused(days):
    with pytest.raises(ReleaseError, match="is not known"):
        reference_of("risk", np.arange(100.0), days)


USUAL = {
    "all zero": [0.0] * 1000,
    "one value": [0.3] * 1000,
    "0 or 1": [0.0, 1.0] * 500,
    "99 % zero": [0.0] * 990 + [0.5] * 10,
    "a tenth at the top": [*np.linspace(0, 1, 900), *[1.0] * 100],
    "no ties": np.linspace(0, 1, 1000).tolist(),
    "the largest": [np.finfo(float).max] * 1000,
}


@pytest.mark.parametrize("usual", USUAL.values(), ids=USUAL)
@pytest.mark.parametrize("change", [lambda x: x - 1e-3, lambda x: x * 0 + 1000.0])
def test_a_reference_with_ties_still_sees_a_change(usual, change):
    values = np.array(usual)
    reference = reference_of("risk", values)

    found = histogram(change(values), reference.edges)

    if (change(values) != values).any() and len(set(usual)) < 900:
        assert psi(reference.counts, found) > psi_noise(reference.counts, found)
    assert psi(reference.counts, histogram(values, reference.edges)) == 0


@pytest.mark.parametrize(
    "broken",
    [
        {"edges": [math.nan]},
        {"edges": [math.inf]},
        {"edges": [0.5, 0.5], "counts": [1, 1, 1]},
        {"edges": [0.5, 0.4], "counts": [1, 1, 1]},
        {"counts": [1]},
        {"counts": [1, 1, 1]},
        {"counts": [-1, 2]},
        {"counts": [0, 0]},
        {"daily_psi": [math.nan]},
        {"daily_psi": [math.inf]},
        {"daily_psi": [-0.1]},
    ],
    ids=str,
)
def test_an_old_release_whose_reference_says_nothing_is_refused_when_it_is_opened(
    toy_release, tmp_path, root, broken
):
    said = {"edges": [0.5], "counts": [1, 1], "daily_psi": []} | broken
    folder = make_by_hand(
        toy_release, tmp_path / "old", lambda m: m.update(reference={"risk": said})
    )
    digest = sha256_of(folder / MANIFEST)
    place = root / "models" / "toy" / digest
    shutil.copytree(folder, place)

    with pytest.raises(ReleaseError, match="reference.risk") as refused:
        Registry(root).verify("toy", digest)

    assert not isinstance(refused.value, TamperedReleaseError)
    assert "Write it again with write_release" in str(refused.value)


def test_a_reference_of_no_output_is_refused_by_name(tmp_path):
    with pytest.raises(ReleaseError, match="'rsk'.*outputs are not: 'risk'"):
        write_toy_release(tmp_path / "r", reference={"rsk": np.arange(100.0)})
    assert not (tmp_path / "r").exists()
