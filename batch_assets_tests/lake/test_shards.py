"""The shard hash: one number for a key, everywhere and for ever."""

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from batch_assets.lake.shards import (
    checksum,
    content,
    cut,
    hash_key,
    hash_keys,
    shard_of,
)

# NOTE: files, books and served data of all past days are aligned by these numbers. A
# change that breaks this table needs every day to be scored again: don't edit it.
VECTORS = [
    (0, 0xE220A8397B1DCDAF),  # the first output of splitmix64 with seed 0
    (1, 0x910A2DEC89025CC1),
    (-1, 0xE4D971771B652C20),
    (42, 0xBDD732262FEB6E95),
    (230_000_000, 0x0E462D72865096A8),
    (2**63 - 1, 0x2A67D7552E039EA7),
    (-(2**63), 0x481EC0A212A9F3DB),
    ("", 0x48218226FF3CD4BF),
    ("a", 0x80BDFD4D3E359A26),
    ("user-1", 0x423E65EC447C4A88),
    ("12345678", 0xBCE940D3A4C9EEA1),  # one whole word
    ("123456789", 0x054A0D14EB3BCF4B),  # and one byte of the next
    ("Ærøskøbing", 0xF3A666073A5C2649),
    ("\x00", 0x6EC85F1F8547BC0C),  # the padding is no part of the key
    ("\x00\x00", 0xAE79F8B366208474),
]
INTEGERS = [v for v in VECTORS if isinstance(v[0], int)]
STRINGS = [v for v in VECTORS if isinstance(v[0], str)]


@pytest.mark.parametrize(("key", "expected"), VECTORS)
def test_the_hash_of_a_key_never_changes(key, expected):
    assert hash_key(key) == expected
    assert hash_keys(pa.array([key])).tolist() == [expected]


def test_the_shard_is_the_hash_modulo_the_shard_count():
    hashes = np.array([expected for _, expected in VECTORS], dtype=np.uint64)

    shards = shard_of(hashes, 16)

    assert shards.dtype == np.int32
    assert shards.tolist() == [15, 1, 0, 5, 8, 7, 11, 15, 6, 8, 1, 11, 9, 12, 4]


@pytest.mark.parametrize(
    "dtype",
    [
        pa.string(),
        pa.large_string(),
        pa.string_view(),
        pa.dictionary(pa.int8(), pa.string()),
        pa.dictionary(pa.int32(), pa.large_string()),
    ],
    ids=str,
)
def test_strings_hash_alike_in_every_encoding(dtype):
    keys = pa.array([key for key, _ in STRINGS]).cast(dtype)

    assert hash_keys(keys).tolist() == [expected for _, expected in STRINGS]


@pytest.mark.parametrize("dtype", ["int8", "int16", "int32", "uint8", "uint32"])
def test_integers_hash_alike_in_every_width(dtype):
    keys = pa.array([0, 1, 42], dtype)

    assert hash_keys(keys).tolist() == [hash_key(0), hash_key(1), hash_key(42)]


def test_a_small_negative_integer_hashes_as_a_wide_one():
    assert hash_keys(pa.array([-1], "int8")).tolist() == [hash_key(-1)]


def test_a_large_unsigned_integer_hashes_by_its_bits():
    assert hash_keys(pa.array([2**64 - 1], "uint64")).tolist() == [hash_key(-1)]


@pytest.mark.parametrize("vectors", [INTEGERS, STRINGS])
def test_slices_and_chunks_hash_as_the_whole(vectors):
    keys = pa.array([key for key, _ in vectors])
    expected = [number for _, number in vectors]
    chunked = pa.chunked_array([keys[:2], keys[2:2], keys[2:]])

    assert hash_keys(keys[2:-1]).tolist() == expected[2:-1]
    assert hash_keys(chunked).tolist() == expected
    assert hash_keys(chunked.slice(1, 3)).tolist() == expected[1:4]


@pytest.mark.parametrize(
    "keys",
    [
        pa.array([None, "a", None], pa.string()),
        pa.array([None, "a", None], pa.string_view()),
        pa.array(["b", None, "a", None])[1:],
        pa.DictionaryArray.from_arrays(pa.array([None, 1, 0]), pa.array([None, "a"])),
    ],
    ids=["string", "string_view", "sliced", "dictionary"],
)
def test_a_null_string_hashes_to_zero(keys):
    assert hash_keys(keys).tolist() == [0, hash_key("a"), 0]


def test_a_null_integer_hashes_to_zero():
    assert hash_keys(pa.array([None, 7, None])).tolist() == [0, hash_key(7), 0]


@pytest.mark.parametrize("dtype", [pa.int64(), pa.string(), pa.large_string()])
def test_no_keys_have_no_hashes(dtype):
    assert hash_keys(pa.array([], dtype)).tolist() == []
    assert hash_keys(pa.chunked_array([], dtype)).tolist() == []
    assert checksum(hash_keys(pa.array([], dtype))) == 0


@pytest.mark.parametrize("keys", [[1.5], [True], [b"a"]])
def test_a_key_that_is_neither_integer_nor_string_is_refused(keys):
    with pytest.raises(TypeError, match="a key is an integer or a string, got"):
        hash_keys(pa.array(keys))


@given(st.lists(st.integers(-(2**63), 2**63 - 1)))
def test_one_integer_and_an_array_of_them_hash_alike(keys):
    hashes = hash_keys(pa.array(keys, pa.int64()))

    assert hashes.tolist() == [hash_key(key) for key in keys]


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"]))), st.integers(0, 3))
def test_one_string_and_an_array_of_them_hash_alike(keys, start):
    hashes = hash_keys(pa.array(keys, pa.string())[start:])

    assert hashes.tolist() == [hash_key(key) for key in keys[start:]]


@given(st.permutations(range(9)))
def test_the_checksum_does_not_depend_on_the_order(keys):
    assert checksum(hash_keys(pa.array(keys))) == checksum(
        hash_keys(pa.array(range(9)))
    )


@pytest.mark.parametrize(
    "found",
    [
        pytest.param([1, 1, 3], id="one lost, another doubled"),
        pytest.param([1, 2, 4], id="one swapped"),
        pytest.param([1, 1, 1, 2, 3], id="one there three times"),
        pytest.param([1, 2], id="one lost"),
    ],
)
def test_the_checksum_notices(found):
    assert checksum(hash_keys(pa.array(found))) != checksum(
        hash_keys(pa.array([1, 2, 3]))
    )


def test_keys_spread_evenly_over_the_shards():
    shards = shard_of(hash_keys(pa.array(range(160_000))), 16)

    counts = np.bincount(shards)

    # 10,000 expected in each; five standard deviations of a binomial are 484.
    assert abs(counts - 10_000).max() < 484


HASHES = hash_keys(pa.array([1, 2, 3]))
RISK = np.array([0.5, 0.25, -0.0], np.float32)
LABEL = np.array([1, -1, 0], np.int64)


def test_the_content_of_rows_never_changes():
    assert content(HASHES, [RISK, LABEL]) == 0x314E0CE9CC2CECC0
    assert (
        content(hash_keys(pa.array(["a", "b", "c"])), [RISK.astype(np.float64)])
        == 0x21F4BFE04ACF6F39
    )
    assert content(HASHES[:0], [RISK[:0]]) == 0


@pytest.mark.parametrize("order", [[2, 1, 0], [1, 2, 0]])
def test_the_content_does_not_depend_on_the_order_or_the_pieces(order):
    whole = content(HASHES, [RISK, LABEL])
    parts = [content(HASHES[a:b], [RISK[a:b], LABEL[a:b]]) for a, b in ((0, 1), (1, 3))]

    assert content(HASHES[order], [RISK[order], LABEL[order]]) == whole
    assert sum(parts) % 2**64 == whole


@pytest.mark.parametrize(
    ("risk", "label"),
    [
        pytest.param(RISK[[1, 0, 2]], LABEL, id="two outputs swapped"),
        pytest.param(RISK, LABEL[[1, 0, 2]], id="two others swapped"),
        pytest.param(np.abs(RISK), LABEL, id="the sign of zero"),
        pytest.param(np.nextafter(RISK, np.float32(1)), LABEL, id="last bits"),
        pytest.param(RISK[[0, 1, 1]], LABEL, id="one doubled"),
    ],
)
def test_the_content_notices(risk, label):
    assert content(HASHES, [risk, label]) != content(HASHES, [RISK, LABEL])
    assert content(HASHES, [LABEL, RISK]) != content(HASHES, [RISK, LABEL])


@pytest.mark.parametrize("shards", [1, 3, 1000])
def test_rows_are_cut_by_shard_and_keep_their_order(shards):
    rows = pa.table({"key": pa.array([*range(500), None]), "at": range(501)})
    rows = pa.concat_tables([rows.slice(0, 99), rows.slice(99)])
    hashes = hash_keys(rows["key"])

    found = list(cut(rows, hashes, shards))

    for shard, mine, theirs in found:
        assert len(mine)
        assert theirs.tolist() == hash_keys(mine["key"]).tolist()
        assert set(shard_of(theirs, shards)) == {shard}
        assert mine["at"].to_pylist() == sorted(mine["at"].to_pylist())
    assert (
        pa.concat_tables([m for _, m, _ in found])
        .sort_by("at")
        .equals(rows.combine_chunks())
    )
    assert list(cut(rows.slice(0, 0), hashes[:0], 3)) == []
