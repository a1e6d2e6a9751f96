"""Releases that were changed by hand, and are whole all the same.

As one from elsewhere may be: `write_release` has not looked at them.
"""

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from batch_assets.models.release import (
    GOLDEN,
    MANIFEST,
    FileEntry,
    Release,
    open_release,
    sha256_of,
)


def altered(release: Release, folder: Path, **outputs: torch.Tensor) -> Release:
    """A copy whose golden outputs are others, hashed anew: whole, and wrong."""
    shutil.copytree(release.folder, folder)
    golden = load_file(folder / GOLDEN)
    save_file(golden | {f"output.{k}": v for k, v in outputs.items()}, folder / GOLDEN)
    return rehashed(folder)


def rehashed(folder: Path, **changes: Any) -> Release:
    manifest = json.loads((folder / MANIFEST).read_bytes()) | changes
    for name, entry in manifest["files"].items():
        entry["size"] = (folder / name).stat().st_size
        entry["sha256"] = sha256_of(folder / name)
    text = json.dumps(manifest, indent=2, sort_keys=True) + "\n"
    (folder / MANIFEST).write_text(text, encoding="utf-8")
    return open_release(folder, hashlib.sha256(text.encode()).hexdigest())


def make_by_hand(
    release: Release, folder: Path, change: Callable[[dict[str, Any]], Any]
) -> Path:
    """A copy of a release whose manifest says something else, and is whole all the same.

    As one from elsewhere may be: `write_release` has not looked at it.
    """
    shutil.copytree(release.folder, folder)
    path = folder / MANIFEST
    manifest = json.loads(path.read_bytes())
    change(manifest)
    manifest["files"] = {
        name: {
            "size": (folder / name).stat().st_size,
            "sha256": sha256_of(folder / name),
        }
        for name in manifest["files"]
    }
    path.write_text(json.dumps(manifest), encoding="utf-8")
    return folder


def relisted(release: Release, folder: Path) -> Release:
    """A release of the files in a folder, whatever they hold, and not of its digest."""
    files = {
        path.name: FileEntry(size=path.stat().st_size, sha256=sha256_of(path))
        for path in folder.iterdir()
    }
    manifest = release.manifest.model_copy(update={"files": files})
    return Release(folder, "0" * 64, manifest)
