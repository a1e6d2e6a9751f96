"""Whether outputs of the same rows are alike, computed in another batch or elsewhere.

Numbers may differ in their last bits, by a tolerance that is absolute and relative at
once. Whole numbers and labels may not differ. Items of a ranking may have changed places
where their scores are that close. It knows no model.
"""

from collections.abc import Iterator, Mapping

import numpy as np

from batch_assets.models.contract import Contract
from batch_assets.models.output_specs import Computed, Ranking


def unlike(
    outputs: Computed, want: Computed, contract: Contract, within: float
) -> Iterator[tuple[str, np.ndarray]]:
    """Yield each column of the outputs, and which rows are unlike in it, bool (rows,).

    Args:
        outputs: by column, of the same rows as `want`.
        want: what they should be.
        contract: of the release.
        within: the tolerance.
    """
    rankings = {one.name: one for one in contract.outputs if isinstance(one, Ranking)}
    for column in contract.output_columns:
        values, expected = outputs[column.name], want[column.name]
        if values.dtype.kind == "f":
            apart = ~np.isclose(
                values, expected, rtol=within, atol=within, equal_nan=True
            )
        else:
            apart = values != expected
        if ranking := rankings.get(column.name):
            apart &= ~_interchangeable(want[ranking.scores], within)
        rows = apart if apart.ndim == 1 else np.asarray(apart.any(axis=1))
        yield column.name, rows


def _interchangeable(scores: np.ndarray, within: float) -> np.ndarray:
    """Which places of rankings another item may have, bool (rows, k).

    Beside a score that is as good, and at the end, where the next one is not known.
    """
    free = np.zeros(scores.shape, dtype=bool)
    free[:, -1] = True
    # Each of the two may be off by the tolerance.
    close = np.isclose(scores[:, 1:], scores[:, :-1], rtol=2 * within, atol=2 * within)
    free[:, 1:] |= close
    free[:, :-1] |= close
    return free


def first_unlike(
    outputs: Mapping[str, np.ndarray],
    want: Mapping[str, np.ndarray],
    contract: Contract,
    within: float,
) -> tuple[str, int] | None:
    """Return the first column and row that are unlike, if any."""
    for name, rows in unlike(outputs, want, contract, within):
        if rows.any():
            return name, int(np.flatnonzero(rows)[0])
    return None
