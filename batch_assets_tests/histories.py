"""A toy recommender with every kind of input and output, and rows for it.

Users have a region, a taste vector, and a history of items with how many days ago each
was; the model ranks items by taste and by how often and how lately they were had. All is
deterministic. What it says is computed here a second time, row by row.
"""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from batch_assets import (
    Column,
    Contract,
    Feature,
    Ids,
    KeySpec,
    Label,
    Output,
    Ranking,
    Sequence,
    Vector,
    VectorOutput,
)
from batch_assets.models.post_specs import (
    Argmax,
    PostProcessing,
    Sigmoid,
    Softmax,
    Threshold,
    TopK,
)
from batch_assets.models.release import Release
from batch_assets.models.writing import save_release

NAME = "histories"
# Item ids are far above 2**24, where float32 has no odd numbers any more.
ITEMS = tuple(2**40 + 3 * n for n in range(50))
REGIONS = ("north", "south", "east")
CLASSES = ("safe", "unsafe", "review")
TASTE, LONGEST, K = 4, 12, 5


def make_contract(**changes: Any) -> Contract:
    arguments: dict[str, Any] = {
        "key": KeySpec(name="user_id", dtype="int64"),
        "features": (
            Feature(name="age", dtype="int16", min=0, max=120),
            Feature(name="spend", dtype="float32", nullable=True),
        ),
        "inputs": (
            Ids(name="region", dtype="string", vocabulary="regions", unknown=3),
            Ids(name="device", size=2**31),
            Vector(name="taste", size=TASTE, min=-10, max=10),
            Sequence(
                name="history",
                columns=(
                    Column(name="items", vocabulary="items"),
                    Column(name="days_ago", dtype="float32", min=0),
                ),
                max_length=LONGEST,
                longest=100,
            ),
            Sequence(
                name="seen",
                columns=(Column(name="seen_items", vocabulary="items"),),
                given=False,
            ),
        ),
        "vocabularies": {"items": ITEMS, "regions": REGIONS},
        "outputs": (
            Output(name="risk", min=0, max=1),
            Label(name="verdict", classes=CLASSES),
            Output(name="confidence", min=0, max=1),
            Label(name="band", classes=("low", "high")),
            VectorOutput(name="profile", size=3),
            Ranking(name="next_items", vocabulary="items", k=K),
        ),
    }
    return Contract(**(arguments | changes))


POST = PostProcessing(
    gives=("risk", "classes", "profile", "scores"),
    stages=(
        Sigmoid(of="risk"),
        Softmax(of="classes"),
        Argmax(of="classes", into="verdict", confidence="confidence"),
        Threshold(of="risk", into="band", at=(0.5,)),
        TopK(of="scores", into="next_items", k=K, without=("seen_items",)),
    ),
)


class Histories(torch.nn.Module):
    """Sums alone, so that no answer depends on what stands beside it."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(7)
        self.of_region = torch.nn.Parameter(torch.randn(len(REGIONS) + 1, 3))
        self.of_item = torch.nn.Parameter(torch.randn(len(ITEMS), TASTE))

    def forward(
        self,
        features: torch.Tensor,
        region: torch.Tensor,
        device: torch.Tensor,
        taste: torch.Tensor,
        items: torch.Tensor,
        days_ago: torch.Tensor,
        history_mask: torch.Tensor,
    ) -> tuple[torch.Tensor, ...]:
        weight = history_mask / (1 + days_ago)
        had = torch.zeros(items.shape[0], len(ITEMS)).scatter_add(1, items, weight)
        scores = (taste[:, None, :] * self.of_item).sum(dim=2) + had
        # Odd and even above 2**24 are different devices.
        odd = (device % 2).float()
        age = torch.nan_to_num(features).sum(dim=1) / 100
        profile = self.of_region[region] + age[:, None]
        classes = torch.stack([odd, age, history_mask.sum(dim=1) / 6], dim=1)
        return odd - age, classes, profile, scores


def make_rows(n: int, *, seed: int = 0, first: int = 1) -> pa.Table:
    """Valid raw rows with the keys first .. first+n-1, in any order."""
    random = np.random.default_rng(seed)
    lengths = random.integers(0, 2 * LONGEST, n)
    lengths[: min(n, 2)] = 0, 1
    unknown = 2**41
    return pa.table(
        {
            "user_id": random.permutation(n) + first,
            "age": random.integers(0, 121, n),
            "spend": pa.array(
                random.random(n).astype(np.float32), mask=random.random(n) < 0.1
            ),
            "region": [(*REGIONS, "moon", None)[at] for at in random.integers(0, 4, n)],
            "device": 2**24 + random.integers(0, 1000, n),
            "taste": list(random.standard_normal((n, TASTE)).astype(np.float32)),
            # An item of the moon is in no vocabulary, and left out.
            "items": [
                random.choice((*ITEMS, unknown), length).tolist() for length in lengths
            ],
            "days_ago": [
                np.arange(length, 0, -1, dtype=np.float32) for length in lengths
            ],
            "seen_items": [
                random.choice(ITEMS, count, replace=False).tolist()
                for count in random.integers(0, 30, n)
            ],
        },
        schema=make_contract().raw_schema(),
    )


def expected(row: dict[str, Any], module: Histories) -> dict[str, Any]:
    """What is to be predicted for a raw row, computed on its own."""
    known = [
        (ITEMS.index(item), days)
        for item, days in zip(row["items"], row["days_ago"], strict=True)
        if item in ITEMS
    ][-LONGEST:]
    region = REGIONS.index(row["region"]) if row["region"] in REGIONS else 3
    spend = 0.0 if row["spend"] is None else row["spend"]
    age = np.float32(row["age"] + spend) / np.float32(100)
    logit = row["device"] % 2 - age
    risk = 1 / (1 + np.exp(-logit))
    classes = np.array([row["device"] % 2, age, len(known) / 6])
    shares = np.exp(classes) / np.exp(classes).sum()
    scores = module.of_item.detach().numpy() @ np.array(row["taste"], np.float32)
    for item, days in known:
        scores[item] += 1 / (1 + days)
    seen = {ITEMS.index(item) for item in row["seen_items"]}
    order = [at for at in np.argsort(-scores, kind="stable") if at not in seen][:K]
    return {
        "risk": risk,
        "verdict": CLASSES[int(shares.argmax())],
        "confidence": shares.max(),
        "band": "high" if risk >= 0.5 else "low",
        "profile": module.of_region.detach().numpy()[region] + age,
        "next_items": [ITEMS[at] for at in order],
        "next_items_scores": scores[order],
    }


def golden(n: int = 24) -> dict[str, Any]:
    """Golden rows as `save_release` takes them, of all lengths."""
    random = np.random.default_rng(3)
    lengths = [*range(LONGEST + 1), *random.integers(0, LONGEST, n - LONGEST - 1)]
    return {
        "features": random.random((n, 2)).astype(np.float32),
        "region": random.integers(0, 4, n),
        "device": 2**24 + random.integers(0, 1000, n),
        "taste": random.standard_normal((n, TASTE)).astype(np.float32),
        "items": [random.integers(0, len(ITEMS), length) for length in lengths],
        "days_ago": [np.arange(length, 0, -1) for length in lengths],
        "seen_items": [
            random.choice(len(ITEMS), count, replace=False)
            for count in random.integers(0, 30, n)
        ],
    }


def write_histories(folder: Path, **changes: Any) -> Release:
    """Write the release; `changes` go to `save_release`."""
    arguments: dict[str, Any] = {
        "name": NAME,
        "module": Histories(),
        "contract": make_contract(),
        "golden_inputs": golden(),
        "post": POST,
    }
    return save_release(folder, **(arguments | changes))
