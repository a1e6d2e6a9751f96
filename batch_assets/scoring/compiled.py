"""A release as compiled code: made once, and kept by all that the code depends on.

It is a cache: what does not hash as recorded is made again, and whatever is loaded has
to reproduce the release's golden batch like any other code. It knows no row.
"""

import hashlib
import io
import json
import logging
import re
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from filelock import FileLock

from batch_assets.errors import ConfigError, ReleaseError
from batch_assets.models.columns import quoted
from batch_assets.models.contract import FEATURES
from batch_assets.models.formats import golden_batch, load_module
from batch_assets.models.outputs import given_columns
from batch_assets.models.post import named
from batch_assets.models.release import Manifest, Release
from batch_assets.models.tensors import call
from batch_assets.scoring.device import AUTO_BATCH_ROWS, Device
from batch_assets.scoring.native import (
    LEAST_ROWS,
    MOST_ROWS,
    NativeModule,
    must_be_written_for,
)
from batch_assets.scoring.native_proof import prove_native
from batch_assets.scoring.precision import casting
from batch_assets.storage import write_whole

# Of torch._inductor.config. A worker is one thread, and so is its code; a pool of
# compiling processes would outlive the compiling. A release never changes, so on a CPU
# its weights are laid out for the matrix product once, which then ends in the activation:
# 1.77 us a row against 1.94, of an MLP 64-256-256-3 on an EPYC core in batches of 1,024
# rows (2.20 eagerly).
OPTIONS: dict[str, Any] = {"cpp.threads": 1, "compile_threads": 1}
# How it is compiled otherwise, and what the compiled function takes and gives; another
# number is another cache.
LAYOUT = 4
# Where compiled code lies under a root.
COMPILED = "compiled"

log = logging.getLogger(__name__)


def compiled_module(release: Release, device: Device, folder: Path) -> NativeModule:
    """Load the release's module as compiled code for a device, compiled if need be.

    One file serves batches of all sizes: a batch that is halved when memory runs out
    must not wait for a compiler, and a process that goes on in a scorer's place has to
    give its bits.

    Args:
        release: opened by the registry, so its bytes are verified.
        device: where to run, and in what precision.
        folder: `<root>/compiled`.

    Raises:
        ConfigError: there is no C++ compiler, the batches are too large, or torch is
            another than compiled code is called through.
        ReleaseError: the release is no `.pt2`, or can't be compiled.
    """
    must_be_written_for(torch.__version__)
    if release.manifest.model.format != "pt2":
        # The class behind weights is not part of the digest, so no cache can go by it.
        msg = (
            f"release {release.name} {release.short} is stored as "
            f"{release.manifest.model.format}: only a .pt2 can be compiled. Nothing was "
            "scored. Set compile to false, or write a model of torch as pt2."
        )
        raise ReleaseError(msg)
    if release.contract.inputs:
        msg = (
            f"release {release.name} {release.short} takes "
            f"{quoted([one.name for one in release.contract.inputs])} beside its features: "
            "only a model of one matrix can be compiled. Nothing was scored. Set compile "
            "to false."
        )
        raise ReleaseError(msg)
    if device.batch_rows > MOST_ROWS:
        msg = (
            f"batch_rows is {device.batch_rows:,}, but compiled code takes at most "
            f"{MOST_ROWS:,} rows at once. Set a smaller batch_rows."
        )
        raise ConfigError(msg)
    path = _path(folder, release, device)
    path.parent.mkdir(parents=True, exist_ok=True)
    # One process compiles, and others wait for it.
    with FileLock(path.with_suffix(".lock")):
        package = _whole(path) or _compile(release, device, path)
    # Not the file, which may be another by now: these bytes were hashed.
    return NativeModule(io.BytesIO(package), device.torch)


def _path(folder: Path, release: Release, device: Device) -> Path:
    """Where the code for a release on a device lies.

    The name says what a person asks for first; the mark at its end is of everything.
    """
    depends_on = {
        "release": release.digest,
        "device": device.label,
        "precision": device.precision,
        "torch": [torch.__version__, torch.version.git_version],
        # On CUDA too: what launches the kernels is compiled for this very CPU.
        "cpu": {k: str(v) for k, v in torch.cpu.get_capabilities().items()},
        "layout": [LAYOUT, LEAST_ROWS, MOST_ROWS, AUTO_BATCH_ROWS[device.kind]],
        "options": _options(device),
    }
    text = json.dumps(depends_on, sort_keys=True)
    mark = hashlib.sha256(text.encode()).hexdigest()[:12]
    label, version = (
        re.sub(r"[^a-z0-9.]+", "-", name.lower()).strip("-")
        for name in (device.label, torch.__version__)
    )
    name = f"{label}-torch-{version}-{device.precision}-{mark}.pt2"
    return folder / release.name / release.digest / name


def _record(path: Path) -> Path:
    """Where a file's digest is recorded, as `sha256sum` reads it."""
    return path.with_suffix(".sha256")


def _whole(path: Path) -> bytes | None:
    """The code, if there is any, and it hashes as recorded."""
    if not path.exists():
        return None
    record = _record(path)
    text = record.read_text(encoding="utf-8") if record.exists() else ""
    package = path.read_bytes()
    actual, expected = hashlib.sha256(package).hexdigest(), text.partition(" ")[0]
    if actual == expected:
        return package
    log.warning(
        "%s hashes to %s, %s was recorded: it was not loaded, and is made again",
        path,
        actual,
        expected or "nothing",
    )
    return None


def _compile(release: Release, device: Device, path: Path) -> bytes:
    """Compile a release, prove the code, put it and its digest in place, and return it."""
    log.info(
        "compiling %s %s for %s in %s, once: it may take minutes",
        release.name,
        release.short,
        device.name,
        device.precision,
    )
    begin = time.perf_counter()
    # Where nobody else puts another file in its place before it is called.
    with tempfile.TemporaryDirectory(prefix="batch-assets-compiling-") as folder:
        made = Path(folder) / "model.pt2"
        _package(release, device, made)
        golden, _ = golden_batch(release)
        prove_native(made, device.torch, np.asarray(golden.features))
        package = made.read_bytes()
    # The digest first: a run that dies between the two leaves a mismatch.
    record = f"{hashlib.sha256(package).hexdigest()}  {path.name}\n"
    write_whole(_record(path), record.encode())
    write_whole(path, package)
    log.info("compiled in %.0f s: %s", time.perf_counter() - begin, path)
    return package


def _package(release: Release, device: Device, path: Path) -> None:
    """Compile a release into a file.

    Raises:
        ReleaseError: it can't be compiled.
    """
    from torch._inductor import aoti_compile_and_package
    from torch._inductor.utils import fresh_cache

    _need_a_compiler()
    module = load_module(release, device.torch)
    try:
        # torch's own caches lie in /tmp and vouch for nothing: none of them is used.
        with (
            tempfile.TemporaryDirectory() as folder,
            fresh_cache(dir=folder, delete=False),
            # Nothing is frozen, and nobody told, where a gradient might be asked for.
            torch.no_grad(),
        ):
            aoti_compile_and_package(
                _exported(module, release.manifest, device),
                package_path=str(path),
                inductor_configs=_options(device),
            )
    # torch, Triton and the compiler can raise anything here.
    except Exception as error:
        msg = (
            f"release {release.name} {release.short} can't be compiled for "
            f"{device.name} in {device.precision} by torch {torch.__version__}: "
            f"{type(error).__name__}: {error}. Nothing was scored. Set compile to false "
            "to score it as it is."
        )
        raise ReleaseError(msg) from error


def _options(device: Device) -> dict[str, Any]:
    # What freezing makes of code for CUDA has met no device.
    return OPTIONS | {"freezing": device.kind == "cpu"}


def _exported(
    module: torch.nn.Module, manifest: Manifest, device: Device
) -> torch.export.ExportedProgram:
    """What is compiled: from packed features to what the model gives."""
    features = len(manifest.contract.features)
    rows = AUTO_BATCH_ROWS[device.kind]
    example = torch.zeros(features, rows, device=device.torch)
    dynamic = {1: torch.export.Dim("rows", min=LEAST_ROWS, max=MOST_ROWS)}
    # As it is run: a constant of the model can't be traced otherwise.
    with torch.inference_mode():
        return torch.export.export(
            _Packed(module, manifest, device),
            (example,),
            dynamic_shapes=(dynamic,),
        )


class _Packed(torch.nn.Module):
    """A release's module as the scorer uses it: packed features, precision, columns."""

    def __init__(
        self, module: torch.nn.Module, manifest: Manifest, device: Device
    ) -> None:
        super().__init__()
        self.module, self.manifest, self.device = module, manifest, device

    def forward(self, packed: torch.Tensor) -> tuple[torch.Tensor, ...]:
        with casting(self.device):
            tensors = {FEATURES: packed.T}
            result = call(self.module, tensors, self.manifest.model.takes)
        if self.manifest.post:
            # The stages come after it, as after any other.
            return tuple(named(result, self.manifest.post.gives, "the model").values())
        # As given: whether a value fits its declared type is not known before it runs.
        return tuple(given_columns(result, self.manifest.contract, packed.shape[1]))


def _need_a_compiler() -> None:
    from torch._inductor.cpp_builder import get_cpp_compiler
    from torch._inductor.exc import InvalidCxxCompiler

    try:
        get_cpp_compiler()
    except InvalidCxxCompiler as error:
        msg = (
            "compile was asked for, but there is no C++ compiler here: $CXX or g++ was "
            "expected. Nothing was scored. Install one (apt-get install g++), or set "
            "compile to false."
        )
        raise ConfigError(msg) from error
