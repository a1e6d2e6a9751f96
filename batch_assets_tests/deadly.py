"""A model that kills its own process on purpose, a given number of times."""

import os
import signal
import time
from pathlib import Path

import torch

from batch_assets.models.release import Release
from batch_assets_tests.stuck import Risk
from batch_assets_tests.toys import (
    features_of,
    make_contract,
    make_rows,
    write_toy_release,
)

# Nobody of the golden rows has that age.
FATAL = 119
GOLDEN_ROWS = 4


class Deadly(Risk):
    """A logistic model that does what the files in its home say: it takes `seconds` a
    batch, and of an age it dies as often as `deaths` says, or takes `stall` seconds.
    A line of `calls` is a batch, a line of `loads` a golden batch that was replayed.
    """

    def __init__(self, home: str) -> None:
        super().__init__()
        self.home = Path(home)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        seconds = float((self.home / "seconds").read_text(encoding="utf-8"))
        if (features[:, 0] == FATAL).any():
            seconds += float((self.home / "stall").read_text(encoding="utf-8"))
            left = int((self.home / "deaths").read_text(encoding="utf-8"))
            if left:
                (self.home / "deaths").write_text(str(left - 1), encoding="utf-8")
                os.kill(os.getpid(), signal.SIGKILL)
        golden = len(features) <= GOLDEN_ROWS
        with (self.home / ("loads" if golden else "calls")).open("a") as file:
            file.write(f"{len(features)}\n")
        if not golden:
            time.sleep(seconds)
        return super().forward(features)


def write_deadly_release(
    home: Path, *, deaths: int = 0, seconds: float = 0.0, stall: float = 0.0
) -> Release:
    """A release whose module dies so often, and takes so long."""
    home.mkdir(parents=True, exist_ok=True)
    (home / "deaths").write_text(str(deaths), encoding="utf-8")
    (home / "seconds").write_text(str(seconds), encoding="utf-8")
    (home / "stall").write_text(str(stall), encoding="utf-8")
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
