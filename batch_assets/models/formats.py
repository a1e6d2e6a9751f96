"""Release files to torch modules and back. It knows no approval and no device policy.

Those of other frameworks are the business of the room `frameworks`.

No pickle of unknown origin is loaded: a `.pt2` archive holds one for its sample
inputs, and torch falls back to the unsafe unpickler by itself, so each pickle of an
archive is first loaded with `weights_only`, and an archive that needs more is refused.
"""

import importlib
import inspect
import io
import zipfile
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load, load_file, save_file
from torch.export.passes import move_to_device_pass

from batch_assets.errors import ReleaseError, TamperedReleaseError
from batch_assets.models.contract import Contract
from batch_assets.models.frameworks.registry import FILES as FOREIGN_FILES
from batch_assets.models.frameworks.registry import ForeignModel, load_foreign
from batch_assets.models.input_rows import InputRows, Lists, Values
from batch_assets.models.input_specs import Text
from batch_assets.models.release import Manifest, Release, Takes
from batch_assets.models.results import plain
from batch_assets.models.tensors import call, padded_names
from batch_assets.models.transformer import WEIGHTS, Transformer

# What torch says of a model that was traced for one number of rows is hard to read.
OF_ANY_SIZE = (
    "A batch has any number of rows, and its sequences any length: let the model ask "
    "tensor.shape[0], not len(tensor), and write no such number into its code."
)
# The names of what a module gives by name; None of what it gives otherwise.
Gives = tuple[str, ...] | None
FILES = {
    "pt2": "model.pt2",
    "safetensors": "model.safetensors",
    "torchscript": "model.ts",
    "transformers": WEIGHTS,
    **FOREIGN_FILES,
}


def load_module(release: Release, device: torch.device) -> torch.nn.Module:
    """Load the release's module on a device, in evaluation mode.

    Raises:
        TamperedReleaseError: a file is not the one of the digest any more, or the archive
            holds a pickle that is more than tensors.
        ReleaseError: torch, or the framework that it is of, can't read the file, or the
            class can't be imported.
        DeviceError: the framework does not run on the device.
    """
    spec = release.manifest.model
    # What is loaded is what was hashed, whatever becomes of the release's own files.
    with release.private_copy(*spec.files) as folder:
        path = folder / spec.file
        match spec.format:
            case "pt2":
                _refuse_foreign_pickles(path)
                return _checked(release, lambda: _from_program(path, device))
            case "safetensors":
                module = _checked(release, lambda: _from_weights(release, path))
                return _OnACopy(module.to(device)).eval()
            case "torchscript":
                module = _checked(release, lambda: torch.jit.load(path, device))
                return _OnACopy(module).eval()
            case "transformers":
                transformer = _checked(
                    release, lambda: Transformer(folder, **spec.arguments)
                )
                return _OnACopy(transformer.to(device)).eval()
            case _:
                return load_foreign(release, path, device)


def save_module(
    module: torch.nn.Module,
    example: Mapping[str, torch.Tensor],
    folder: Path,
    manifest: Manifest,
) -> None:
    """Write a module into a folder, under its format's name in `FILES`.

    The name is fixed: a `.pt2` archive holds its own, and the digest with it. Of a tensor
    that is a piece of another, only its own values are written.

    Args:
        module: in evaluation mode.
        example: what it is called with, by name, in the contract's order.
        folder: where to.
        manifest: in which format, and how it is called.

    Raises:
        ReleaseError: torch can't write it in that format.
    """
    spec = manifest.model
    path = folder / FILES[spec.format]
    if isinstance(module, ForeignModel):
        module.save(path)
        return
    # A strided example would be written into an exported graph as a demand.
    tensors = {
        name: one.clone(memory_format=torch.contiguous_format)
        for name, one in example.items()
    }
    save = {
        "pt2": _save_program,
        "safetensors": _save_weights,
        "torchscript": _save_script,
        "transformers": _save_transformer,
    }[spec.format]
    try:
        save(module, tensors, path, manifest.contract)
    # torch traces the user's own code here, which can raise anything.
    except Exception as error:
        # After an empty line torch goes on about itself.
        why = " ".join(str(error).partition("\n\n")[0].split())
        msg = (
            f"the model can't be stored as {spec.format}: {type(error).__name__}: {why}"
        )
        if "specialized it to be a constant" in why:
            msg = f"{msg} {OF_ANY_SIZE}"
        raise ReleaseError(msg) from error


def _save_program(
    module: torch.nn.Module,
    tensors: dict[str, torch.Tensor],
    path: Path,
    contract: Contract,
) -> None:
    padded = padded_names(contract)
    # Rows, and the length that a sequence is padded to: no batch has those of another.
    sizes = tuple(
        dict.fromkeys(range(2 if name in padded else 1), torch.export.Dim.DYNAMIC)
        for name in tensors
    )
    # As its arguments take them: those that go into *args are one of them.
    shapes = inspect.signature(module.forward).bind(*sizes).arguments
    program = torch.export.export(
        module, tuple(tensors.values()), dynamic_shapes=tuple(shapes.values())
    )
    for node in program.graph.nodes:
        # Where the module's source lay, line by line: not part of the model,
        # and the digest would change with the folder it was trained in.
        node.meta.pop("stack_trace", None)
    for held in (program.state_dict, program.constants):
        held.update({name: _own_values(one) for name, one in held.items()})
    torch.export.save(program, path)


def _save_weights(
    module: torch.nn.Module,
    _: dict[str, torch.Tensor],
    path: Path,
    __: Contract,
) -> None:
    weights = {
        name: one.detach().cpu().contiguous().clone()
        for name, one in module.state_dict().items()
    }
    save_file(weights, path)


def _save_script(
    module: torch.nn.Module,
    tensors: dict[str, torch.Tensor],
    path: Path,
    _: Contract,
) -> None:
    # Saved and loaded once: what is cut out of its storage here is not the user's own.
    whole = io.BytesIO()
    traced = torch.jit.trace(module, tuple(tensors.values()))
    torch.jit.save(traced, whole)
    whole.seek(0)
    script = torch.jit.load(whole)
    for one in [*script.parameters(), *script.buffers()]:
        one.data = _own_values(one.detach())
    for part in script.modules():
        for name in part._c._method_names():
            for node in part._c._get_method(name).graph.findAllNodes("prim::Constant"):
                if node.hasAttribute("value") and node.kindOf("value") == "t":
                    node.t_("value", _own_values(node.t("value")))
    script.save(str(path))


def _save_transformer(
    module: torch.nn.Module,
    _: dict[str, torch.Tensor],
    path: Path,
    __: Contract,
) -> None:
    assert isinstance(module, Transformer)
    module.save(path.parent)


def _own_values(one: Any) -> Any:
    """A tensor that holds its values alone; whatever else it is, as it is.

    torch writes the whole storage of what it saves: of a table, for eight rows of it.
    """
    if type(one) not in (torch.Tensor, torch.nn.Parameter):
        return one
    if one.untyped_storage().nbytes() == one.numel() * one.element_size():
        return one
    own = one.detach().clone()
    if isinstance(one, torch.nn.Parameter):
        return torch.nn.Parameter(own, requires_grad=one.requires_grad)
    return own


class ByPosition(torch.nn.Module):
    """A module that is called with its tensors in their order, and gives them so.

    So it is exported: an input may be named as something that torch writes into the code
    of a graph, such as `device`, and a dataclass would have to be there when it is loaded.
    """

    def __init__(
        self, module: torch.nn.Module, takes: Takes, names: Iterable[str], gives: Gives
    ) -> None:
        """Wrap a module.

        Args:
            module: takes its tensors by position, by name, or in a dict.
            takes: which of them.
            names: of the tensors, in their order.
            gives: names of the tensors that it gives by name, in their order.
        """
        super().__init__()
        self.module, self.takes, self.names = module, takes, tuple(names)
        self.gives = gives

    def forward(self, *given: torch.Tensor) -> Any:
        tensors = dict(zip(self.names, given, strict=True))
        result = call(self.module, tensors, self.takes)
        if self.gives is None:
            return result
        found = plain(result)
        return tuple(found[name] for name in self.gives)


class _OnACopy(torch.nn.Module):
    """A module that may write into its input: nobody else reads what it gets."""

    def __init__(self, module: torch.nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, *given: torch.Tensor, **named: torch.Tensor) -> Any:
        return self.module(
            *map(_copied, given),
            **{name: _copied(one) for name, one in named.items()},
        )


def _copied(one: torch.Tensor) -> torch.Tensor:
    if one.ndim != 2:
        return one.clone()
    # As the rows come: column by column, if they do.
    return torch.empty_like(one, memory_format=torch.preserve_format).copy_(one)


def golden_batch(release: Release) -> tuple[InputRows, dict[str, torch.Tensor]]:
    """Read the golden rows, their texts as such, and the columns of each output."""
    tensors = load(release.read(release.manifest.golden.file))
    outputs = {
        column.name: tensors[f"output.{column.name}"]
        for column in release.contract.output_columns
    }
    columns: dict[str, Values] = {}
    for one in release.contract.inputs:
        for column in (one,) if isinstance(one, Text) else one.columns:
            values = tensors[f"input.{column.name}"].numpy()
            offsets = tensors.get(f"offsets.{column.name}")
            columns[column.name] = (
                values if offsets is None else Lists(values, offsets.numpy())
            )
    features = np.ascontiguousarray(tensors["inputs"].numpy().T)
    return InputRows(features, columns), outputs


def save_golden(path: Path, rows: InputRows, outputs: Mapping[str, np.ndarray]) -> None:
    """Write the golden rows, and the columns of each output."""
    tensors = {"inputs": torch.from_numpy(np.ascontiguousarray(rows.features.T))}
    for name, values in rows.columns.items():
        if isinstance(values, Lists):
            tensors[f"offsets.{name}"] = torch.tensor(values.offsets)
            values = values.values
        tensors[f"input.{name}"] = torch.tensor(values)
    # Copies: safetensors refuses two names for one memory, such as of two equal outputs.
    tensors |= {f"output.{name}": torch.tensor(v) for name, v in outputs.items()}
    save_file(tensors, path)
    # safetensors writes for its owner alone.
    path.chmod(0o644)


def _from_program(path: Path, device: torch.device) -> torch.nn.Module:
    program = torch.export.load(path)
    if device.type != "cpu":
        # The graph names its device, in constants too: moving the weights is not enough.
        program = move_to_device_pass(program, device)
    module = program.module()
    return _OnACopy(module) if _writes(program) else module


def _writes(program: torch.export.ExportedProgram) -> bool:
    """Whether anything in a program writes into a tensor, which may be its input.

    Its graph tells; of the other formats nobody knows.
    """
    return bool(program.graph_signature.user_inputs_to_mutate) or any(
        isinstance(node.target, torch._ops.OpOverload)
        and node.target._schema.is_mutable
        for part in program.graph_module.modules()
        if isinstance(part, torch.fx.GraphModule)
        for node in part.graph.nodes
    )


def _from_weights(release: Release, path: Path) -> torch.nn.Module:
    spec = release.manifest.model
    if not spec.import_path:
        msg = "safetensors hold weights alone, and no import_path names their class"
        raise ReleaseError(msg)
    module_name, _, attribute = spec.import_path.partition(":")
    model_class = getattr(importlib.import_module(module_name), attribute)
    # A release names it, and could name anything that is installed, such as a shell.
    if not (isinstance(model_class, type) and issubclass(model_class, torch.nn.Module)):
        msg = f"'{spec.import_path}' is no class of torch.nn.Module. It was not called."
        raise ReleaseError(msg)
    built: torch.nn.Module = model_class(**spec.arguments)
    built.load_state_dict(load_file(path))
    return built


def _checked(release: Release, load: Callable[[], torch.nn.Module]) -> torch.nn.Module:
    try:
        return load()
    # torch, zipfile and a user's own class can raise anything here.
    except Exception as error:
        spec = release.manifest.model
        wrote = {"torch": spec.torch} | spec.versions
        by = ", ".join(f"{package} {version}" for package, version in wrote.items())
        msg = (
            f"release {release.name} {release.short} can't be loaded: "
            f"{type(error).__name__}: {error}. It was written as {spec.format} by {by}; "
            f"this is torch {torch.__version__}."
        )
        if spec.format == "safetensors":
            msg += (
                f" Its class is '{spec.import_path}': install that where it is loaded, "
                "or write the release as pt2, which needs no class."
            )
        raise ReleaseError(msg) from error


def _refuse_foreign_pickles(path: Path) -> None:
    try:
        archive = zipfile.ZipFile(path)
    except zipfile.BadZipFile as error:
        msg = f"{path.name} is not a .pt2 archive: {error}"
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
