"""Which shard a key belongs to, the checksum of a set of keys, and the fingerprint of
a row's features.

This is the one definition, and it must never change: files, books and served data of
all past days are aligned by it. It knows nothing of files or tables.

    mix(z)      z ^= z >> 30;  z *= 0xBF58476D1CE4E5B9
                z ^= z >> 27;  z *= 0x94D049BB133111EB
                z ^= z >> 31                            (the splitmix64 finaliser)
    integer k   mix(uint64(k) + 0x9E3779B97F4A7C15)     two's complement
    string s    h = mix(len + 0x9E3779B97F4A7C15), len = bytes of the UTF-8 form;
                for each 8 bytes, little-endian, the last padded with zeros:
                    h = mix(h ^ word) + 0x9E3779B97F4A7C15;
                the result is mix(h)
    null        0
    fingerprint of a row's features: that of a string of their bytes, float32 in order;
                0 if there are none; then for each other input of the row
                    h = mix(h ^ hash of its value) + 0x9E3779B97F4A7C15,
                the hash of a list being that of a string of its values' bytes, of a
                text that of the string
    shard       hash modulo the shard count
    checksum    sum of the hashes modulo 2**64
    content     for each row h = hash of the key, then for each output in its order,
                and each value of one that has several,
                    h = mix(h ^ bits) + 0x9E3779B97F4A7C15,
                bits = those of the value, the upper ones zero; the sum of h

All arithmetic is modulo 2**64. The checksum is a sum, not an exclusive or, so that it
does not depend on the order and yet notices a key that is there twice.
"""

from collections.abc import Iterator, Sequence

import numpy as np
import pyarrow as pa

GOLDEN_RATIO = 0x9E3779B97F4A7C15
WORD_MASK = (1 << 64) - 1
FINGERPRINT_ROWS = 4_096


def hash_keys(keys: pa.Array | pa.ChunkedArray) -> np.ndarray:
    """Return the 64-bit hashes of a key column.

    Args:
        keys: n keys, integers or strings; nulls are allowed.

    Returns:
        n hashes as uint64.

    Raises:
        TypeError: the keys are neither integers nor strings.
    """
    if isinstance(keys, pa.ChunkedArray):
        keys = keys.combine_chunks() if keys.num_chunks != 1 else keys.chunk(0)
    if pa.types.is_dictionary(keys.type):
        keys = keys.dictionary_decode()
    if pa.types.is_integer(keys.type):
        hashes = _hash_integers(keys)
    elif _is_string(keys.type):
        hashes = _hash_strings(keys.cast(pa.large_string()))
    else:
        msg = f"a key is an integer or a string, got {keys.type}"
        raise TypeError(msg)
    if keys.null_count:
        hashes[keys.is_null().to_numpy(zero_copy_only=False)] = 0
    return hashes


def hash_key(key: int | str) -> int:
    """Hash one key: the same number as `hash_keys` gives, without an array."""
    if isinstance(key, str):
        data = key.encode()
        h = _mix_int(len(data) + GOLDEN_RATIO)
        for start in range(0, len(data), 8):
            word = int.from_bytes(data[start : start + 8], "little")
            h = (_mix_int(h ^ word) + GOLDEN_RATIO) & WORD_MASK
        return _mix_int(h)
    return _mix_int(int(key) + GOLDEN_RATIO)


def shard_of(hashes: np.ndarray, shards: int) -> np.ndarray:
    """Return the shard of each hash, as int32."""
    return (hashes % np.uint64(shards)).astype(np.int32)


def cut(
    rows: pa.Table, hashes: np.ndarray, shards: int
) -> Iterator[tuple[int, pa.Table, np.ndarray]]:
    """Yield rows by shard: each shard that has any, its rows in order, and hashes.

    Sorted once and sliced: to filter for each shard costs twice as much.

    Args:
        rows: n rows.
        hashes: the n hashes of their keys.
        shards: how many shards there are.
    """
    if shards == 1:
        yield 0, rows, hashes
        return
    # It takes longer to import than a lookup, which cuts nothing.
    import pyarrow.compute as pc

    numbers = shard_of(hashes, shards).astype(np.uint16)  # so that radix sort is taken
    order = np.argsort(numbers, kind="stable")
    # Of numbers that were just made from the rows, none is out of bounds: to look for
    # each column takes a third of the time.
    taken = pa.array(order.astype(np.uint32))
    rows = pc.take(rows.combine_chunks(), taken, boundscheck=False)
    hashes = hashes[order]
    ends = np.searchsorted(numbers[order], np.arange(shards + 1))
    for shard in range(shards):
        start, stop = int(ends[shard]), int(ends[shard + 1])
        if start < stop:
            yield shard, rows.slice(start, stop - start), hashes[start:stop]


def checksum(hashes: np.ndarray) -> int:
    """Return the order-independent checksum of a set of keys, in 0 .. 2**64-1."""
    return int(np.add.reduce(hashes, dtype=np.uint64)) if len(hashes) else 0


def fingerprint(columns: Sequence[np.ndarray]) -> np.ndarray:
    """Return the fingerprint of each row's features, over their exact bytes.

    Two rows that differ have the same one with a chance of 2**-64: over a year of 230
    million rows a night, that is one row in two hundred million years.

    Args:
        columns: the features in the model's order, each float32 (rows,).

    Returns:
        (rows,) as uint64.
    """
    rows = len(columns[0])
    hashes = np.empty(rows, dtype=np.uint64)
    # Blocks that stay in a core's cache: 195 ns a row of 64 features.
    pair = np.empty((FINGERPRINT_ROWS, 2), dtype="<u4")
    spare = np.empty(FINGERPRINT_ROWS, dtype=np.uint64)
    bits = [column.view("<u4") for column in columns]
    for start in range(0, rows, FINGERPRINT_ROWS):
        h = hashes[start : start + FINGERPRINT_ROWS]
        halves, work = pair[: len(h)], spare[: len(h)]
        words = halves.view("<u8").reshape(-1)
        h[:] = np.uint64(4 * len(bits)) + np.uint64(GOLDEN_RATIO)
        _mix_in_place(h, work)
        for at in range(0, len(bits), 2):
            halves[:, 0] = bits[at][start : start + len(h)]
            other = bits[at + 1][start : start + len(h)] if at + 1 < len(bits) else 0
            halves[:, 1] = other
            h ^= words
            _mix_in_place(h, work)
            h += np.uint64(GOLDEN_RATIO)
        _mix_in_place(h, work)
    return hashes


def folded(marks: np.ndarray, column: pa.Array) -> np.ndarray:
    """Return fingerprints with one more column in them.

    Args:
        marks: of the rows so far, uint64 (rows,).
        column: without nulls: integers, strings, or lists of numbers.
    """
    if pa.types.is_integer(column.type) or _is_string(column.type):
        return _mix(marks ^ hash_keys(column)) + np.uint64(GOLDEN_RATIO)
    values = column.flatten().to_numpy(zero_copy_only=False)
    offsets = column.offsets.to_numpy().astype(np.int64)
    ends = (offsets - offsets[0]) * values.itemsize
    buffers = [None, pa.py_buffer(ends), pa.py_buffer(np.ascontiguousarray(values))]
    texts = pa.Array.from_buffers(pa.large_binary(), len(column), buffers)
    return _mix(marks ^ _hash_strings(texts)) + np.uint64(GOLDEN_RATIO)


def _mix_in_place(z: np.ndarray, work: np.ndarray) -> None:
    """`_mix` without memory of its own; `work` is as long as `z`."""
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB), (31, 1)):
        np.right_shift(z, np.uint64(shift), out=work)
        z ^= work
        if factor != 1:
            z *= np.uint64(factor)


def content(hashes: np.ndarray, outputs: Sequence[np.ndarray]) -> int:
    """Return the order-independent checksum of whole rows: which key has which outputs.

    Args:
        hashes: of the n keys, uint64 (n,).
        outputs: columns of n values of 4 or 8 bytes each, or (n, width) of several, in
            the contract's order.
    """
    rows = hashes
    for values in _each_value(outputs):
        bits = np.ascontiguousarray(values).view(f"u{values.dtype.itemsize}")
        rows = _mix(rows ^ bits.astype(np.uint64)) + np.uint64(GOLDEN_RATIO)
    return checksum(rows)


def _each_value(columns: Sequence[np.ndarray]) -> Iterator[np.ndarray]:
    """Columns of a value a row: of a wide one each, from left to right."""
    for values in columns:
        yield from [values] if values.ndim == 1 else values.T


def _mix(z: np.ndarray) -> np.ndarray:
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    mixed: np.ndarray = z ^ (z >> np.uint64(31))
    return mixed


def _mix_int(z: int) -> int:
    z &= WORD_MASK
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & WORD_MASK
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & WORD_MASK
    return z ^ (z >> 31)


def _is_string(dtype: pa.DataType) -> bool:
    return bool(
        pa.types.is_string(dtype)
        or pa.types.is_large_string(dtype)
        or pa.types.is_string_view(dtype)
    )


def _hash_integers(keys: pa.Array) -> np.ndarray:
    signed = not pa.types.is_unsigned_integer(keys.type)
    filled = keys.fill_null(0) if keys.null_count else keys
    values = filled.to_numpy(zero_copy_only=False)
    wide = values.astype(np.int64 if signed else np.uint64).view(np.uint64)
    return _mix(wide + np.uint64(GOLDEN_RATIO))


def _hash_strings(keys: pa.Array) -> np.ndarray:
    n = len(keys)
    _, offsets_buffer, data_buffer = keys.buffers()
    if n == 0:
        return np.empty(0, dtype=np.uint64)
    offsets = np.frombuffer(offsets_buffer, dtype=np.int64)
    offsets = offsets[keys.offset : keys.offset + n + 1]
    begin, end = int(offsets[0]), int(offsets[-1])
    data = np.zeros(end - begin + 8, dtype=np.uint8)  # 8 more: the last word's padding
    if end > begin:
        data[:-8] = np.frombuffer(data_buffer, dtype=np.uint8)[begin:end]
    # The 8 bytes that begin at each byte, read as one little-endian word.
    words = np.ndarray((len(data) - 7,), dtype="<u8", buffer=data, strides=(1,))
    starts = offsets[:-1] - begin
    lengths = np.diff(offsets)
    h = _mix(lengths.astype(np.uint64) + np.uint64(GOLDEN_RATIO))
    rows = np.arange(n)
    for at in range(0, int(lengths.max()), 8):
        rows = rows[lengths[rows] > at]
        left = np.minimum(lengths[rows] - at, 8).astype(np.uint64)
        # Bytes past the end of the string belong to its neighbour: cut them off.
        word = words[starts[rows] + at] & (
            np.uint64(WORD_MASK) >> (np.uint64(64) - left * np.uint64(8))
        )
        h[rows] = _mix(h[rows] ^ word) + np.uint64(GOLDEN_RATIO)
    return _mix(h)
