"""XGBoost: its boosters, stored as UBJSON. It knows nothing of approvals.

Categories are positions, as XGBoost itself keeps them in the file beside its trees.
"""

from pathlib import Path
from typing import Any

import numpy as np
import torch

from batch_assets.errors import ReleaseError
from batch_assets.models.frameworks.base import (
    THREADS,
    Declared,
    Foreign,
    by_row,
    must_be_cpu,
    must_be_model,
    must_know_words,
    must_take_features,
    needs,
)

WHAT = "the XGBoost model"


def own(model: Any, declared: Declared) -> Foreign:
    """Return a Booster or XGBModel as it predicts by itself."""
    booster = _booster(model)
    _must_fit(booster, declared)
    return _Own(booster, declared)


def save(model: Any, path: Path, declared: Declared) -> None:
    """Write the trees that the model predicts with."""
    _booster(model).save_model(path)


def load(path: Path, declared: Declared, device: torch.device) -> Foreign:
    """Read a booster for many threads, each of which computes alone."""
    must_be_cpu(device, "XGBoost")
    booster = read(path)
    booster.set_param({"nthread": THREADS})
    _must_fit(booster, declared)
    return _Loaded(booster, declared)


def read(path: Path) -> Any:
    """Read a booster of JSON or UBJSON."""
    with needs("xgboost"):
        import xgboost
    return xgboost.Booster(model_file=path)


def versions() -> dict[str, str]:
    with needs("xgboost"):
        import xgboost
    return {"xgboost": xgboost.__version__}


def _booster(model: Any) -> Any:
    """The trees that a model predicts with: of early stopping, up to the best round."""
    if not hasattr(model, "get_booster"):
        must_be_model(model, "inplace_predict", WHAT)
        return model
    if not model.__sklearn_is_fitted__():
        msg = f"{WHAT} {type(model).__name__} is not fitted: fit it first"
        raise ReleaseError(msg)
    booster = model.get_booster()
    best = booster.attr("best_iteration")
    return booster if best is None else booster[: int(best) + 1]


def _must_fit(booster: Any, declared: Declared) -> None:
    contract = declared.contract
    names = booster.feature_names or booster.num_features()
    must_take_features(names, contract, WHAT)
    if '"gblinear"' in booster.save_config():
        msg = (
            f"{WHAT} is a gblinear, which XGBoost asks on one thread alone. Write it as "
            "the linear model that it is, in torch or scikit-learn."
        )
        raise ReleaseError(msg)
    categories = booster.get_categories(export_to_arrow=True).to_arrow()
    for feature, (_, words) in zip(contract.features, categories or (), strict=False):
        must_know_words(feature, None if words is None else words.to_pylist(), WHAT)


class _Trees(Foreign):
    def __init__(self, booster: Any, declared: Declared) -> None:
        super().__init__()
        self.booster, self.declared = booster, declared
        binary = '"name":"binary:logistic"' in booster.save_config()
        self.classes = 2 if binary else 0


class _Own(_Trees):
    def ask(self, tensors: dict[str, torch.Tensor]) -> Any:
        import xgboost

        rows = xgboost.DMatrix(
            by_row(tensors),
            feature_names=self.booster.feature_names,
            feature_types=self.booster.feature_types,
            enable_categorical=True,
        )
        return self.declared.answer(self.booster.predict(rows), self.classes)


class _Loaded(_Trees):
    def ask(self, tensors: dict[str, torch.Tensor]) -> Any:
        # The one way to ask that threads may go at once.
        values: np.ndarray = self.booster.inplace_predict(by_row(tensors))
        return self.declared.answer(values, self.classes)
