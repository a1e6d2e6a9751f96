"""Where batches are padded, the model sees full buckets, and nobody else sees the pad."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from batch_assets.lake.tables import Lake
from batch_assets.models.release import Release
from batch_assets.scoring.cuda import fill
from batch_assets.scoring.device import Device, find_device
from batch_assets.scoring.engines.local import LocalEngine
from batch_assets.scoring.night import score_night
from batch_assets.scoring.scorer import Scorer
from batch_assets.scoring.usage import covered
from batch_assets.spec import Gates
from batch_assets_tests.toys import (
    DAY,
    ToyRisk,
    copy_rows,
    expected_risk,
    features_of,
    make_contract,
    make_rows,
    read_day,
    validate,
    write_toy_release,
)

ROWS = 257
POISON = 111
CENTURY = 100


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


def picky(folder: Path, rows: int = 10_000) -> Release:
    golden = torch.tensor([[40.0, 1.0, 0.0, 1.0], [50.0, 2.0, 1.0, 0.0]])
    return write_toy_release(
        folder / "release",
        module=Picky(rows),
        model_format="safetensors",
        import_path="batch_assets_tests.storage.test_buckets:Picky",
        arguments={"rows": rows},
        golden_inputs=golden,
    )


def padding(batch_rows: int) -> Device:
    """A CPU that pads, as a CUDA device does."""
    return replace(find_device("cpu", batch_rows=str(batch_rows)), padded=True)


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


@pytest.mark.parametrize("rows", [1, 99, 100, 101, ROWS])
def test_the_model_sees_full_buckets_and_every_row_is_answered_once(
    tmp_path: Path, rows: int
) -> None:
    scorer = Scorer(picky(tmp_path), padding(100))

    outputs, _ = scorer.score(packed(rows))

    assert set(seen(scorer)) == {100}
    assert len(seen(scorer)) == 1 + -(-rows // 100)  # The golden batch is one.
    np.testing.assert_allclose(outputs["risk"], risk(packed(rows)), rtol=1e-6)


def test_a_cpu_pads_nothing_by_itself(tmp_path: Path) -> None:
    scorer = Scorer(picky(tmp_path), find_device("cpu", batch_rows="100"))

    scorer.score(packed())

    assert seen(scorer) == [2, 100, 100, 57]


def test_a_bucket_that_does_not_fit_is_halved_and_the_smaller_is_full_too(
    tmp_path: Path,
) -> None:
    scorer = Scorer(picky(tmp_path, rows=30), padding(100))

    outputs, _ = scorer.score(packed())

    assert scorer.batch_rows == 25
    assert seen(scorer)[:3] == [100, 50, 25]
    assert set(seen(scorer)[3:]) == {25}
    np.testing.assert_allclose(outputs["risk"], risk(packed()), rtol=1e-6)


def test_a_row_that_fits_no_bucket_goes_out_when_it_is_alone(tmp_path: Path) -> None:
    scorer = Scorer(picky(tmp_path), padding(8))
    scorer._module.module.rows = 0  # type: ignore[attr-defined]

    with pytest.raises(RuntimeError, match="can't allocate memory"):
        scorer.score(packed(8))

    assert seen(scorer)[1:] == [8, 4, 2, 1]
    assert scorer.batch_rows == 8


def test_the_last_row_fills_the_bucket_and_the_bucket_before_leaves_no_trace() -> None:
    room = np.full((3, 5), np.nan, np.float32)
    features = np.arange(6, dtype=np.float32).reshape(3, 2)

    fill(room, features)

    np.testing.assert_array_equal(room[:, :2], features)
    np.testing.assert_array_equal(room[:, 2:], features[:, [1, 1, 1]])


def test_rows_that_pad_are_in_no_book_and_never_at_fault(
    lake: Lake, tmp_path: Path
) -> None:
    release = picky(tmp_path)
    rows = make_rows(1_000)
    ages = rows["age"].to_numpy() % 90 + 1
    ages[::CENTURY] = POISON
    rows = rows.set_column(1, rows.schema.field("age"), [ages.astype(np.int16)])
    copy_rows(lake, rows, row_group_rows=130)
    validate(lake, row_group_rows=130)

    night = score_night(
        lake,
        release,
        DAY,
        LocalEngine(padding(64), workers=2),
        chunk_rows=130,
        precision="float32",
        gates=Gates(max_dead_letter_share=0.05),
    )

    assert night.total.rows == 1_000 - 10
    assert night.dead_letters.rows == 10
    assert lake.books(DAY).open_after_scoring() == []
    good = rows.filter(ages != POISON).sort_by("user_id")
    np.testing.assert_allclose(
        read_day(lake, "predictions")["risk"].to_numpy(),
        expected_risk(good),
        rtol=1e-6,
    )


@pytest.mark.parametrize(
    ("spans", "expected"),
    [
        ([], 0),
        ([(1, 3)], 2),
        ([(1, 3), (5, 6)], 3),
        ([(1, 3), (2, 6)], 5),
        ([(2, 3), (0, 10)], 10),
        ([(0, 10), (2, 3), (9, 12)], 12),
        ([(5, 6), (1, 3), (3, 5)], 5),
        ([(1, 3), (1, 3)], 2),
    ],
)
def test_time_in_which_two_lanes_compute_counts_once(
    spans: list[tuple[float, float]], expected: float
) -> None:
    begins, ends = np.array(spans, dtype=float).reshape(-1, 2).T

    assert covered(begins, ends) == expected


@pytest.mark.parametrize("seed", range(20))
def test_what_intervals_cover_is_what_ticks_of_the_clock_count(seed: int) -> None:
    random = np.random.default_rng(seed)
    begins = random.integers(0, 200, 30)
    ends = begins + random.integers(0, 12, 30)
    ticks = {t for b, e in zip(begins, ends, strict=True) for t in range(b, e)}

    assert covered(begins.astype(float), ends.astype(float)) == len(ticks)
