"""What really happened: taken through Dagster, joined to what was predicted, and judged."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dagster as dg
import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from sklearn import metrics

from batch_assets.errors import PipelineError
from batch_assets.launch.runner import PipelineRunner
from batch_assets.models.input_rows import InputRows
from batch_assets.models.release import Release
from batch_assets.quality.performance.history import read_history
from batch_assets.spec import OutcomesSpec
from batch_assets_tests.projects import (
    FIRST,
    SECOND,
    Project,
    attributes,
    errors_of,
    make_project,
    metadata_of,
)
from batch_assets_tests.publishing import approved
from batch_assets_tests.toys import (
    ToyRisk,
    expected_risk,
    features_of,
    make_contract,
    make_rows,
    write_source,
    write_toy_release,
)

ROWS = 1_000
OUTCOMES: dict[str, Any] = {
    "source": {"kind": "parquet", "glob": "outcomes/{{ day }}.parquet"},
    "output": "risk",
    "task": "binary",
    "column": "left",
    "after_days": 1,
}


@pytest.fixture(scope="module")
def releases(tmp_path_factory: pytest.TempPathFactory) -> list[Release]:
    """Two releases of one contract, of which the second is timid."""
    usual = features_of(make_rows(2_000, seed=1), make_contract()).numpy()
    rows = InputRows(np.ascontiguousarray(usual.T))
    return [
        write_toy_release(
            tmp_path_factory.mktemp("release") / "r",
            module=ToyRisk(scale=scale),
            usual=rows,
        )
        for scale in (1.0, 0.9)
    ]


@pytest.fixture
def declare(
    tmp_path: Path, root: Path, monkeypatch: pytest.MonkeyPatch, releases: list[Release]
) -> Callable[..., Project]:
    """A project with outcomes, whose first release is approved."""

    def made(name: str = "project", shards: int = 4, **changes: Any) -> Project:
        pipeline = attributes(
            shards=shards,
            segments=["plan"],
            outcomes=OUTCOMES | changes,
            gates={"min_coverage": 0.5, "max_quarantine_share": 0.5},
        )
        return make_project(tmp_path / name, root, monkeypatch, [pipeline])

    approved(root, releases[0])
    return made


@pytest.fixture
def project(declare: Callable[..., Project]) -> Project:
    return declare()


def happen(
    project: Project, rows: pa.Table, *, day: str = FIRST, **columns: Any
) -> None:
    """Write what happened: by default what calibrated scores promise."""
    folder = project.folder / "outcomes"
    folder.mkdir(exist_ok=True)
    if "left" not in columns:
        chance = np.random.default_rng(int(day[-2:])).uniform(size=len(rows))
        columns["left"] = chance < expected_risk(rows)
    pq.write_table(
        pa.table({"user_id": rows["user_id"], **columns}), folder / f"{day}.parquet"
    )


def night(
    project: Project, on: dg.DagsterInstance, rows: pa.Table, day: str = FIRST
) -> None:
    write_source(project.folder, rows, day=day)
    assert project.run("toy", day, on).success


def take(project: Project, on: dg.DagsterInstance, day: str = FIRST):
    job = project.definitions.resolve_job_def("toy_outcomes_job")
    return job.execute_in_process(partition_key=day, instance=on, raise_on_error=False)


def table(project: Project, day: str = FIRST) -> list[dict[str, Any]]:
    return project.lake("toy").outcome_metrics.read(day, day).to_pylist()


def spec() -> OutcomesSpec:
    return OutcomesSpec.model_validate(OUTCOMES)


def test_a_day_is_judged_by_what_happened(project):
    rows = make_rows(ROWS)
    with dg.instance_for_test() as on:
        night(project, on, rows)
        estimates = {
            r["metric"]: r["value"] for r in table(project) if not r["segment"]
        }
        happen(project, rows)
        result = take(project, on)
    assert result.success
    found = metadata_of(result, "outcomes")
    came = pq.read_table(project.folder / "outcomes" / f"{FIRST}.parquet")[
        "left"
    ].to_numpy()
    said = expected_risk(rows).astype(float)

    assert found["auc"] == pytest.approx(metrics.roc_auc_score(came, said))
    assert found["log_loss"] == pytest.approx(metrics.log_loss(came, said))
    assert found["brier"] == pytest.approx(metrics.brier_score_loss(came, said))
    assert (found["predicted_rows"], found["known_rows"]) == (ROWS, ROWS)
    assert found["estimated_auc"] == estimates["auc"]
    assert found["auc"] == pytest.approx(estimates["auc"], abs=0.06)
    assert "data:image/png;base64" in found["performance"]
    assert {check.check_name for check in result.get_asset_check_evaluations()} == {
        "enough_outcomes_are_known",
        "auc_is_like_the_days_before",
        "log_loss_is_like_the_days_before",
        "brier_is_like_the_days_before",
        "calibration_error_is_like_the_days_before",
        "segments_are_as_good_as_the_days_before",
        "the_estimate_was_right",
    }
    for plan in ("free", "pro"):
        of = np.asarray(rows["plan"].to_pylist()) == plan
        (value,) = [
            row["value"]
            for row in table(project)
            if (row["segment"], row["metric"], row["kind"]) == (plan, "auc", "realised")
        ]
        assert value == pytest.approx(metrics.roc_auc_score(came[of], said[of]))


def test_what_is_not_known_and_what_was_not_predicted_is_counted(project):
    rows = make_rows(ROWS)
    bad = rows.set_column(
        1, "age", pa.array([-1] * 10 + rows["age"].to_pylist()[10:], pa.int16())
    )
    left = [None] * 50 + [True] * 450 + [False] * 400
    others = make_rows(7, first=10**6)
    with dg.instance_for_test() as on:
        night(project, on, bad)
        happen(
            project,
            pa.concat_tables([rows.slice(0, 900), others]),
            left=pa.array(left + [True] * 7),
        )
        found = metadata_of(take(project, on), "outcomes")

    assert found["predicted_rows"] == ROWS - 10
    assert found["unknown_rows"] == 40
    assert found["missing_rows"] == 100
    assert found["unpredicted_rows"] == 10 + 7
    assert found["known_rows"] == 850
    assert found["known_share"] == 850 / 990


@pytest.mark.parametrize(
    "left",
    [
        pa.array([1, 0, None] * 300, pa.int8()),
        pa.array([1.0, 0.0, float("nan")] * 300),
        pa.array([True, False, None] * 300),
        pa.array([1, 0, None] * 300, pa.decimal128(3, 1)),
    ],
    ids=lambda array: str(array.type),
)
def test_outcomes_of_any_type_that_says_yes_or_no(project, left):
    rows = make_rows(900)
    with dg.instance_for_test() as on:
        night(project, on, rows)
        happen(project, rows, left=left)
        found = metadata_of(take(project, on), "outcomes")

    assert (found["known_rows"], found["unknown_rows"]) == (600, 300)
    assert found["rate"] == 0.5


@pytest.mark.parametrize(
    ("columns", "said"),
    [
        ({"left": pa.array([2] + [0] * 9)}, "such as 2.0 of .*true, false, 1 or 0"),
        ({"left": pa.array([0.5] + [0.0] * 9)}, "such as 0.5"),
        ({"left": pa.array(["yes"] * 10)}, "'left' is string, expected float64"),
        ({"gone": pa.array([1] * 10), "left": None}, "no column 'left'; it has"),
    ],
)
def test_what_is_no_outcome_is_refused_and_named(project, columns, said):
    rows = make_rows(10)
    columns = {name: column for name, column in columns.items() if column is not None}
    with dg.instance_for_test() as on:
        night(project, on, rows)
        happen(project, rows, **({"left": [0] * 10} | columns))
        if "gone" in columns:
            path = project.folder / "outcomes" / f"{FIRST}.parquet"
            pq.write_table(pq.read_table(path).drop(["left"]), path)
        result = take(project, on)

    assert not result.success
    assert re.search(said, errors_of(result), re.DOTALL), errors_of(result)
    assert not [row for row in table(project) if row["kind"] == "realised"]


def test_a_key_with_two_outcomes_is_refused(project):
    rows = make_rows(100)
    with dg.instance_for_test() as on:
        night(project, on, rows)
        happen(project, pa.concat_tables([rows, rows.slice(0, 1)]), left=[1] * 101)
        result = take(project, on)

    key = rows["user_id"][0].as_py()
    assert f"1 keys more than once, such as {key}" in errors_of(result)


def test_outcomes_before_the_night_say_what_to_do(project):
    happen(project, make_rows(10))
    with dg.instance_for_test() as on:
        assert "toy has no predictions of 2026-01-05 to judge" in errors_of(
            take(project, on)
        )


def test_a_day_whose_outcomes_have_not_come_fails_and_leaves_nothing(project):
    rows = make_rows(100)
    with dg.instance_for_test() as on:
        night(project, on, rows)
        assert not take(project, on).success
        happen(project, rows.slice(0, 0), left=pa.array([], pa.bool_()))
        assert "the source has no rows for 2026-01-05" in errors_of(take(project, on))
        happen(project, rows)
        assert take(project, on).success


def test_outcomes_that_come_later_replace_what_was_known(project):
    rows = make_rows(ROWS)
    with dg.instance_for_test() as on:
        night(project, on, rows)
        happen(project, rows.slice(0, 400), left=[1, 0] * 200)
        first = metadata_of(take(project, on), "outcomes")
        again = metadata_of(take(project, on), "outcomes")
        commits = len(
            list((project.lake("toy").outcomes.path / "_delta_log").glob("*.json"))
        )
        happen(project, rows, left=[1, 0] * 500)
        later = metadata_of(take(project, on), "outcomes")

    assert first == again
    assert commits == 2
    assert (first["known_rows"], later["known_rows"]) == (400, ROWS)
    assert len({row["metric"] for row in table(project)}) * 3 > len(
        [row for row in table(project) if row["kind"] == "realised"]
    )


def test_a_night_scored_again_keeps_what_was_known_until_it_is_judged_again(
    project, releases
):
    rows = make_rows(ROWS)
    with dg.instance_for_test() as on:
        night(project, on, rows)
        happen(project, rows)
        take(project, on)
        old = {row["release"] for row in table(project)}
        new = approved(project.root, releases[1])
        night(project, on, rows)
        between = {(row["kind"], row["release"]) for row in table(project)}
        take(project, on)

    assert between == {("estimated", new.digest), ("realised", *old)}
    assert {row["release"] for row in table(project)} == {new.digest}


def test_other_shards_than_the_nights_are_no_harm(project, declare):
    rows = make_rows(ROWS)
    with dg.instance_for_test() as on:
        night(project, on, rows)
        happen(project, rows)
        other = declare("another-day", shards=7)
        happen(other, rows)
        found = metadata_of(take(other, on), "outcomes")

    assert found["known_rows"] == ROWS


def test_two_days_are_two_lines_in_the_history(project):
    with dg.instance_for_test() as on:
        for day in (FIRST, SECOND):
            rows = make_rows(ROWS, seed=int(day[-2:]))
            night(project, on, rows, day)
            happen(project, rows, day=day)
            assert take(project, on, day).success

    history = read_history(project.lake("toy"), spec(), FIRST, SECOND)
    assert list(history.realised["auc"]) == [FIRST, SECOND]
    assert list(history.estimated["auc"]) == [FIRST, SECOND]


def test_a_person_takes_outcomes_without_the_ui(project):
    rows = make_rows(ROWS)
    with dg.instance_for_test() as on:
        night(project, on, rows)
        happen(project, rows)
        runner = PipelineRunner(project.definitions, on, "toy")
        report = runner.take_outcomes(FIRST)
        with pytest.raises(PipelineError, match="has no day '2027-01-05'"):
            runner.take_outcomes("2027-01-05")

    assert report.success
    assert (report.predicted_rows, report.known_rows) == (ROWS, ROWS)
    assert {"auc", "estimated_auc"} < report.metrics.keys()
    assert report.checks_passed == report.checks == 7


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"output": "riks"}, "output 'riks' is not there; its outputs are 'risk'"),
        ({"task": "multiclass"}, "judge a label, and the release's output 'risk' is"),
        ({"task": "ranking"}, "judge a ranking"),
    ],
)
def test_a_task_that_is_not_the_outputs_is_refused(declare, changes, said):
    project = declare(**changes)
    rows = make_rows(100)
    with dg.instance_for_test() as on:
        night(project, on, rows)
        happen(project, rows)
        assert said in errors_of(take(project, on))


def test_a_number_is_judged_by_a_number(declare):
    project = declare(task="regression")
    rows = make_rows(ROWS)
    truth = np.random.default_rng(0).normal(0.5, 0.2, ROWS)
    with dg.instance_for_test() as on:
        night(project, on, rows)
        happen(project, rows, left=truth)
        found = metadata_of(take(project, on), "outcomes")

    said = expected_risk(rows).astype(float)
    assert found["mae"] == pytest.approx(metrics.mean_absolute_error(truth, said))
    assert found["rmse"] == pytest.approx(metrics.root_mean_squared_error(truth, said))
    assert not [name for name in found if name.startswith("estimated")]


def test_a_pipeline_without_outcomes_says_so(tmp_path, root, monkeypatch):
    project = make_project(tmp_path / "p", root, monkeypatch, [attributes()])
    with (
        dg.instance_for_test() as on,
        pytest.raises(PipelineError, match="no outcomes"),
    ):
        PipelineRunner(project.definitions, on, "toy").take_outcomes(FIRST)


def test_the_outcomes_of_a_table_are_read_by_any_reader(project):
    rows = make_rows(ROWS)
    with dg.instance_for_test() as on:
        night(project, on, rows)
        happen(project, rows)
        take(project, on)
    frame = pl.read_delta(str(project.lake("toy").outcomes.path))

    assert frame.columns[:2] == ["user_id", "left"]
    assert len(frame) == ROWS
