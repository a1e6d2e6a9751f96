"""The models that the columns score with. It needs torch and nothing else."""

from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch

FEATURES = 64
NAMES = [f"f{number:02d}" for number in range(FEATURES)]
LABELS = 3


@dataclass(frozen=True)
class Size:
    """A model's shape: its hidden layers; with `steps`, of so many steps of a history."""

    name: str
    hidden: tuple[int, ...]
    steps: int = 0

    @property
    def flop(self) -> int:
        """The floating-point operations of a row, of a model without steps."""
        widths = (FEATURES, *self.hidden, LABELS)
        return sum(2 * a * b for a, b in zip(widths, widths[1:], strict=False))


SIZES = {
    "small": Size("small", (256, 256)),
    "heavy": Size("heavy", (1024, 1536, 1536, 768)),
}
# As rows are histories: what the models of recommendations look like, in small.
CUDA_SIZES = {**SIZES, "sequences": Size("sequences", (128,), steps=16)}


class Mlp(torch.nn.Module):
    """A classifier: the label, and how sure it is of it."""

    def __init__(self, size: Size) -> None:
        super().__init__()
        widths = (FEATURES, *size.hidden)
        layers: list[torch.nn.Module] = []
        for before, after in zip(widths, widths[1:], strict=False):
            layers += [torch.nn.Linear(before, after), torch.nn.ReLU()]
        self.layers = torch.nn.Sequential(*layers, torch.nn.Linear(widths[-1], LABELS))

    def forward(self, features: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        confidence, label = torch.softmax(self.layers(features), dim=1).max(dim=1)
        return label, confidence


class Sequences(torch.nn.Module):
    """A classifier of a history, whose steps attend to each other."""

    HEADS = 4

    def __init__(self, size: Size) -> None:
        super().__init__()
        (width,) = size.hidden
        self.steps, self.width = size.steps, width
        self.embed = torch.nn.Linear(FEATURES // size.steps, width)
        self.project = torch.nn.Linear(width, 3 * width)
        self.mix = torch.nn.Linear(width, width)
        self.widen, self.narrow = (
            torch.nn.Linear(width, 4 * width),
            torch.nn.Linear(4 * width, width),
        )
        self.last = torch.nn.Linear(width, LABELS)

    def forward(self, features: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        rows = features.shape[0]
        each = (rows, self.steps, self.HEADS, self.width // self.HEADS)
        steps = self.embed(features.reshape(rows, self.steps, -1))
        query, key, value = (
            part.reshape(each).transpose(1, 2)
            for part in self.project(steps).split(self.width, dim=-1)
        )
        seen = torch.nn.functional.scaled_dot_product_attention(query, key, value)
        steps = steps + self.mix(seen.transpose(1, 2).reshape(rows, self.steps, -1))
        steps = steps + self.narrow(torch.relu(self.widen(steps)))
        scores = torch.softmax(self.last(steps.mean(dim=1)), dim=1)
        confidence, label = scores.max(dim=1)
        return label, confidence


def make_model(size: Size) -> torch.nn.Module:
    """The same weights each time: they come from a seed."""
    torch.manual_seed(7)
    return (Sequences(size) if size.steps else Mlp(size)).eval()


def save_model(model: torch.nn.Module, path: Path) -> None:
    torch.save(model.state_dict(), path)


@cache
def load_model(path: Path, size: Size) -> torch.nn.Module:
    """The model, once for each process."""
    model = make_model(size)
    model.load_state_dict(torch.load(path, weights_only=True))
    return model.eval()


@torch.inference_mode()
def score(
    model: torch.nn.Module, features: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Labels and confidences of features (rows, features), in one batch."""
    label, confidence = model(features)
    return label, confidence
