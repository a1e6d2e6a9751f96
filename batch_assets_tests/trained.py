"""Small models of each framework, trained on generated subscribers, and what they say.

`expected` asks each framework in its own way, on the raw words and numbers.
"""

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from batch_assets.models.contract import Contract, Feature, KeySpec, Output
from batch_assets.models.release import Release
from batch_assets.models.writing import save_release

PLANS = ("pro", "free", "team")
KINDS = ("sklearn", "onnx", "xgboost", "lightgbm", "catboost")
# How far float32 sums may be apart: trees and ONNX add up in another order.
CLOSE = 1e-5
CONTRACT = Contract(
    key=KeySpec(name="user_id", dtype="int64"),
    features=(
        Feature(name="age", dtype="int16", min=0, max=120),
        Feature(name="plan", dtype="string", categories=PLANS),
        Feature(name="spend", dtype="float32", nullable=True, min=0),
    ),
    outputs=(Output(name="risk", min=0, max=1),),
)


def declaring(**changes: Any) -> Contract:
    """The contract with other `features`, `inputs` or `outputs`."""
    fields = {name: getattr(CONTRACT, name) for name in ("key", "features", "outputs")}
    return Contract(**(fields | changes))


def with_outputs(*names: str) -> Contract:
    return declaring(outputs=tuple(Output(name=name) for name in names))


def make_rows(n: int, seed: int = 0) -> pa.Table:
    """Valid raw rows with the keys 1 .. n, in any order; some spend nothing known."""
    random = np.random.default_rng(seed)
    return pa.table(
        {
            "user_id": random.permutation(n) + 1,
            "age": random.integers(18, 91, n),
            "plan": np.asarray(PLANS)[random.integers(0, 3, n)].tolist(),
            "spend": pa.array(
                random.random(n).astype(np.float32), mask=random.random(n) < 0.1
            ),
        },
        schema=CONTRACT.raw_schema(),
    )


def frame_of(rows: pa.Table) -> pd.DataFrame:
    """Features as people train on them: numbers that a night can give, and words."""
    return pd.DataFrame(
        {
            "age": rows["age"].to_numpy().astype(np.float32),
            "plan": rows["plan"].to_pylist(),
            "spend": rows["spend"].to_pandas().astype(np.float32),
        }
    )


def matrix_of(rows: pa.Table) -> np.ndarray:
    """Features as the contract gives them, float32 (rows, 3)."""
    frame = frame_of(rows)
    frame["plan"] = [PLANS.index(word) for word in frame["plan"]]
    return frame.to_numpy(np.float32)


def categorical(rows: pa.Table) -> pd.DataFrame:
    frame = frame_of(rows)
    frame["plan"] = pd.Categorical(frame["plan"], categories=PLANS)
    return frame


def classes_of(rows: pa.Table, classes: int = 2) -> np.ndarray:
    frame = frame_of(rows)
    old = (frame["age"] > 60).astype(int) + (frame["plan"] == "pro").astype(int)
    return np.minimum(old.to_numpy(), classes - 1)


def train(kind: str, classes: int = 2) -> Any:
    """A classifier of a framework; `onnx` is a graph of a network on the matrix."""
    return _trained(kind, classes)


@cache
def _trained(kind: str, classes: int) -> Any:
    rows = make_rows(1_500, seed=7)
    target = classes_of(rows, classes)
    match kind:
        case "sklearn":
            return pipeline().fit(frame_of(rows), target)
        case "onnx":
            from skl2onnx import to_onnx

            matrix = np.nan_to_num(matrix_of(rows))
            return to_onnx(
                network().fit(matrix, target), matrix[:1], options={"zipmap": False}
            )
        case "xgboost":
            import xgboost

            trees = xgboost.XGBClassifier(n_estimators=20, enable_categorical=True)
            return trees.fit(categorical(rows), target)
        case "lightgbm":
            import lightgbm

            trees = lightgbm.LGBMClassifier(n_estimators=20, verbose=-1)
            return trees.fit(categorical(rows), target)
        case _:
            import catboost

            trees = catboost.CatBoostClassifier(
                iterations=20,
                verbose=0,
                allow_writing_files=False,
                cat_features=["plan"],
            )
            return trees.fit(frame_of(rows), target)


def network() -> Any:
    from sklearn.neural_network import MLPClassifier
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    return make_pipeline(
        StandardScaler(), MLPClassifier((8,), solver="lbfgs", max_iter=20_000)
    )


def pipeline() -> Any:
    """A pipeline on a frame: numbers are imputed and scaled, words are one of many."""
    from sklearn.compose import make_column_transformer
    from sklearn.ensemble import HistGradientBoostingClassifier
    from sklearn.impute import SimpleImputer
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import OneHotEncoder, StandardScaler

    numbers = make_pipeline(SimpleImputer(), StandardScaler())
    columns = make_column_transformer(
        (numbers, ["age", "spend"]),
        (OneHotEncoder(sparse_output=False), ["plan"]),
    )
    return make_pipeline(columns, HistGradientBoostingClassifier(max_iter=20))


def expected(kind: str, rows: pa.Table, classes: int = 2) -> np.ndarray:
    """The probability of each class, (rows, classes), as its framework says it."""
    model = train(kind, classes)
    match kind:
        case "sklearn" | "catboost":
            return np.asarray(model.predict_proba(frame_of(rows)))
        case "onnx":
            import onnxruntime

            session = onnxruntime.InferenceSession(model.SerializeToString())
            return np.asarray(session.run(None, {"X": matrix_of(rows)})[1])
        case _:
            return np.asarray(model.predict_proba(categorical(rows)))


def write_trained(folder: Path, kind: str, **changes: Any) -> Release:
    """Write a release; `changes` go to `save_release`."""
    arguments: dict[str, Any] = {
        "name": kind,
        "module": train(kind) if "module" not in changes else None,
        "contract": CONTRACT,
        "golden_inputs": golden(kind),
    }
    return save_release(folder, **(arguments | changes))


def golden(kind: str) -> np.ndarray:
    matrix = matrix_of(make_rows(40, seed=3))
    # The network knows no missing number.
    return np.nan_to_num(matrix) if kind == "onnx" else matrix
