"""The two models that the columns score with. It needs torch and nothing else."""

from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch

FEATURES = 64
NAMES = [f"f{number:02d}" for number in range(FEATURES)]
LABELS = 3


@dataclass(frozen=True)
class Size:
    """A model's shape: its hidden layers, and the floating-point operations of a row."""

    name: str
    hidden: tuple[int, ...]

    @property
    def flop(self) -> int:
        widths = (FEATURES, *self.hidden, LABELS)
        return sum(2 * a * b for a, b in zip(widths, widths[1:], strict=False))


SIZES = {
    "small": Size("small", (256, 256)),
    "heavy": Size("heavy", (1024, 1536, 1536, 768)),
}


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


def make_model(size: Size) -> Mlp:
    """The same weights each time: they come from a seed."""
    torch.manual_seed(7)
    return Mlp(size).eval()


def save_model(model: Mlp, path: Path) -> None:
    torch.save(model.state_dict(), path)


@cache
def load_model(path: Path, size: Size) -> Mlp:
    """The model, once for each process."""
    model = Mlp(size)
    model.load_state_dict(torch.load(path, weights_only=True))
    return model.eval()


@torch.inference_mode()
def score(model: Mlp, features: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Labels and confidences of features (rows, features), in one batch."""
    return model(features)
