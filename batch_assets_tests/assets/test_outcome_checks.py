"""The checks of outcomes: one step that reads what is known once, for all or for some."""

from pathlib import Path

import dagster as dg
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from dagster import DagsterInstance

from batch_assets import checks
from batch_assets.spec import OutcomesSpec
from batch_assets_tests.projects import (
    FIRST,
    SECOND,
    Project,
    attributes,
    errors_of,
    make_project,
)
from batch_assets_tests.toys import make_rows, write_source

OUTCOMES = {
    "source": {"kind": "parquet", "glob": "outcomes/{{ day }}.parquet"},
    "output": "risk",
    "task": "binary",
    "column": "left",
}
KNOWN = "enough_outcomes_are_known"
ALL = {
    gate.name for gate in checks.outcome_gates(OutcomesSpec.model_validate(OUTCOMES))
}
RANGE = {
    "dagster/asset_partition_range_start": FIRST,
    "dagster/asset_partition_range_end": SECOND,
}


@pytest.fixture
def project(
    tmp_path: Path, root: Path, registry: object, monkeypatch: pytest.MonkeyPatch
) -> Project:
    """Two days that have happened: of the second less than the half is known."""
    pipeline = attributes(outcomes=OUTCOMES)
    made = make_project(tmp_path / "project", root, monkeypatch, [pipeline])
    folder = made.folder / "outcomes"
    folder.mkdir()
    for day, known in ((FIRST, 400), (SECOND, 100)):
        rows = make_rows(400)
        write_source(made.folder, rows, day=day)
        ids = rows["user_id"].slice(0, known)
        left = pa.array([True, False] * (known // 2))
        pq.write_table(
            pa.table({"user_id": ids, "left": left}), folder / f"{day}.parquet"
        )
    return made


def judged(on: DagsterInstance, check: str) -> list[tuple[str | None, bool]]:
    """What the check said, the oldest first, and of which day."""
    key = dg.AssetCheckKey(dg.AssetKey(["toy", "outcomes"]), check)
    found = on.event_log_storage.get_asset_check_execution_history(key, limit=100)
    events = [one.event.dagster_event for one in reversed(found) if one.event]
    said = [event.event_specific_data for event in events if event]
    return [(s.partition, s.passed) for s in said if hasattr(s, "passed")]


def test_all_checks_of_a_day_read_what_is_known_once(project, monkeypatch):
    read, real = [], checks.read_history
    monkeypatch.setattr(
        checks, "read_history", lambda *given: read.append(given) or real(*given)
    )
    job = project.definitions.resolve_job_def("toy_outcomes_job")
    with dg.instance_for_test() as on:
        assert project.run("toy", FIRST, on).success
        result = job.execute_in_process(partition_key=FIRST, instance=on)

    assert {one.check_name for one in result.get_asset_check_evaluations()} == ALL
    assert [day for *_, day in read] == [FIRST]


def test_one_check_alone_judges_what_is_there(project):
    key = dg.AssetCheckKey(dg.AssetKey(["toy", "outcomes"]), KNOWN)
    job = project.definitions.resolve_job_def("toy_outcomes_job")
    alone = job.get_subset(asset_selection=frozenset(), asset_check_selection={key})
    with dg.instance_for_test() as on:
        assert project.run("toy", SECOND, on).success
        job.execute_in_process(partition_key=SECOND, instance=on)
        result = alone.execute_in_process(partition_key=SECOND, instance=on)

    (verdict,) = result.get_asset_check_evaluations()
    assert (verdict.check_name, verdict.passed) == (KNOWN, False)
    assert "the outcomes of 25.0% of 400 predictions are known" in verdict.description
    assert not result.get_asset_materialization_events()


def test_a_check_alone_of_a_day_without_outcomes_says_that_it_judged_nothing(project):
    key = dg.AssetCheckKey(dg.AssetKey(["toy", "outcomes"]), KNOWN)
    job = project.definitions.resolve_job_def("toy_outcomes_job")
    alone = job.get_subset(asset_selection=frozenset(), asset_check_selection={key})
    with dg.instance_for_test() as on:
        result = alone.execute_in_process(partition_key=SECOND, instance=on)

    (verdict,) = result.get_asset_check_evaluations()
    assert verdict.passed
    assert "not judged: no outcomes were taken for the day" in verdict.description


def test_of_a_range_each_day_is_judged_by_itself(project):
    job = project.definitions.resolve_job_def("toy_outcomes_job")
    with dg.instance_for_test() as on:
        for day in (FIRST, SECOND):
            assert project.run("toy", day, on).success
        result = job.execute_in_process(instance=on, tags=RANGE, raise_on_error=False)
        known = [one for one in judged(on, KNOWN) if one[0]]
        others = {name: judged(on, name) for name in ALL}

    assert result.success, errors_of(result)
    assert known == [(FIRST, True), (SECOND, False)]
    for name, said in others.items():
        assert {day for day, _ in said if day} == {FIRST, SECOND}, name
    (whole,) = [
        one
        for one in result.get_asset_check_evaluations()
        if one.check_name == KNOWN and one.partition is None
    ]
    assert not whole.passed
    assert SECOND in whole.description
