"""Profiles of chunks add up to that of the day."""

import json

import numpy as np
import pytest

from batch_assets.errors import LakeError
from batch_assets.lake.profiles import Profile, Segment, add_profiles

SEGMENTS = (Segment("plan", "free"), Segment("plan", "pro"))


def make(counts: np.ndarray, layout: str = "a", *, partial: bool = False) -> Profile:
    return Profile.of_counts(layout, SEGMENTS, {"risk": counts}, partial=partial)


def test_they_add_up_in_any_order_and_come_back_from_disk() -> None:
    random = np.random.default_rng(0)
    counts = [random.integers(0, 10_000, (3, 7)) for _ in range(5)]
    profiles = [
        Profile.of_facts(json.loads(json.dumps(make(one).facts()))) for one in counts
    ]
    whole = add_profiles(profiles[::-1])
    assert whole == add_profiles(profiles)
    assert (whole.counts()["risk"] == sum(counts)).all()
    assert whole.segments == SEGMENTS


def test_one_that_lacks_rows_makes_the_whole_lack_them() -> None:
    ones = np.ones((3, 4), int)
    assert add_profiles([make(ones), make(ones, partial=True)]).partial
    assert not add_profiles([make(ones), make(ones)]).partial


def test_of_other_bins_they_do_not_add_up() -> None:
    ones = np.ones((3, 4), int)
    with pytest.raises(LakeError, match="2 layouts don't add up"):
        add_profiles([make(ones), make(ones, "b")])
    assert add_profiles([]) is None
