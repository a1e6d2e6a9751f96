"""Prove a release in a process of its own: it loads, and says what it is recorded to say.

What loads here may still not load elsewhere: a class that was defined by hand, a module
that lies in a folder nobody else looks into. And what crashes takes down no one. That
process opens the release by its digest, so it runs nothing of a file that was changed
since. The half that asks calls no torch.
"""

import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Literal

from batch_assets.errors import (
    BatchAssetsError,
    GoldenBatchError,
    ReleaseError,
    TamperedReleaseError,
)
from batch_assets.models.release import Release, open_release
from batch_assets.root import project_folder

# To import torch, hash the release, load it, and score its golden rows a few times.
SECONDS = 600.0
# Not `multiprocessing.Process`: that would run the caller's main module again.
BOOT = (
    "import sys; sys.path[:] = sys.argv[4:]; "
    f"from {__name__} import answer; answer(*sys.argv[1:4])"
)
# A release never changes, so each process proves it once.
_proved: set[str] = set()
# What is refused without a proof.
Act = Literal["added", "approved"]
# Refusals that keep their kind on the way from that process.
KINDS = {kind.__name__: kind for kind in (GoldenBatchError, TamperedReleaseError)}


def must_prove(release: Release, act: Act = "approved") -> None:
    """Refuse a release that can't be loaded, or does not say what it is recorded to say.

    Its golden rows are asked together, in another order, alone and again, on the CPU.

    Raises:
        GoldenBatchError: an output is not the recorded one.
        TamperedReleaseError: a file is another than when it was opened.
        ReleaseError: it can't be loaded, its framework is not installed, or its answers
            depend on the rows beside.
    """
    if release.digest in _proved:
        return
    # A project's own classes are found in its folder, as its nights find them.
    path = list(dict.fromkeys([*sys.path, str(project_folder())]))
    with tempfile.TemporaryDirectory() as folder:
        answer_file = Path(folder) / "said"
        order = [str(release.folder), release.digest, str(answer_file)]
        try:
            done = subprocess.run(
                [sys.executable, "-P", "-c", BOOT, *order, *path],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=SECONDS,
                check=False,
            )
        except subprocess.TimeoutExpired:
            why = f"it took more than {SECONDS:.0f} s"
            raise _refused(release, act, why) from None
        if answer_file.exists():
            kind, _, why = answer_file.read_text(encoding="utf-8").partition(": ")
            raise _refused(release, act, why, kind)
    if done.returncode:
        words = done.stderr.decode(errors="replace").strip().splitlines()
        ended = (
            f"signal {-done.returncode}"
            if done.returncode < 0
            else f"exit code {done.returncode}"
        )
        why = f"its process ended with {ended}: {words[-1:]}"
        raise _refused(release, act, why)
    _proved.add(release.digest)


def answer(folder: str, digest: str, answer_file: str) -> None:
    """Be the process: prove a release, and write down why not, if not."""
    code = 0
    try:
        _prove(open_release(Path(folder), digest))
    # It goes to the parent as text: not every exception survives the way.
    except Exception as error:  # noqa: BLE001
        own = isinstance(error, BatchAssetsError)
        text = str(error) if own else f"{type(error).__name__}: {error}"
        Path(answer_file).write_text(
            f"{type(error).__name__}: {text}", encoding="utf-8"
        )
        code = 1
    # A user's class may have left threads behind, which nobody waits for.
    sys.stderr.flush()
    os._exit(code)


def _prove(release: Release) -> None:
    import torch

    from batch_assets.models.formats import golden_batch, load_module
    from batch_assets.models.likeness import first_unlike
    from batch_assets.models.row_independence import (
        ask,
        must_stand_alone,
        shown,
    )
    from batch_assets.models.tokenizing import Tokenizing, tokenised

    module = load_module(release, torch.device("cpu"))
    golden, outputs = golden_batch(release)
    rows = tokenised(golden, Tokenizing.of(release))
    recorded = {name: column.numpy() for name, column in outputs.items()}
    tolerance = release.manifest.golden.within("cpu")
    replayed = ask(module, rows, release.manifest)
    if off := first_unlike(replayed, recorded, release.contract, tolerance):
        name, at = off
        msg = (
            f"it does not reproduce its golden batch: output '{name}' of row {at} is "
            f"{shown(replayed[name][at])}, recorded is {shown(recorded[name][at])}, and "
            f"{tolerance:g} is allowed. Write it again with write_release"
        )
        raise GoldenBatchError(msg)
    must_stand_alone(module, rows, release.manifest, replayed, tolerance)


def _refused(release: Release, act: Act, why: str, kind: str = "") -> ReleaseError:
    return KINDS.get(kind, ReleaseError)(
        f"release {release.name} {release.short} was not {act}, because a process of "
        f"its own could not prove it: {why}"
    )
