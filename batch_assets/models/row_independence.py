"""Whether a model's answer to a row is its own, whatever is asked beside it or before.

A night cuts a day into shards, chunks and batches as it likes, and asks again after a
failure. A model whose answers depend on that has no right ones. It knows no file.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch

from batch_assets.errors import ReleaseError
from batch_assets.models.answers import Question, answers, question_of
from batch_assets.models.input_rows import InputRows
from batch_assets.models.likeness import first_unlike
from batch_assets.models.release import Manifest
from batch_assets.models.results import input_adapter, plain
from batch_assets.models.tensors import call

# So many golden rows are asked alone; a release may hold thousands.
ALONE = 64
# As many rows as there are decide how a product is added up, and so the last bits.
LAST_BITS = 1e-5

Outputs = dict[str, np.ndarray]


def ask(module: torch.nn.Module, rows: InputRows, manifest: Manifest) -> Outputs:
    """Ask a model for rows that it can't change, laid out as at night: each output.

    Raises:
        ReleaseError: the model raised, or its result does not fit the contract.
    """
    # A copy of all of them.
    question = question_of(rows.take(np.arange(len(rows))), manifest)
    with _explained(module, question, manifest), torch.inference_mode():
        columns = answers(module, question, manifest)
        return {name: column.cpu().numpy() for name, column in columns.items()}


def given_by_name(
    module: torch.nn.Module, rows: InputRows, manifest: Manifest
) -> tuple[str, ...] | None:
    """Return the names that a module gives its tensors by; None if it gives them else.

    Raises:
        ReleaseError: the model raised.
    """
    question = question_of(rows.take(np.arange(len(rows))), manifest)
    with _explained(module, question, manifest), torch.inference_mode():
        result = call(module, question.tensors, manifest.model.takes)
    columns = tuple(column.name for column in manifest.contract.output_columns)
    names = manifest.post.gives if manifest.post else columns
    found = plain(result)
    return names if isinstance(found, dict) and set(names) <= set(found) else None


@contextmanager
def _explained(
    module: torch.nn.Module, question: Question, manifest: Manifest
) -> Iterator[None]:
    """Say with what a model was called that raises: it is a user's own."""
    try:
        yield
    except ReleaseError:
        raise
    except Exception as error:
        given = ", ".join(
            f"{name} {str(one.dtype).removeprefix('torch.')} {tuple(one.shape)}"
            for name, one in question.tensors.items()
        )
        # torch's own errors have several lines.
        why = " ".join(str(error).split())
        takes = manifest.model.takes
        how = {"position": "by position", "name": "by name", "dict": "in a dict"}
        msg = (
            f"the model raises on {question.asked} rows, {given} on the CPU, "
            f"{how[takes]}: {type(error).__name__}: {why.rstrip('.')}. If it takes "
            "something else, let an adapter give it that:\n"
            f"{input_adapter(module, list(question.tensors), takes)}"
        )
        raise ReleaseError(msg) from error


def must_stand_alone(
    module: torch.nn.Module,
    rows: InputRows,
    manifest: Manifest,
    expected: Outputs,
    tolerance: float,
) -> None:
    """Refuse a model that answers rows otherwise than before.

    They are asked a second time, in reverse order, each alone, and once more after that.

    Args:
        module: in evaluation mode, on the CPU.
        rows: the golden rows.
        manifest: of the release that is written.
        expected: what it said of these rows together.
        tolerance: how far an answer may be off, absolute and relative at once.

    Raises:
        ReleaseError: with the way, the output, the row and both values.
    """
    within = max(tolerance, LAST_BITS)
    for way, places in _ways(len(rows)):
        try:
            outputs = ask(module, rows.take(np.array(places)), manifest)
        except ReleaseError as error:
            # What was raised may end in an adapter.
            msg = f"it gave the golden rows together, but not {way}. {_ADVICE} {error}"
            raise ReleaseError(msg) from error
        want = {name: values[places] for name, values in expected.items()}
        if off := first_unlike(outputs, want, manifest.contract, within):
            name, at = off
            msg = (
                f"its answer to a row depends on more than the row: output '{name}' of "
                f"golden row {places[at]} is {shown(want[name][at])} together with the "
                f"others, and {shown(outputs[name][at])} {way}; {within:g} is allowed. "
                f"{_ADVICE}"
            )
            raise ReleaseError(msg)


def shown(value: np.ndarray) -> str:
    """Return what an output is for a row, in an error."""
    return f"{value:.8g}" if np.ndim(value) == 0 else str(value[:5])


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
