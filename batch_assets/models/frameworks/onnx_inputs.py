"""What each input of an ONNX graph gets: the matrix, one feature, or a tensor by name.

A graph says of each input its name, its type and its shape; the contract says which
feature or tensor has that name, and whether each value of it is one of that type. It knows
no session beyond that, and no file.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from batch_assets.errors import ReleaseError
from batch_assets.models.columns import quoted
from batch_assets.models.contract import FEATURES, Contract, Feature
from batch_assets.models.frameworks.base import is_exact
from batch_assets.models.input_specs import Ids, Sequence, Text

TYPES = {
    "tensor(float)": "float32",
    "tensor(double)": "float64",
    "tensor(int8)": "int8",
    "tensor(int16)": "int16",
    "tensor(int32)": "int32",
    "tensor(int64)": "int64",
    "tensor(bool)": "bool",
    "tensor(string)": "object",
}
Given = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class GraphInput:
    """One input of a graph: its name, and what is made of the tensors for it.

    Attributes:
        name: as the graph has it.
        dtype: NumPy's name of its type; `object` of strings.
        tensor: from which tensor it comes.
        column: which feature of the matrix it is; None of a whole tensor.
        flat: whether a feature is (rows,); it is (rows, 1) otherwise.
        words: those of a feature's positions, if the graph takes words.
    """

    name: str
    dtype: str
    tensor: str
    column: int | None = None
    flat: bool = False
    words: np.ndarray | None = None

    def take(self, given: Given) -> np.ndarray:
        """Return what the graph gets."""
        values = given[self.tensor]
        if self.column is None:
            return np.ascontiguousarray(values, self.dtype)
        values = values[:, self.column]
        if self.words is not None:
            values = self.words[values.astype(np.int64)]
        values = np.ascontiguousarray(values, self.dtype)
        return values if self.flat else values[:, None]


def inputs_of(session: Any, contract: Contract) -> tuple[GraphInput, ...]:
    """Return what a graph's inputs get.

    Raises:
        ReleaseError: one of them has no such name in the contract, another type or shape,
            or a fixed number of rows.
    """
    inputs = session.get_inputs()
    for one in inputs:
        _must_take_any_rows(one)
    if _is_matrix(inputs, contract):
        return (GraphInput(inputs[0].name, TYPES[inputs[0].type], FEATURES),)
    tensors = _tensors(contract)
    places = {feature.name: at for at, feature in enumerate(contract.features)}
    unknown = [one.name for one in inputs if one.name not in {*tensors, *places}]
    if unknown:
        msg = (
            f"the ONNX graph takes {quoted(unknown)}, and the contract has "
            f"{quoted([*tensors, *places])}. Name its inputs as these, or let it take one "
            f"matrix (rows, {len(contract.features)}) of float32."
        )
        raise ReleaseError(msg)
    return tuple(
        _of_tensor(one, tensors[one.name])
        if one.name in tensors
        else _of_feature(one, places[one.name], contract.features[places[one.name]])
        for one in inputs
    )


def _is_matrix(inputs: list[Any], contract: Contract) -> bool:
    """Whether all that a graph takes is the matrix of features, whatever it is named."""
    if len(inputs) != 1 or contract.inputs or inputs[0].name in contract.feature_names:
        return False
    one, features = inputs[0], len(contract.features)
    wide = one.shape[1] if len(one.shape) == 2 else None
    if TYPES.get(one.type) not in ("float32", "float64") or (
        isinstance(wide, int) and wide != features
    ):
        msg = (
            f"the ONNX graph takes '{one.name}', {one.type} {one.shape}, and the contract "
            f"has {features} features: a matrix of them is tensor(float) "
            f"(rows, {features}), and an input of one bears its name."
        )
        raise ReleaseError(msg)
    return len(one.shape) == 2


def _must_take_any_rows(one: Any) -> None:
    if not one.shape or isinstance(one.shape[0], int):
        rows = one.shape[0] if one.shape else "no"
        msg = (
            f"the ONNX graph takes '{one.name}' of {rows} rows, and a batch has any "
            "number of them: export it with a dynamic first axis."
        )
        raise ReleaseError(msg)


def _tensors(contract: Contract) -> dict[str, str]:
    """The tensors of a contract by name, and what their values are."""
    found = {FEATURES: "float32"} if contract.features else {}
    for one in contract.inputs:
        if isinstance(one, Sequence):
            if not one.given:
                continue
            for column in one.columns:
                found[column.name] = "float32" if column.is_float else "int64"
            mask = one.form == "padded"
            found[one.mask if mask else one.offsets] = "bool" if mask else "int64"
        elif isinstance(one, Text):
            found |= dict(zip(one.tensors, ("int64", "bool"), strict=True))
        else:
            found[one.name] = "int64" if isinstance(one, Ids) else "float32"
    return found


def _of_tensor(one: Any, given: str) -> GraphInput:
    wanted = TYPES.get(one.type)
    # An id that is cut to 32 bits, or a float made of it, may be another one.
    if wanted in (None, "object") or not (
        wanted == given or given == "bool" or (given, wanted) == ("float32", "float64")
    ):
        msg = (
            f"the ONNX graph takes '{one.name}' as {one.type}, and the contract gives it "
            f"as {given}: export it with that type."
        )
        raise ReleaseError(msg)
    return GraphInput(one.name, wanted, one.name)


def _of_feature(one: Any, place: int, feature: Feature) -> GraphInput:
    wanted = TYPES.get(one.type)
    flat = len(one.shape) == 1
    if wanted is None or not (
        flat or (len(one.shape) == 2 and one.shape[1] in (1, None))
    ):
        msg = (
            f"the ONNX graph takes '{one.name}', {one.type} {one.shape}, and a feature is "
            "(rows,) or (rows, 1) of numbers or strings: export it so."
        )
        raise ReleaseError(msg)
    if wanted in ("float32", "float64"):
        return GraphInput(one.name, wanted, FEATURES, place, flat)
    _must_hold_each_value(one, feature, wanted)
    words = np.array(feature.categories, object) if wanted == "object" else None
    return GraphInput(one.name, wanted, FEATURES, place, flat, words)


def _must_hold_each_value(one: Any, feature: Feature, wanted: str) -> None:
    """Refuse a graph that takes words or whole numbers where a feature may be neither."""
    if wanted == "object":
        fits, expected = feature.dtype == "string", "of the dtype 'string'"
    elif wanted == "bool":
        fits, expected = feature.dtype == "bool", "of the dtype 'bool'"
    else:
        fits = feature.dtype == "string" or (
            is_exact(feature) and _within(feature, wanted)
        )
        expected = (
            f"a whole number within 2**24 and {wanted}, by its type or min and max"
        )
    if fits and not feature.nullable:
        return
    got = f"{feature.dtype}, nullable" if feature.nullable else feature.dtype
    msg = (
        f"the ONNX graph takes '{one.name}' as {one.type}, which holds no null: the "
        f"feature is to be {expected}, and not nullable; it is {got}. Declare it so, and "
        "give a null a value of its own in the query."
    )
    raise ReleaseError(msg)


def _within(feature: Feature, wanted: str) -> bool:
    if feature.dtype == "bool" or np.can_cast(feature.dtype, wanted):
        return True
    limits = np.iinfo(wanted)
    low, high = feature.min, feature.max
    return (
        low is not None and high is not None and limits.min <= low <= high <= limits.max
    )
