"""Nights judged by the nights before them, through the lake: what is caught, and how."""

import shutil
from collections.abc import Callable
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pytest
import torch

from batch_assets.errors import ConfigError
from batch_assets.incremental.reuse import Incremental
from batch_assets.lake.day_run import DayRun
from batch_assets.lake.tables import Lake
from batch_assets.models.input_rows import InputRows
from batch_assets.models.registry import Registry
from batch_assets.models.release import Release, open_release
from batch_assets.quality.changes import PSI_NIGHTS, Change
from batch_assets.quality.drift_limits import judged
from batch_assets.quality.evidence import DayEvidence
from batch_assets.quality.gates import GATES
from batch_assets.quality.verdict import Verdict
from batch_assets.scoring.device import find_device
from batch_assets.scoring.engines.local import LocalEngine
from batch_assets.scoring.night import score_day
from batch_assets.scoring.plan import ScoringSettings
from batch_assets.spec import GateLimits
from batch_assets_tests.publishing import approved
from batch_assets_tests.toys import (
    NAME,
    ToyRisk,
    copy_rows,
    features_of,
    make_contract,
    make_rows,
    validate,
    write_toy_release,
)

FIRST = date(2026, 1, 5)
NIGHTS, ROWS = 15, 400
TONIGHT = (FIRST + timedelta(days=NIGHTS)).isoformat()
LIMITS = GateLimits(max_quarantine_share=1, max_dead_letter_share=1)
Alter = Callable[[pl.DataFrame], pl.DataFrame]


class Halving(torch.nn.Module):
    """Another model of the same contract, which gives one plan half of its risk."""

    def __init__(self, inner: torch.nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        pro = (features[:, 2] == 1).to(features.dtype)
        return self.inner(features) * (1 - pro / 2)


@pytest.fixture(scope="module")
def release(tmp_path_factory: pytest.TempPathFactory) -> Release:
    contract = make_contract()
    usual = features_of(make_rows(2_000, seed=1), contract).numpy()
    return write_toy_release(
        tmp_path_factory.mktemp("release") / "r",
        usual=InputRows(np.ascontiguousarray(usual.T)),
    )


@pytest.fixture(scope="module")
def nights(tmp_path_factory: pytest.TempPathFactory, release: Release) -> Path:
    """Fifteen ordinary nights, one after the other."""
    root = tmp_path_factory.mktemp("nights")
    approved(root, release)
    lake = Lake(root, NAME)
    for number in range(NIGHTS):
        day = (FIRST + timedelta(days=number)).isoformat()
        night(lake, release, day, make_rows(ROWS, seed=100 + number))
    return root


@pytest.fixture
def lake(root: Path, nights: Path) -> Lake:
    """The same, to be changed."""
    shutil.copytree(nights, root, dirs_exist_ok=True)
    return Lake(root, NAME)


def night(
    lake: Lake,
    release: Release,
    day: str,
    rows: pa.Table,
    *,
    limits: GateLimits = LIMITS,
    segments: tuple[str, ...] = ("plan",),
    **changes: Any,
) -> None:
    copy_rows(lake, rows, day=day, contract=release.contract, **changes)
    validate(lake, day=day, contract=release.contract)
    settings = ScoringSettings(limits, 100, segments=segments)
    engine = LocalEngine(find_device("cpu"), workers=1)
    score_day(DayRun(lake, day), release, engine, settings)


def verdicts(
    lake: Lake, day: str = TONIGHT, limits: GateLimits = LIMITS
) -> dict[str, Verdict]:
    registry = Registry(lake.folder.parent.parent)
    evidence = DayEvidence.of_day(lake, registry, day, limits)
    return {
        gate.name: gate.verdict(evidence)
        for gate in GATES
        if "before" in gate.name or "reference" in gate.name
    }


def shut(found: dict[str, Verdict]) -> dict[str, bool]:
    """The gates that did not pass, and whether they stop the night."""
    return {name: one.blocks for name, one in found.items() if not one.passed}


def changed(change: Alter, seed: int = 7) -> pa.Table:
    rows = make_rows(ROWS, seed=seed)
    return change(pl.DataFrame(rows)).to_arrow().cast(rows.schema)


OUTPUTS = "outputs_are_like_the_nights_before"
FEATURES = "features_are_like_the_nights_before"
SEGMENTS = "segments_are_like_the_nights_before"
AGAIN = "the_day_is_no_night_before_again"
VOLUME = "volume_is_like_the_days_before"
REFERENCE = "predictions_are_distributed_like_the_reference"


def test_an_ordinary_night_passes_and_says_how_far_it_is(
    lake: Lake, release: Release
) -> None:
    night(lake, release, TONIGHT, make_rows(ROWS, seed=7))
    found = verdicts(lake)
    assert not shut(found)
    assert "nothing is further off than usual; the furthest: PSI" in found[FEATURES].why
    assert found[OUTPUTS].numbers["risk_psi"] < 0.25
    assert found[OUTPUTS].numbers["nights"] == 15


@pytest.mark.parametrize(
    ("change", "gates", "said"),
    [
        (
            lambda rows: rows.with_columns(age=pl.lit(40)),
            {FEATURES: True},
            "'age' is 1.000",
        ),
        (
            lambda rows: rows.with_columns(visits=pl.col("visits") / 60),
            {FEATURES: True},
            "PSI against the last nights of 'visits'",
        ),
        (
            lambda rows: rows.with_columns(visits=pl.lit(None, pl.Float32)),
            {FEATURES: True, OUTPUTS: True},
            "'visits'",
        ),
        (
            lambda rows: rows.filter(pl.col("plan") == "free"),
            {FEATURES: True},
            "'plan'",
        ),
        (lambda rows: rows.head(150), {VOLUME: False}, "off the median"),
    ],
    ids=["constant", "unit", "missing", "one segment", "fewer rows"],
)
def test_a_fault_is_caught_before_it_is_served(
    lake: Lake, release: Release, change: Alter, gates: dict[str, bool], said: str
) -> None:
    night(lake, release, TONIGHT, changed(change))
    found = verdicts(lake)
    assert gates.items() <= shut(found).items()
    assert any(said in one.why for one in found.values() if not one.passed)


def test_scores_of_one_segment_that_are_halved_stop_the_night(
    lake: Lake, release: Release, tmp_path: Path
) -> None:
    """The same bins, and an other model: as if a join gave half of the rows nothing."""
    usual = features_of(make_rows(2_000, seed=1), make_contract()).numpy()
    other = write_toy_release(
        tmp_path / "other",
        module=Halving(ToyRisk()),
        usual=InputRows(np.ascontiguousarray(usual.T)),
    )
    profile = release.manifest.profile
    manifest = other.manifest.model_copy(update={"profile": profile})
    (other.folder / "release.json").write_text(manifest.model_dump_json())
    other = open_release(other.folder)
    approved(lake.folder.parent.parent, other)
    night(lake, other, TONIGHT, make_rows(ROWS, seed=7))
    found = verdicts(lake)
    assert shut(found)[SEGMENTS]
    assert "rank among all rows of 'risk' where plan is pro" in found[SEGMENTS].why


def test_a_night_before_again_is_told_of(lake: Lake, release: Release) -> None:
    night(lake, release, TONIGHT, make_rows(ROWS, seed=100 + NIGHTS - 1))
    found = verdicts(lake)
    assert shut(found) == {AGAIN: False}
    assert "exactly as on 2026-01-19" in found[AGAIN].why
    for effect, wanted in (("block", True), ("off", None)):
        limits = LIMITS.model_copy(update={"repeated_day": effect})
        assert shut(verdicts(lake, limits=limits)).get(AGAIN) is wanted


def test_a_column_may_be_set_to_warn_to_block_or_off(
    lake: Lake, release: Release
) -> None:
    rows = changed(lambda rows: rows.with_columns(age=pl.lit(40)))
    night(lake, release, TONIGHT, rows)
    for effect, wanted in (("warn", False), ("block", True), ("off", None)):
        limits = LIMITS.model_copy(update={"drift": {"age": effect}})
        assert shut(verdicts(lake, limits=limits)).get(FEATURES) is wanted


def test_a_stopped_night_is_no_measure_and_one_that_was_let_through_is(
    lake: Lake, release: Release
) -> None:
    rows = changed(lambda rows: rows.with_columns(visits=pl.col("visits") / 60))
    night(lake, release, TONIGHT, rows)
    drift = pl.DataFrame(lake.drift_metrics.read(TONIGHT, TONIGHT))
    assert "block" in drift["verdict"].to_list()
    after = (FIRST + timedelta(days=NIGHTS + 1)).isoformat()
    night(lake, release, after, make_rows(ROWS, seed=8))
    assert verdicts(lake, after)[OUTPUTS].numbers["nights"] == 15

    limits = LIMITS.model_copy(update={"drift": {"visits": "warn", "risk": "warn"}})
    night(lake, release, TONIGHT, rows, limits=limits)
    assert verdicts(lake, after)[OUTPUTS].numbers["nights"] == 16


def test_a_cold_start_says_so_and_the_reference_judges_alone(
    root: Path, release: Release
) -> None:
    approved(root, release)
    lake = Lake(root, NAME)
    night(
        lake, release, TONIGHT, changed(lambda rows: rows.with_columns(age=pl.lit(0)))
    )
    found = verdicts(lake)
    assert "cold start: 0 of 14 nights" in found[FEATURES].why
    assert found[FEATURES].passed
    assert REFERENCE in found


def test_what_a_night_is_like_lies_in_tables_and_is_written_once(
    lake: Lake, release: Release
) -> None:
    day = FIRST.isoformat()
    before = lake.profile_metrics.read(day, day)
    frame = pl.DataFrame(before)
    # Four features and an output, of all rows and of two plans.
    assert len(frame) == 5 * 3
    whole = frame.filter(pl.col("segment").is_null())
    assert set(whole["rows"]) == {ROWS}
    by_plan = frame.filter(
        (pl.col("column") == "risk") & pl.col("segment").is_not_null()
    )
    assert by_plan["rows"].sum() == ROWS
    assert by_plan["segment"].to_list() == ["free", "pro"]
    assert all(sum(c) == r for c, r in frame.select("counts", "rows").iter_rows())
    drift = pl.DataFrame(lake.drift_metrics.read(day, day))
    assert drift.filter(pl.col("psi_reference").is_not_null())["column"].len() == 5
    files = sorted(lake.profile_metrics.path.rglob("*"))
    night(lake, release, day, make_rows(ROWS, seed=100))
    assert lake.profile_metrics.read(day, day) == before
    assert sorted(lake.profile_metrics.path.rglob("*")) == files


@pytest.mark.parametrize(
    ("segments", "said"),
    [
        (("planet",), "segments name 'planet', which is no column"),
        (("visits",), "segments name 'visits', which has no list of values"),
    ],
)
def test_a_segment_that_can_be_none_is_refused_before_a_row_is_scored(
    root: Path, release: Release, segments: tuple[str, ...], said: str
) -> None:
    lake = Lake(root, NAME)
    with pytest.raises(ConfigError, match=said):
        night(lake, release, TONIGHT, make_rows(50), segments=segments)
    assert not lake.predictions.parts(TONIGHT)


def test_chunks_and_shards_do_not_change_what_is_counted(
    root: Path, release: Release, tmp_path: Path
) -> None:
    counted = []
    for name, chunk_rows in (("one", 100), ("two", 400)):
        lake = Lake(root / name, NAME)
        rows = make_rows(ROWS, seed=3)
        copy_rows(lake, rows, day=TONIGHT, contract=release.contract)
        validate(lake, day=TONIGHT, contract=release.contract)
        settings = ScoringSettings(LIMITS, chunk_rows, segments=("plan", "active"))
        engine = LocalEngine(find_device("cpu"), workers=2)
        score_day(DayRun(lake, TONIGHT), release, engine, settings)
        table = pl.DataFrame(lake.profile_metrics.read(TONIGHT, TONIGHT))
        counted.append(table.drop("job"))
    assert counted[0].equals(counted[1])


def test_a_day_without_rows_is_like_any_other(lake: Lake, release: Release) -> None:
    none = make_rows(ROWS, seed=7).slice(0, 0)
    night(lake, release, TONIGHT, none, allow_empty=True)
    found = verdicts(lake)
    assert set(shut(found)) <= {VOLUME}
    rows = pl.DataFrame(lake.profile_metrics.read(TONIGHT, TONIGHT))["rows"]
    assert set(rows) == {0}


def test_a_night_that_took_rows_over_is_not_judged_and_is_no_measure(
    lake: Lake, release: Release
) -> None:
    last = (FIRST + timedelta(days=NIGHTS - 1)).isoformat()
    rows = make_rows(ROWS, seed=7)
    for day, these in ((last, rows), (TONIGHT, rows)):
        copy_rows(lake, these, day=day, contract=release.contract)
        validate(lake, day=day, contract=release.contract, fingerprints=True)
        settings = ScoringSettings(
            LIMITS, 100, incremental=Incremental(7, 0.01), segments=("plan",)
        )
        engine = LocalEngine(find_device("cpu"), workers=1)
        score_day(DayRun(lake, day), release, engine, settings)
    found = verdicts(lake)
    assert found[OUTPUTS].why.startswith("not judged: rows took over")
    assert AGAIN not in shut(found)
    after = (FIRST + timedelta(days=NIGHTS + 1)).isoformat()
    night(lake, release, after, make_rows(ROWS, seed=9))
    assert verdicts(lake, after)[OUTPUTS].numbers["nights"] == NIGHTS


@pytest.mark.parametrize(
    ("column", "drift", "effects"),
    [
        ("risk", {}, ["block"]),
        ("risk", {"risk": "warn"}, ["warn"]),
        ("risk", {"risk": "off"}, []),
        ("age", {}, ["fine"]),
    ],
)
def test_what_may_be_learned_of_an_output_has_a_cap(
    column: str, drift: dict[str, Any], effects: list[str]
) -> None:
    """However much it moves from night to night, and tonight is no more than usual."""
    moved = Change(
        column, None, PSI_NIGHTS, value=8.1, usual=7.9, deviations=0.1, nights=28
    )
    found = judged([moved], ["risk"], GateLimits(drift=drift))

    assert [one.effect for one in found] == effects
