"""Write a release from a trained module. It approves nothing.

Module and file are asked the golden rows together, again, in reverse order and alone: a
model whose answers depend on that is refused.
"""

import json
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

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
from batch_assets.models.given_rows import rows_of
from batch_assets.models.input_rows import InputRows
from batch_assets.models.likeness import first_unlike
from batch_assets.models.output_specs import Output
from batch_assets.models.post import source_digest
from batch_assets.models.post_specs import PostProcessing, Python
from batch_assets.models.profiling import usual_bins
from batch_assets.models.reference import Reference, reference_of
from batch_assets.models.release import (
    GOLDEN,
    MANIFEST,
    TOKENIZER,
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
    given_by_name,
    must_stand_alone,
    shown,
)
from batch_assets.models.tensors import tensors_of, usual_takes
from batch_assets.models.token_probe import must_take_every_token
from batch_assets.models.tokenizing import Tokenizing, tokenised, with_tokenizer
from batch_assets.models.transformer import arguments_of, versions

# Of these a graph is stored, which takes its tensors in their order.
AS_GRAPHS = ("pt2", "torchscript")
# How far the golden outputs may be off, absolutely and relatively, per kind of device.
TOLERANCE = {"cpu": 1e-5, "cuda": 1e-3}
# So many usual rows are asked at once.
ASKED_ROWS = 4_096
# Of a file that is listed before it is written.
NOT_YET = FileEntry(size=0, sha256="")


def save_release(
    folder: Path,
    *,
    name: str,
    module: Any,
    contract: Contract,
    golden_inputs: Any,
    usual: InputRows | None = None,
    reference: dict[str, np.ndarray] | None = None,
    reference_days: Sequence[Any] | np.ndarray | None = None,
    about: dict[str, Any] | None = None,
    model_format: TorchFormat = "pt2",
    import_path: str | None = None,
    arguments: dict[str, Any] | None = None,
    tolerance: dict[str, float] | None = None,
    takes: Takes | None = None,
    post: PostProcessing | None = None,
    tokenizer: Any = None,
) -> Release:
    """Write a release folder from a trained module.

    Args:
        folder, name: where to write, replacing a release that is there, and of the model.
        module: of torch, or of a framework that `frameworks.registry.as_module` knows.
        contract: what the module expects and gives.
        golden_inputs: two rows or more, as `models.given_rows.rows_of` takes them.
        usual: rows that are asked for the values of each output that `reference` lacks.
        reference: each output's values on usual rows; without both, drift is not judged.
        reference_days: the day of each of these values or rows, in any form.
        about: anything worth keeping.
        model_format: of a module of torch, `transformers` of a `Transformer`; any other
            has one of its own.
        import_path, arguments: `package.module:Class`, and with what it is built.
        tolerance: of the golden outputs, per kind of device, or with its precision.
        takes: its tensors by `position` (features alone), `name`, or in one `dict`.
        post: the stages that turn what the module gives into the outputs.
        tokenizer: of its texts: path of a `tokenizer.json`, or `tokenizers.Tokenizer`.

    Raises:
        ReleaseError: with what is wrong; nothing was written.
    """
    _must_be_free(folder)
    contract, tokenizing = with_tokenizer(contract, tokenizer)
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
        about=about or {},
    )
    with _nothing_written(name):
        usually = _Usual(usual, reference_days)
        _write(folder, module, rows, manifest, usually, tokenizing)
    return open_release(folder)


class _Usual(NamedTuple):
    """Rows as they usually are, and the day of each."""

    rows: InputRows | None
    days: Any

    def described(
        self,
        module: torch.nn.Module,
        manifest: Manifest,
        tokenizing: Tokenizing | None,
    ) -> Manifest | None:
        """Ask a release for the profile, and the reference of outputs that have none yet."""
        if self.rows is None:
            return None
        missing = [
            output.name
            for output in manifest.contract.outputs
            if output.name not in manifest.reference
            and all(column.width is None for column in output.columns)
        ]
        pieces = (
            self.rows.take(np.arange(start, stop))
            for start, stop in pairwise(_steps(len(self.rows)))
        )
        parts = [ask(module, tokenised(one, tokenizing), manifest) for one in pieces]
        outputs = {
            column.name: np.concatenate([part[column.name] for part in parts])
            for column in manifest.contract.output_columns
        }
        references = {
            name: reference_of(name, outputs[name], self.days) for name in missing
        }
        profile = usual_bins(self.rows, outputs, manifest.contract)
        return manifest.model_copy(
            update={"reference": manifest.reference | references, "profile": profile}
        )


def _steps(rows: int) -> list[int]:
    return [*range(0, rows, ASKED_ROWS), rows]


def _stored(
    module: torch.nn.Module,
    contract: Contract,
    takes: Takes | None,
    model_format: TorchFormat,
    import_path: str | None,
    arguments: dict[str, Any] | None,
) -> ModelSpec:
    stored, wrote = stored_as(module, model_format)
    if model_format == "transformers":
        arguments, wrote = arguments_of(module), versions()
    return ModelSpec(
        format=stored,
        file=FILES[stored],
        torch=torch.__version__.split("+")[0],
        import_path=import_path,
        arguments=arguments or {},
        takes=_takes(module, contract, takes, foreign=isinstance(module, ForeignModel)),
        versions=wrote,
    )


def _takes(
    module: torch.nn.Module, contract: Contract, said: Takes | None, *, foreign: bool
) -> Takes:
    if foreign:
        # They find tensors by their names.
        return "name" if contract.inputs else "position"
    return said or usual_takes(module, contract)


def _manifest(*, model: ModelSpec, **fields: Any) -> Manifest:
    files = dict.fromkeys((*model.files, GOLDEN, TOKENIZER), NOT_YET)
    try:
        return Manifest(model=model, files=files, **fields)
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
    folder: Path,
    module: torch.nn.Module,
    golden: InputRows,
    manifest: Manifest,
    usual: _Usual,
    tokenizing: Tokenizing | None,
) -> None:
    """Write all files beside the folder, prove what they say, and put them in its place."""
    rows = tokenised(golden, tokenizing)
    with evaluating(module):
        must_take_every_token(module, rows, manifest, tokenizing)
    if manifest.model.format in AS_GRAPHS:
        module, manifest = _by_position(module, rows, manifest)
    within = manifest.golden.within("cpu")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".writing-") as tmp:
        made = Path(tmp) / folder.name
        made.mkdir()
        with evaluating(module):
            outputs = _golden_outputs(module, rows, manifest)
            must_stand_alone(module, rows, manifest, outputs, within)
            example = tensors_of(rows, manifest.contract)
            save_module(module, example, made, manifest)
        save_golden(made / GOLDEN, golden, outputs)
        if tokenizing:
            (made / TOKENIZER).write_bytes(tokenizing.data)
        files = {
            p.name: FileEntry(size=p.stat().st_size, sha256=sha256_of(p))
            for p in sorted(made.iterdir())
        }
        manifest = manifest.model_copy(update={"files": files})
        _write_manifest(made, manifest)
        written = load_module(open_release(made), torch.device("cpu"))
        if isinstance(module, ForeignModel):
            _must_say_the_same(written, module, rows, manifest, outputs)
        must_stand_alone(written, rows, manifest, outputs, within)
        if described := usual.described(written, manifest, tokenizing):
            _write_manifest(made, described)
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


def _write_manifest(folder: Path, manifest: Manifest) -> None:
    text = json.dumps(manifest.model_dump(mode="json"), indent=2, sort_keys=True)
    (folder / MANIFEST).write_text(text + "\n", encoding="utf-8")


def _by_position(
    module: torch.nn.Module, rows: InputRows, manifest: Manifest
) -> tuple[torch.nn.Module, Manifest]:
    """What is stored takes and gives tensors in their order, whatever they are named."""
    spec, contract = manifest.model, manifest.contract
    with evaluating(module):
        gives = given_by_name(module, rows, manifest)
    if spec.takes == "position" and gives is None:
        return module, manifest
    names = tensors_of(rows, contract)
    wrapped = ByPosition(module, spec.takes, names, gives)
    spec = spec.model_copy(update={"takes": "position"})
    return wrapped, manifest.model_copy(update={"model": spec})


def _golden_rows(given: Any, contract: Contract) -> InputRows:
    """The golden rows, in memory that holds nothing else."""
    try:
        rows = (
            given
            if isinstance(given, InputRows)
            else rows_of(given, contract, "golden_inputs")
        )
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
def evaluating(module: torch.nn.Module) -> Iterator[None]:
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
