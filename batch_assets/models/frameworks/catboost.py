"""CatBoost: its models, stored in its binary format. It knows nothing of approvals.

A column that the model knows as a category gets the feature's own value, a word or a
whole number: CatBoost hashes what it was trained on, and knows no positions.
"""

from pathlib import Path
from typing import Any

import numpy as np
import torch

from batch_assets.errors import ReleaseError
from batch_assets.models.columns import quoted
from batch_assets.models.contract import Feature
from batch_assets.models.frameworks.base import (
    THREADS,
    Declared,
    Foreign,
    by_column,
    is_exact,
    must_be_cpu,
    must_be_model,
    must_take_features,
    needs,
)

WHAT = "the CatBoost model"
PROBABLE = ("Logloss", "CrossEntropy", "MultiClass", "MultiClassOneVsAll")
PROBABLE_EACH = ("MultiLogloss", "MultiCrossEntropy")
# The value, and its variance.
UNCERTAIN = "RMSEWithUncertainty"
EXPONENTIAL = ("Poisson", "Tweedie", "LogLinQuantile")


def own(model: Any, declared: Declared) -> Foreign:
    """Return a model as it predicts by itself."""
    must_be_model(model, "is_fitted", WHAT)
    if not model.is_fitted():
        msg = f"{WHAT} {type(model).__name__} is not fitted: fit it first"
        raise ReleaseError(msg)
    return _Own(model, declared)


def save(model: Any, path: Path, declared: Declared) -> None:
    """Write the model's trees, and the tables of its categories."""
    model.save_model(str(path), format="cbm")


def load(path: Path, declared: Declared, device: torch.device) -> Foreign:
    """Read a model for many threads, each of which computes alone."""
    must_be_cpu(device, "CatBoost")
    return _Trees(read(path), declared, thread_count=THREADS)


def read(path: Path) -> Any:
    """Read a model of CatBoost's binary format."""
    with needs("catboost"):
        import catboost
    model = catboost.CatBoost()
    model.load_model(str(path), format="cbm")
    return model


def versions() -> dict[str, str]:
    with needs("catboost"):
        import catboost
    return {"catboost": catboost.__version__}


def _must_fit(model: Any, declared: Declared) -> None:
    names = model.feature_names_
    nameless = names == [str(place) for place in range(len(names))]
    must_take_features(len(names) if nameless else names, declared.contract, WHAT)
    if model.get_text_feature_indices() or model.get_embedding_feature_indices():
        msg = f"{WHAT} takes texts or embeddings, which no feature is: train it without"
        raise ReleaseError(msg)
    features = [
        declared.contract.features[at] for at in model.get_cat_feature_indices()
    ]
    unfit = [
        one.name
        for one in features
        if one.nullable
        or one.dtype == "bool"
        or (one.categories is None and not is_exact(one))
    ]
    if unfit:
        msg = (
            f"{WHAT} takes {quoted(unfit)} as categories, which are strings, or whole "
            "numbers with a min and max within 2**24, and never null. Declare the "
            "features so; in the query, give a null a word of its own, such as "
            "coalesce(plan, 'none')."
        )
        raise ReleaseError(msg)


class _Trees(Foreign):
    def __init__(self, model: Any, declared: Declared, **settings: Any) -> None:
        super().__init__()
        _must_fit(model, declared)
        self.model, self.declared, self.settings = model, declared, settings
        self.categories = set(model.get_cat_feature_indices())
        loss = model.get_all_params().get("loss_function", "RMSE").partition(":")[0]
        self.classes = 0
        self.kind = "RawFormulaVal"
        if loss in PROBABLE:
            self.kind, self.classes = "Probability", max(len(model.classes_), 2)
        elif loss in PROBABLE_EACH:
            self.kind = "Probability"
        elif loss == UNCERTAIN:
            self.kind = UNCERTAIN
        elif loss in EXPONENTIAL:
            self.kind = "Exponent"

    def ask(self, tensors: dict[str, torch.Tensor]) -> Any:
        values = self.model.predict(
            self._rows(by_column(tensors)), prediction_type=self.kind, **self.settings
        )
        return self.declared.answer(np.asarray(values), self.classes)

    def _rows(self, columns: np.ndarray) -> Any:
        """Features as CatBoost takes them without a copy: numbers column by column."""
        if not self.categories:
            return np.ascontiguousarray(columns).T
        import pandas as pd

        features = self.declared.contract.features
        return pd.DataFrame(
            {
                one.name: _category(one, values) if at in self.categories else values
                for at, (one, values) in enumerate(zip(features, columns, strict=True))
            },
            copy=False,
        )


class _Own(_Trees):
    def ask(self, tensors: dict[str, torch.Tensor]) -> Any:
        import catboost

        if type(self.model) is catboost.CatBoost:
            # It has no answer of its own: whoever asks says which.
            return super().ask(tensors)
        rows = self._rows(by_column(tensors))
        if hasattr(self.model, "predict_proba"):
            values = self.model.predict_proba(rows)
        else:
            values = self.model.predict(rows)
        return self.declared.answer(np.asarray(values), self.classes)


def _category(feature: Feature, values: np.ndarray) -> Any:
    """A column of categories: words, or whole numbers as they are."""
    if feature.categories is None:
        return values.astype(np.int64)
    import pandas as pd

    return pd.Categorical.from_codes(values.astype(np.int32), list(feature.categories))
