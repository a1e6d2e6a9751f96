"""A stranger's frame and models, on generated data."""

from collections import namedtuple
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
import torch

ROWS = 600
DAYS = ("2026-01-01", "2026-01-02", "2026-01-03")
PLANS = ("free", "max", "pro")


def make_frame(rows: int = ROWS, seed: int = 0) -> pl.DataFrame:
    """Customers over three days, with a label that no model gets."""
    random = np.random.default_rng(seed)
    spend = random.random(rows) * 100
    return pl.DataFrame(
        {
            "customer": [f"c{n}" for n in range(rows)],
            "day": np.repeat(DAYS, rows // len(DAYS)),
            "age": random.integers(18, 90, rows).astype(np.int16),
            "spend": np.where(random.random(rows) < 0.1, np.nan, spend),
            "plan": random.choice(PLANS, rows),
            "active": random.random(rows) < 0.5,
            "late": random.random(rows) < 0.2,
        }
    )


COMMON: dict[str, Any] = {
    "name": "churn",
    "key": "customer",
    "without": ["late"],
    "day": "day",
}


class Net(torch.nn.Module):
    """Two numbers from four features."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer = torch.nn.Linear(4, 2)

    def forward(self, features: torch.Tensor) -> Any:
        return torch.sigmoid(self.layer(torch.nan_to_num(features) / 100))


class Named(Net):
    def forward(self, features: torch.Tensor) -> Any:
        out = super().forward(features)
        return {
            "risk": out[:, 0],
            "score": out[:, 1:].double(),
            "profile": torch.cat([out, out], dim=1),
            "hidden": None,
        }


Pair = namedtuple("Pair", "risk best")


class Paired(Net):
    def forward(self, features: torch.Tensor) -> Any:
        out = super().forward(features)
        return Pair(out[:, 0], out.argmax(dim=1))


@dataclass
class Heads:
    risk: torch.Tensor
    upsell: torch.Tensor


class TwoHeaded(Net):
    def forward(self, features: torch.Tensor) -> Any:
        out = super().forward(features)
        return Heads(out[:, :1], out[:, 1])


class OfADict(Net):
    """Takes its tensors in one dict."""

    def forward(self, given: dict[str, torch.Tensor]) -> Any:
        return super().forward(given["features"])
