"""Whether a model's answer to a row is its own, whatever is asked beside it or before.

A night cuts a day into shards, chunks and batches as it likes, and asks again after a
failure. A model whose answers depend on that has no right ones. It knows no file.
"""

from collections.abc import Iterator

import numpy as np
import torch

from batch_assets.errors import ReleaseError
from batch_assets.models.contract import Contract
from batch_assets.models.outputs import columns_of

# So many golden rows are asked alone; a release may hold thousands.
ALONE = 64
# As many rows as there are decide how a product is added up, and so the last bits.
LAST_BITS = 1e-5

Outputs = dict[str, np.ndarray]


def ask(module: torch.nn.Module, rows: torch.Tensor, contract: Contract) -> Outputs:
    """Ask a model for rows that it can't change, laid out as at night: each output.

    Raises:
        ReleaseError: the model raised, or its result does not fit the contract.
    """
    given = rows.T.clone(memory_format=torch.contiguous_format).T
    try:
        with torch.inference_mode():
            columns = columns_of(module(given), contract, len(rows))
            return {name: column.cpu().numpy() for name, column in columns.items()}
    # The module is a user's own, and can raise anything.
    except Exception as error:
        if isinstance(error, ReleaseError):
            raise
        msg = (
            f"the model raises on {len(rows)} rows, float32 {tuple(rows.shape)} on the "
            f"CPU: {type(error).__name__}: {error}"
        )
        raise ReleaseError(msg) from error


def must_stand_alone(
    module: torch.nn.Module,
    rows: torch.Tensor,
    contract: Contract,
    expected: Outputs,
    tolerance: float,
) -> None:
    """Refuse a model that answers rows otherwise than before.

    They are asked a second time, in reverse order, each alone, and once more after that.

    Args:
        module: in evaluation mode, on the CPU.
        rows: float32 (rows, features).
        contract: what it gives.
        expected: what it said of these rows together.
        tolerance: how far an answer may be off, absolute and relative at once.

    Raises:
        ReleaseError: with the way, the output, the row and both values.
    """
    within = max(tolerance, LAST_BITS)
    for way, places in _ways(len(rows)):
        try:
            outputs = ask(module, rows[places], contract)
        except ReleaseError as error:
            msg = f"it gave the golden rows together, but not {way}: {error}. {_ADVICE}"
            raise ReleaseError(msg) from error
        want = {name: values[places] for name, values in expected.items()}
        if off := first_off(outputs, want, within):
            name, at = off
            msg = (
                f"its answer to a row depends on more than the row: output '{name}' of "
                f"golden row {places[at]} is {want[name][at]:.8g} together with the "
                f"others, and {outputs[name][at]:.8g} {way}; {within:g} is allowed. "
                f"{_ADVICE}"
            )
            raise ReleaseError(msg)


def first_off(outputs: Outputs, want: Outputs, within: float) -> tuple[str, int] | None:
    """Return the first output and row that are further apart than allowed, if any."""
    for name, values in outputs.items():
        close = np.isclose(values, want[name], rtol=within, atol=within, equal_nan=True)
        if not close.all():
            return name, int(np.flatnonzero(~close)[0])
    return None


def _ways(rows: int) -> Iterator[tuple[str, list[int]]]:
    together = list(range(rows))
    yield "a second time", together
    yield "in reverse order", together[::-1]
    for row in together[:: -(-rows // ALONE)]:
        yield "alone", [row]
    yield "after others were asked", together


_ADVICE = (
    "Let it compute nothing over the rows of a batch (BatchNorm needs its running "
    "statistics), keep nothing from one call to the next, and draw no random numbers, "
    "nor drop anything out, outside of training."
)
