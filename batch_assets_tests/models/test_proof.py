"""A release is added and approved once a process of its own has proved it."""

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from batch_assets.errors import (
    GoldenBatchError,
    ReleaseError,
    TamperedReleaseError,
    UnknownReleaseError,
)
from batch_assets.models import proof, registry
from batch_assets.models.registry import Registry
from batch_assets.models.release import GOLDEN, Release
from batch_assets_tests.commands import invoke
from batch_assets_tests.releases_by_hand import altered, make_by_hand
from batch_assets_tests.toys import (
    NAME,
    ToyRisk,
    write_toy_release,
    write_toy_release_as,
)
from batch_assets_tests.trained import write_trained

OURS = "batch_assets_tests.models.test_proof:"


class OverTheBatch(ToyRisk):
    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return super().forward(features - torch.nan_to_num(features).mean(0) * 1e-3)


class LeavesAMark(ToyRisk):
    def __init__(self, *given: Any, **named: Any) -> None:
        super().__init__(*given, **named)
        Path(os.environ["MARK"]).touch()
        raise OSError


class Deadly(ToyRisk):
    def forward(self, features: torch.Tensor) -> torch.Tensor:
        os.abort()


def approve(root: Path, folder: Path, channel: Any = "batch") -> str:
    registry = Registry(root)
    release = registry.add(folder)
    registry.approve(NAME, release.digest, why="the test", channel=channel)
    return release.digest


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Release:
    """The toy as weights. Never change its folder: copy it."""
    return write_toy_release_as("safetensors", tmp_path_factory.mktemp("w") / "toy")


def class_is(path: str) -> Any:
    return lambda manifest: manifest["model"].update(import_path=path)


@pytest.mark.parametrize(
    ("channel", "path", "error"),
    [
        ("batch", "nowhere:Model", "ModuleNotFoundError: No module named 'nowhere'"),
        ("online", "builtins:nothing", "AttributeError"),
        ("batch", OURS + "OverTheBatch", "does not reproduce its golden batch"),
        ("batch", OURS + "Deadly", "its process ended with signal 6"),
    ],
)
def test_a_release_that_nobody_could_use_is_not_approved(
    root: Path, tmp_path: Path, weights: Release, channel: Any, path: str, error: str
) -> None:
    folder = make_by_hand(weights, tmp_path / "hand", class_is(path))

    with pytest.raises(ReleaseError, match=error) as refused:
        approve(root, folder, channel)

    assert "release toy" in str(refused.value)
    assert "was not approved" in str(refused.value)
    assert Registry(root).events(NAME) == []


def test_a_release_by_hand_whose_answers_depend_on_the_batch_is_not_approved(
    root: Path, tmp_path: Path, weights: Release
) -> None:
    folder = make_by_hand(weights, tmp_path / "hand", class_is(OURS + "OverTheBatch"))
    golden = load_file(folder / GOLDEN)
    said = OverTheBatch()(golden["inputs"])
    save_file(golden | {"output.risk": said}, folder / GOLDEN)
    folder = make_by_hand_again(folder, tmp_path / "again")

    with pytest.raises(ReleaseError, match=r"depends on more than the row: .* alone"):
        approve(root, folder)


def make_by_hand_again(folder: Path, to: Path) -> Path:
    """The same files, hashed anew."""
    import json

    from batch_assets.models.release import MANIFEST, Manifest

    manifest = Manifest.model_validate(json.loads((folder / MANIFEST).read_bytes()))
    return make_by_hand(Release(folder, "", manifest), to, lambda manifest: None)


def test_golden_outputs_that_are_off_are_not_approved(
    root: Path, tmp_path: Path
) -> None:
    made = write_toy_release(tmp_path / "toy")
    golden = load_file(made.folder / GOLDEN)
    off = golden["output.risk"].clone()
    off[3] += 0.01
    save_file(golden | {"output.risk": off}, made.folder / GOLDEN)
    folder = make_by_hand(made, tmp_path / "hand", lambda manifest: None)

    with pytest.raises(GoldenBatchError, match=r"'risk' of row 3 is .*, recorded is"):
        approve(root, folder)


@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")
def test_a_release_of_the_legacy_format_is_approved(root: Path, tmp_path: Path) -> None:
    made = write_toy_release_as("torchscript", tmp_path / "toy")

    assert approve(root, made.folder) == Registry(root).resolve(NAME).digest


def test_a_class_in_the_folder_of_the_project_is_found_on_the_command_line(
    tmp_path: Path, weights: Release
) -> None:
    project = tmp_path / "project"
    project.mkdir()
    (project / "dagster.yaml").touch()
    (project / "own_models.py").write_text(
        "from batch_assets_tests.toys import ToyRisk as Own\n", encoding="utf-8"
    )
    folder = make_by_hand(weights, tmp_path / "hand", class_is("own_models:Own"))
    digest = Registry(project / "data").add(folder).digest

    # As the console script does, which has no folder of its own on its path.
    run = "import sys; from batch_assets.cli.main import main; main()"
    arguments = ["release", "approve", NAME, digest, "--why", "the test"]
    done = subprocess.run(
        [sys.executable, "-P", "-c", run, *arguments],
        cwd=project,
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 0, done.stderr
    assert Registry(project / "data").resolve(NAME).digest == digest


def test_what_is_proved_once_is_not_proved_again_in_this_process(
    root: Path, tmp_path: Path
) -> None:
    made = write_toy_release(tmp_path / "toy", about={"author": "of this test"})
    assert made.digest not in proof._proved
    approve(root, made.folder)
    assert made.digest in proof._proved


def is_empty(root: Path) -> bool:
    return not [path for path in root.rglob("*") if path.is_file()]


def test_a_release_whose_golden_answers_are_wrong_is_not_added_by_the_command(
    root: Path, tmp_path: Path, weights: Release, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BATCH_ASSETS_ROOT", str(root))
    golden = load_file(weights.folder / GOLDEN)
    wrong = altered(weights, tmp_path / "wrong", risk=golden["output.risk"] * 0.5)

    said = invoke("release", "add", NAME, str(wrong.folder), fails=True)

    assert f"release toy {wrong.short} was not added, because a process of its" in said
    assert "it does not reproduce its golden batch: output 'risk' of row 0" in said
    assert is_empty(root)
    with pytest.raises(UnknownReleaseError):
        Registry(root).digests(NAME)


@pytest.mark.parametrize("name", ["model.safetensors", GOLDEN])
def test_a_file_that_changes_between_the_hashing_and_the_proof_is_refused(
    root: Path,
    tmp_path: Path,
    weights: Release,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
) -> None:
    folder = make_by_hand(weights, tmp_path / "hand", lambda manifest: None)
    proves = registry.must_prove

    def changed_before(release: Release, act: Any) -> None:
        data = bytearray((folder / name).read_bytes())
        data[-1] ^= 1
        (folder / name).write_bytes(data)
        # As in a process that has never seen the release.
        monkeypatch.setattr(proof, "_proved", set())
        proves(release, act)

    monkeypatch.setattr(registry, "must_prove", changed_before)
    with pytest.raises(TamperedReleaseError, match=f"was not added.*{name} hashes to"):
        Registry(root).add(folder, prove=True)

    assert is_empty(root)


def test_a_class_that_is_put_in_after_the_hashing_never_runs(
    root: Path, tmp_path: Path, weights: Release, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A whole release, with another digest, lies there when the proof begins."""
    folder = make_by_hand(weights, tmp_path / "hand", lambda manifest: None)
    other = make_by_hand(weights, tmp_path / "o", class_is(OURS + "LeavesAMark"))
    mark = tmp_path / "ran"
    monkeypatch.setenv("MARK", str(mark))
    with pytest.raises(ReleaseError):  # It would run, if it were asked for.
        Registry(root).add(other, prove=True)
    assert mark.exists()
    mark.unlink()
    proves = registry.must_prove

    def replaced_before(release: Release, act: Any) -> None:
        shutil.rmtree(folder)
        shutil.copytree(other, folder)
        monkeypatch.setattr(proof, "_proved", set())
        proves(release, act)

    monkeypatch.setattr(registry, "must_prove", replaced_before)
    with pytest.raises(TamperedReleaseError, match="release.json hashes to"):
        Registry(root).add(folder, prove=True)

    assert not mark.exists()
    assert is_empty(root)


def test_a_framework_that_is_missing_is_named_with_what_installs_it(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = write_trained(tmp_path / "trees", "catboost")
    monkeypatch.setattr(proof, "_proved", set())  # Another test may have proved it.
    # A package of its name that can't be imported stands before it on the path.
    (tmp_path / "absent").mkdir()
    (tmp_path / "absent" / "catboost.py").write_text(
        "raise ImportError('no catboost here')\n", encoding="utf-8"
    )
    monkeypatch.syspath_prepend(tmp_path / "absent")

    with pytest.raises(ReleaseError, match=r"pip install 'batch-assets\[catboost\]'"):
        Registry(root).add(made.folder, prove=True)
    assert is_empty(root)

    monkeypatch.undo()
    assert Registry(root).add(made.folder, prove=True).digest == made.digest


def test_in_python_a_release_is_added_without_a_proof_and_proved_for_its_approval(
    root: Path, tmp_path: Path, weights: Release
) -> None:
    golden = load_file(weights.folder / GOLDEN)
    wrong = altered(weights, tmp_path / "wrong", risk=golden["output.risk"] * 0.25)

    assert Registry(root).add(wrong.folder).digest == wrong.digest
    with pytest.raises(GoldenBatchError, match="was not approved"):
        Registry(root).approve(NAME, wrong.digest, why="the test")
