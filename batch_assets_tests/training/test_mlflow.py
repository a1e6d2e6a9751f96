"""Models of MLflow become releases: its store of files, its server, and folders."""

import contextlib
import json
import shutil
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import catboost
import lightgbm
import numpy as np
import pandas as pd
import pytest
import skl2onnx
import xgboost
from click.testing import CliRunner
from sklearn.linear_model import LogisticRegression

from batch_assets import KeySpec
from batch_assets.cli.main import main
from batch_assets.errors import BatchAssetsError, ReleaseError
from batch_assets.models.registry import Registry
from batch_assets.models.release import Release
from batch_assets.training.mlflow_models import draft_from_mlflow
from batch_assets_tests.projects import FLIGHTS

# What it is made of warns on each call.
pytestmark = [
    pytest.mark.filterwarnings("ignore"),
    pytest.mark.usefixtures("no_environment"),
]
KEY = KeySpec(name="customer_id", dtype="int64")
SERVER = FLIGHTS / ".venv-mlflow" / "bin" / "mlflow"
ROWS = 200


@pytest.fixture
def no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    monkeypatch.setenv("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")


def make_frame() -> pd.DataFrame:
    random = np.random.default_rng(0)
    return pd.DataFrame(
        {
            "age": np.arange(ROWS, dtype=np.int32) % 90,
            "spend": random.random(ROWS),
        }
    )


def label_of(frame: pd.DataFrame) -> pd.Series:
    return (frame["age"] > 45).astype(int)


def trained(flavor: str, frame: pd.DataFrame) -> tuple[Any, Any]:
    """A model of a flavor, and what it says of the frame."""
    label = label_of(frame)
    if flavor == "xgboost":
        data = xgboost.DMatrix(frame, label)
        model = xgboost.train({"objective": "binary:logistic", "nthread": 1}, data, 5)
        return model, model.predict(data)
    if flavor == "lightgbm":
        model = lightgbm.train(
            {"objective": "binary", "verbose": -1, "num_threads": 1},
            lightgbm.Dataset(frame, label),
            5,
        )
        return model, model.predict(frame)
    if flavor == "catboost":
        model = catboost.CatBoostClassifier(
            iterations=5, verbose=0, thread_count=1, allow_writing_files=False
        )
        model.fit(frame, label)
        return model, model.predict_proba(frame)[:, 1]
    estimator = LogisticRegression().fit(frame.to_numpy(np.float32), label)
    names = [("features", skl2onnx.common.data_types.FloatTensorType([None, 2]))]
    options = {id(estimator): {"zipmap": False}}
    graph = skl2onnx.to_onnx(estimator, initial_types=names, options=options)
    return graph, estimator.predict_proba(frame.to_numpy(np.float32))[:, 1]


def log(flavor: str, tracking_uri: str, **options: Any) -> tuple[str, Any]:
    """Log a model with its signature; the run, and what it says of the frame."""
    import mlflow

    mlflow.set_tracking_uri(tracking_uri)
    mlflow.set_experiment("retention")
    frame = make_frame()
    model, said = trained(flavor, frame)
    signature = mlflow.models.infer_signature(frame, np.asarray(said))
    with mlflow.start_run() as run:
        getattr(mlflow, flavor).log_model(
            model, name="model", signature=signature, **options
        )
    return run.info.run_id, said


def must_say(release: Release, said: Any, tmp_path: Path) -> None:
    """Approved in a process of its own, it says what the model said."""
    from batch_assets.models.formats import golden_batch

    registry = Registry(tmp_path / "root")
    registry.add(release.folder)
    registry.approve(release.name, release.digest, why="a test", by="ada")
    rows, outputs = golden_batch(release)
    assert len(rows) >= 2
    found = outputs["prediction"].numpy()
    # The golden rows are spread over the frame, its first and last among them.
    np.testing.assert_allclose(found[[0, -1]], np.asarray(said)[[0, -1]], atol=1e-5)


@pytest.mark.parametrize("flavor", ["xgboost", "lightgbm", "catboost", "onnx"])
def test_a_model_of_a_run_becomes_a_release(tmp_path: Path, flavor: str) -> None:
    store = f"file:{tmp_path / 'mlruns'}"
    run, said = log(flavor, store)

    draft = draft_from_mlflow(
        f"runs:/{run}/model",
        key=KEY,
        name="churn",
        frame=make_frame(),
        tracking_uri=store,
    )
    release = draft.write(tmp_path / "release")

    contract = release.contract
    assert [(f.name, f.dtype, f.nullable) for f in contract.features] == [
        ("age", "int32", False),
        ("spend", "float64", False),
    ]
    assert contract.features[0].max == 178
    assert contract.output_names == ["prediction"]
    about = release.manifest.about["mlflow"]
    assert about["run_id"] == run
    assert about["experiment"] == "retention"
    assert about["flavor"] == flavor
    assert sum(release.manifest.reference["prediction"].counts) == ROWS
    must_say(release, said, tmp_path)


def test_a_folder_and_its_input_example_are_enough(tmp_path: Path) -> None:
    import mlflow

    frame = make_frame()
    model, said = trained("xgboost", frame)
    signature = mlflow.models.infer_signature(frame, said)
    example = frame.iloc[[0, 50, ROWS - 1]]
    mlflow.xgboost.save_model(
        model, str(tmp_path / "m"), signature=signature, input_example=example
    )
    draft = draft_from_mlflow(str(tmp_path / "m"), key=KEY, name="churn")
    release = draft.write(tmp_path / "release")
    assert release.manifest.golden.rows == 3
    # An example tells no ranges.
    assert [(f.min, f.max) for f in release.contract.features] == [(None, None)] * 2
    must_say(release, said, tmp_path)


def saved(tmp_path: Path, says: dict[str, Any]) -> str:
    """A folder of a model whose `MLmodel` says something else."""
    import mlflow
    import yaml

    frame = make_frame()
    model, said = trained("xgboost", frame)
    signature = mlflow.models.infer_signature(frame, said)
    mlflow.xgboost.save_model(model, str(tmp_path / "m"), signature=signature)
    path = tmp_path / "m" / "MLmodel"
    path.write_text(yaml.safe_dump(yaml.safe_load(path.read_text()) | says))
    return str(tmp_path / "m")


COLUMNS = [{"type": "double", "name": "spend", "required": True}]


@pytest.mark.parametrize(
    ("says", "said"),
    [
        ({"signature": None}, "has no signature: log it with infer_signature"),
        (
            {"signature": {"inputs": json.dumps([{"type": "tensor", "tensor-spec": {}}])}},
            "tensors without columns",
        ),
        (
            {"signature": {"inputs": json.dumps([{"type": "datetime", "name": "at"}])}},
            "'at' of the type datetime, expected boolean",
        ),
        (
            {"signature": {"inputs": json.dumps(COLUMNS)}},
            r"trained on the columns 'age', 'spend', and the contract has the features 'spend'",
        ),
        (
            {"signature": {"inputs": json.dumps([{"type": "long", "name": "my age"}])}},
            "can be no contract: 'my age' is no name",
        ),
        (
            {"flavors": {"sklearn": {"pickled_model": "model.pkl"}}},
            r"flavors \['sklearn'\], stored as a pickle or as code",
        ),
        (
            {"flavors": {"xgboost": {"data": "model.pkl"}}},
            r"flavors \['xgboost'\], stored as a pickle",
        ),
        ({"flavors": {"onnx": {"data": "gone.onnx"}}}, "not loaded here"),
    ],
    ids=str,
)  # fmt: skip
def test_what_is_no_release_is_one_sentence(
    tmp_path: Path, says: dict[str, Any], said: str
) -> None:
    folder = saved(tmp_path, says)
    with pytest.raises(BatchAssetsError, match=said):
        draft_from_mlflow(folder, key=KEY, name="churn", frame=make_frame()).write(
            tmp_path / "release"
        )
    assert not (tmp_path / "release").exists()


def test_without_a_frame_words_and_an_example_are_asked_for(tmp_path: Path) -> None:
    folder = saved(tmp_path, {})
    with pytest.raises(ReleaseError, match="without a frame as its input example"):
        draft_from_mlflow(folder, key=KEY, name="churn")
    shutil.rmtree(folder)
    words = [{"type": "string", "name": "plan", "required": True}]
    folder = saved(
        tmp_path,
        {
            "signature": {"inputs": json.dumps(words)},
            "saved_input_example_info": {
                "type": "dataframe",
                "artifact_path": "e.json",
            },
        },
    )
    (Path(folder) / "e.json").write_text(
        '{"columns": ["plan"], "data": [["a"], ["b"]]}'
    )
    with pytest.raises(ReleaseError, match=r"which words \['plan'\] may have"):
        draft_from_mlflow(folder, key=KEY, name="churn")


@pytest.mark.parametrize(
    ("uri", "said"),
    [
        ("churn", "'churn' is no model of MLflow: expected models:/NAME/VERSION"),
        ("models:/churn/9", "MLflow has no model 'models:/churn/9'"),
        ("mlflow:/churn@best", "MLflow has no model 'models:/churn@best'"),
        ("runs:/0123/model", "MLflow has no model 'runs:/0123/model'"),
    ],
)
def test_a_model_that_is_not_there_is_one_sentence(
    tmp_path: Path, uri: str, said: str
) -> None:
    with pytest.raises(ReleaseError, match=said):
        draft_from_mlflow(uri, key=KEY, tracking_uri=f"file:{tmp_path}")


def test_a_server_that_is_not_there_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(ReleaseError, match="MLflow has no model .*HTTPConnection"):
        draft_from_mlflow("mlflow:/churn/1", key=KEY, tracking_uri="http://127.0.0.1:1")


@contextlib.contextmanager
def serving(folder: Path) -> Iterator[str]:
    """A server of MLflow's own, with a database and a folder of artifacts."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    command = [
        *(str(SERVER), "server", "--port", str(port), "--workers", "1"),
        *("--backend-store-uri", f"sqlite:///{folder / 'db'}"),
        *("--artifacts-destination", str(folder / "artifacts")),
    ]
    with (
        (folder / "log").open("w") as log_file,
        subprocess.Popen(
            command, stdout=log_file, stderr=log_file, cwd=folder
        ) as process,
    ):
        try:
            end = time.monotonic() + 240
            while not _answers(url):
                assert process.poll() is None, (folder / "log").read_text()
                assert time.monotonic() < end, (folder / "log").read_text()
                time.sleep(0.5)
            yield url
        finally:
            process.terminate()


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(f"{url}/health", timeout=5) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


@pytest.mark.slow
@pytest.mark.skipif(not SERVER.exists(), reason="make test installs MLflow's server")
def test_a_registered_model_comes_over_from_a_server(tmp_path: Path) -> None:
    import mlflow

    with serving(tmp_path) as url:
        example = make_frame().iloc[[0, 7, ROWS - 1]]
        run, said = log(
            "xgboost", url, registered_model_name="churn", input_example=example
        )
        mlflow.MlflowClient().set_registered_model_alias("churn", "champion", "1")
        command = [
            *(
                "release",
                "import",
                "mlflow:/churn@champion",
                "--key",
                "customer_id:int64",
            ),
            *("--tracking-uri", url, "--yes", "--json"),
            *("--out", str(tmp_path / "release"), "--output", "prediction"),
        ]
        done = CliRunner().invoke(main, command)
        assert done.exit_code == 0, done.output
        shown = json.loads(done.output[done.output.index("{") :])
        assert shown["name"] == "churn"
        release = Registry(tmp_path / "root").add(tmp_path / "release")
        assert release.digest == shown["digest"]
        about = release.manifest.about["mlflow"]
        assert about["run_id"] == run
        assert about["experiment"] == "retention"
        assert about["tracking_uri"] == url
        must_say(release, said, tmp_path)


@pytest.mark.parametrize(
    ("key", "said"), [("customer_id", "no NAME:TYPE"), ("id:float", "int64 or string")]
)
def test_a_key_is_a_name_and_a_type(key: str, said: str) -> None:
    done = CliRunner().invoke(main, ["release", "import", "mlflow:/a/1", "--key", key])
    assert done.exit_code != 0
    assert said in done.output
