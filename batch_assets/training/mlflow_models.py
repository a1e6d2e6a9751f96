"""A draft from a model of MLflow: from its registry, a run, or a folder that it wrote.

    models:/churn/3  models:/churn@champion  runs:/<run>/model  mlflow:/churn/3  ./folder

The signature becomes the contract; run and experiment are kept as `about`. The model's own
file is read, of a flavor whose files hold no code: what MLflow has pickled is refused. It
takes nothing else over: digest and approval are this project's.
"""

import json
import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import pyarrow as pa
from pydantic import ValidationError

from batch_assets.errors import ContractError, ReleaseError
from batch_assets.models.contract import (
    FEATURE_TYPES,
    Contract,
    Feature,
    KeySpec,
)
from batch_assets.models.derived import outputs_of, reason_of
from batch_assets.models.frames import table_of
from batch_assets.models.frameworks.registry import read_model
from batch_assets.training.drafts import Draft, draft_release

MODEL_FILE = "MLmodel"
# Its words for types, and the contract's.
TYPES = {
    "boolean": "bool",
    "integer": "int32",
    "long": "int64",
    "float": "float32",
    "double": "float64",
    "string": "string",
}
PICKLES = (".pkl", ".pickle", ".pth", ".joblib", ".cloudpickle")
PREDICTION = "prediction"
# Flavors whose files hold no code, as the formats of releases are called.
FLAVORS = ("xgboost", "lightgbm", "catboost", "onnx")


@dataclass(frozen=True)
class Logged:
    """A model's folder, what its `MLmodel` says, and where it is from."""

    folder: Path
    says: Mapping[str, Any]
    about: dict[str, Any]

    @property
    def inputs(self) -> list[dict[str, Any]]:
        return self._signature("inputs")

    @property
    def outputs(self) -> list[dict[str, Any]]:
        return self._signature("outputs")

    def _signature(self, side: str) -> list[dict[str, Any]]:
        text = (self.says.get("signature") or {}).get(side)
        columns: list[dict[str, Any]] = json.loads(text) if text else []
        return columns


def draft_from_mlflow(
    uri: str,
    *,
    key: KeySpec,
    name: str | None = None,
    frame: Any = None,
    outputs: Sequence[str] = (),
    tracking_uri: str | None = None,
) -> Draft:
    """Draft a release from a model that MLflow keeps.

    Args:
        uri: of a registered model, of a run's, or a folder.
        key: the column that names who is scored; no signature has it.
        name: of the release; the registered model's if left out.
        frame: rows that it was trained on, for ranges, categories, golden rows and the
            reference; the model's input example if left out.
        outputs: what it gives; the signature's names if left out.
        tracking_uri: where MLflow's server or store is; as MLflow finds it if left out.

    Raises:
        ReleaseError: there is no such model, or no release can be made of it.
        ContractError: the frame does not fit its signature.
    """
    with tempfile.TemporaryDirectory() as scratch:
        logged = _fetched(uri, tracking_uri, Path(scratch))
        given = table_of(frame if frame is not None else _example(logged))
        given = _as_signed(given, logged)
        contract = _contract_of(
            logged, key, given, outputs, with_ranges=frame is not None
        )
        return draft_release(
            _model_of(logged),
            given,
            name=name or _name_of(logged, uri),
            contract=contract,
            about={"mlflow": logged.about},
        )


def _fetched(uri: str, tracking_uri: str | None, scratch: Path) -> Logged:
    """Copy a model's folder down, and read what it says of itself."""
    if (Path(uri) / MODEL_FILE).is_file():
        return _logged(Path(uri), {"uri": uri})
    # Its bars would stand between the lines of whoever imports.
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    try:
        import mlflow
    except ImportError as error:
        msg = (
            f"a model of MLflow needs its client ({error}): "
            "pip install 'batch-assets[mlflow]'"
        )
        raise ReleaseError(msg) from error
    uri = uri.removeprefix("mlflow:")
    uri = f"models:{uri}" if uri.startswith("/") else uri
    if not uri.startswith(("models:/", "runs:/")):
        msg = (
            f"'{uri}' is no model of MLflow: expected models:/NAME/VERSION, "
            "runs:/RUN/PATH, mlflow:/NAME/VERSION, or a folder with a file MLmodel"
        )
        raise ReleaseError(msg)
    if tracking_uri:
        mlflow.set_tracking_uri(tracking_uri)
    try:
        folder = Path(mlflow.artifacts.download_artifacts(uri, dst_path=str(scratch)))
        about = {"uri": uri, "tracking_uri": _bare(mlflow.get_tracking_uri())}
        logged = _logged(folder, about)
        if run_id := logged.says.get("run_id"):
            run = mlflow.get_run(run_id)
            experiment = mlflow.get_experiment(run.info.experiment_id)
            logged.about["experiment_id"] = run.info.experiment_id
            logged.about["experiment"] = experiment.name
    except ReleaseError:
        raise
    # Its client raises what its transport, its store or a plugin raises.
    except Exception as error:
        msg = f"MLflow has no model '{uri}': {type(error).__name__}: {error}"
        raise ReleaseError(msg) from error
    return logged


def _logged(folder: Path, about: dict[str, Any]) -> Logged:
    import yaml

    try:
        says = yaml.safe_load((folder / MODEL_FILE).read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError) as error:
        msg = f"{folder} holds no model of MLflow: {error}"
        raise ReleaseError(msg) from error
    kept = ("run_id", "model_id", "mlflow_version", "utc_time_created")
    return Logged(folder, says, about | {n: says[n] for n in kept if says.get(n)})


def _example(logged: Logged) -> Any:
    """The rows that were logged with a model."""
    info = logged.says.get("saved_input_example_info") or {}
    if info.get("type") != "dataframe":
        msg = (
            "the model was logged without a frame as its input example: give a frame that "
            "it was trained on (--frame)"
        )
        raise ReleaseError(msg)
    path = logged.folder / info["artifact_path"]
    said = json.loads(path.read_text(encoding="utf-8"))
    return {
        name: list(values)
        for name, values in zip(
            said["columns"], zip(*said["data"], strict=True), strict=True
        )
    }


def _as_signed(frame: pa.Table, logged: Logged) -> pa.Table:
    """A frame with its columns in the types of a signature; what is not of it stays.

    An example is kept as JSON, which has one type of whole numbers.
    """
    for one in logged.inputs:
        name, kind = one.get("name"), TYPES.get(str(one.get("type")))
        if kind is None or name not in frame.column_names:
            continue
        try:
            column = frame[name].cast(FEATURE_TYPES[kind])
        except pa.ArrowException as error:
            msg = f"'{name}' is {frame[name].type}, by its signature {kind}: {error}"
            raise ContractError(msg) from error
        frame = frame.set_column(frame.column_names.index(name), name, column)
    return frame


def _contract_of(
    logged: Logged,
    key: KeySpec,
    frame: pa.Table,
    outputs: Sequence[str],
    *,
    with_ranges: bool,
) -> Contract:
    """The signature's columns and types, with what a frame tells of each."""
    columns = logged.inputs
    if not columns:
        msg = (
            "the model has no signature: log it with infer_signature(frame, predictions), "
            "or write a release from the model itself (write_release)"
        )
        raise ReleaseError(msg)
    if nameless := [
        one for one in columns if not one.get("name") or "tensor-spec" in one
    ]:
        msg = (
            f"its signature has tensors without columns, {nameless[:2]}: write a release "
            "from the model and the frame that it was trained on (write_release)"
        )
        raise ReleaseError(msg)
    odd = [one for one in columns if one.get("type") not in TYPES]
    if odd:
        msg = (
            f"its signature has '{odd[0]['name']}' of the type {odd[0].get('type')}, "
            f"expected {', '.join(TYPES)}"
        )
        raise ReleaseError(msg)
    names = [one["name"] for one in columns]
    texts = [one["name"] for one in columns if one["type"] == "string"]
    if texts and not with_ranges:
        msg = (
            f"which words {texts} may have, no signature says: give a frame that the model "
            "was trained on (--frame)"
        )
        raise ReleaseError(msg)
    told: dict[str, Feature] = {}
    there = [name for name in names if name in frame.column_names]
    if with_ranges and there:
        derived = Contract.from_frame(frame.select(there), key=key, outputs=PREDICTION)
        told = {one.name: one for one in derived.features}
    gives = list(outputs) or [
        str(one["name"]) for one in logged.outputs if one.get("name")
    ]
    try:
        return Contract(
            key=key,
            features=tuple(_feature(one, told.get(one["name"])) for one in columns),
            outputs=outputs_of(gives or [PREDICTION]),
        )
    except ValidationError as error:
        msg = f"its signature can be no contract: {reason_of(error)}"
        raise ReleaseError(msg) from error


def _feature(column: Mapping[str, Any], told: Feature | None) -> Feature:
    kind: Any = TYPES[column["type"]]
    known: dict[str, Any] = {}
    if told is not None:
        known = {
            "min": told.min if kind not in ("string", "bool") else None,
            "max": told.max if kind not in ("string", "bool") else None,
            "categories": told.categories if kind == "string" else None,
        }
    return Feature(
        name=column["name"],
        dtype=kind,
        nullable=not column.get("required", True),
        **known,
    )


def _model_of(logged: Logged) -> Any:
    """The model in its own file, of a flavor whose files hold no code."""
    flavors = logged.says.get("flavors") or {}
    for flavor in FLAVORS:
        if flavor not in flavors:
            continue
        said = flavors[flavor]
        path = logged.folder / str(said.get("data") or said.get("model_data") or "")
        if path.suffix in PICKLES or not path.exists():
            break
        logged.about["flavor"] = flavor
        return read_model(flavor, path)
    others = sorted(set(flavors) - {"python_function"})
    msg = (
        f"the model is of the flavors {others}, stored as a pickle or as code, which is "
        f"not loaded here. What can be: {', '.join(FLAVORS)}, each in its own format. Log "
        "it through ONNX (mlflow.onnx), or write a release from the model itself "
        "(write_release)"
    )
    raise ReleaseError(msg)


def _name_of(logged: Logged, uri: str) -> str:
    tail = uri.partition("models:/")[2] or uri.removeprefix("mlflow:/")
    name = tail.replace("@", "/").split("/")[0]
    if not name.isidentifier():
        msg = f"no release can be named by '{uri}': say how (--name)"
        raise ReleaseError(msg)
    return name


def _bare(uri: str) -> str:
    """An address without a user and a password."""
    parts = urlsplit(uri)
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))
