"""Models that kill their own process on purpose, a given number of times."""

import os
import signal
import time
from pathlib import Path

import torch

from batch_assets.models.release import Release
from batch_assets_tests import histories
from batch_assets_tests.stuck import Risk
from batch_assets_tests.toys import (
    NAME,
    features_of,
    make_contract,
    make_rows,
    write_toy_release,
)

# Nobody of the golden rows has that age.
FATAL = 119
GOLDEN_ROWS = 4


def obey(home: Path, features: torch.Tensor) -> None:
    """Do what the files in a model's home say: take `seconds` a batch, and of an age die
    as often as `deaths` says, or take `stall` seconds. A line of `calls` is a batch, a
    line of `loads` a golden batch that was replayed.
    """
    seconds = float((home / "seconds").read_text(encoding="utf-8"))
    if (features[:, 0] == FATAL).any():
        seconds += float((home / "stall").read_text(encoding="utf-8"))
        left = int((home / "deaths").read_text(encoding="utf-8"))
        if left:
            (home / "deaths").write_text(str(left - 1), encoding="utf-8")
            os.kill(os.getpid(), signal.SIGKILL)
    golden = len(features) <= GOLDEN_ROWS
    with (home / ("loads" if golden else "calls")).open("a") as file:
        file.write(f"{len(features)}\n")
    if not golden:
        time.sleep(seconds)


class Deadly(Risk):
    """A logistic model that does what the files in its home say."""

    def __init__(self, home: str) -> None:
        super().__init__()
        self.home = Path(home)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        obey(self.home, features)
        return super().forward(features)


class DeadlyHistories(histories.Histories):
    """The toy recommender that does what the files in its home say."""

    def __init__(self, home: str) -> None:
        super().__init__()
        self.home = Path(home)

    def forward(
        self, features: torch.Tensor, **tensors: torch.Tensor
    ) -> tuple[torch.Tensor, ...]:
        obey(self.home, features)
        return super().forward(features, **tensors)


def write_deadly_release(
    home: Path,
    *,
    kind: str = "numbers",
    deaths: int = 0,
    seconds: float = 0.0,
    stall: float = 0.0,
) -> Release:
    """A release, of numbers or of histories, whose module dies so often, and takes so long."""
    home.mkdir(parents=True, exist_ok=True)
    (home / "deaths").write_text(str(deaths), encoding="utf-8")
    (home / "seconds").write_text(str(seconds), encoding="utf-8")
    (home / "stall").write_text(str(stall), encoding="utf-8")
    if kind == "histories":
        return histories.write_histories(
            home / "release",
            name=NAME,
            module=DeadlyHistories(str(home)),
            model_format="safetensors",
            import_path="batch_assets_tests.deadly:DeadlyHistories",
            arguments={"home": str(home)},
        )
    contract = make_contract()
    golden = features_of(make_rows(64), contract)
    golden = golden[golden[:, 0] != FATAL][:GOLDEN_ROWS]
    return write_toy_release(
        home / "release",
        module=Deadly(str(home)),
        golden_inputs=golden,
        model_format="safetensors",
        import_path="batch_assets_tests.deadly:Deadly",
        arguments={"home": str(home)},
    )
