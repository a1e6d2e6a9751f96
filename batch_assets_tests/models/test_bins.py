"""The bins of a column: each value in one, and the same whatever rows stand beside it."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from pydantic import ValidationError

from batch_assets.models.bins import KINDS, Bins, bins_of, codes_of

FLOATS = arrays(np.float32, st.integers(1, 300), elements=st.floats(width=32))


@given(usual=FLOATS, tonight=FLOATS)
def test_every_value_is_in_one_bin_and_no_two_orders_differ(
    usual: np.ndarray, tonight: np.ndarray
) -> None:
    bins = bins_of(usual)
    if bins is None:
        assert not np.isfinite(usual).any()
        return
    codes = bins.codes(tonight)
    assert (codes < bins.size).all()
    assert ((codes == bins.size - 1) == np.isnan(tonight)).all()
    assert (bins.codes(tonight[::-1])[::-1] == codes).all()
    known = np.argsort(tonight[~np.isnan(tonight)], kind="stable")
    assert (np.diff(codes[~np.isnan(tonight)][known].astype(int)) >= 0).all()
    assert sum(bins.counts) == len(usual)


def test_what_was_never_seen_has_bins_of_its_own() -> None:
    usual = np.arange(1_000, dtype=np.float32)
    bins = bins_of(usual)
    assert bins.codes(np.array([-1, 0, 999, 1_000], np.float32)).tolist() == [
        0,
        1,
        bins.size - 3,
        bins.size - 2,
    ]
    assert bins.counts[0] == bins.counts[-2] == bins.counts[-1] == 0


def test_a_value_that_many_rows_share_has_a_bin_to_itself() -> None:
    usual = np.concatenate([np.zeros(500), np.linspace(0.001, 1, 500)]).astype(
        np.float32
    )
    bins = bins_of(usual)
    zero, above = bins.codes(np.array([0, 0.001], np.float32))
    assert zero != above
    assert bins.counts[zero] == 500


def test_a_column_of_one_value_tells_it_from_any_other() -> None:
    bins = bins_of(np.full(100, 7, np.float32))
    codes = bins.codes(np.array([6.999, 7, 7.001], np.float32))
    assert len(set(codes.tolist())) == 3


@pytest.mark.parametrize("dtype", ["int32", "int64", "float64"])
def test_whole_numbers_and_doubles_are_binned_as_they_are(dtype: str) -> None:
    bins = bins_of(np.repeat(np.arange(5), 20).astype(dtype))
    assert len(set(bins.codes(np.arange(-1, 6).astype(dtype)).tolist())) == 7


def test_kinds_have_a_bin_each_and_one_for_all_others() -> None:
    bins = bins_of(np.array([0, 0, 2], np.float32), kinds=3)
    assert bins.codes(np.array([0, 1, 2, 3, np.nan], np.float32)).tolist() == [
        0,
        1,
        2,
        3,
        4,
    ]
    assert bins.counts == (2, 0, 1, 0, 0)


def test_of_many_kinds_the_most_frequent_have_a_bin() -> None:
    values = np.repeat(np.arange(200), np.arange(1, 201))
    bins = bins_of(values, kinds=100_000)
    assert len(bins.values) == KINDS
    assert min(bins.values) == 200 - KINDS


def test_a_column_without_a_value_has_no_bins() -> None:
    assert bins_of(np.full(10, np.nan, np.float32)) is None
    assert bins_of(np.empty(0, np.float32)) is None


@pytest.mark.parametrize(
    "fields",
    [
        {"counts": (0, 0)},
        {"edges": (1.0,), "values": (1.0,), "counts": (0, 0, 0)},
        {"edges": (1.0, 1.0), "counts": (0, 0, 0, 0)},
        {"edges": (1.0, float("nan")), "counts": (0, 0, 0, 0)},
        {"edges": (1.0,), "counts": (0, 0)},
        {"edges": (1.0,), "counts": (0, 0, -1)},
    ],
)
def test_bins_that_can_be_none_are_refused(fields: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        Bins(**fields)


def test_many_columns_have_the_codes_that_each_has_alone() -> None:
    random = np.random.default_rng(3)
    usual = {
        "wide": random.normal(size=900),
        "few": (random.random(900) < 0.1).astype(float),
        "rare": np.where(random.random(900) < 0.5, np.nan, random.random(900)),
        "double": random.normal(size=900),
        "whole": random.integers(0, 9, 900),
        "kind": random.integers(0, 4, 900).astype(float),
        "several": random.normal(size=(300, 3)),
    }
    doubles = {"double", "several"}
    numbers = {
        name: values.astype(np.float32)
        if values.dtype.kind == "f" and name not in doubles
        else values
        for name, values in usual.items()
    }
    bins = {}
    for name, values in numbers.items():
        own = bins_of(values.reshape(-1), 4 if name == "kind" else None)
        assert own is not None
        bins[name] = own
    numbers["wide"][:4] = [np.nan, np.inf, -np.inf, 1e30]

    codes = codes_of(bins, numbers)

    assert list(codes) != []
    for name, own in bins.items():
        alone = own.codes(numbers[name].reshape(-1))
        assert codes[name].dtype == alone.dtype == np.uint8
        assert np.array_equal(codes[name], alone), name
