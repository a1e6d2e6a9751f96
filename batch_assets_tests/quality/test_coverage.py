"""Rankings: which items a night has, and how much of the catalogue it covers."""

from datetime import date, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from batch_assets.lake.day_run import DayRun
from batch_assets.lake.profiles import Profile, add_profiles
from batch_assets.lake.tables import Lake
from batch_assets.models.given_rows import rows_of
from batch_assets.models.output_specs import NO_ITEM
from batch_assets.models.profiling import items_of, numbers_of_outputs
from batch_assets.models.registry import Registry
from batch_assets.models.release import Release
from batch_assets.quality.changes import (
    COVERAGE,
    Nights,
    coverage_changes,
    coverage_of,
)
from batch_assets.quality.drift_limits import judged
from batch_assets.quality.evidence import DayEvidence
from batch_assets.quality.judges.nights import outputs_like_before
from batch_assets.quality.nights import read_nights
from batch_assets.scoring.device import find_device
from batch_assets.scoring.engines.local import LocalEngine
from batch_assets.scoring.night import score_day
from batch_assets.scoring.plan import ScoringSettings
from batch_assets.spec import GateLimits
from batch_assets_tests.histories import (
    NAME,
    golden,
    make_contract,
    make_rows,
    write_histories,
)
from batch_assets_tests.toys import copy_rows, validate

FIRST, NIGHTS, ROWS = date(2026, 1, 5), 15, 120


def coverage(usual: float, tonight: float, nights: int = 20) -> str:
    """What a night's coverage does to it, after nights that differ by a percent."""
    before = usual * (1 + 0.01 * np.random.default_rng(0).normal(size=nights))
    days = tuple(str(FIRST + timedelta(days=n)) for n in range(nights))
    found = coverage_changes({"items": tonight}, Nights(days, {}, {"items": before}))
    effects = [one.effect for one in judged(found, ["items"], GateLimits())]
    return effects[0] if effects else "not judged"


@pytest.mark.parametrize(
    ("tonight", "effect"),
    [(0.6, "fine"), (0.57, "fine"), (0.5, "warn"), (0.75, "warn"), (0.2, "block")],
)
def test_a_night_that_ranks_less_of_the_catalogue_than_usual_is_told_of(
    tonight, effect
):
    assert coverage(0.6, tonight) == effect


def test_few_nights_say_nothing_of_the_coverage():
    assert coverage(0.6, 0.1, nights=13) == "not judged"


def test_a_catalogue_of_more_items_than_places_is_estimated():
    random = np.random.default_rng(0)
    catalogue, places = 500_000, 65_536
    shown = random.choice(catalogue, 40_000, replace=False)
    counts = np.bincount(shown % places, minlength=places)

    assert coverage_of(counts, catalogue) == pytest.approx(40_000 / catalogue, rel=0.02)
    assert coverage_of(np.ones(places), catalogue) <= 1
    assert coverage_of(np.array([3, 0, 1, 0]), 4) == 0.5
    assert coverage_of(np.zeros(4), 4) == 0


def test_every_item_of_a_ranking_is_counted_and_none_is_missing():
    contract = make_contract()
    outputs = {
        "next_items": np.array([[3, 1, NO_ITEM], [3, 2, 1]]),
        "next_items_scores": np.array([[0.9, 0.5, 0.0], [0.8, 0.7, 0.1]], np.float32),
    }
    others = {
        column.name: np.zeros((2, column.width) if column.width else 2, column.dtype)
        for column in contract.output_columns
        if column.name not in outputs
    }
    numbers = dict(numbers_of_outputs(outputs | others, contract))
    ((name, places, _),) = items_of(outputs | others, contract)

    assert name == "next_items"
    assert np.isnan(numbers["next_items"]).sum() == 1
    assert numbers["next_items_scores"].tolist() == pytest.approx([0.9, 0.8])
    assert sorted(places.tolist()) == [1, 1, 2, 3, 3]


def test_items_of_chunks_add_up():
    one = Profile.of_counts("a", [], {}, items={"r": np.array([[1, 0, 2]])})
    other = Profile.of_counts("a", [], {}, items={"r": np.array([[0, 5, 1]])})
    both = add_profiles([one, other])

    assert both is not None
    assert both.item_counts()["r"].tolist() == [[1, 5, 3]]
    assert Profile.of_facts(both.facts()).item_counts()["r"].tolist() == [[1, 5, 3]]


@pytest.fixture(scope="module")
def release(tmp_path_factory: pytest.TempPathFactory) -> Release:
    folder = tmp_path_factory.mktemp("release") / "r"
    return write_histories(folder, usual=rows_of(golden(200), make_contract(), "usual"))


def night(lake: Lake, release: Release, number: int, rows: pa.Table) -> str:
    day = (FIRST + timedelta(days=number)).isoformat()
    copy_rows(lake, rows, day=day, contract=release.contract)
    validate(lake, day=day, contract=release.contract)
    settings = ScoringSettings(GateLimits(max_dead_letter_share=1), 100)
    engine = LocalEngine(find_device("cpu"), workers=1)
    score_day(DayRun(lake, day), release, engine, settings)
    return day


def test_a_night_of_one_ranking_for_all_is_stopped(
    root: Path, release: Release
) -> None:
    registry = Registry(root)
    registry.add(release.folder)
    registry.approve(NAME, release.digest, why="the tests need it")
    lake = Lake(root, NAME)
    for number in range(NIGHTS):
        night(lake, release, number, make_rows(ROWS, seed=number))
    # Everybody's history is that of one household.
    one = make_rows(ROWS, seed=99)
    alike = one.take([0] * ROWS).set_column(0, one.schema.field(0), one[0])
    today = night(lake, release, NIGHTS, alike)

    rows = lake.drift_metrics.read(today, today).to_pylist()
    (covered,) = [row for row in rows if row["measure"] == COVERAGE]
    assert covered["column"] == "next_items"
    assert covered["value"] < 0.5 * covered["usual"]
    evidence = DayEvidence.of_day(lake, registry, today, GateLimits())
    profile = evidence.profile()
    assert profile is not None
    assert len(read_nights(lake, today, profile).coverage["next_items"]) == NIGHTS
    verdict = outputs_like_before(evidence)
    assert not verdict.passed
    assert verdict.blocks
    assert "coverage of the catalogue of 'next_items'" in verdict.why
    assert verdict.numbers["next_items_coverage"] == covered["value"]
