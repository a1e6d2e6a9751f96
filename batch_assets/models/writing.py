"""Write a release from a trained module. It approves nothing."""

import json
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import ValidationError

from batch_assets.errors import ReleaseError
from batch_assets.models.columns import quoted
from batch_assets.models.contract import Contract
from batch_assets.models.formats import (
    FILES,
    ByPosition,
    load_module,
    save_golden,
    save_module,
)
from batch_assets.models.frameworks.registry import ForeignModel, as_module, stored_as
from batch_assets.models.input_rows import InputRows, rows_of, tensors_of
from batch_assets.models.likeness import first_unlike
from batch_assets.models.output_specs import Output
from batch_assets.models.post import source_digest
from batch_assets.models.post_specs import PostProcessing, Python
from batch_assets.models.reference import Reference, reference_of
from batch_assets.models.release import (
    GOLDEN,
    MANIFEST,
    FileEntry,
    Golden,
    Manifest,
    ModelSpec,
    Release,
    Takes,
    TorchFormat,
    open_release,
    sha256_of,
)
from batch_assets.models.row_independence import (
    Outputs,
    ask,
    must_stand_alone,
    shown,
)

# How far the golden outputs may be off, absolutely and relatively, per kind of device.
TOLERANCE = {"cpu": 1e-5, "cuda": 1e-3}
# Of a file that is listed before it is written.
NOT_YET = FileEntry(size=0, sha256="")


def write_release(
    folder: Path,
    *,
    name: str,
    module: Any,
    contract: Contract,
    golden_inputs: torch.Tensor | Mapping[str, Any],
    reference: dict[str, np.ndarray] | None = None,
    reference_days: Sequence[Any] | np.ndarray | None = None,
    about: dict[str, Any] | None = None,
    model_format: TorchFormat = "pt2",
    import_path: str | None = None,
    arguments: dict[str, Any] | None = None,
    tolerance: dict[str, float] | None = None,
    takes: Takes | None = None,
    post: PostProcessing | None = None,
) -> Release:
    """Write a release folder from a trained module.

    The golden rows are asked together, again, in reverse order and each alone, of the
    module and of what was written: a model whose answers depend on that is refused.

    Args:
        folder: where to write; a release that is there is replaced.
        name: the model's name.
        module: takes float32 (n, features), or each tensor of the contract; gives (n,
            outputs) or a tuple of columns; on the CPU. Or a model of another framework.
        contract: what the module expects and gives.
        golden_inputs: float32 (rows, features), two or more, or a mapping for `rows_of`.
        reference: each output's values on usual rows; without, drift is not judged.
        reference_days: the day of each of these values, in any form.
        about: anything worth keeping: training days, metrics, authors.
        model_format: how to store a module of torch.
        import_path: `package.module:Class`, for safetensors.
        arguments: what the class is built with, for safetensors.
        tolerance: of the golden outputs, per kind of device, or kind and precision.
        takes: its tensors by `position` or `name`; features alone by position.
        post: the stages that turn what the module gives into the outputs.

    Raises:
        ReleaseError: with what is wrong; nothing was written.
    """
    _must_be_free(folder)
    rows = _golden_rows(golden_inputs, contract)
    with _nothing_written(name):
        module = as_module(module, contract, post)
        stored = _stored(module, contract, takes, model_format, import_path, arguments)
    manifest = _manifest(
        name=name,
        model=stored,
        contract=contract,
        post=_sealed(post) if post else None,
        golden=Golden(rows=len(rows), tolerance=tolerance or TOLERANCE),
        reference=_references(reference or {}, reference_days, contract),
        files=dict.fromkeys((stored.file, GOLDEN), NOT_YET),
        about=about or {},
    )
    with _nothing_written(name):
        _write(folder, module, rows, manifest)
    return open_release(folder)


def _stored(
    module: torch.nn.Module,
    contract: Contract,
    takes: Takes | None,
    model_format: TorchFormat,
    import_path: str | None,
    arguments: dict[str, Any] | None,
) -> ModelSpec:
    usual: Takes = "name" if contract.inputs else "position"
    stored, versions = stored_as(module, model_format)
    return ModelSpec(
        format=stored,
        file=FILES[stored],
        torch=torch.__version__.split("+")[0],
        import_path=import_path,
        arguments=arguments or {},
        # Models of other frameworks find tensors by their names.
        takes=usual if versions or takes is None else takes,
        versions=versions,
    )


def _manifest(**fields: Any) -> Manifest:
    try:
        return Manifest(**fields)
    except ValidationError as error:
        reasons = "; ".join(one["msg"] for one in error.errors(include_url=False))
        msg = f"{reasons.removeprefix('Value error, ')}. Nothing was written."
        raise ReleaseError(msg) from error


def _must_be_free(folder: Path) -> None:
    if folder.exists() and any(folder.iterdir()) and not (folder / MANIFEST).exists():
        msg = f"{folder} is not empty and holds no release: nothing was written there"
        raise ReleaseError(msg)


def _sealed(post: PostProcessing) -> PostProcessing:
    """The same stages, each function with the digest of its source."""
    stages = tuple(
        stage.model_copy(update={"sha256": source_digest(stage.path)})
        if isinstance(stage, Python)
        else stage
        for stage in post.stages
    )
    return post.model_copy(update={"stages": stages})


def _write(
    folder: Path, module: torch.nn.Module, rows: InputRows, manifest: Manifest
) -> None:
    """Write all files beside the folder, prove what they say, and put them in its place."""
    spec = manifest.model
    if spec.takes == "name" and spec.format in ("pt2", "torchscript"):
        # What is stored takes them in their order, whatever they are named.
        module = ByPosition(module, tensors_of(rows, manifest.contract))
        spec = spec.model_copy(update={"takes": "position"})
        manifest = manifest.model_copy(update={"model": spec})
    within = manifest.golden.within("cpu")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".writing-") as tmp:
        made = Path(tmp) / folder.name
        made.mkdir()
        with _evaluating(module):
            outputs = _golden_outputs(module, rows, manifest)
            must_stand_alone(module, rows, manifest, outputs, within)
            example = tensors_of(rows, manifest.contract)
            save_module(module, example, made, manifest)
        save_golden(made / GOLDEN, rows, outputs)
        files = {
            p.name: FileEntry(size=p.stat().st_size, sha256=sha256_of(p))
            for p in sorted(made.iterdir())
        }
        shown = manifest.model_copy(update={"files": files}).model_dump(mode="json")
        text = json.dumps(shown, indent=2, sort_keys=True)
        (made / MANIFEST).write_text(text + "\n", encoding="utf-8")
        written = load_module(open_release(made), torch.device("cpu"))
        if isinstance(module, ForeignModel):
            _must_say_the_same(written, module, rows, manifest, outputs)
        must_stand_alone(written, rows, manifest, outputs, within)
        if folder.exists():
            shutil.rmtree(folder)
        made.rename(folder)


def _must_say_the_same(
    written: torch.nn.Module,
    module: ForeignModel,
    rows: InputRows,
    manifest: Manifest,
    outputs: Outputs,
) -> None:
    """Refuse what is stored if it answers otherwise than the framework's own model."""
    found, within = ask(written, rows, manifest), manifest.golden.within("cpu")
    if off := first_unlike(found, outputs, manifest.contract, within):
        name, at = off
        msg = (
            f"stored as {module.format} it answers otherwise than the model itself: output "
            f"'{name}' of golden row {at} is {shown(found[name][at])}, and by the model "
            f"{shown(outputs[name][at])}; {within:g} is allowed. A night gives float32: "
            "train the model on columns of that type, or allow a larger tolerance."
        )
        raise ReleaseError(msg)


def _golden_rows(given: Any, contract: Contract) -> InputRows:
    """The golden rows, in memory that holds nothing else."""
    try:
        rows = rows_of(given, contract, "golden_inputs")
    except ReleaseError as error:
        msg = f"{error}. Nothing was written."
        raise ReleaseError(msg) from error
    if len(rows) < 2:
        msg = (
            f"golden_inputs has {len(rows)} rows, expected two or more: one row does not "
            "tell whether a model's answers depend on the rows beside it. Nothing was "
            "written."
        )
        raise ReleaseError(msg)
    return rows


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
    module: torch.nn.Module, rows: InputRows, manifest: Manifest
) -> Outputs:
    """What the module says of the golden rows, which must be what the contract says."""
    outputs = ask(module, rows, manifest)
    words = manifest.contract.vocabularies
    for output in manifest.contract.outputs:
        wrong = output.at_fault(outputs, words)
        if wrong is not None:
            row = int(np.flatnonzero(wrong)[0])
            msg = (
                f"{int(wrong.sum())} of {len(rows)} golden rows are not as declared: of "
                f"row {row} {output.why(outputs, row, words)}"
            )
            if isinstance(output, Output):
                low, high = output.bounds
                msg += f"; the contract declares {low:g} to {high:g}"
            raise ReleaseError(msg)
    return outputs


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
