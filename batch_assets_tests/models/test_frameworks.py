"""Models of other frameworks as releases: what they say, and what is refused."""

import json
import pickle
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from batch_assets.errors import (
    ConfigError,
    DeviceError,
    ReleaseError,
    TamperedReleaseError,
)
from batch_assets.models.contract import Feature, Output
from batch_assets.models.formats import load_module
from batch_assets.models.output_specs import Label, VectorOutput
from batch_assets.models.outputs import columns_of
from batch_assets.models.post_specs import Argmax, PostProcessing, Threshold
from batch_assets.models.registry import Registry
from batch_assets.models.release import Release
from batch_assets.scoring.device import find_device
from batch_assets.scoring.scorer import Scorer
from batch_assets_tests.commands import invoke
from batch_assets_tests.projects import FLIGHTS
from batch_assets_tests.releases_by_hand import rehashed, relisted
from batch_assets_tests.toys import write_toy_release
from batch_assets_tests.trained import (
    CLOSE,
    CONTRACT,
    KINDS,
    classes_of,
    declaring,
    expected,
    golden,
    make_rows,
    matrix_of,
    train,
    with_outputs,
    write_trained,
)

CPU = torch.device("cpu")
FILES = {
    "sklearn": "model.onnx",
    "onnx": "model.onnx",
    "xgboost": "model.ubj",
    "lightgbm": "model.txt",
    "catboost": "model.cbm",
}


@pytest.fixture(scope="module")
def releases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Release]:
    """A release of each framework. Never change a folder: copy it."""
    folder = tmp_path_factory.mktemp("trained")
    return {kind: write_trained(folder / kind, kind) for kind in KINDS}


def asked(release: Release, matrix: np.ndarray) -> Any:
    """What a release says of rows that lie as at night: column by column."""
    columns = np.ascontiguousarray(matrix.T)
    return load_module(release, CPU)(torch.from_numpy(columns).T)


@pytest.mark.parametrize("kind", KINDS)
def test_a_release_says_what_its_framework_says(releases, kind):
    rows = make_rows(777, seed=5)
    matrix = matrix_of(rows)
    want = expected(kind, rows)[:, 1]
    if kind == "onnx":
        matrix, want = matrix[known := ~np.isnan(matrix).any(axis=1)], want[known]

    found = asked(releases[kind], matrix)

    assert found.dtype == torch.float32
    np.testing.assert_allclose(found.numpy(), want, rtol=CLOSE, atol=CLOSE)


@pytest.mark.parametrize("kind", KINDS)
def test_any_number_of_rows_in_any_layout_says_the_same(releases, kind):
    module = load_module(releases[kind], CPU)
    matrix = golden(kind)
    whole = module(torch.from_numpy(matrix))

    for start, stop in ((0, 1), (3, 20)):
        # A piece of a chunk: neither rows nor columns lie one after the other.
        piece = torch.from_numpy(np.ascontiguousarray(matrix.T)[:, start:stop]).T
        np.testing.assert_allclose(
            module(piece).numpy(), whole[start:stop].numpy(), rtol=CLOSE, atol=CLOSE
        )


@pytest.mark.parametrize("kind", KINDS)
def test_threads_may_ask_one_module_at_once(releases, kind):
    module, matrix = load_module(releases[kind], CPU), golden(kind)
    pieces = [torch.from_numpy(np.roll(matrix, n, axis=0)) for n in range(16)] * 8
    alone = [module(piece) for piece in pieces[:16]] * 8

    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(module, pieces))

    for one, want in zip(together, alone, strict=True):
        assert torch.equal(one, want)


@pytest.mark.parametrize("kind", KINDS)
def test_a_release_says_what_wrote_it(releases, kind):
    spec = releases[kind].manifest.model

    assert spec.file == FILES[kind]
    assert spec.format == ("onnx" if kind == "sklearn" else kind)
    package = "scikit-learn" if kind == "sklearn" else kind
    assert set(spec.versions) >= {package}
    assert all(version[0].isdigit() for version in spec.versions.values())


def test_a_release_of_torch_is_written_as_before(tmp_path):
    release = write_toy_release(tmp_path / "toy")

    written = json.loads((release.folder / "release.json").read_text())
    assert set(written["model"]) == {
        "format",
        "file",
        "torch",
        "import_path",
        "arguments",
    }


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_model_twice_is_the_same_release(tmp_path, releases, kind):
    assert write_trained(tmp_path / kind, kind).digest == releases[kind].digest


@pytest.mark.parametrize("kind", [k for k in KINDS if k != "onnx"])
def test_as_many_outputs_as_classes_get_all_probabilities(tmp_path, kind):
    rows = make_rows(50, seed=9)
    for classes, names in ((2, ("no", "yes")), (3, ("none", "one", "both"))):
        release = write_trained(
            tmp_path / f"{classes}",
            kind,
            module=train(kind, classes),
            contract=with_outputs(*names),
        )
        found = asked(release, matrix_of(rows))
        np.testing.assert_allclose(
            found.numpy(), expected(kind, rows, classes), rtol=CLOSE, atol=CLOSE
        )


def test_a_vector_gets_all_probabilities(tmp_path):
    contract = declaring(outputs=(VectorOutput(kind="vector", name="shares", size=2),))
    release = write_trained(tmp_path / "r", "xgboost", contract=contract)
    assert asked(release, golden("xgboost")).shape == (40, 2)


@pytest.mark.parametrize("kind", ["xgboost", "sklearn"])
def test_stages_turn_probabilities_into_a_label(tmp_path, kind):
    rows = make_rows(40, seed=3)
    label = Label(kind="label", name="verdict", classes=("none", "one", "both"))
    contract = declaring(outputs=(label, Output(name="sure", min=0, max=1)))
    best = Argmax(of="shares", into="verdict", confidence="sure")
    release = write_trained(
        tmp_path / "best",
        kind,
        module=train(kind, 3),
        contract=contract,
        post=PostProcessing(gives=("shares",), stages=(best,)),
    )
    outputs, _ = Scorer(release, find_device("cpu")).score(matrix_of(rows).T.copy())
    assert np.array_equal(outputs["verdict"], expected(kind, rows, 3).argmax(axis=1))

    two = Label(kind="label", name="verdict", classes=("stays", "leaves"))
    limit = Threshold(of="risk", into="verdict", at=(0.5,))
    release = write_trained(
        tmp_path / "limit",
        kind,
        contract=declaring(outputs=(two,)),
        post=PostProcessing(gives=("risk",), stages=(limit,)),
    )
    outputs, _ = Scorer(release, find_device("cpu")).score(matrix_of(rows).T.copy())
    assert np.array_equal(outputs["verdict"], expected(kind, rows)[:, 1] >= 0.5)


def regressors() -> dict[str, Any]:
    import catboost
    import lightgbm
    import xgboost
    from sklearn.linear_model import Ridge

    rows = make_rows(600, seed=2)
    matrix = np.nan_to_num(matrix_of(rows))
    target = matrix[:, 0] * (1 + matrix[:, 1])
    quiet = {"verbose": 0, "allow_writing_files": False}
    poisson = catboost.CatBoostRegressor(
        iterations=10, loss_function="Poisson", **quiet
    )
    booster = xgboost.train({}, xgboost.DMatrix(matrix, label=target), 5)
    data = lightgbm.Dataset(matrix, label=target)
    return {
        "Ridge": (one := Ridge().fit(matrix, target), one.predict(matrix)),
        "XGBRegressor": (
            one := xgboost.XGBRegressor(n_estimators=5).fit(matrix, target),
            one.predict(matrix),
        ),
        "Booster of XGBoost": (booster, booster.predict(xgboost.DMatrix(matrix))),
        "Booster of LightGBM": (
            one := lightgbm.train({"verbose": -1}, data, 5),
            one.predict(matrix),
        ),
        "CatBoostRegressor": (
            one := catboost.CatBoostRegressor(iterations=10, **quiet).fit(
                matrix, target
            ),
            one.predict(matrix),
        ),
        "CatBoostRanker": (
            one := catboost.CatBoostRanker(iterations=5, **quiet).fit(
                matrix, target, group_id=np.arange(600) // 10
            ),
            one.predict(matrix),
        ),
        "CatBoost of counts": (
            poisson.fit(matrix, target),
            poisson.predict(matrix),
        ),
    }


def test_a_regressor_gives_its_value_in_the_declared_type(tmp_path):
    matrix = np.nan_to_num(matrix_of(make_rows(600, seed=2)))
    for name, (model, want) in regressors().items():
        for dtype in ("float32", "float64"):
            outputs = (Output(name="spend_next", dtype=dtype),)
            release = write_trained(
                tmp_path / f"{name} {dtype}",
                "regressor",
                module=model,
                contract=declaring(outputs=outputs),
                golden_inputs=matrix[:20],
                tolerance={"cpu": 1e-4},
            )
            (found,) = columns_of(
                asked(release, matrix), release.contract, len(matrix)
            ).values()
            assert found.numpy().dtype == dtype
            np.testing.assert_allclose(
                found.numpy(), want, rtol=1e-4, atol=1e-4, err_msg=name
            )


def test_early_stopping_is_kept(tmp_path):
    """XGBoost's file holds the rounds after the best one too."""
    import xgboost

    random = np.random.default_rng(0)
    rows = make_rows(400, seed=2)
    matrix, noise = matrix_of(rows), random.integers(0, 2, 400)
    model = xgboost.XGBClassifier(n_estimators=60, early_stopping_rounds=5)
    model.fit(
        matrix[:200], noise[:200], eval_set=[(matrix[200:], noise[200:])], verbose=False
    )
    assert model.best_iteration + 1 < model.get_booster().num_boosted_rounds()

    release = write_trained(tmp_path / "r", "xgboost", module=model)

    np.testing.assert_array_equal(
        asked(release, matrix).numpy(), model.predict_proba(matrix)[:, 1]
    )


@pytest.mark.parametrize("kind", KINDS)
def test_precision_and_compiling_are_torchs_alone(releases, tmp_path, kind):
    device = find_device("cpu", compiled=tmp_path)
    with pytest.raises(ReleaseError, match=r"only a \.pt2 can be compiled"):
        Scorer(releases[kind], device)
    import dataclasses

    device = dataclasses.replace(find_device("cpu"), precision="bfloat16")
    with pytest.raises(ConfigError, match="Set precision to 'float32'"):
        Scorer(releases[kind], device)


@pytest.mark.parametrize("kind", KINDS)
def test_another_device_is_refused_and_never_replaced_by_the_cpu(releases, kind):
    with pytest.raises(DeviceError, match=r"et device to 'cpu'"):
        load_module(releases[kind], torch.device("cuda", 0))


@pytest.mark.parametrize("kind", KINDS)
def test_a_release_is_added_approved_and_verified(releases, kind, root, monkeypatch):
    monkeypatch.setenv("BATCH_ASSETS_ROOT", str(root))
    folder, digest = releases[kind].folder, releases[kind].digest

    said = invoke("release", "add", kind, str(folder))
    assert "40 golden rows are reproduced; written as " in said
    for package, version in releases[kind].manifest.model.versions.items():
        assert f"{package} {version}" in said
    invoke("release", "approve", kind, digest[:12], "--why", "the tests need it")
    assert "40 golden rows are reproduced" in invoke("release", "verify", kind)

    added = Registry(root).resolve(kind)
    assert added.digest == digest
    path = added.folder / FILES[kind]
    path.chmod(0o644)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    assert "model." in invoke("release", "verify", kind, fails=True)
    with pytest.raises(TamperedReleaseError, match="hashes to"):
        Registry(root).resolve(kind)


@pytest.mark.parametrize("kind", ["onnx", "xgboost"])
def test_what_can_not_be_proved_is_not_added(releases, kind, root, tmp_path):
    release = releases[kind]
    spoilt = tmp_path / "spoilt"
    shutil.copytree(release.folder, spoilt)
    (spoilt / FILES[kind]).write_bytes(b"not a model")

    with pytest.raises(ReleaseError, match="was not added, because a process") as told:
        Registry(root).add(rehashed(spoilt).folder, prove=True)

    package, version = next(iter(release.manifest.model.versions.items()))
    assert f"{package} {version}" in str(told.value)
    assert not (root / "models").exists()


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_that_is_not_read_names_both_versions(releases, kind, tmp_path):
    release = releases[kind]
    (tmp_path / FILES[kind]).write_bytes(b"not a model")
    spoilt = relisted(release, tmp_path)

    with pytest.raises(ReleaseError, match="can't be loaded") as refused:
        load_module(spoilt, CPU)

    package, version = next(iter(release.manifest.model.versions.items()))
    assert str(refused.value).count(f"{package} {version}") == 2
    # One sentence, and for some the adapter to write.
    assert "\n" not in str(refused.value).partition("\nclass Adapter")[0]


PACKAGES = {
    "sklearn": "onnxruntime",
    "onnx": "onnxruntime",
    "xgboost": "xgboost",
    "lightgbm": "lightgbm",
    "catboost": "catboost",
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_missing_framework_says_how_to_install_it(releases, kind):
    code = (
        "import sys; from pathlib import Path\n"
        f"sys.modules['{PACKAGES[kind]}'] = None\n"
        "import torch\n"
        "from batch_assets.models.formats import load_module\n"
        "from batch_assets.models.release import open_release\n"
        "load_module(open_release(Path(sys.argv[1])), torch.device('cpu'))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(releases[kind].folder)],
        cwd=FLIGHTS,
        capture_output=True,
        text=True,
        check=False,
    )

    extra = "onnx" if kind == "sklearn" else kind
    assert done.returncode == 1
    assert f"pip install 'batch-assets[{extra}]'" in done.stderr.splitlines()[-1]


def test_no_framework_is_imported_by_what_does_not_need_it():
    code = (
        "import sys; import batch_assets.models.writing, batch_assets.scoring.scorer\n"
        "heavy = ['xgboost', 'lightgbm', 'catboost', 'sklearn', 'skl2onnx', 'onnx',"
        " 'onnxruntime']\n"
        "sys.exit(', '.join(name for name in heavy if name in sys.modules) or 0)\n"
    )
    subprocess.run([sys.executable, "-c", code], cwd=FLIGHTS, check=True)


def refusal(tmp_path: Path, kind: str, **changes: Any) -> str:
    """What is said of a release that is not written: one paragraph, and no file."""
    with pytest.raises(ReleaseError) as refused:
        write_trained(tmp_path / "none", kind, **changes)
    assert not (tmp_path / "none").exists()
    # One sentence, and for some the adapter to write.
    assert "\n" not in str(refused.value).partition("\nclass Adapter")[0]
    return str(refused.value)


@pytest.mark.parametrize("kind", KINDS)
def test_another_number_of_features_is_refused(tmp_path, kind):
    features = (*CONTRACT.features, Feature(name="more", dtype="float32"))
    contract = declaring(features=features)

    said = refusal(
        tmp_path, kind, contract=contract, golden_inputs=np.zeros((4, 4), np.float32)
    )

    assert "features" in said
    assert "'more'" in said or kind == "onnx"


@pytest.mark.parametrize("kind", ["sklearn", "xgboost", "lightgbm", "catboost"])
def test_columns_in_another_order_are_refused(tmp_path, kind):
    features = CONTRACT.features[::-1]
    contract = declaring(features=features)

    said = refusal(tmp_path, kind, contract=contract)

    assert "'age', 'plan', 'spend'" in said
    assert "'spend', 'plan', 'age'" in said


@pytest.mark.parametrize("kind", ["xgboost", "lightgbm"])
def test_categories_in_another_order_are_refused(tmp_path, kind):
    """Their positions are what the model gets, and would mean other words."""
    age, plan, spend = CONTRACT.features
    other = plan.model_copy(update={"categories": ("free", "pro", "team")})
    contract = declaring(features=(age, other, spend))

    said = refusal(tmp_path, kind, contract=contract)

    assert "learned the categories ('pro', 'free', 'team') of 'plan'" in said


def test_words_of_catboost_and_pipelines_are_found_in_any_order(tmp_path):
    age, plan, spend = CONTRACT.features
    other = plan.model_copy(update={"categories": ("free", "pro", "team")})
    contract = declaring(features=(age, other, spend))
    rows = make_rows(60, seed=4)
    matrix = matrix_of(rows)
    matrix[:, 1] = [
        ("free", "pro", "team").index(one) for one in rows["plan"].to_pylist()
    ]
    for kind in ("catboost", "sklearn"):
        release = write_trained(
            tmp_path / kind, kind, contract=contract, golden_inputs=matrix[:20]
        )
        np.testing.assert_allclose(
            asked(release, matrix).numpy(),
            expected(kind, rows)[:, 1],
            rtol=CLOSE,
            atol=CLOSE,
        )


@pytest.mark.parametrize("kind", ["sklearn", "catboost"])
def test_a_word_that_may_be_null_is_refused(tmp_path, kind):
    age, plan, spend = CONTRACT.features
    other = plan.model_copy(update={"nullable": True})
    contract = declaring(features=(age, other, spend))

    assert "coalesce(plan, 'none')" in refusal(tmp_path, kind, contract=contract)


@pytest.mark.parametrize("kind", KINDS)
def test_another_number_of_outputs_is_refused(tmp_path, kind):
    said = refusal(tmp_path, kind, contract=with_outputs("a", "b", "c", "d"))

    assert "declares" in said


@pytest.mark.parametrize("kind", ["xgboost", "lightgbm", "catboost", "sklearn"])
def test_a_model_that_is_not_fitted_is_refused(tmp_path, kind):
    model = type(train(kind))
    new = model(train(kind).steps) if kind == "sklearn" else model()
    if kind == "sklearn":
        from sklearn.base import clone

        new = clone(train(kind))

    assert "is not fitted: fit it first" in refusal(tmp_path, kind, module=new)


def test_what_is_no_model_is_refused(tmp_path):
    import catboost
    import lightgbm
    import xgboost

    for wrong, told in (
        (42, "the model is a int"),
        (catboost.Pool([[1.0]]), "is a Pool, which is no model"),
        (lightgbm.Dataset([[1.0]]), "is a Dataset, which is no model"),
        (xgboost.DMatrix([[1.0]]), "is a DMatrix, which is no model"),
        (None, "the model is a NoneType"),
        ({"trees": []}, "the model is a dict"),
        (type(train("xgboost")), "the model is the class XGBClassifier"),
        (tmp_path / "model.ubj", "is no file, expected the path of an .onnx"),
        (str(tmp_path / "gone.onnx"), "is no file"),
    ):
        assert told in refusal(tmp_path, "xgboost", module=wrong)


def test_a_format_is_that_of_the_model(tmp_path):
    release = write_trained(tmp_path / "r", "onnx", model_format="onnx")
    assert release.manifest.model.format == "onnx"

    said = refusal(tmp_path, "xgboost", model_format="safetensors")
    assert "model_format is 'safetensors', and this model is stored as xgboost" in said
    said = refusal(
        tmp_path, "xgboost", module=torch.nn.Linear(3, 1), model_format="onnx"
    )
    assert "stored as pt2 or safetensors or torchscript" in said


def test_a_pickle_is_refused_and_never_read(tmp_path):
    for suffix in ("pkl", "joblib"):
        path = tmp_path / f"model.{suffix}"
        path.write_bytes(pickle.dumps(train("xgboost")))
        said = refusal(tmp_path, "xgboost", module=path)
        assert f"model.{suffix} is a pickle" in said


def test_estimators_that_have_no_numbers_to_give_are_refused(tmp_path):
    from sklearn.cluster import KMeans
    from sklearn.linear_model import LogisticRegression
    from sklearn.svm import LinearSVC

    rows = make_rows(100)
    matrix, classes = np.nan_to_num(matrix_of(rows)), classes_of(rows)

    class OnesOwn(LogisticRegression):
        pass

    for model, told in (
        (LinearSVC().fit(matrix, classes), "has no predict_proba"),
        (KMeans(2, n_init=1).fit(matrix), "neither a classifier nor a regressor"),
        (OnesOwn().fit(matrix, classes), "can't be converted to ONNX by skl2onnx"),
    ):
        said = refusal(tmp_path, "onnx", module=model)
        assert told in said


def test_a_conversion_that_answers_otherwise_is_refused(tmp_path):
    """ONNX adds float32 where scikit-learn adds float64: that is beyond this tolerance."""
    said = refusal(tmp_path, "sklearn", tolerance={"cpu": 1e-12})

    assert "stored as onnx it answers otherwise than the model itself" in said
    assert "1e-12 is allowed" in said


def test_a_model_beside_inputs_is_refused(tmp_path):
    from batch_assets.models.input_specs import Ids

    contract = declaring(inputs=(Ids(name="item", size=5),))
    given = {"features": golden("xgboost"), "item": [0] * 40}

    for kind in ("xgboost", "lightgbm", "catboost", "sklearn"):
        said = refusal(tmp_path, kind, contract=contract, golden_inputs=given)
        assert (
            "takes one matrix of features, and the contract has 'item' beside" in said
        )
