"""How far counts are from others, bin by bin, for many lines of counts at once.

It holds no limits.
"""

import numpy as np

from batch_assets.models.reference import shares


def jensen_shannon(expected: np.ndarray, actual: np.ndarray) -> np.ndarray:
    """Return the Jensen-Shannon distance of counts, to the base 2; 0 .. 1."""
    old, new = shares(expected), shares(actual)
    middle = (old + new) / 2
    divergence = (old * np.log2(old / middle) + new * np.log2(new / middle)) / 2
    return np.asarray(np.sqrt(divergence.sum(axis=-1).clip(min=0)))


def wasserstein(expected: np.ndarray, actual: np.ndarray) -> np.ndarray:
    """Return how many bins a row has to be moved by, on average, over all bins; 0 .. 1."""
    old, new = shares(expected), shares(actual)
    moved = np.abs(np.cumsum(new - old, axis=-1)).sum(axis=-1)
    return np.asarray(moved / max(old.shape[-1] - 1, 1))


def rank_shift(lines: np.ndarray) -> np.ndarray:
    """Return how far up or down segments lie in the day, -0.5 .. 0.5 (..., segments).

    A row's rank is the share of the day's rows below it, those of its own bin counting
    half; a segment's is the mean of its rows, and in the middle of the day it is 0.

    Args:
        lines: counts (..., 1 + segments, bins) of the day and of each segment, without
            the bin of what is missing.
    """
    day = lines[..., :1, :].astype(float)
    ranks = (np.cumsum(day, axis=-1) - day / 2) / np.maximum(
        day.sum(-1, keepdims=True), 1
    )
    rows = lines[..., 1:, :].sum(axis=-1)
    found = (lines[..., 1:, :] * ranks).sum(axis=-1) / np.maximum(rows, 1) - 0.5
    return np.asarray(found)
