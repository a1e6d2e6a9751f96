"""Releases: named by their content, and refused when one bit of it is another."""

import hashlib
import json
import shutil
import struct
import zipfile
from pathlib import Path

import pytest
import torch

from batch_assets.errors import (
    ReleaseError,
    TamperedReleaseError,
    UnknownReleaseError,
)
from batch_assets.models.post_specs import PostProcessing, Temperature
from batch_assets.models.release import (
    GOLDEN,
    MANIFEST,
    Manifest,
    Release,
    open_release,
)
from batch_assets_tests.toys import (
    NAME,
    ToyRisk,
    make_contract,
    write_toy_release,
    write_toy_release_as,
)

FILES = [MANIFEST, GOLDEN, "model.pt2"]


@pytest.fixture
def copy(toy_release: Release, tmp_path: Path) -> Path:
    """A copy of the toy release that may be damaged."""
    return Path(shutil.copytree(toy_release.folder, tmp_path / "copy"))


def test_a_release_is_named_by_the_sha256_of_its_manifest(toy_release):
    manifest = (toy_release.folder / MANIFEST).read_bytes()

    assert toy_release.digest == hashlib.sha256(manifest).hexdigest()
    assert toy_release.short == toy_release.digest[:12]
    assert toy_release.name == NAME


def test_the_manifest_lists_every_other_file_with_size_and_sha256(toy_release):
    for name, entry in toy_release.manifest.files.items():
        data = (toy_release.folder / name).read_bytes()
        assert (entry.size, entry.sha256) == (
            len(data),
            hashlib.sha256(data).hexdigest(),
        )

    assert sorted(p.name for p in toy_release.folder.iterdir()) == sorted(FILES)
    assert sorted([*toy_release.manifest.files, MANIFEST]) == sorted(FILES)


@pytest.mark.parametrize("model_format", ["pt2", "safetensors"])
def test_a_release_written_twice_is_the_same_to_the_byte(tmp_path, model_format):
    one = write_toy_release_as(model_format, tmp_path / "here" / "one")
    other = write_toy_release_as(model_format, tmp_path / "there" / "other")

    assert one.digest == other.digest
    for path in one.folder.iterdir():
        assert path.read_bytes() == (other.folder / path.name).read_bytes()


def test_a_release_does_not_hold_where_its_source_lay(toy_release):
    with zipfile.ZipFile(toy_release.folder / "model.pt2") as archive:
        entries = [archive.read(name) for name in archive.namelist()]

    source = Path(__file__).parents[1].name.encode()
    assert not any(b"toys.py" in entry or source + b"/" in entry for entry in entries)


@pytest.mark.parametrize(
    "changes",
    [
        {"module": ToyRisk(scale=1.01)},
        {"about": {"author": "somebody else"}},
        {"tolerance": {"cpu": 1e-4}},
        {"name": "other"},
    ],
    ids=["weights", "about", "tolerance", "name"],
)
def test_another_content_is_another_release(tmp_path, changes):
    one = write_toy_release_as("safetensors", tmp_path / "one")
    other = write_toy_release_as("safetensors", tmp_path / "two", **changes)

    assert one.digest != other.digest


def test_another_number_of_a_stage_is_another_release(tmp_path):
    def digest(by: float) -> str:
        post = PostProcessing(
            gives=("risk",), stages=(Temperature(of="risk", by=by, into="cooler"),)
        )
        folder = tmp_path / f"by {by}"
        return write_toy_release_as("safetensors", folder, post=post).digest

    # What the model itself says is the same, and so is what is written of it.
    assert digest(1.0) == digest(1.0) != digest(1.5)
    assert digest(1.0) != write_toy_release_as("safetensors", tmp_path / "p").digest


def test_writing_over_a_release_replaces_it(tmp_path):
    write_toy_release(tmp_path / "toy")

    write_toy_release_as("safetensors", tmp_path / "toy")

    assert not (tmp_path / "toy" / "model.pt2").exists()
    assert [p.name for p in tmp_path.iterdir()] == ["toy"]


def test_a_folder_that_holds_something_else_is_left_alone(tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("precious", encoding="utf-8")

    with pytest.raises(ReleaseError, match="not empty and holds no release"):
        write_toy_release(tmp_path / "mine")

    assert [p.name for p in (tmp_path / "mine").iterdir()] == ["notes.txt"]


def test_golden_outputs_out_of_their_declared_range_are_refused(tmp_path):
    narrow = make_contract(outputs=[{"name": "risk", "min": 0, "max": 0.01}])

    with pytest.raises(ReleaseError, match="the contract declares 0 to 0.01"):
        write_toy_release(tmp_path / "toy", contract=narrow)


def test_the_golden_outputs_are_those_of_the_module(toy_release):
    from batch_assets_tests.toys import golden_tensors

    inputs, outputs = golden_tensors(toy_release)

    assert toy_release.manifest.golden.rows == len(inputs) == 16
    assert inputs.dtype == torch.float32
    assert torch.equal(outputs["risk"], ToyRisk()(inputs))


def test_a_whole_release_opens(copy, toy_release):
    assert open_release(copy, toy_release.digest).manifest == toy_release.manifest


def test_a_folder_without_a_manifest_is_no_release(tmp_path):
    with pytest.raises(UnknownReleaseError, match=r"release\.json is not there"):
        open_release(tmp_path)


@pytest.mark.parametrize("place", [0.0, 0.37, 1.0], ids=["first", "inside", "last"])
@pytest.mark.parametrize("name", FILES)
def test_one_flipped_bit_is_refused(copy, toy_release, name, place):
    data = bytearray((copy / name).read_bytes())
    data[int((len(data) - 1) * place)] ^= 1
    (copy / name).write_bytes(data)

    with pytest.raises(TamperedReleaseError, match=f"{name} hashes to"):
        open_release(copy, toy_release.digest)


@pytest.mark.parametrize("name", [GOLDEN, "model.pt2"])
def test_a_flipped_bit_of_a_file_is_refused_without_a_known_digest_too(copy, name):
    data = bytearray((copy / name).read_bytes())
    data[len(data) // 2] ^= 0x80
    (copy / name).write_bytes(data)

    with pytest.raises(TamperedReleaseError, match=f"{name} hashes to"):
        open_release(copy)


@pytest.mark.parametrize(
    ("name", "why"),
    [
        (MANIFEST, "hashes to"),
        (GOLDEN, r"has \d+ bytes, expected \d+"),
        ("model.pt2", r"has \d+ bytes, expected \d+"),
    ],
)
def test_a_truncated_file_is_refused(copy, toy_release, name, why):
    data = (copy / name).read_bytes()
    (copy / name).write_bytes(data[:-1])

    with pytest.raises(TamperedReleaseError, match=f"{name} {why}"):
        open_release(copy, toy_release.digest)


@pytest.mark.parametrize("name", [GOLDEN, "model.pt2"])
def test_a_missing_file_is_refused(copy, name):
    (copy / name).unlink()

    with pytest.raises(TamperedReleaseError, match=rf"files missing: \['{name}'\]"):
        open_release(copy)


def test_an_extra_file_is_refused(copy):
    (copy / "model.pkl").write_bytes(b"")

    with pytest.raises(TamperedReleaseError, match=r"extra: \['model\.pkl'\]"):
        open_release(copy)


def test_a_manifest_rewritten_to_fit_is_another_release(copy, toy_release):
    data = bytearray((copy / "model.pt2").read_bytes())
    data[100] ^= 1
    (copy / "model.pt2").write_bytes(data)
    manifest = json.loads((copy / MANIFEST).read_bytes())
    manifest["files"]["model.pt2"]["sha256"] = hashlib.sha256(data).hexdigest()
    (copy / MANIFEST).write_text(json.dumps(manifest), encoding="utf-8")

    with pytest.raises(TamperedReleaseError, match=f"expected {toy_release.digest}"):
        open_release(copy, toy_release.digest)


@pytest.mark.parametrize(
    "change",
    [{"files": {}, "name": "no name"}, {"extra": 1}],
    ids=str,
)
def test_a_manifest_of_another_shape_is_refused(copy, change):
    manifest = json.loads((copy / MANIFEST).read_bytes()) | change
    (copy / MANIFEST).write_text(json.dumps(manifest), encoding="utf-8")

    with pytest.raises(TamperedReleaseError, match=r"release\.json can't be read"):
        open_release(copy)


def test_a_manifest_may_load_only_what_it_lists(tmp_path, toy_release):
    """A file that is not hashed could be another one tomorrow."""
    folder = tmp_path / "copy"
    shutil.copytree(toy_release.folder, folder)
    manifest = json.loads((folder / "release.json").read_text(encoding="utf-8"))
    outside = tmp_path / "outside.pt2"
    shutil.copy(folder / "model.pt2", outside)
    manifest["model"]["file"] = str(outside)
    (folder / "release.json").write_text(json.dumps(manifest), encoding="utf-8")

    with pytest.raises(TamperedReleaseError, match="outside.pt2"):
        open_release(folder)


class Lookup(torch.nn.Module):
    """All kinds of tensors that are pieces of a large table."""

    def __init__(self, table: torch.Tensor) -> None:
        super().__init__()
        self.weights = torch.nn.Parameter(table[:8])
        self.register_buffer("shift", table[8:9])
        self.inner = torch.nn.Linear(4, 1)
        self.inner.weight = torch.nn.Parameter(table[9:10])
        self.constant = table[10:11]

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        known = torch.nan_to_num(features)
        shifted = known * self.shift + known * self.constant
        return torch.tanh((shifted @ self.weights.T).sum(1) + self.inner(known)[:, 0])


class Rebuilt(Lookup):
    def __init__(self) -> None:
        super().__init__(table_of_a_caller()[:11].clone())


SECRET = 12345.678


def table_of_a_caller() -> torch.Tensor:
    table = torch.full((50_000, 4), SECRET)
    table[:64] = torch.rand(64, 4, generator=torch.Generator().manual_seed(1)) / 100
    return table


@pytest.mark.parametrize("model_format", ["pt2", "safetensors", "torchscript"])
@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")
def test_of_the_callers_memory_only_values_are_written(tmp_path, model_format):
    table = table_of_a_caller()
    before = table.clone()
    module = Lookup(table)
    path = f"{__name__}:Rebuilt" if model_format == "safetensors" else None

    release = write_toy_release(
        tmp_path / "toy",
        module=module,
        contract=make_contract(outputs=[{"name": "risk"}]),
        golden_inputs=table[:64],
        reference={},
        model_format=model_format,
        import_path=path,
    )

    secret = struct.pack("<f", SECRET)
    for file in release.folder.iterdir():
        assert file.stat().st_size < 60_000
        assert secret * 2 not in file.read_bytes()
        if zipfile.is_zipfile(file):
            with zipfile.ZipFile(file) as archive:
                for name in archive.namelist():
                    assert secret * 2 not in archive.read(name)
    assert torch.equal(table, before)
    assert module.weights.untyped_storage().data_ptr() == table.data_ptr()


def test_tied_weights_are_stored_and_come_back(tmp_path):
    class Tied(ToyRisk):
        def __init__(self) -> None:
            super().__init__()
            self.same = self.weights

    release = write_toy_release(tmp_path / "toy", module=Tied())

    assert open_release(release.folder).digest == release.digest


def test_a_release_may_have_no_reference(tmp_path):
    release = write_toy_release(tmp_path / "toy", reference=None)

    assert release.manifest.reference == {}
    again = json.loads((release.folder / MANIFEST).read_bytes())
    del again["reference"]
    assert Manifest.model_validate(again).reference == {}
