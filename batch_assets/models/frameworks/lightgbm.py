"""LightGBM: its boosters, stored as text. It knows nothing of approvals.

Categories are positions, as LightGBM keeps those of a pandas frame beside its trees.
"""

from pathlib import Path
from typing import Any

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

WHAT = "the LightGBM model"
# What LightGBM calls columns that have no name.
NAMELESS = "Column_"


def own(model: Any, declared: Declared) -> Foreign:
    """Return a Booster or LGBMModel as it predicts by itself."""
    return _Trees(_booster(model), declared)


def save(model: Any, path: Path, declared: Declared) -> None:
    """Write the trees that the model predicts with: up to the best round, if there is one."""
    _booster(model).save_model(path)


def load(path: Path, declared: Declared, device: torch.device) -> Foreign:
    """Read a booster for many threads, each of which computes alone."""
    must_be_cpu(device, "LightGBM")
    return _Trees(read(path), declared, num_threads=THREADS)


def read(path: Path) -> Any:
    """Read a booster of text."""
    with needs("lightgbm"):
        import lightgbm
    return lightgbm.Booster(model_file=path)


def versions() -> dict[str, str]:
    with needs("lightgbm"):
        import lightgbm
    return {"lightgbm": lightgbm.__version__}


def _booster(model: Any) -> Any:
    if not hasattr(model, "booster_") and not hasattr(type(model), "booster_"):
        must_be_model(model, "model_to_string", WHAT)
        return model
    if not model.__sklearn_is_fitted__():
        msg = f"{WHAT} {type(model).__name__} is not fitted: fit it first"
        raise ReleaseError(msg)
    return model.booster_


def _must_fit(booster: Any, declared: Declared) -> None:
    names = booster.feature_name()
    nameless = all(name.startswith(NAMELESS) for name in names)
    must_take_features(len(names) if nameless else names, declared.contract, WHAT)
    learned = booster.pandas_categorical or []
    strings = [one for one in declared.contract.features if one.categories]
    if learned and len(learned) != len(strings):
        msg = (
            f"{WHAT} learned the categories of {len(learned)} columns, {learned}, and the "
            f"contract has {len(strings)} features of the dtype 'string'. Declare these, "
            "with the categories in this order."
        )
        raise ReleaseError(msg)
    for feature, words in zip(strings, learned, strict=False):
        must_know_words(feature, words, WHAT)


class _Trees(Foreign):
    def __init__(self, booster: Any, declared: Declared, **settings: Any) -> None:
        super().__init__()
        _must_fit(booster, declared)
        self.booster, self.declared, self.settings = booster, declared, settings
        # The head of the file, and one tree: the whole may have many megabytes.
        head = booster.model_to_string(num_iteration=1)
        self.classes = 2 if "\nobjective=binary " in head else 0

    def ask(self, tensors: dict[str, torch.Tensor]) -> Any:
        values = self.booster.predict(by_row(tensors), **self.settings)
        return self.declared.answer(values, self.classes)
