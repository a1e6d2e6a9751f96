"""What every framework has: how its models are saved, loaded and asked. It knows none.

A model of another framework becomes a `torch.nn.Module` that takes and gives tensors, so
that whoever writes a release, proves it, or scores with it, asks it as any other.
"""

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch

from batch_assets.errors import DeviceError, ReleaseError
from batch_assets.models.columns import quoted
from batch_assets.models.contract import FEATURES, Contract, Feature
from batch_assets.models.post_specs import PostProcessing

# On how many threads a model computes: a night has a worker for each core.
THREADS = 1
# Every whole number up to here has a float32 of its own.
EXACT_UP_TO = 2**24


@dataclass(frozen=True)
class Declared:
    """What a release says that its model takes and gives.

    Attributes:
        contract: what it takes.
        gives: the names of what it gives: outputs' columns, or what its stages begin with.
        width: how many numbers it gives for each row; as many as names, of stages.
        wide: whether it gives them as float64.
        staged: whether stages come after it.
    """

    contract: Contract
    gives: tuple[str, ...]
    width: int
    wide: bool
    staged: bool

    @classmethod
    def of(cls, contract: Contract, post: PostProcessing | None) -> "Declared":
        """Take it from what a release is written with."""
        if post:
            return cls(contract, post.gives, len(post.gives), False, True)
        columns = contract.output_columns
        return cls(
            contract,
            tuple(column.name for column in columns),
            sum(column.width or 1 for column in columns),
            all(column.dtype == "float64" for column in columns),
            False,
        )

    def answer(self, values: np.ndarray, classes: int = 0) -> Any:
        """Return numbers for each row as a release's module gives them.

        Args:
            values: (rows,) or (rows, numbers).
            classes: how many a classifier tells apart, if the values are probabilities:
                of two the second one's alone, (rows,), unless both are declared.
        """
        if classes == 2 and self.width == 2 and values.ndim == 1:
            values = np.stack([1 - values, values], axis=1)
        elif classes == 2 and self.width != 2 and values.ndim == 2:
            values = values[:, 1]
        dtype = np.float64 if self.wide else np.float32
        given = torch.from_numpy(np.ascontiguousarray(values, dtype))
        if self.staged and given.ndim == 2 and given.shape[1] == len(self.gives) > 1:
            return given.unbind(dim=1)
        return given


class Foreign(torch.nn.Module):
    """A model of another framework, called with tensors by name, or features alone."""

    def forward(self, *given: torch.Tensor, **named: torch.Tensor) -> Any:
        return self.ask(named or dict(zip([FEATURES], given, strict=True)))

    @abstractmethod
    def ask(self, tensors: dict[str, torch.Tensor]) -> Any:
        """Return what the model says, as a release's module does."""


class Writer(Protocol):
    """What each file of this room has."""

    def own(self, model: Any, declared: Declared) -> Foreign:
        """Return the model as it is, asked as its framework's own users do.

        Raises:
            ReleaseError: it does not fit what is declared, or can't be stored.
        """

    def save(self, model: Any, path: Path, declared: Declared) -> None:
        """Write the model into a file of its framework's own, which holds no code.

        Raises:
            ReleaseError: it can't be stored.
        """

    def versions(self) -> dict[str, str]:
        """Return which packages write such a file here, with their versions."""


class Framework(Writer, Protocol):
    """What one that has a format of its own has beside that."""

    def load(self, path: Path, declared: Declared, device: torch.device) -> Foreign:
        """Read the file, for a night: on one thread, and asked by many.

        Raises:
            ReleaseError: the model does not fit what is declared.
            DeviceError: it does not run on the device.
        """


@contextmanager
def needs(extra: str) -> Iterator[None]:
    """Say how to install a framework that is imported in here, if it is missing.

    Raises:
        ReleaseError: it is not installed.
    """
    try:
        yield
    except ImportError as error:
        msg = (
            f"a release of {extra} needs packages that are not installed here ({error}): "
            f"pip install 'batch-assets[{extra}]'"
        )
        raise ReleaseError(msg) from error


def must_be_cpu(device: torch.device, what: str) -> None:
    """Refuse a device that a framework's models are not run on.

    Raises:
        DeviceError: it is no CPU.
    """
    if device.type != "cpu":
        msg = (
            f"a release of {what} runs on the CPU alone, and device '{device.type}' was "
            "asked for. Nothing was scored. Set device to 'cpu'."
        )
        raise DeviceError(msg)


def must_be_model(model: Any, method: str, what: str) -> None:
    """Refuse what a framework has beside models, such as its rows for training.

    Raises:
        ReleaseError: it lacks what each of the framework's models has.
    """
    if not hasattr(model, method):
        msg = f"{what} is a {type(model).__name__}, which is no model: give what was fitted"
        raise ReleaseError(msg)


def must_take_features(
    names: Sequence[str] | int, contract: Contract, what: str
) -> None:
    """Refuse a contract whose features are not the columns that a model was trained on.

    Args:
        names: of the columns, in the model's order; how many, of a model without names.
        contract: of the release.
        what: how an error names the model.

    Raises:
        ReleaseError: with both.
    """
    if contract.inputs:
        msg = (
            f"{what} takes one matrix of features, and the contract has "
            f"{quoted([one.name for one in contract.inputs])} beside them. Declare them "
            "as features, or give a model of torch or ONNX."
        )
        raise ReleaseError(msg)
    expected = contract.feature_names
    if isinstance(names, int):
        if names != len(expected):
            msg = (
                f"{what} was trained on {names} columns, and the contract has "
                f"{len(expected)} features: {quoted(expected)}. Declare one for each "
                "column, in their order."
            )
            raise ReleaseError(msg)
    elif list(names) != expected:
        msg = (
            f"{what} was trained on the columns {quoted(list(names))}, and the contract "
            f"has the features {quoted(expected)}. Declare the same, in this order."
        )
        raise ReleaseError(msg)


def must_know_words(feature: Feature, words: Sequence[Any] | None, what: str) -> None:
    """Refuse a feature whose positions mean other words to a model.

    Args:
        feature: of the contract.
        words: the categories that the model learned, by position; None of a number.
        what: how an error names the model.

    Raises:
        ReleaseError: with both.
    """
    if words is None:
        return
    learned = tuple(str(word) for word in words)
    if feature.categories != learned:
        declared = "none" if feature.categories is None else f"{feature.categories}"
        msg = (
            f"{what} learned the categories {learned} of '{feature.name}', by position, "
            f"and the contract declares {declared}. Declare the feature as dtype "
            "'string' with these categories, in this order."
        )
        raise ReleaseError(msg)


def is_exact(feature: Feature) -> bool:
    """Return whether each value of a feature is a whole number that float32 holds.

    Features reach a model as float32, in which those above 2 to the 24 lose digits.
    """
    if feature.dtype in ("bool", "int8", "int16"):
        return True
    bounds = (feature.min, feature.max)
    return feature.dtype in ("int32", "int64") and all(
        one is not None and abs(one) <= EXACT_UP_TO for one in bounds
    )


def by_row(tensors: dict[str, torch.Tensor]) -> np.ndarray:
    """Return the features float32 (rows, features), a row after the other in memory."""
    return np.ascontiguousarray(tensors[FEATURES].numpy())


def by_column(tensors: dict[str, torch.Tensor]) -> np.ndarray:
    """Return the features float32 (features, rows), a column after the other, as they lie."""
    columns: np.ndarray = tensors[FEATURES].numpy().T
    return columns
