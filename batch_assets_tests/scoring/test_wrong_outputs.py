"""Each thing that a vector or a ranking may not be makes its own row a dead letter."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch

from batch_assets import Contract, KeySpec, Ranking, Vector, VectorOutput
from batch_assets.lake.tables import Lake
from batch_assets.models.release import Release
from batch_assets.models.writing import save_release
from batch_assets_tests.nights import score
from batch_assets_tests.toys import copy_rows, read_day, validate

NAME = "echo"
WORDS = ("tea", "milk", "bread")
CONTRACT = Contract(
    key=KeySpec(name="user_id", dtype="int64"),
    inputs=tuple(Vector(name=name, size=2) for name in ("told", "places", "points")),
    vocabularies={"words": WORDS},
    outputs=(
        VectorOutput(name="profile", size=2, min=-1, max=1),
        Ranking(name="next", vocabulary="words", k=2, at_least=1, min=0, max=1),
    ),
)


class Echo(torch.nn.Module):
    """It says what it is told: a vector, and a ranking's places and scores."""

    def __init__(self) -> None:
        super().__init__()
        self.one = torch.nn.Parameter(torch.ones(1), requires_grad=False)

    def forward(
        self, told: torch.Tensor, places: torch.Tensor, points: torch.Tensor
    ) -> tuple[torch.Tensor, ...]:
        return told * self.one, places.long(), points * self.one


# What a row is told, and why it is a dead letter; None where it is none.
RANGE = "ranking 'next' has a score that is not finite or out of range"
CASES: list[tuple[list[float], list[int], list[float], str | None]] = [
    ([1, -1], [0, 2], [1, 0], None),
    ([0, 2], [0, 2], [1, 0], "output 'profile' is 2.0 at position 1"),
    ([-1.5, 0], [0, 2], [1, 0], "output 'profile' is -1.5 at position 0"),
    ([0, 0], [2, 0], [0.5, 0.5], None),
    ([0, 0], [0, 2], [1.5, 0.5], RANGE),
    ([0, 0], [0, 2], [0.5, -0.25], RANGE),
    ([0, 0], [1, -1], [0.5, 0], None),
    # Of a place without an item, nobody asks the score.
    ([0, 0], [1, -1], [0.5, 9], None),
    ([0, 0], [-1, 2], [0.5, 0.5], "ranking 'next' has a gap between its items"),
    ([0, 0], [-1, -1], [0, 0], "ranking 'next' has fewer than 1 items"),
    ([0, 0], [1, 1], [0.5, 0.5], "ranking 'next' has an item twice"),
    ([0, 0], [0, 3], [0.5, 0.5], "ranking 'next' has no item from 0 to 2"),
    ([0, 0], [0, -2], [0.5, 0.5], "ranking 'next' has no item from 0 to 2"),
    ([0, 0], [0, 1], [0.25, 0.5], "ranking 'next' is not in descending order"),
    ([0, 1], [2, 1], [0.75, 0.25], None),
]
TOLD, PLACES, POINTS, REASONS = zip(*CASES, strict=True)


@pytest.fixture(scope="module")
def release(tmp_path_factory: pytest.TempPathFactory) -> Release:
    good = [at for at, why in enumerate(REASONS) if why is None]
    golden = {
        name: np.array(values, np.float32)[good]
        for name, values in (("told", TOLD), ("places", PLACES), ("points", POINTS))
    }
    return save_release(
        tmp_path_factory.mktemp("release") / NAME,
        name=NAME,
        module=Echo(),
        contract=CONTRACT,
        golden_inputs=golden,
        model_format="safetensors",
        import_path=f"{__name__}:Echo",
    )


def test_a_row_that_is_not_as_declared_is_a_dead_letter_and_no_other_is(
    root: Path, release: Release
) -> None:
    lake = Lake(root, NAME)
    keys = range(len(CASES))
    columns = {"user_id": keys, "told": TOLD, "places": PLACES, "points": POINTS}
    rows = pa.table(
        {name: list(values) for name, values in columns.items()},
        schema=CONTRACT.raw_schema(),
    )
    copy_rows(lake, rows, contract=CONTRACT)
    validate(lake, contract=CONTRACT)
    score(lake, release)

    dead = read_day(lake, "dead_letters").to_pylist()
    found = {row["user_id"]: row["reason"].partition(":")[0] for row in dead}
    assert found == {key: why for key, why in enumerate(REASONS) if why}
    kept: list[dict[str, Any]] = read_day(lake, "predictions").to_pylist()
    said = {row["user_id"]: (row["profile"], row["next"]) for row in kept}
    assert said == {
        key: (TOLD[key], [WORDS[at] for at in PLACES[key] if at >= 0])
        for key in keys
        if REASONS[key] is None
    }
