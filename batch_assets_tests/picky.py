"""A model that tells how many rows it saw, has little memory, and raises."""

from pathlib import Path

import numpy as np
import torch

from batch_assets.models.release import Release
from batch_assets.scoring.scorer import Scorer
from batch_assets_tests.toys import (
    ToyRisk,
    features_of,
    make_contract,
    make_rows,
    write_toy_release,
)

ROWS = 257
POISON = 111


class Picky(torch.nn.Module):
    """The toy model, which tells how many rows it saw, has little memory, and raises."""

    seen: list[int]

    def __init__(self, rows: int) -> None:
        super().__init__()
        self.toy = ToyRisk()
        self.rows = rows
        self.seen = []

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        self.seen.append(len(features))
        if len(features) > self.rows:
            torch.empty(1 << 60)
        if (features[:, 0] == POISON).any():
            msg = "no risk at that age"
            raise ValueError(msg)
        # A row of zeros would be younger than any that is asked for.
        if (features[:, 0] == 0).any():
            msg = "nobody asked for a newborn"
            raise ValueError(msg)
        return self.toy(features)


def write_picky(folder: Path, rows: int = 10_000) -> Release:
    golden = torch.tensor([[40.0, 1.0, 0.0, 1.0], [50.0, 2.0, 1.0, 0.0]])
    return write_toy_release(
        folder / "release",
        module=Picky(rows),
        model_format="safetensors",
        import_path="batch_assets_tests.picky:Picky",
        arguments={"rows": rows},
        golden_inputs=golden,
    )


def packed(rows: int = ROWS) -> np.ndarray:
    features = features_of(make_rows(rows, seed=3), make_contract()).numpy().T.copy()
    features[0] = features[0] % 90 + 1
    return features


def seen(scorer: Scorer) -> list[int]:
    # It is given copies, in case it writes into them.
    return scorer._module.module.seen  # type: ignore[attr-defined]


def risk(features: np.ndarray) -> np.ndarray:
    with torch.inference_mode():
        return ToyRisk()(torch.from_numpy(features.T)).numpy()
