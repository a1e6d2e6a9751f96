"""Where batches are padded, the model sees full buckets, and nobody else sees the pad."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from batch_assets.lake.tables import Lake
from batch_assets.scoring.cuda import fill
from batch_assets.scoring.device import Device, find_device
from batch_assets.scoring.engines.local import LocalEngine
from batch_assets.scoring.scorer import Scorer
from batch_assets.scoring.usage import covered
from batch_assets.spec import GateLimits
from batch_assets_tests.picky import POISON, ROWS, packed, risk, seen, write_picky
from batch_assets_tests.steps import score_rows
from batch_assets_tests.toys import (
    DAY,
    copy_rows,
    expected_risk,
    make_rows,
    read_day,
    validate,
)

CENTURY = 100


def padding(batch_rows: int) -> Device:
    """A CPU that pads, as a CUDA device does."""
    return replace(find_device("cpu", batch_rows=str(batch_rows)), padded=True)


@pytest.mark.parametrize("rows", [1, 99, 100, 101, ROWS])
def test_the_model_sees_full_buckets_and_every_row_is_answered_once(
    tmp_path: Path, rows: int
) -> None:
    scorer = Scorer(write_picky(tmp_path), padding(100))

    outputs, _ = scorer.score(packed(rows))

    assert set(seen(scorer)) == {100}
    assert len(seen(scorer)) == 1 + -(-rows // 100)  # The golden batch is one.
    np.testing.assert_allclose(outputs["risk"], risk(packed(rows)), rtol=1e-6)


def test_a_cpu_pads_nothing_by_itself(tmp_path: Path) -> None:
    scorer = Scorer(write_picky(tmp_path), find_device("cpu", batch_rows="100"))

    scorer.score(packed())

    assert seen(scorer) == [2, 100, 100, 57]


def test_a_bucket_that_does_not_fit_is_halved_and_the_smaller_is_full_too(
    tmp_path: Path,
) -> None:
    scorer = Scorer(write_picky(tmp_path, rows=30), padding(100))

    outputs, _ = scorer.score(packed())

    assert scorer.batch_rows == 25
    assert seen(scorer)[:3] == [100, 50, 25]
    assert set(seen(scorer)[3:]) == {25}
    np.testing.assert_allclose(outputs["risk"], risk(packed()), rtol=1e-6)


def test_a_row_that_fits_no_bucket_goes_out_when_it_is_alone(tmp_path: Path) -> None:
    scorer = Scorer(write_picky(tmp_path), padding(8))
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
    release = write_picky(tmp_path)
    rows = make_rows(1_000)
    ages = rows["age"].to_numpy() % 90 + 1
    ages[::CENTURY] = POISON
    rows = rows.set_column(1, rows.schema.field("age"), [ages.astype(np.int16)])
    copy_rows(lake, rows, row_group_rows=130)
    validate(lake, row_group_rows=130)

    night = score_rows(
        lake,
        release,
        DAY,
        LocalEngine(padding(64), workers=2),
        chunk_rows=130,
        gates=GateLimits(max_dead_letter_share=0.05),
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
