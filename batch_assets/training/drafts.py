"""A release from a trained model and the frame it was trained on, in one call.

The contract, the golden rows and the reference are drawn from the frame; what a caller
says goes before. It approves nothing.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypedDict, Unpack

import numpy as np
import pyarrow as pa
import torch

from batch_assets.errors import ContractError, ReleaseError
from batch_assets.models.contract import Contract, Feature, KeySpec
from batch_assets.models.derived import outputs_of
from batch_assets.models.frames import table_of
from batch_assets.models.input_rows import InputRows
from batch_assets.models.input_specs import Input, Words
from batch_assets.models.output_specs import AnyOutput, Output, VectorOutput
from batch_assets.models.post_specs import PostProcessing
from batch_assets.models.reference import QUANTILES
from batch_assets.models.release import Release, Takes, TorchFormat
from batch_assets.models.results import plain, shape_of
from batch_assets.models.tensors import call, tensors_of, usual_takes
from batch_assets.models.tokenizing import tokenised, with_tokenizer
from batch_assets.models.writing import evaluating, save_release
from batch_assets.strict import StrictModel
from batch_assets.training.packing import packed_rows

GOLDEN_ROWS = 64
# More tell no more of a distribution in twenty bins.
USUAL_ROWS = 100_000
DTYPES = {
    torch.float64: "float64",
    torch.int32: "int32",
    torch.int16: "int32",
    torch.int8: "int32",
    torch.uint8: "int32",
    torch.bool: "int32",
    torch.int64: "int64",
}


class Options(TypedDict, total=False):
    """What may be said of a release beside its model and its frame; see `draft_release`."""

    name: str
    key: str | KeySpec
    outputs: str | AnyOutput | Sequence[str | AnyOutput]
    without: Iterable[str]
    features: Iterable[Feature]
    inputs: Iterable[Input]
    vocabularies: dict[str, Words]
    contract: Contract
    day: str
    golden_inputs: Any
    reference: dict[str, np.ndarray]
    reference_days: Any
    about: dict[str, Any]
    model_format: TorchFormat
    import_path: str
    arguments: dict[str, Any]
    tolerance: dict[str, float]
    takes: Takes
    post: PostProcessing
    tokenizer: Any


# What goes on as it is to whoever writes the files.
_SAVED = (
    "reference",
    "about",
    "model_format",
    "import_path",
    "arguments",
    "tolerance",
    "takes",
    "post",
    "tokenizer",
)


@dataclass(frozen=True)
class Draft:
    """A release that is not written yet: its model, its contract, and rows to prove it by.

    `left_out` says how many rows of the frame break which rule of the contract.
    """

    name: str
    model: Any
    contract: Contract
    golden: Any
    usual: InputRows | None = None
    days: np.ndarray | None = None
    left_out: dict[str, int] = field(default_factory=dict)
    saved: dict[str, Any] = field(default_factory=dict)

    def write(self, folder: Path | str) -> Release:
        """Write it into a folder; a release that is there is replaced.

        Raises:
            ReleaseError: with what is wrong; nothing was written.
        """
        return save_release(
            Path(folder),
            name=self.name,
            module=self.model,
            contract=self.contract,
            golden_inputs=self.golden,
            usual=self.usual,
            reference_days=self.days,
            **self.saved,
        )


def write_release(
    model: Any, frame: Any = None, *, folder: Path | str, **options: Unpack[Options]
) -> Release:
    """Write a release from a trained model and the frame that it was trained on.

    Args:
        model: as of `draft_release`.
        frame: of polars, pandas or Arrow, with raw columns; none if `contract` and
            `golden_inputs` are given.
        folder: where to write; a release that is there is replaced.
        options: as of `draft_release`.

    Raises:
        ContractError: no contract can be derived, or the frame does not keep it.
        ReleaseError: with what is wrong of the model; nothing was written.
    """
    return draft_release(model, frame, **options).write(folder)


def draft_release(model: Any, frame: Any = None, **options: Unpack[Options]) -> Draft:
    """Draft a release: derive its contract from a frame, and take rows to prove it by.

    Args:
        model: a torch module, on the CPU, or a model of another framework: of XGBoost,
            LightGBM, CatBoost, scikit-learn or ONNX.
        frame: of polars, pandas or Arrow, with raw columns.
        options:
            name: of the model.
            key: the column that names who is scored.
            outputs: what the model gives: names, or as declared; left out if it gives
                them by name.
            without: columns that the model does not get, such as the label.
            features, inputs, vocabularies: what is said of columns instead of deriving.
            contract: all of that, as it stands.
            day: the frame's column of days, for how far single days are from the whole.
            golden_inputs, reference, reference_days: instead of the frame's rows.
            about, model_format, import_path, arguments, tolerance, takes, post,
                tokenizer: as of `models.writing.save_release`.

    Raises:
        ContractError: no contract can be derived, or the frame does not keep it.
        ReleaseError: something is lacking, or the model can't be asked.
    """
    if "name" not in options:
        msg = "a release has a name: give name='...'"
        raise ReleaseError(msg)
    saved = {name: options[name] for name in _SAVED if name in options}  # type: ignore[literal-required]
    if frame is None:
        return _without_frame(model, options, saved)
    # Once: a lazy frame is computed each time that it is asked.
    table = table_of(frame)
    contract = options.get("contract") or _derived(table, options)
    packed = packed_rows(contract, table)
    if len(packed.places) < 2:
        msg = (
            f"{len(packed.places)} of {len(table):,} rows of the frame keep the contract, "
            f"expected two or more; broken are {packed.broken}"
        )
        raise ContractError(msg)
    golden = options.get(
        "golden_inputs", packed.rows.take(_spread(packed.rows, GOLDEN_ROWS))
    )
    if "contract" not in options and isinstance(golden, InputRows):
        contract, tokenizing = with_tokenizer(contract, options.get("tokenizer"))
        tokens = tokenised(golden, tokenizing)
        contract = _as_given(model, tokens, contract, options)
    usual, days = None, options.get("reference_days")
    if len(packed.places) >= QUANTILES:
        chosen = _spread(packed.rows, USUAL_ROWS)
        usual = packed.rows.take(chosen)
        if days is None and "day" in options:
            days = _days(table, options["day"])[packed.places[chosen]]
    return Draft(
        options["name"], model, contract, golden, usual, days, packed.broken, saved
    )


def _without_frame(model: Any, options: Options, saved: dict[str, Any]) -> Draft:
    lacking = [name for name in ("contract", "golden_inputs") if name not in options]
    if lacking:
        msg = f"without a frame, give {' and '.join(lacking)}"
        raise ReleaseError(msg)
    return Draft(
        options["name"],
        model,
        options["contract"],
        options["golden_inputs"],
        days=options.get("reference_days"),
        saved=saved,
    )


def _derived(table: pa.Table, options: Options) -> Contract:
    if "key" not in options:
        msg = (
            "whom does a row score? Give the column as key='...', or key=KeySpec(...) if "
            f"the frame has none; its columns are {table.column_names}"
        )
        raise ReleaseError(msg)
    without = [*options.get("without", ())]
    if "day" in options:
        without.append(options["day"])
    return Contract.from_frame(
        table,
        key=options["key"],
        # What they are is asked of the model, where it is not said.
        outputs=options.get("outputs", ("output",)),
        without=without,
        features=options.get("features", ()),
        inputs=options.get("inputs", ()),
        vocabularies=options.get("vocabularies"),
    )


def _as_given(
    model: Any, rows: InputRows, contract: Contract, options: Options
) -> Contract:
    """The contract, with types and sizes of outputs that are named alone, as the model gives."""
    if "post" in options or not isinstance(model, torch.nn.Module):
        return contract
    takes = options.get("takes") or usual_takes(model, contract)
    try:
        with evaluating(model), torch.inference_mode():
            result = call(model, tensors_of(rows, contract), takes)
    # It is a user's own. Whoever writes the release says what it raised, and on what.
    except Exception:  # noqa: BLE001
        return contract
    found = plain(result)
    given = options.get("outputs")
    if given is None:
        if not isinstance(found, dict) or not found:
            msg = (
                f"the model gave {shape_of(result)}, which has no names: say what it is "
                "with outputs=['...']"
            )
            raise ReleaseError(msg)
        given = tuple(found)
    asked = [given] if isinstance(given, str | StrictModel) else list(given)
    tensors = _by_name(found, [one.name for one in outputs_of(asked)])
    outputs = tuple(
        _of_tensor(one, tensors[one])
        if isinstance(one, str) and one in tensors
        else one
        for one in asked
    )
    fields = {name: getattr(contract, name) for name in Contract.model_fields}
    return Contract(**fields | {"outputs": outputs_of(outputs)})


def _by_name(found: Any, names: list[str]) -> dict[str, Any]:
    """What a model gave, by the outputs' names, if it gave as many."""
    if isinstance(found, dict):
        return found
    if isinstance(found, torch.Tensor):
        # A column each. Whether one name is meant for several is for the caller to say.
        found = found.unbind(dim=1) if found.ndim == 2 else (found,)
    if isinstance(found, tuple) and len(found) == len(names):
        return dict(zip(names, found, strict=True))
    return {}


def _of_tensor(name: str, values: Any) -> AnyOutput:
    """An output of the type and size of what a model gave."""
    if not isinstance(values, torch.Tensor):
        return Output(name=name)
    dtype: Any = DTYPES.get(values.dtype, "float32")
    if values.ndim == 2 and values.shape[1] > 1 and values.dtype.is_floating_point:
        return VectorOutput(name=name, size=values.shape[1], dtype=dtype)
    return Output(name=name, dtype=dtype)


def _spread(rows: InputRows, most: int) -> np.ndarray:
    """Places of so many rows at most, spread over all."""
    return np.unique(np.linspace(0, len(rows) - 1, min(len(rows), most)).astype(int))


def _days(table: pa.Table, name: str) -> np.ndarray:
    if name not in table.column_names:
        msg = (
            f"the frame has no column '{name}' of days; there are {table.column_names}"
        )
        raise ContractError(msg)
    return np.asarray(table[name].cast(pa.string()).to_pylist(), dtype=object)
