"""A night is planned from what a real lake, real sweeps and a real probe say."""

from dataclasses import replace
from pathlib import Path

import pytest

from batch_assets.errors import PipelineError
from batch_assets.lake import probe as module
from batch_assets.lake.probe import probe
from batch_assets.launch.checked_plans import check_plans
from batch_assets.launch.planned_night import Asked, plan_night, planned_chunks
from batch_assets.planner.estimate import ROAD
from batch_assets.planner.model_alone import LEFT_OUT, ModelRate
from batch_assets.scoring.sweep_results import Point, Sweep, Sweeps, WorkerPoint
from batch_assets_tests.measured import USUAL, days_before, keep_nights
from batch_assets_tests.nights import plan as plan_of_night
from batch_assets_tests.nights import score
from batch_assets_tests.toys import DAY, copy_rows, make_rows, make_spec, validate

RATE = ModelRate(rows_per_second=100.0)
POINTS = (Point(1, 10.0, None), Point(64, 1_000.0, None))
HOUR = 3600.0


@pytest.fixture
def nights(lake):
    """Three nights of 60 rows: 100 minutes each, an hour of it scoring."""
    keep_nights(lake, *days_before(DAY, 3))
    return lake


@pytest.fixture
def scored(lake, toy_release):
    """A real day of 1,200 rows, scored."""
    copy_rows(lake, make_rows(1_200), day=DAY)
    validate(lake, day=DAY)
    score(lake, toy_release)
    return lake


def swept(root: Path, release, device: str, at: float, **changes) -> None:
    curve = Sweep("toy", release.digest, device, "float32", 2, "2", at, "x", POINTS)
    Sweeps(root).keep(replace(curve, **changes))


def test_without_nights_a_plan_needs_rows_and_a_rate(root, lake):
    with pytest.raises(PipelineError, match="say --rows, or run a night"):
        plan_night(make_spec(), root, Asked())
    with pytest.raises(PipelineError, match="run a night, or say --device"):
        plan_night(make_spec(), root, Asked(rows=100))

    report = plan_night(make_spec(), root, Asked(rows=100, model=RATE))
    assert report.option.seconds == 1
    assert "raw_features, validated_features, predictions" in report.warnings[0]
    assert report.left_out == list(LEFT_OUT)


def test_a_usual_night_is_planned_as_those_before(root, nights):
    report = plan_night(make_spec(), root, Asked())

    assert (report.rows, report.option.devices) == (60, 1)
    assert report.option.seconds == pytest.approx(sum(USUAL.values()))
    assert {one.stage: one.seconds for one in report.stages} == pytest.approx(USUAL)
    assert report.bottleneck == "predictions"
    assert report.rate.rows_per_second == pytest.approx(1 / 60)
    assert report.left_out == ["sink", "stragglers", "preemption"]
    assert (report.off_by_share, report.warnings) == (None, [])


def test_a_deadline_takes_the_devices_that_it_needs(root, nights):
    def asked(minutes: float, **more) -> Asked:
        return Asked(rows=600, deadline=minutes * 60, **more)

    # 400 minutes go by the row outside predictions, and 600 in it, of 200 rows a chunk.
    report = plan_night(make_spec(), root, asked(600))
    assert (report.option.devices, report.option.in_time) == (4, True)
    late = plan_night(make_spec(), root, asked(300))
    assert late.option.in_time is False
    assert "no number of devices meets 5 h 0 min" in late.advice[0].text
    held = plan_night(make_spec(), root, asked(600, devices=2))
    assert (held.option.devices, held.option.in_time) == (2, False)


def test_spot_is_planned_beside_on_demand(root, nights):
    asked = Asked(rows=600, price=2.5, spot=0.7, preemptions=0.2, devices=2)
    report = plan_night(make_spec(engine="ray"), root, asked)
    (on_demand,) = report.others

    assert report.option.price == pytest.approx(0.75)
    assert on_demand.price == 2.5
    assert report.option.seconds > on_demand.seconds
    assert report.option.redone_share > 0 == on_demand.redone_share
    # On Ray devices are given back: of 17 hours they are paid for those of predictions.
    hours = on_demand.scoring_seconds / HOUR * 2
    assert on_demand.device_hours == pytest.approx(hours)
    assert on_demand.cost == pytest.approx(hours * 2.5)
    assert plan_night(make_spec(), root, asked).option.device_hours > hours
    assert "preemption" not in report.left_out


def test_workers_that_are_declared_are_a_device_each(root, nights):
    spec = make_spec(engine={"kind": "ray", "workers": 4})
    report = plan_night(spec, root, Asked(devices=4))

    assert "one of its 4 workers" in report.rate.source
    assert report.rate.rows_per_second == pytest.approx(1 / 60 / 4)


def test_a_device_is_one_that_the_release_was_swept_on(root, nights, registry):
    release = registry.resolve("toy")
    with pytest.raises(PipelineError, match="it was swept on no device"):
        plan_night(make_spec(), root, Asked(device="h100"))
    swept(root, release, "cpu Intel", 1.0)
    with pytest.raises(PipelineError, match=r"swept on cpu Intel\. No rate is made up"):
        plan_night(make_spec(), root, Asked(device="h100"))
    found = (WorkerPoint(1, 300.0), WorkerPoint(3, 700.0))
    swept(root, release, "cuda NVIDIA H100 80GB HBM3", 2.0, by_workers=found)
    gpu = plan_night(make_spec(), root, Asked(device="h100"))
    cpu = plan_night(make_spec(), root, Asked(device="intel"))

    assert (gpu.rate.rows_per_second, gpu.rate.model) == (700, 1_000)
    assert "H100 80GB HBM3, whole chunks" in gpu.rate.source
    assert cpu.rate.rows_per_second == 1_000
    # What is fixed of it, and the other stages, are as measured.
    assert gpu.option.seconds == pytest.approx(2_400 + 60 / 700)


def test_a_rate_that_is_given_says_so_and_the_probe_is_added(root, scored, monkeypatch):
    monkeypatch.setattr(module, "TELLING_ROWS", 100)
    keep_nights(scored, *days_before(DAY, 3))
    given = Asked(model=ModelRate(rows_per_second=1e12), device="cpu of ours", rows=600)
    report = plan_night(make_spec(), root, given)

    assert "not measured here" in report.rate.source
    assert report.rate.bound in ("read", "write")
    host = 1 / report.rate.read + 1 / report.rate.write
    assert report.rate.rows_per_second == pytest.approx(1 / host, rel=1e-3)
    assert report.left_out == ["sink", "preemption"]
    # Beside any other device its host feeds it, and the slower counts.
    slow = Asked(model=ModelRate(rows_per_second=1.0), rows=600)
    assert plan_night(make_spec(), root, slow).rate.rows_per_second == 1.0


def test_the_probe_leaves_nothing_behind_and_says_if_parts_are_too_small(scored):
    before = sorted(scored.folder.rglob("*"))
    found = probe(scored, DAY)

    assert found is not None
    assert (found.rows, found.is_telling) == (1_200, False)
    assert found.read > 0
    assert found.written is not None
    assert found.written > 0
    assert sorted(scored.folder.rglob("*")) == before
    assert probe(scored, "2026-01-06") is None


def test_the_chunks_of_a_plan_are_those_of_the_night(scored, toy_release):
    parts = scored.validated_features.parts(DAY)
    night = sorted(task.rows for task in plan_of_night(scored, toy_release).tasks)

    assert sorted(planned_chunks(make_spec(), parts, 1_200)) == night
    grown = planned_chunks(make_spec(), parts, 120_000)
    assert sum(grown) == pytest.approx(120_000, abs=2)
    assert max(grown) == 200
    assert len(grown) == pytest.approx(600, abs=4)
    assert len(planned_chunks(make_spec(), [], 800)) == 4


def test_a_night_of_another_size_is_told_to_be_a_guess(root, nights):
    report = plan_night(make_spec(), root, Asked(rows=6_000, deadline=200 * HOUR))

    assert "had 60 rows at most, and this one has 6,000" in report.warnings[0]
    assert report.option.low < report.option.seconds / 10
    assert report.option.high >= report.option.seconds
    assert plan_night(make_spec(), root, Asked(rows=600)).warnings == []


def test_check_plans_each_night_from_those_before_and_keeps_its_errors(root, lake):
    days = days_before(DAY, 7)
    for number, day in enumerate(days):
        longer = 1 + number % 2 * 0.5
        keep_nights(lake, day, seconds={s: t * longer for s, t in USUAL.items()})
    report = check_plans(lake)

    # Of two kinds of nights, the median is the one that came first and last, or between.
    shares = [0.5, -0.2, 0.5, -0.2, 0.5, -0.2]
    assert [one.error_share for one in report.nights] == pytest.approx(shares)
    assert report.off_by_share == pytest.approx(0.35)
    assert (report.low_share, report.high_share) == pytest.approx((-0.2, 0.5))
    assert [one.stage for one in report.stages] == list(ROAD)
    kept = lake.plan_metrics.read("", "9").to_pylist()
    assert [row["error_share"] for row in kept] == pytest.approx(shares)

    planned = plan_night(make_spec(), root, Asked())
    assert planned.off_by_share == pytest.approx(0.35)
    assert planned.checked_nights == 6
    assert planned.option.low == pytest.approx(planned.option.seconds * 0.8)
    assert planned.option.high == pytest.approx(planned.option.seconds * 1.5)
    # A second look says and keeps the same.
    assert check_plans(lake) == report
    assert lake.plan_metrics.read("", "9").to_pylist() == kept


def test_one_night_is_not_enough_to_check(lake):
    keep_nights(lake, DAY)
    with pytest.raises(PipelineError, match="it takes two that ran whole"):
        check_plans(lake)
