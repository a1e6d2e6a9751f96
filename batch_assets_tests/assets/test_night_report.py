"""`night_report`: after a night is served, its page and its pictures in the catalog."""

import re
from pathlib import Path

import dagster as dg
import pyarrow as pa
import pytest

from batch_assets.errors import LakeError
from batch_assets.reports import night
from batch_assets.reports.pictures import reasons_picture, scores_picture
from batch_assets_tests.pages import read
from batch_assets_tests.projects import (
    FIRST,
    SECOND,
    attributes,
    errors_of,
    make_project,
    metadata_of,
)
from batch_assets_tests.toys import make_rows, write_source

PNG = "](data:image/png;base64,"


@pytest.fixture
def project(tmp_path, root, registry, monkeypatch):
    """A project whose first night has a row in quarantine."""
    pipeline = attributes(gates={"max_quarantine_share": 0.1, "min_coverage": 0.9})
    made = make_project(tmp_path / "project", root, monkeypatch, [pipeline])
    rows = make_rows(1_000)
    ages = pa.array([200, *rows["age"].to_pylist()[1:]], pa.int16())
    write_source(made.folder, rows.set_column(1, "age", ages), day=FIRST)
    return made


def test_a_night_links_its_page_and_shows_its_pictures_where_they_belong(
    project, instance
):
    result = project.run("toy", FIRST, instance)

    assert result.success, errors_of(result)
    found = metadata_of(result, "night_report")
    page = read(Path(found["report"]))
    assert page.words.startswith(f"toy, night of {FIRST} Served")
    assert found["books_add_up"] is True
    pictures = {
        (asset, name): value
        for asset in ("validated_features", "predictions", "night_report")
        for name, value in metadata_of(result, asset).items()
        if isinstance(value, str) and PNG in value
    }
    assert set(pictures) == {
        ("validated_features", "quarantine"),
        ("predictions", "scores_risk"),
        ("night_report", "flow"),
        ("night_report", "times"),
        ("night_report", "drift_risk"),
    }
    assert sum(map(len, pictures.values())) < 150_000


def test_a_night_that_is_run_again_has_its_page_again(project, instance):
    project.run("toy", FIRST, instance)

    result = project.run("toy", FIRST, instance)

    assert result.success
    read(Path(metadata_of(result, "night_report")["report"]))


def test_an_error_in_the_report_comes_after_the_night_is_served(
    project, instance, monkeypatch
):
    def fail(*_):
        msg = "the page can't be made"
        raise LakeError(msg)

    monkeypatch.setattr(night, "write_report", fail)

    result = project.run("toy", FIRST, instance)

    failed = [event.step_key for event in result.all_events if event.is_step_failure]
    assert failed == ["toy__night_report"]
    assert project.snapshots("toy").current().startswith(FIRST)


def test_a_picture_that_cannot_be_drawn_fails_no_night(project, instance, monkeypatch):
    def fail(*_):
        msg = "no such colour"
        raise ValueError(msg)

    monkeypatch.setattr(scores_picture, "draw_scores", fail)
    monkeypatch.setattr(reasons_picture, "draw_reasons", fail)

    result = project.run("toy", FIRST, instance)

    failed = [event.step_key for event in result.all_events if event.is_step_failure]
    # The page alone is for pictures.
    assert set(failed) <= {"toy__night_report"}
    assert project.snapshots("toy").current().startswith(FIRST)
    assert "quarantine" not in metadata_of(result, "validated_features")
    assert "scores_risk" not in metadata_of(result, "predictions")


def test_of_a_range_each_day_has_its_page(project, instance):
    write_source(project.folder, make_rows(1_000, seed=2), day=SECOND)
    for day in (FIRST, SECOND):
        assert project.run("toy", day, instance).success

    pages = sorted((project.root / "reports" / "toy").iterdir())

    assert [path.name for path in pages] == [f"{FIRST}.html", f"{SECOND}.html"]
    records = instance.fetch_materializations(
        dg.AssetRecordsFilter(dg.AssetKey(["toy", "night_report"])), limit=5
    ).records
    assert {record.partition_key for record in records} == {FIRST, SECOND}


def test_rows_that_were_carried_over_are_in_the_flow(
    tmp_path, root, registry, monkeypatch, instance
):
    pipeline = attributes(incremental=True)
    project = make_project(tmp_path / "project", root, monkeypatch, [pipeline])
    rows = make_rows(1_000)
    for day in (FIRST, SECOND):
        write_source(project.folder, rows, day=day)
        result = project.run("toy", day, instance)
        assert result.success, errors_of(result)

    page = read(Path(metadata_of(result, "night_report")["report"]))

    assert "It adds up, with the same keys" in page.words
    assert re.search(r"1,000 validated = 0 scored \+ 1,000 carried", page.words)
