"""No code of a release runs before its digest is verified, whoever changes its files when.

Each attack writes a file that says so if it ever runs.
"""

import io
import json
import os
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from batch_assets.errors import (
    ReleaseError,
    TamperedReleaseError,
    UnknownReleaseError,
)
from batch_assets.models import formats
from batch_assets.models.formats import golden_batch, load_module
from batch_assets.models.registry import Registry
from batch_assets.models.release import GOLDEN, MANIFEST, Release, open_release
from batch_assets.scoring.device import find_device
from batch_assets.scoring.scorer import Scorer
from batch_assets_tests.releases_by_hand import make_by_hand
from batch_assets_tests.toys import NAME, ToyRisk, write_toy_release_as

CPU = torch.device("cpu")
FORMATS = ["pt2", "safetensors", "torchscript"]
pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")


class Attack:
    """Leaves a file if somebody unpickles it."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return os.mkdir, (str(self.mark),)


def attacked(release: Release, mark: Path) -> bytes:
    """The bytes of the release's model, with a pickle in it that runs when it is read."""
    path = release.folder / release.manifest.model.file
    if path.suffix == ".safetensors":
        # No pickle is in there: other weights are the attack.
        return path.read_bytes()[:-4] + b"\0\0\0\0"
    attack = io.BytesIO()
    with zipfile.ZipFile(path) as whole, zipfile.ZipFile(attack, "w") as changed:
        for name in whole.namelist():
            is_pickle = name.endswith((".pkl", ".pt"))
            data = pickle.dumps(Attack(mark)) if is_pickle else whole.read(name)
            changed.writestr(name, data)
    return attack.getvalue()


@pytest.fixture(params=FORMATS)
def release(request: pytest.FixtureRequest, tmp_path: Path) -> Release:
    return write_toy_release_as(request.param, tmp_path / "release")


def test_a_model_that_is_swapped_after_it_was_verified_is_never_loaded(
    release: Release, tmp_path: Path
) -> None:
    mark = tmp_path / "ran"
    path = release.folder / release.manifest.model.file
    opened = open_release(release.folder, release.digest)
    path.write_bytes(attacked(release, mark))

    with pytest.raises(TamperedReleaseError, match=r"model\.\w+ "):
        load_module(opened, CPU)
    with pytest.raises(TamperedReleaseError, match=r"model\.\w+ "):
        Scorer(opened, find_device("cpu"))

    assert not mark.exists()


def test_a_model_that_is_swapped_while_it_is_loaded_is_not_the_one_that_loads(
    release: Release, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the last look at its bytes and the first use of them nothing is opened."""
    path = release.folder / release.manifest.model.file
    attack = attacked(release, tmp_path / "ran")
    expected = load_module(release, CPU)(torch.ones(3, 4))
    loads = formats._checked

    def swapped(release: Release, load: Callable[[], torch.nn.Module]) -> object:
        path.write_bytes(attack)
        return loads(release, load)

    monkeypatch.setattr(formats, "_checked", swapped)
    given = load_module(release, CPU)(torch.ones(3, 4))

    assert torch.equal(given, expected)
    assert path.read_bytes() == attack
    assert not (tmp_path / "ran").exists()


def test_the_private_copy_is_this_users_alone_and_goes(toy_release: Release) -> None:
    with toy_release.private_copy("model.pt2") as folder:
        assert folder.stat().st_mode & 0o077 == 0
        assert [path.name for path in folder.iterdir()] == ["model.pt2"]
    assert not folder.exists()


def test_without_room_for_a_copy_nothing_is_loaded(
    toy_release: Release, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Release, "_copy", full)
    with pytest.raises(ReleaseError, match="No space left.*TMPDIR"):
        load_module(toy_release, CPU)


def test_golden_rows_that_are_swapped_are_refused(tmp_path: Path) -> None:
    release = write_toy_release_as("safetensors", tmp_path / "release")
    path = release.folder / GOLDEN
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(
        TamperedReleaseError, match=f"{GOLDEN} is not the file any more"
    ):
        golden_batch(release)


def test_what_replaced_a_file_is_not_read_to_its_end(tmp_path: Path) -> None:
    """A file of a terabyte, which takes no room on disk, is refused by its size."""
    release = write_toy_release_as("safetensors", tmp_path / "release")
    with (release.folder / "model.safetensors").open("ab") as file:
        file.truncate(1 << 40)
    for load in (
        lambda: load_module(release, CPU),
        lambda: release.read("model.safetensors"),
        lambda: open_release(release.folder, release.digest),
    ):
        with pytest.raises(TamperedReleaseError, match="has 1099511627776 bytes"):
            load()


class Shell:
    """Installed, and no model: what a release names is not called if it is this."""

    called: list[object] = []

    def __init__(self, **arguments: object) -> None:
        self.called.append(arguments)


@pytest.mark.parametrize(
    ("named", "arguments"),
    [
        (f"{__name__}:Shell", {"command": "anything"}),
        ("os:system", {"command": "exit 1"}),
        ("subprocess:Popen", {"args": ["false"]}),
        ("builtins:exec", {}),
    ],
)
def test_a_release_may_name_classes_of_torch_modules_and_nothing_else(
    tmp_path: Path, named: str, arguments: dict[str, object]
) -> None:
    made = write_toy_release_as("safetensors", tmp_path / "release")
    changes = {"import_path": named, "arguments": arguments}
    folder = make_by_hand(made, tmp_path / "hand", lambda m: m["model"].update(changes))

    with pytest.raises(ReleaseError, match=r"is no class of torch\.nn\.Module"):
        load_module(open_release(folder), CPU)

    assert Shell.called == []


def linked(path: Path, outside: Path) -> None:
    """The very bytes, but they lie elsewhere."""
    path.rename(outside)
    path.symlink_to(outside)


@pytest.mark.parametrize("name", [MANIFEST, GOLDEN, "model.pt2"])
def test_a_file_of_a_release_is_no_link_out_of_it(
    toy_release: Release, tmp_path: Path, name: str
) -> None:
    folder = make_by_hand(toy_release, tmp_path / "copy", lambda manifest: None)
    digest = open_release(folder).digest
    linked(folder / name, tmp_path / "outside")

    with pytest.raises(TamperedReleaseError, match=f"{name} is no file"):
        open_release(folder, digest)
    with pytest.raises(TamperedReleaseError, match=f"{name} is no file"):
        Registry(tmp_path / "root").add(folder)


def test_a_link_to_a_secret_file_does_not_show_what_is_in_it(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text('{"password": "hush-hush"}')
    folder = tmp_path / "release"
    folder.mkdir()
    (folder / MANIFEST).symlink_to(tmp_path / "secret")
    with pytest.raises(TamperedReleaseError) as refused:
        open_release(folder)
    assert "hush" not in str(refused.value)


def test_a_pipe_in_the_place_of_a_file_keeps_nobody_waiting(
    toy_release: Release, tmp_path: Path
) -> None:
    folder = make_by_hand(toy_release, tmp_path / "copy", lambda manifest: None)
    (folder / "model.pt2").unlink()
    os.mkfifo(folder / "model.pt2")
    with pytest.raises(TamperedReleaseError, match="is no file"):
        open_release(folder)
    (folder / MANIFEST).unlink()
    os.mkfifo(folder / MANIFEST)
    with pytest.raises(UnknownReleaseError):
        open_release(folder)


@pytest.mark.parametrize("name", ["../outside", "/etc/hostname", "..", ".", "", "a/b"])
def test_a_release_lists_no_path(
    toy_release: Release, tmp_path: Path, name: str
) -> None:
    (tmp_path / "outside").write_bytes(b"not of the release")
    folder = make_by_hand(toy_release, tmp_path / "copy", lambda manifest: None)
    manifest = json.loads((folder / MANIFEST).read_bytes())
    manifest["files"][name] = {"size": 18, "sha256": "0" * 64}
    manifest["model"]["file"] = name
    (folder / MANIFEST).write_text(json.dumps(manifest))
    with pytest.raises(TamperedReleaseError):
        open_release(folder)


@pytest.mark.parametrize("name", ["..", "../other", "/etc", "a/b", "", "toy\x00"])
def test_a_model_is_named_by_no_path(
    registry: Registry, root: Path, name: str, toy_release: Release
) -> None:
    """What a YAML or a command names may lie nowhere but below `<root>/models`."""
    (root / "other").mkdir()
    for asked in (
        lambda: registry.digests(name),
        lambda: registry.resolve(name),
        lambda: registry.verify(name, toy_release.digest),
        lambda: registry.revoke(name, toy_release.digest, why="an attack"),
        lambda: registry.approve(name, toy_release.digest, why="an attack"),
    ):
        with pytest.raises(UnknownReleaseError):
            asked()
    assert registry.resolve(NAME).digest == toy_release.digest
    assert sorted(path.name for path in root.iterdir()) == ["models", "other"]


def test_the_toy_that_is_attacked_works(release: Release) -> None:
    """Else none of these attacks would show anything."""
    assert torch.allclose(
        load_module(release, CPU)(torch.ones(3, 4)), ToyRisk()(torch.ones(3, 4))
    )
    with pytest.raises(Exception, match="."):
        torch.load(io.BytesIO(pickle.dumps(Attack(Path("x")))), weights_only=True)
