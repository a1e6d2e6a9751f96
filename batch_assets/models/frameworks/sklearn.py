"""scikit-learn: estimators and pipelines, converted to ONNX when they are written.

What is stored and scored is the graph; the estimator itself is asked once more for the
golden rows, so that a conversion that says anything else is refused. It reads no pickle.
"""

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch

from batch_assets.errors import ReleaseError
from batch_assets.models.contract import FEATURES, Feature
from batch_assets.models.frameworks import onnx as graphs
from batch_assets.models.frameworks.base import (
    Declared,
    Foreign,
    by_row,
    must_take_features,
    needs,
)

# Of ONNX itself and of its operators for estimators: older than what onnxruntime runs,
# and the newest that all converters write.
OPSETS = {"": 21, "ai.onnx.ml": 3}


def own(model: Any, declared: Declared) -> Foreign:
    """Return an estimator as it predicts by itself."""
    return _Estimator(model, declared)


def save(model: Any, path: Path, declared: Declared) -> None:
    """Convert the estimator, and write the graph."""
    graphs.save(_converted(model, declared), path, declared)


def versions() -> dict[str, str]:
    with needs("sklearn"):
        import skl2onnx
        import sklearn
    found = {"scikit-learn": sklearn.__version__, "skl2onnx": skl2onnx.__version__}
    return found | graphs.versions()


def _converted(model: Any, declared: Declared) -> Any:
    with needs("sklearn"):
        from skl2onnx import convert_sklearn
        from skl2onnx.common.data_types import FloatTensorType, StringTensorType
        from sklearn.base import is_classifier
    features = declared.contract.features
    if _by_name(model):
        types = [
            (
                one.name,
                (StringTensorType if one.categories else FloatTensorType)([None, 1]),
            )
            for one in features
        ]
    else:
        types = [(FEATURES, FloatTensorType([None, len(features)]))]
    try:
        with warnings.catch_warnings():
            # Its use of NumPy and of ONNX is its own.
            warnings.simplefilter("ignore")
            return convert_sklearn(
                model,
                # The same bytes each time: a name of its own is drawn otherwise.
                name="model",
                initial_types=types,
                options={"zipmap": False} if is_classifier(model) else None,
                target_opset=OPSETS,
            )
    # Each converter raises what it likes.
    except Exception as error:
        why = " ".join(str(error).partition("\n\n")[0].split())
        msg = (
            f"{_what(model)} can't be converted to ONNX by skl2onnx: "
            f"{type(error).__name__}: {why[:300]}. Leave out the step that has no "
            "converter, or give the ONNX graph of what you convert yourself."
        )
        raise ReleaseError(msg) from error


def _by_name(model: Any) -> bool:
    """Whether it was fitted on a frame, and finds its columns by their names."""
    return hasattr(model, "feature_names_in_")


def _what(model: Any) -> str:
    return f"the scikit-learn model {type(model).__name__}"


def _must_fit(model: Any, declared: Declared) -> None:
    with needs("sklearn"):
        from sklearn.base import is_classifier, is_regressor
        from sklearn.exceptions import NotFittedError
        from sklearn.utils.validation import check_is_fitted
    try:
        check_is_fitted(model)
    except (NotFittedError, TypeError) as error:
        msg = f"{_what(model)} is not fitted: fit it first"
        raise ReleaseError(msg) from error
    if is_classifier(model) and not hasattr(model, "predict_proba"):
        msg = (
            f"{_what(model)} has no predict_proba: wrap it in a CalibratedClassifierCV, "
            "or give the ONNX graph of what you convert yourself."
        )
        raise ReleaseError(msg)
    if not is_classifier(model) and not is_regressor(model):
        msg = (
            f"{_what(model)} is neither a classifier nor a regressor: give the ONNX graph "
            "of what you convert yourself."
        )
        raise ReleaseError(msg)
    names = model.feature_names_in_ if _by_name(model) else model.n_features_in_
    must_take_features(
        names if isinstance(names, int) else list(names),
        declared.contract,
        _what(model),
    )


class _Estimator(Foreign):
    def __init__(self, model: Any, declared: Declared) -> None:
        super().__init__()
        _must_fit(model, declared)
        self.model, self.declared = model, declared
        self.probable = hasattr(model, "predict_proba")

    def ask(self, tensors: dict[str, torch.Tensor]) -> Any:
        rows = self._rows(by_row(tensors))
        if not self.probable:
            return self.declared.answer(np.asarray(self.model.predict(rows)))
        values = np.asarray(self.model.predict_proba(rows))
        return self.declared.answer(values, values.shape[-1])

    def _rows(self, matrix: np.ndarray) -> Any:
        """As it was fitted: a frame with words for categories, or the matrix."""
        if not _by_name(self.model):
            return matrix
        import pandas as pd

        features = self.declared.contract.features
        return pd.DataFrame(
            {
                one.name: _column(one, values)
                for one, values in zip(features, matrix.T, strict=True)
            }
        )


def _column(feature: Feature, values: np.ndarray) -> np.ndarray:
    if feature.categories is None:
        return values
    if feature.nullable:
        msg = (
            f"feature '{feature.name}' may be null, which is no word to an ONNX graph. "
            "Declare it as not nullable, and give a null a word of its own in the query, "
            "such as coalesce(plan, 'none')."
        )
        raise ReleaseError(msg)
    return np.array(feature.categories, object)[values.astype(np.int64)]
