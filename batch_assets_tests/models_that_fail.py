"""Models that fail on purpose: for some rows, for want of memory, or until a bug is mended."""

import os
import time
from pathlib import Path

import numpy as np
import torch

from batch_assets.models.release import Release
from batch_assets.models.writing import save_release
from batch_assets_tests import histories
from batch_assets_tests.stuck import Moody
from batch_assets_tests.toys import (
    NAME,
    ToyRisk,
    expected_risk,
    features_of,
    make_contract,
    make_rows,
    write_toy_release,
)

GOLDEN_ROWS = 4
# The ages at which the model raises; a test that mends it takes some away.
broken: set[int] = set()


class Mendable(ToyRisk):
    """The toy model with a bug in its code, which is not part of the release.

    A process of its own is told by the environment: BROKEN_AGES, and SLOW_SECONDS for
    any batch but the golden one, of which ASKED is a file to make.
    """

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        if len(features) > GOLDEN_ROWS:
            if asked := os.environ.get("ASKED"):
                Path(asked).touch()
            time.sleep(float(os.environ.get("SLOW_SECONDS", "0")))
        must_have_tables(features)
        return super().forward(features)


def must_have_tables(features: torch.Tensor) -> None:
    ages = broken.union(map(int, os.environ.get("BROKEN_AGES", "").split()))
    at_fault = ages.intersection(features[:, 0].tolist())
    if at_fault:
        msg = f"no table for age {min(at_fault):.0f}"
        raise KeyError(msg)


class MendableHistories(histories.Histories):
    """The toy recommender with the same bug."""

    def forward(
        self, features: torch.Tensor, **tensors: torch.Tensor
    ) -> tuple[torch.Tensor, ...]:
        must_have_tables(features)
        return super().forward(features, **tensors)


def write_mendable(folder: Path) -> Release:
    contract = make_contract()
    broken.clear()
    return save_release(
        folder,
        name=NAME,
        module=Mendable(),
        contract=contract,
        golden_inputs=features_of(make_rows(16), contract)[:GOLDEN_ROWS],
        reference={"risk": expected_risk(make_rows(2_000, seed=1))},
        model_format="safetensors",
        import_path="batch_assets_tests.models_that_fail:Mendable",
    )


def write_mendable_histories(folder: Path) -> Release:
    broken.clear()
    return histories.write_histories(
        folder,
        name=NAME,
        module=MendableHistories(),
        model_format="safetensors",
        import_path="batch_assets_tests.models_that_fail:MendableHistories",
    )


POISON = 111
WRONG = 112


class Hungry(torch.nn.Module):
    """The toy model, but memory runs out: with many rows, or with a poisoned one."""

    def __init__(self, rows: int, how: str) -> None:
        super().__init__()
        self.toy = ToyRisk()
        self.rows = rows
        self.how = how
        self.asked: list[int] = []

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        self.asked.append(len(features))
        if len(features) > self.rows or (features[:, 0] == POISON).any():
            match self.how:
                case "device":
                    raise torch.OutOfMemoryError("CUDA out of memory. Tried to ...")
                case "torch":
                    torch.empty(1 << 60)
                case "numpy":
                    np.empty(1 << 55)
        if (features[:, 0] == WRONG).any():
            msg = "no memory of that age"
            raise RuntimeError(msg)
        return self.toy(features)


def packed(rows: int, *ages: int) -> np.ndarray:
    """Toy features, (features, rows), the last of them at the ages that are given."""
    features = features_of(make_rows(rows, seed=3), make_contract()).numpy().T.copy()
    features[0] %= 90
    features[0, rows - len(ages) :] = ages
    return features


def write_moody(folder: Path) -> Release:
    """A release that misbehaves at some ages, in the model's own process."""
    return write_toy_release(
        folder,
        module=Moody(-1),
        model_format="safetensors",
        import_path="batch_assets_tests.stuck:Moody",
        arguments={"home": -1},
        golden_inputs=torch.from_numpy(packed(8).T),
    )
