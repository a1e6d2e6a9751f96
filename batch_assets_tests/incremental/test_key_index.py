"""A place is that of the very key, whatever hashes do."""

import numpy as np
import pyarrow as pa
import pytest

from batch_assets.incremental.key_index import KeyIndex
from batch_assets.lake.shards import hash_keys


@pytest.mark.parametrize("dtype", [pa.int64(), pa.int32(), pa.string()])
@pytest.mark.parametrize("count", [0, 1, 2, 1_000, 70_000])
def test_each_key_is_found_where_it_is_and_no_other(dtype, count):
    random = np.random.default_rng(3)
    numbers = pa.array(random.permutation(2 * count + 1).astype(np.int32))
    keys = numbers[:count].cast(dtype)
    asked = numbers.take(pa.array(random.permutation(len(numbers)))).cast(dtype)

    found = KeyIndex(keys, hash_keys(keys)).find(asked, hash_keys(asked))

    at = {key: place for place, key in enumerate(keys.to_pylist())}
    assert found.tolist() == [at.get(key, -1) for key in asked.to_pylist()]


def test_keys_whose_hashes_share_their_low_bits_are_found():
    keys = pa.array(range(1_000))
    hashes = hash_keys(keys) & ~np.uint64(15)

    found = KeyIndex(keys, hashes).find(keys, hashes)

    assert found.tolist() == list(range(1_000))


def test_another_key_with_the_same_hash_is_not_found():
    hashes = np.full(2, 7, dtype=np.uint64)
    places = KeyIndex(pa.array([1, 2]), hashes)

    assert sorted(places.find(pa.array([1, 2]), hashes).tolist()) in ([-1, 0], [-1, 1])
    assert places.find(pa.array([3, 4]), hashes).tolist() == [-1, -1]
