"""Bins of probabilities, so fine that what is worked out from their counts hardly moves.

There are 32 between a probability and its half, and as many between what is left to one
and half of that: rare events and near certainties are told apart alike. It counts nothing.
"""

import numpy as np

from batch_assets.models.contract import Contract
from batch_assets.models.output_specs import Output

OCTAVES, STEPS = 20, 32
# The float32 of 2 ** -21, and what its bits are cut by to leave those of a step.
LOWEST, CUT = (127 - OCTAVES - 1) << 23, 18
HALF = OCTAVES * STEPS
SIZE = 2 * (HALF + 1)


def probabilities(contract: Contract) -> list[str]:
    """Return the outputs that are probabilities: numbers between 0 and 1."""
    return [
        one.name
        for one in contract.outputs
        if type(one) is Output
        and one.dtype.startswith("float")
        and (one.min, one.max) == (0, 1)
    ]


def score_codes(scores: np.ndarray) -> np.ndarray:
    """Return the bin of each probability, int64 (rows,); its order is that of the scores."""
    values = np.ascontiguousarray(scores, np.float32)
    near = np.minimum(values, 1 - values)
    codes = (near.view(np.int32) >> CUT).astype(np.int64) - (LOWEST >> CUT)
    codes = np.clip(codes, 0, HALF)
    return np.asarray(np.where(values > 0.5, SIZE - 1 - codes, codes))


def _middles() -> np.ndarray:
    """The probability in the middle of each bin, float64 (bins,)."""
    edges = (LOWEST + (np.arange(HALF + 1, dtype=np.int32) << CUT)).view(np.float32)
    low = edges.astype(np.float64)
    low[:-1] = (low[:-1] + low[1:]) / 2
    # The lowest reaches down to 0, and a half has a bin to itself.
    low[0] = 2.0 ** -(OCTAVES + 2)
    return np.concatenate([low, 1 - low[::-1]])


MIDDLES = _middles()
