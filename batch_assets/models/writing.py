"""Write a release from a trained module. It approves nothing."""

import json
import shutil
import tempfile
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from safetensors.torch import save_file

from batch_assets.errors import ReleaseError
from batch_assets.models.contract import Contract
from batch_assets.models.formats import columns_of, save_module
from batch_assets.models.reference import reference_of
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


def write_release(
    folder: Path,
    *,
    name: str,
    module: torch.nn.Module,
    contract: Contract,
    golden_inputs: torch.Tensor,
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
        folder: where to write; a release that is there is replaced.
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
        tolerance: how far the golden outputs may be off, per kind of device, or per
            kind and precision (`cpu bfloat16`).

    Returns:
        The release, opened and verified.
    """
    if folder.exists() and any(folder.iterdir()) and not (folder / MANIFEST).exists():
        msg = f"{folder} is not empty and holds no release: nothing was written there"
        raise ReleaseError(msg)
    if not isinstance(golden_inputs, torch.Tensor):
        golden_inputs = torch.as_tensor(golden_inputs)
    golden_inputs = golden_inputs.to(torch.float32)
    module = module.eval()
    # A strided example would be written into the exported graph as a demand.
    golden_inputs = golden_inputs.contiguous()
    with torch.inference_mode():
        outputs = columns_of(module(golden_inputs), contract, len(golden_inputs))
    for output in contract.outputs:
        values = outputs[output.name].double()
        low = -torch.inf if output.min is None else output.min
        high = torch.inf if output.max is None else output.max
        if not ((values >= low) & (values <= high) & values.isfinite()).all():
            msg = (
                f"output '{output.name}' of the golden rows is between {values.min():g} "
                f"and {values.max():g}; the contract declares {low:g} to {high:g}"
            )
            raise ReleaseError(msg)
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
