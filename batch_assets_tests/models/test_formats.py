"""Model formats: the same outputs from each, and no pickle of unknown origin."""

import io
import json
import pickle
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from batch_assets.errors import ReleaseError, TamperedReleaseError
from batch_assets.models.formats import load_module
from batch_assets.models.outputs import columns_of
from batch_assets.models.release import Release, open_release
from batch_assets_tests.releases_by_hand import make_by_hand, relisted
from batch_assets_tests.toys import (
    expected_risk,
    features_of,
    golden_tensors,
    make_contract,
    make_rows,
    write_toy_release,
    write_toy_release_as,
)

CPU = torch.device("cpu")
IMPORT_PATH = "batch_assets_tests.toys:ToyRisk"
FORMATS = [
    pytest.param({"model_format": "pt2"}, id="pt2"),
    pytest.param(
        {"model_format": "safetensors", "import_path": IMPORT_PATH}, id="safetensors"
    ),
    pytest.param(
        {"model_format": "torchscript"},
        id="torchscript",
        # torch calls its own format deprecated: it is accepted as a legacy one.
        marks=pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning"),
    ),
]


class Marker:
    """Unpickling it leaves a file behind: proof that foreign code ran."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __reduce__(self) -> tuple:
        return (Path.touch, (self._path,))


@pytest.mark.parametrize("changes", FORMATS)
def test_every_format_gives_the_outputs_of_the_module(tmp_path, changes):
    rows = make_rows(257, seed=3)
    release = write_toy_release(tmp_path / "toy", **changes)

    module = load_module(release, CPU)
    with torch.inference_mode():
        found = module(features_of(rows, make_contract()))

    np.testing.assert_array_equal(found.numpy(), expected_risk(rows))


@pytest.mark.parametrize("changes", FORMATS)
def test_every_format_takes_any_number_of_rows(tmp_path, changes):
    release = write_toy_release(tmp_path / "toy", **changes)
    module = load_module(release, CPU)

    for rows in (1, 2, 1000):
        assert module(torch.zeros(rows, 4)).shape == (rows,)


@pytest.mark.parametrize("changes", FORMATS)
def test_every_format_reproduces_its_golden_tensors(tmp_path, changes):
    release = write_toy_release(tmp_path / "toy", **changes)

    inputs, outputs = golden_tensors(release)

    assert torch.equal(load_module(release, CPU)(inputs), outputs["risk"])


def test_safetensors_are_built_with_the_arguments(tmp_path):
    release = write_toy_release(
        tmp_path / "toy",
        model_format="safetensors",
        import_path=IMPORT_PATH,
        arguments={"scale": 5.0},
    )

    assert release.manifest.model.arguments == {"scale": 5.0}
    # The weights of the file win over those that the class begins with.
    assert torch.equal(
        load_module(release, CPU)(torch.ones(1, 4)),
        load_module(write_toy_release(tmp_path / "b"), CPU)(torch.ones(1, 4)),
    )


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"import_path": "nowhere.at_all:Model"}, "No module named 'nowhere'"),
        ({"import_path": "batch_assets_tests.toys:Nothing"}, "no attribute 'Nothing'"),
        ({"import_path": IMPORT_PATH, "arguments": {"depth": 3}}, "argument 'depth'"),
        ({"import_path": "torch.nn:Identity"}, r"Unexpected key\(s\)"),
        ({"import_path": None}, "no import_path names their class"),
    ],
)
def test_a_class_that_does_not_fit_is_named(tmp_path, changes, error):
    made = write_toy_release_as("safetensors", tmp_path / "toy")
    folder = make_by_hand(made, tmp_path / "hand", lambda m: m["model"].update(changes))
    release = open_release(folder)

    with pytest.raises(ReleaseError, match=error) as refused:
        load_module(release, CPU)

    assert f"release toy {release.short} can't be loaded" in str(refused.value)
    assert torch.__version__ in str(refused.value)
    with pytest.raises(ReleaseError, match=error):
        write_toy_release_as("safetensors", tmp_path / "again", **changes)
    assert not (tmp_path / "again").exists()


def with_entry(release: Release, folder: Path, name: str, data: bytes) -> Release:
    """The release with one entry of its .pt2 replaced or added, and re-listed."""
    folder.mkdir()
    path = folder / "model.pt2"
    with (
        zipfile.ZipFile(release.folder / "model.pt2") as whole,
        zipfile.ZipFile(path, "w") as changed,
    ):
        for entry in whole.namelist():
            if entry.split("/", 1)[1] != name:
                changed.writestr(entry, whole.read(entry))
        top = whole.namelist()[0].split("/", 1)[0]
        changed.writestr(f"{top}/{name}", data)
    return relisted(release, folder)


def pickled_by_torch(thing: object) -> bytes:
    buffer = io.BytesIO()
    torch.save(thing, buffer)
    return buffer.getvalue()


def sample_inputs_of(release: Release) -> str:
    with zipfile.ZipFile(release.folder / "model.pt2") as archive:
        return next(
            n.split("/", 1)[1] for n in archive.namelist() if "sample_inputs" in n
        )


@pytest.mark.parametrize("dump", [pickle.dumps, pickled_by_torch])
@pytest.mark.parametrize("place", ["sample inputs", "data/weights/foreign.pkl"])
def test_a_foreign_pickle_in_a_pt2_is_refused_and_never_runs(
    toy_release, tmp_path, place, dump
):
    ran = tmp_path / "ran"
    name = sample_inputs_of(toy_release) if place == "sample inputs" else place
    release = with_entry(toy_release, tmp_path / "bad", name, dump(Marker(ran)))

    with pytest.raises(TamperedReleaseError, match="a pickle that is more than tensor"):
        load_module(release, CPU)

    assert not ran.exists()


def test_the_marker_would_run_if_it_were_loaded(tmp_path):
    pickle.loads(pickle.dumps(Marker(tmp_path / "ran")))

    assert (tmp_path / "ran").exists()


def test_a_pt2_whose_entries_were_only_repacked_loads(toy_release, tmp_path):
    name = sample_inputs_of(toy_release)
    with zipfile.ZipFile(toy_release.folder / "model.pt2") as archive:
        entry = next(n for n in archive.namelist() if n.endswith(name))
        data = archive.read(entry)

    release = with_entry(toy_release, tmp_path / "same", name, data)

    assert load_module(release, CPU)(torch.zeros(3, 4)).shape == (3,)


def test_a_file_that_is_no_archive_is_refused(toy_release, tmp_path):
    (tmp_path / "model.pt2").write_bytes(b"not a zip")
    release = relisted(toy_release, tmp_path)

    with pytest.raises(ReleaseError, match=r"is not a \.pt2 archive"):
        load_module(release, CPU)


def test_a_module_may_give_a_column_or_a_matrix_or_a_tuple():
    contract = make_contract(
        outputs=[{"name": "risk"}, {"name": "rank", "dtype": "int64"}]
    )
    matrix = torch.tensor([[0.5, 1.0], [0.25, 2.0], [0.75, 3.0]])

    rank = matrix[:, 1].long()
    for result in ((matrix[:, 0], rank), (matrix[:, :1], rank[:, None])):
        columns = columns_of(result, contract, 3)
        assert columns["risk"].tolist() == [0.5, 0.25, 0.75]
        assert columns["rank"].dtype == torch.int64
        assert columns["rank"].tolist() == [1, 2, 3]
    one = columns_of(matrix[:, 0], make_contract(), 3)
    assert one["risk"].tolist() == [0.5, 0.25, 0.75]
    floats = make_contract(outputs=[{"name": "risk"}, {"name": "rank"}])
    assert columns_of(matrix, floats, 3)["rank"].tolist() == [1, 2, 3]


def test_a_float_is_not_cast_to_a_declared_integer():
    """NaN would become a score like any other."""
    contract = make_contract(outputs=[{"name": "rank", "dtype": "int64"}])

    with pytest.raises(ReleaseError, match="'rank' is declared int64, the model gave"):
        columns_of(torch.tensor([float("nan")]), contract, 1)


@pytest.mark.parametrize(
    "result", [torch.tensor(1.0), torch.zeros(1), torch.zeros(1, 1)], ids=repr
)
def test_one_value_for_all_rows_is_refused(result):
    with pytest.raises(ReleaseError, match="for 3 rows"):
        columns_of(result, make_contract(), 3)


@pytest.mark.parametrize(
    "result", [torch.zeros(3), torch.zeros(3, 3), (torch.zeros(3),)], ids=repr
)
def test_another_number_of_columns_is_refused(result):
    contract = make_contract(outputs=[{"name": "risk"}, {"name": "rank"}])

    with pytest.raises(
        ReleaseError, match="its contract declares 2: risk .rows,., rank .rows,."
    ):
        columns_of(result, contract, 3)


def test_a_weight_that_says_it_is_a_pickle_is_refused(toy_release, tmp_path):
    """torch unpickles such a weight unsafely, whatever its record is named."""
    with zipfile.ZipFile(toy_release.folder / "model.pt2") as archive:
        entry = next(n for n in archive.namelist() if n.endswith("weights_config.json"))
        config = json.loads(archive.read(entry))
    for weight in config["config"].values():
        weight["use_pickle"] = True
    name = entry.partition("/")[2]
    release = with_entry(
        toy_release, tmp_path / "bad", name, json.dumps(config, indent=4).encode()
    )

    with pytest.raises(TamperedReleaseError, match="a pickle that is more than tensor"):
        load_module(release, CPU)
