"""A release: an immutable model, named by the sha256 of its content.

A release is a folder with `release.json` and the files that it lists with their sizes
and sha256. The digest of `release.json` is the digest of the release, so one changed
bit anywhere is another release. Nothing here hands a byte to torch: `open_release`
re-hashes every file first, `formats` turns them into a module after that. It knows
nothing of approvals.
"""

import hashlib
import json
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from pydantic import Field, ValidationError

from batch_assets.errors import TamperedReleaseError, UnknownReleaseError
from batch_assets.models.contract import Contract, Name, Strict
from batch_assets.models.reference import Reference, reference_of

if TYPE_CHECKING:
    import torch

MANIFEST = "release.json"
GOLDEN = "golden.safetensors"


class FileEntry(Strict):
    """The size in bytes and the sha256 of one file of a release."""

    size: int
    sha256: str


class ModelSpec(Strict):
    """How the model is stored.

    `pt2` is a `torch.export` archive; `safetensors` holds weights for the class that
    `import_path` names (`package.module:Class`), built with `arguments`; `torchscript`
    is the legacy format. `torch` is the version that wrote it.
    """

    format: Literal["pt2", "safetensors", "torchscript"]
    file: str
    torch: str
    import_path: str | None = None
    arguments: dict[str, Any] = Field(default_factory=dict)


class Golden(Strict):
    """Rows with their outputs that the loaded model must reproduce.

    The tolerance is absolute and relative at once, per kind of device.
    """

    file: str = GOLDEN
    rows: int
    tolerance: dict[str, float]


class Manifest(Strict):
    """What `release.json` holds."""

    version: Literal[1] = 1
    name: Name
    model: ModelSpec
    contract: Contract
    golden: Golden
    reference: dict[str, Reference]
    files: dict[str, FileEntry]
    about: dict[str, Any] = Field(default_factory=dict)


@dataclass(frozen=True)
class Release:
    """A release on disk whose bytes were those of its digest when it was opened."""

    folder: Path
    digest: str
    manifest: Manifest

    @property
    def name(self) -> str:
        return self.manifest.name

    @property
    def contract(self) -> Contract:
        return self.manifest.contract

    @property
    def short(self) -> str:
        """The first 12 characters of the digest, as people read it."""
        return self.digest[:12]


def open_release(folder: Path, digest: str | None = None) -> Release:
    """Read a release and re-hash every file of it.

    Args:
        folder: the release's folder.
        digest: the digest that it must have; the folder's own if left out.

    Raises:
        UnknownReleaseError: there is no release in the folder.
        TamperedReleaseError: a file is missing, extra, truncated or altered.
    """
    path = folder / MANIFEST
    if not path.is_file():
        msg = f"no release at {folder}: {MANIFEST} is not there"
        raise UnknownReleaseError(msg)
    data = path.read_bytes()
    found = hashlib.sha256(data).hexdigest()
    if digest is not None and found != digest:
        raise _tampered(folder, f"{MANIFEST} hashes to {found}, expected {digest}")
    try:
        manifest = Manifest.model_validate_json(data)
    except ValidationError as error:
        raise _tampered(folder, f"{MANIFEST} can't be read: {error}") from error
    there = {p.name for p in folder.iterdir()} - {MANIFEST}
    if there != set(manifest.files):
        missing = sorted(set(manifest.files) - there)
        extra = sorted(there - set(manifest.files))
        raise _tampered(folder, f"files missing: {missing}, extra: {extra}")
    for name, entry in manifest.files.items():
        size = (folder / name).stat().st_size
        if size != entry.size:
            raise _tampered(folder, f"{name} has {size} bytes, expected {entry.size}")
        sha = sha256_of(folder / name)
        if sha != entry.sha256:
            raise _tampered(folder, f"{name} hashes to {sha}, expected {entry.sha256}")
    return Release(folder, found, manifest)


def write_release(
    folder: Path,
    *,
    name: str,
    module: "torch.nn.Module",
    contract: Contract,
    golden_inputs: "torch.Tensor",
    reference: dict[str, np.ndarray],
    reference_days: np.ndarray | None = None,
    about: dict[str, Any] | None = None,
    model_format: Literal["pt2", "safetensors", "torchscript"] = "pt2",
    import_path: str | None = None,
    arguments: dict[str, Any] | None = None,
    tolerance: dict[str, float] | None = None,
) -> Release:
    """Write a release folder from a trained module.

    Args:
        folder: where to write; replaced if it is there.
        name: the model's name.
        module: takes float32 (n, features), gives (n, outputs) or a tuple of columns.
        contract: what the module expects and gives.
        golden_inputs: float32 (rows, features); their outputs are computed here.
        reference: each output's values on the data that the model is judged by.
        reference_days: the day of each of these values, in any form.
        about: anything worth keeping: training days, metrics, authors.
        model_format: how to store the module.
        import_path: `package.module:Class`, for safetensors.
        arguments: what the class is built with, for safetensors.
        tolerance: how far the golden outputs may be off, per kind of device.

    Returns:
        The release, opened and verified.
    """
    import torch
    from safetensors.torch import save_file

    from batch_assets.models.formats import columns_of, save_module

    module = module.eval()
    # A strided example would be written into the exported graph as a demand.
    golden_inputs = golden_inputs.contiguous()
    with torch.inference_mode():
        outputs = columns_of(module(golden_inputs), contract)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".writing-") as tmp:
        made = Path(tmp) / folder.name
        made.mkdir()
        golden = {"inputs": golden_inputs}
        golden |= {f"output.{k}": v.contiguous() for k, v in outputs.items()}
        save_file(golden, made / GOLDEN)
        # safetensors writes for its owner alone.
        (made / GOLDEN).chmod(0o644)
        file = save_module(module, golden_inputs, made, model_format)
        manifest = Manifest(
            name=name,
            model=ModelSpec(
                format=model_format,
                file=file,
                torch=torch.__version__.split("+")[0],
                import_path=import_path,
                arguments=arguments or {},
            ),
            contract=contract,
            golden=Golden(
                rows=len(golden_inputs),
                tolerance=tolerance or {"cpu": 1e-5, "cuda": 1e-3},
            ),
            reference={
                k: reference_of(v, reference_days) for k, v in reference.items()
            },
            files={
                p.name: FileEntry(size=p.stat().st_size, sha256=sha256_of(p))
                for p in sorted(made.iterdir())
            },
            about=about or {},
        )
        text = json.dumps(manifest.model_dump(mode="json"), indent=2, sort_keys=True)
        (made / MANIFEST).write_text(text + "\n", encoding="utf-8")
        if folder.exists():
            shutil.rmtree(folder)
        made.rename(folder)
    return open_release(folder)


def sha256_of(path: Path) -> str:
    """The sha256 of a file, as hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _tampered(folder: Path, why: str) -> TamperedReleaseError:
    return TamperedReleaseError(
        f"the release at {folder} is not what was registered: {why}. It was not "
        "loaded. Remove the folder and add the release again from where it was made."
    )
