"""Write a release from a trained module. It approves nothing."""

import json
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from safetensors.torch import save_file

from batch_assets.errors import ReleaseError
from batch_assets.models.columns import quoted
from batch_assets.models.contract import Contract
from batch_assets.models.formats import FILES, load_module, save_module
from batch_assets.models.reference import Reference, reference_of
from batch_assets.models.release import (
    GOLDEN,
    MANIFEST,
    FileEntry,
    Golden,
    Manifest,
    ModelSpec,
    Release,
    open_release,
    sha256_of,
)
from batch_assets.models.row_independence import Outputs, ask, must_stand_alone

Format = Literal["pt2", "safetensors", "torchscript"]
# How far the golden outputs may be off, absolutely and relatively, per kind of device.
TOLERANCE = {"cpu": 1e-5, "cuda": 1e-3}
# Of a file that is listed before it is written.
NOT_YET = FileEntry(size=0, sha256="")


def write_release(
    folder: Path,
    *,
    name: str,
    module: torch.nn.Module,
    contract: Contract,
    golden_inputs: torch.Tensor,
    reference: dict[str, np.ndarray] | None = None,
    reference_days: Sequence[Any] | np.ndarray | None = None,
    about: dict[str, Any] | None = None,
    model_format: Format = "pt2",
    import_path: str | None = None,
    arguments: dict[str, Any] | None = None,
    tolerance: dict[str, float] | None = None,
) -> Release:
    """Write a release folder from a trained module.

    The golden rows are asked together, again, in reverse order and each alone, of the
    module and of what was written: a model whose answers depend on that is refused.
    Nothing of the caller's is changed, and of its memory nothing is written but values.

    Args:
        folder: where to write; a release that is there is replaced.
        name: the model's name.
        module: takes float32 (n, features), gives (n, outputs) or a tuple of columns;
            on the CPU. It is asked in evaluation mode.
        contract: what the module expects and gives.
        golden_inputs: float32 (rows, features), two or more; their outputs are
            computed here.
        reference: each output's values on the data that the model is judged by. Drift
            of an output without one is not judged.
        reference_days: the day of each of these values, in any form.
        about: anything worth keeping: training days, metrics, authors.
        model_format: how to store the module.
        import_path: `package.module:Class`, for safetensors.
        arguments: what the class is built with, for safetensors.
        tolerance: how far the golden outputs may be off, per kind of device, or per
            kind and precision (`cpu bfloat16`).

    Returns:
        The release, opened and verified.

    Raises:
        ReleaseError: with what is wrong; nothing was written.
    """
    _must_be_free(folder)
    rows = _golden_rows(golden_inputs, contract)
    manifest = Manifest(
        name=name,
        model=_model(model_format, import_path, arguments or {}),
        contract=contract,
        golden=Golden(rows=len(rows), tolerance=tolerance or TOLERANCE),
        reference=_references(reference or {}, reference_days, contract),
        files=dict.fromkeys((FILES[model_format], GOLDEN), NOT_YET),
        about=about or {},
    )
    with _nothing_written(name):
        _write(folder, module, rows, manifest)
    return open_release(folder)


def _must_be_free(folder: Path) -> None:
    if folder.exists() and any(folder.iterdir()) and not (folder / MANIFEST).exists():
        msg = f"{folder} is not empty and holds no release: nothing was written there"
        raise ReleaseError(msg)


def _model(
    model_format: Format, import_path: str | None, arguments: dict[str, Any]
) -> ModelSpec:
    return ModelSpec(
        format=model_format,
        file=FILES[model_format],
        torch=torch.__version__.split("+")[0],
        import_path=import_path,
        arguments=arguments,
    )


def _write(
    folder: Path, module: torch.nn.Module, rows: torch.Tensor, manifest: Manifest
) -> None:
    """Write all files beside the folder, prove what they say, and put them in its place."""
    contract, within = manifest.contract, manifest.golden.within("cpu")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".writing-") as tmp:
        made = Path(tmp) / folder.name
        made.mkdir()
        with _evaluating(module):
            outputs = _golden_outputs(module, rows, contract)
            must_stand_alone(module, rows, contract, outputs, within)
            save_module(module, rows, made, manifest.model.format)
        _write_golden(made / GOLDEN, rows, outputs)
        files = {
            p.name: FileEntry(size=p.stat().st_size, sha256=sha256_of(p))
            for p in sorted(made.iterdir())
        }
        shown = manifest.model_copy(update={"files": files}).model_dump(mode="json")
        text = json.dumps(shown, indent=2, sort_keys=True)
        (made / MANIFEST).write_text(text + "\n", encoding="utf-8")
        written = load_module(open_release(made), torch.device("cpu"))
        must_stand_alone(written, rows, contract, outputs, within)
        if folder.exists():
            shutil.rmtree(folder)
        made.rename(folder)


def _golden_rows(given: Any, contract: Contract) -> torch.Tensor:
    """The golden rows, in memory that holds nothing else."""
    try:
        rows = torch.as_tensor(given).detach().to("cpu", torch.float32)
    # torch has an error of its own for each thing that is no tensor.
    except Exception as error:
        msg = (
            f"golden_inputs is no tensor: {type(error).__name__}: {error}. Give float32 "
            "(rows, features). Nothing was written."
        )
        raise ReleaseError(msg) from error
    features = len(contract.features)
    if rows.ndim != 2 or rows.shape[1] != features:
        msg = (
            f"golden_inputs has the shape {tuple(rows.shape)}, expected (rows, "
            f"{features}), a column for each feature of the contract. Nothing was written."
        )
        raise ReleaseError(msg)
    if len(rows) < 2:
        msg = (
            f"golden_inputs has {len(rows)} rows, expected two or more: one row does not "
            "tell whether a model's answers depend on the rows beside it. Nothing was "
            "written."
        )
        raise ReleaseError(msg)
    # Contiguous too: a strided example would be written into an exported graph as a
    # demand.
    return rows.clone(memory_format=torch.contiguous_format)


def _references(
    given: dict[str, np.ndarray], days: object, contract: Contract
) -> dict[str, Reference]:
    """The frozen distribution of each output that is given values."""
    unknown = [name for name in given if name not in contract.output_names]
    if unknown:
        msg = (
            f"reference has values of {quoted(unknown)}, which the contract's outputs "
            f"are not: {quoted(contract.output_names)}. Nothing was written."
        )
        raise ReleaseError(msg)
    return {name: reference_of(name, values, days) for name, values in given.items()}


def _golden_outputs(
    module: torch.nn.Module, rows: torch.Tensor, contract: Contract
) -> Outputs:
    """What the module says of the golden rows, which must be what the contract says."""
    outputs = ask(module, rows, contract)
    for output in contract.outputs:
        values = outputs[output.name]
        if not output.in_range(values).all():
            low, high = output.bounds
            msg = (
                f"output '{output.name}' of the golden rows is between {values.min():g} "
                f"and {values.max():g}; the contract declares {low:g} to {high:g}"
            )
            raise ReleaseError(msg)
    return outputs


def _write_golden(path: Path, rows: torch.Tensor, outputs: Outputs) -> None:
    # Copies: safetensors refuses two names for one memory, such as of two equal outputs.
    columns = {f"output.{k}": torch.tensor(v) for k, v in outputs.items()}
    save_file({"inputs": rows} | columns, path)
    # safetensors writes for its owner alone.
    path.chmod(0o644)


@contextmanager
def _evaluating(module: torch.nn.Module) -> Iterator[None]:
    """A module in evaluation mode; after that, each part in the mode that it was in."""
    modes = [(part, part.training) for part in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for part, mode in modes:
            part.training = mode


@contextmanager
def _nothing_written(name: str) -> Iterator[None]:
    """Say of a refusal which model it is of, and that it left nothing behind."""
    try:
        yield
    except ReleaseError as error:
        msg = f"no release of '{name}' was written: {error}"
        raise type(error)(msg) from error
