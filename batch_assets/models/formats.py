"""Release files to torch modules and back. It knows no approval and no device policy.

No pickle of unknown origin is loaded: a `.pt2` archive holds one for its sample
inputs, and torch falls back to the unsafe unpickler by itself, so each pickle of an
archive is first loaded with `weights_only`, and an archive that needs more is refused.
"""

import importlib
import io
import zipfile
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch.export.passes import move_to_device_pass

from batch_assets.errors import ReleaseError, TamperedReleaseError
from batch_assets.models.contract import Contract
from batch_assets.models.release import Release

FILES = {
    "pt2": "model.pt2",
    "safetensors": "model.safetensors",
    "torchscript": "model.ts",
}
OUTPUT_TYPES = {
    "float32": torch.float32,
    "float64": torch.float64,
    "int32": torch.int32,
    "int64": torch.int64,
}


def load_module(release: Release, device: torch.device) -> torch.nn.Module:
    """The release's module on a device, in evaluation mode.

    Raises:
        TamperedReleaseError: the archive holds a pickle that is more than tensors.
        ReleaseError: torch can't read the file, or the class can't be imported.
    """
    spec = release.manifest.model
    path = release.folder / spec.file
    match spec.format:
        case "pt2":
            _refuse_foreign_pickles(path)
            return _checked(release, lambda: _from_program(path, device))
        case "safetensors":
            module = _checked(release, lambda: _from_weights(release, path))
            return module.to(device).eval()
        case "torchscript":
            return _checked(release, lambda: torch.jit.load(path, device)).eval()


def save_module(
    module: torch.nn.Module, example: torch.Tensor, folder: Path, model_format: str
) -> str:
    """Write a module into a folder; give the file's name.

    The name is fixed: a `.pt2` archive holds its own, and the digest with it.
    """
    path = folder / FILES[model_format]
    match model_format:
        case "pt2":
            batch = {0: torch.export.Dim.DYNAMIC}
            program = torch.export.export(module, (example,), dynamic_shapes=(batch,))
            for node in program.graph.nodes:
                # Where the module's source lay, line by line: not part of the model,
                # and the digest would change with the folder it was trained in.
                node.meta.pop("stack_trace", None)
            torch.export.save(program, path)
        case "safetensors":
            save_file(module.state_dict(), path)
        case "torchscript":
            torch.jit.trace(module, example).save(str(path))
    return path.name


def golden_batch(release: Release) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """The golden inputs, float32 (rows, features), and each output's column."""
    tensors = load_file(release.folder / release.manifest.golden.file)
    outputs = {
        name: tensors[f"output.{name}"] for name in release.contract.output_names
    }
    return tensors["inputs"], outputs


def columns_of(result: Any, contract: Contract, rows: int) -> dict[str, torch.Tensor]:
    """A module's result as one column per declared output, each (n,).

    A module gives a tensor (n, outputs), a tensor (n,) for a single output, or a tuple
    of columns in the order of the contract.

    Raises:
        ReleaseError: the result has another shape.
    """
    if isinstance(result, torch.Tensor):
        columns = [result] if result.ndim < 2 else list(result.unbind(dim=-1))
    else:
        columns = [column.reshape(-1) for column in result]
    shapes = [tuple(column.shape) for column in columns]
    if shapes != [(rows,)] * len(contract.outputs):
        msg = (
            f"the model gave {len(columns)} columns of the shapes {shapes} for {rows} "
            f"rows; its contract declares {len(contract.outputs)}, of a value a row: "
            f"{', '.join(contract.output_names)}"
        )
        raise ReleaseError(msg)
    named = {}
    for output, column in zip(contract.outputs, columns, strict=True):
        # Cast to an integer, NaN would become a score like any other.
        if column.is_floating_point() and output.dtype.startswith("int"):
            msg = (
                f"output '{output.name}' is declared {output.dtype}, the model gave "
                f"{column.dtype}: let the model round it, or declare a float"
            )
            raise ReleaseError(msg)
        named[output.name] = column.to(OUTPUT_TYPES[output.dtype])
    return named


def _from_program(path: Path, device: torch.device) -> torch.nn.Module:
    program = torch.export.load(path)
    if device.type != "cpu":
        # The graph names its device, in constants too: moving the weights is not enough.
        program = move_to_device_pass(program, device)
    return program.module()


def _from_weights(release: Release, path: Path) -> torch.nn.Module:
    spec = release.manifest.model
    module_name, _, attribute = (spec.import_path or "").partition(":")
    built = getattr(importlib.import_module(module_name), attribute)(**spec.arguments)
    built.load_state_dict(load_file(path))
    return built


def _checked(release: Release, load: Any) -> torch.nn.Module:
    try:
        return load()
    # torch, zipfile and a user's own class can raise anything here.
    except Exception as error:
        spec = release.manifest.model
        msg = (
            f"release {release.name} {release.short} can't be loaded: {error}. It was "
            f"written as {spec.format} by torch {spec.torch}; this is torch "
            f"{torch.__version__}"
        )
        raise ReleaseError(msg) from error


def _refuse_foreign_pickles(path: Path) -> None:
    try:
        archive = zipfile.ZipFile(path)
    except zipfile.BadZipFile as error:
        msg = f"{path} is not a .pt2 archive: {error}"
        raise ReleaseError(msg) from error
    with archive:
        names = archive.namelist()
        if len({name.casefold() for name in names}) != len(names):
            raise _foreign(path, "two records of one name")
        for name in names:
            data = archive.read(name)
            # A weight that says so is unpickled, whatever its name.
            if name.endswith(".json") and b'"use_pickle": true' in data:
                raise _foreign(path, name)
            # torch.save writes a zip of its own; old ones begin with a pickle opcode.
            if not name.endswith((".pt", ".pkl")) or not data:
                continue
            try:
                torch.load(io.BytesIO(data), weights_only=True)
            except Exception as error:
                raise _foreign(path, name) from error


def _foreign(path: Path, name: str) -> TamperedReleaseError:
    return TamperedReleaseError(
        f"{path.name} holds a pickle that is more than tensors ('{name}'). It was not "
        "loaded. Export the model again with torch.export.save, or ship safetensors "
        "with an import path."
    )
