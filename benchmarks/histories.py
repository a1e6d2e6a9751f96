"""A recommender's work in small: histories of 5 to 200 ids, and a small transformer.

Lengths are so distributed that a batch padded to 200 is a third full. The data is
generated, from a fixed seed. It needs torch, numpy and Arrow; `prepare` alone needs the
project.
"""

from functools import cache
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch

ITEMS, LABELS = 5_000, 3
SHORTEST, LONGEST = 5, 200
WIDTH, HEADS = 64, 4
NAME, DAY = "sequences", "2026-01-05"
SHARDS, ROW_GROUP_ROWS, CHUNK_ROWS = 4, 8_192, 16_384


class Histories(torch.nn.Module):
    """A classifier of a history, whose items attend to each other."""

    def __init__(self) -> None:
        super().__init__()
        self.items = torch.nn.Embedding(ITEMS, WIDTH)
        self.project = torch.nn.Linear(WIDTH, 3 * WIDTH)
        self.mix = torch.nn.Linear(WIDTH, WIDTH)
        self.widen = torch.nn.Linear(WIDTH, 4 * WIDTH)
        self.narrow = torch.nn.Linear(4 * WIDTH, WIDTH)
        self.last = torch.nn.Linear(WIDTH, LABELS)

    def forward(
        self, items: torch.Tensor, history_mask: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        rows, length = items.shape
        each = (rows, length, HEADS, WIDTH // HEADS)
        steps = self.items(items)
        query, key, value = (
            part.reshape(each).transpose(1, 2)
            for part in self.project(steps).split(WIDTH, dim=-1)
        )
        seen = torch.nn.functional.scaled_dot_product_attention(
            query, key, value, attn_mask=history_mask[:, None, None, :]
        )
        steps = steps + self.mix(seen.transpose(1, 2).reshape(rows, length, WIDTH))
        steps = steps + self.narrow(torch.relu(self.widen(steps)))
        there = history_mask.unsqueeze(2)
        mean = (steps * there).sum(dim=1) / there.sum(dim=1)
        confidence, label = torch.softmax(self.last(mean), dim=1).max(dim=1)
        return label, confidence


def make_model() -> Histories:
    """The same weights each time: they come from a seed."""
    torch.manual_seed(7)
    return Histories().eval()


@cache
def load_model(path: Path) -> Histories:
    """The model, once for each process."""
    model = make_model()
    model.load_state_dict(torch.load(path, weights_only=True))
    return model.eval()


def padded(lists: pa.Array | pa.ChunkedArray) -> tuple[torch.Tensor, torch.Tensor]:
    """Lists as one batch, to the longest of them, and where there is an item."""
    if isinstance(lists, pa.ChunkedArray):
        lists = lists.combine_chunks()
    offsets = lists.offsets.to_numpy()
    lengths = np.diff(offsets)
    mask = np.arange(lengths.max()) < lengths[:, None]
    items = np.zeros(mask.shape, np.int64)
    items[mask] = lists.flatten().to_numpy()
    return torch.from_numpy(items), torch.from_numpy(mask)


@torch.inference_mode()
def score(
    model: Histories, lists: pa.Array | pa.ChunkedArray
) -> tuple[torch.Tensor, torch.Tensor]:
    """Labels and confidences of histories, in one batch."""
    return model(*padded(lists))


def make_rows(rows: int, seed: int = 11) -> pa.Table:
    """Users with keys in no order, and their histories."""
    random = np.random.default_rng(seed)
    lengths = SHORTEST + np.rint((LONGEST - SHORTEST) * random.beta(1, 2.15, rows))
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
    items = random.integers(0, ITEMS, int(offsets[-1]))
    lists = pa.ListArray.from_arrays(pa.array(offsets), pa.array(items))
    return pa.table({"user_id": random.permutation(rows), "items": lists})


def prepare(root: Path, rows: int) -> None:
    """Write the release, and the rows as a night leaves them, validated."""
    from batch_assets import Column, Contract, KeySpec, Output, Sequence
    from batch_assets.lake.day_run import DayRun
    from batch_assets.lake.tables import Lake
    from batch_assets.models.registry import Registry
    from batch_assets.models.writing import save_release
    from benchmarks.validated import write_validated

    root.mkdir(parents=True)
    contract = Contract(
        key=KeySpec(name="user_id", dtype="int64"),
        inputs=(
            Sequence(
                name="history",
                columns=(Column(name="items", size=ITEMS),),
                max_length=LONGEST,
            ),
        ),
        outputs=(
            Output(name="label", dtype="int64", min=0, max=LABELS - 1),
            Output(name="confidence", min=0, max=1),
        ),
    )
    model = make_model()
    golden = make_rows(64, seed=1)["items"].to_pylist()
    release = save_release(
        root / "release",
        name=NAME,
        module=model,
        contract=contract,
        golden_inputs={"items": golden},
        about={"data": "generated"},
    )
    registry = Registry(root)
    registry.add(release.folder)
    registry.approve(NAME, release.digest, why="benchmark")
    torch.save(model.state_dict(), root / f"{NAME}.pt")
    write_validated(
        root,
        DayRun(Lake(root, NAME), DAY),
        release.contract,
        make_rows(rows),
        {NAME: release.digest},
        shards=SHARDS,
        row_group_rows=ROW_GROUP_ROWS,
    )
