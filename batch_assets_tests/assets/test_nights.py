"""Nights of the toy pipeline through Dagster: the good one, and each kind of bad."""

import json

import dagster as dg
import pytest

from batch_assets.snapshots.operations import pin, rollback, unblock
from batch_assets.snapshots.store import BLOCKED
from batch_assets.snapshots.version import Version
from batch_assets_tests.projects import (
    FIRST,
    SECOND,
    THIRD,
    attributes,
    checks_of,
    errors_of,
    make_project,
    metadata_of,
)
from batch_assets_tests.toys import expected_risk, make_rows, write_source


def test_a_good_night_is_served_as_the_model_says(project, instance):
    rows = make_rows(1_000)
    write_source(project.folder, rows, day=FIRST)
    result = project.run("toy", FIRST, instance)
    assert result.success
    snapshot = Version.current(project.snapshots("toy"))
    for key, risk in zip(rows["user_id"].to_pylist(), expected_risk(rows), strict=True):
        assert snapshot.get(key).outputs["risk"] == pytest.approx(float(risk), abs=1e-6)
    checks = result.get_asset_check_evaluations()
    assert {check.check_name for check in checks} == checks_of()
    assert all(check.passed and check.partition == FIRST for check in checks)


def test_the_metadata_says_where_how_fast_and_by_which_release(
    project, instance, toy_release
):
    write_source(project.folder, make_rows(1_000), day=FIRST)
    result = project.run("toy", FIRST, instance)
    found = metadata_of(result, "predictions")
    assert found["digest"] == toy_release.digest
    assert found["device"] == "cpu"
    assert found["device_name"]
    assert found["device_memory_gb"] > 0
    assert found["batch_rows"] == 4096
    assert found["batch_rows_from"] == "default"
    assert found["precision"] == "float32"
    assert found["rows_per_second"] > 0
    assert 0 < found["model_seconds"] <= found["seconds"] * found["workers"]
    stages = ("read", "copy", "compute", "write", "idle")
    shares = {stage: found[f"{stage}_share"] for stage in stages}
    assert sum(shares.values()) == pytest.approx(1, abs=0.001)
    assert min(shares[s] for s in ("read", "compute", "write")) > 0
    assert shares["copy"] == 0  # A CPU is its own host.
    for stage, share in shares.items():
        assert f"{share:.0%} {stage}" in found["where_the_time_went"]
    assert found["dagster/partition_row_count"] == 1_000
    schema = found["dagster/column_schema"]
    assert [column.name for column in schema.columns] == [
        "user_id",
        "risk",
        "model_name",
        "model_version",
        "day",
        "shard",
    ]


def test_every_number_that_a_check_judged_is_a_plain_float(project, instance):
    write_source(project.folder, make_rows(1_000), day=FIRST)
    result = project.run("toy", FIRST, instance)
    for check in result.get_asset_check_evaluations():
        values = [v.value for v in check.metadata.values()]
        # That one judges names.
        named = check.check_name == "snapshot_is_served"
        assert named or any(isinstance(value, float) for value in values)
        assert all(isinstance(value, float | str) for value in values)


def test_dagster_records_which_model_a_partition_came_from(
    project, instance, toy_release
):
    write_source(project.folder, make_rows(1_000), day=FIRST)
    project.run("toy", FIRST, instance)
    found = instance.fetch_materializations(
        dg.AssetRecordsFilter(
            dg.AssetKey(["toy", "predictions"]), asset_partitions=[FIRST]
        ),
        limit=1,
    ).records[0]
    tags = found.asset_materialization.tags
    assert tags["dagster/input_data_version/toy/model_release"] == toy_release.digest


def test_a_night_run_again_changes_nothing(served, instance):
    lake = served.lake("toy")
    tables = (lake.raw_features, lake.validated_features, lake.predictions)
    before = [table.last_commit(FIRST) for table in tables]
    version = served.snapshots("toy").current()
    result = served.run("toy", FIRST, instance)
    assert result.success
    assert metadata_of(result, "predictions")["unchanged"] is True
    assert metadata_of(result, "serving_snapshot")["published"] is False
    assert [table.last_commit(FIRST) for table in tables] == before
    assert served.snapshots("toy").current() == version


def test_a_day_without_rows_is_served_where_that_is_allowed(
    tmp_path, root, registry, monkeypatch, instance
):
    project = make_project(
        tmp_path / "project", root, monkeypatch, [attributes(allow_empty=True)]
    )
    write_source(project.folder, make_rows(0), day=FIRST)
    result = project.run("toy", FIRST, instance)
    assert result.success, errors_of(result)
    assert Version.current(project.snapshots("toy")).manifest.rows == 0


def test_two_pipelines_live_side_by_side(
    tmp_path, root, registry, monkeypatch, instance
):
    other = attributes(
        "other",
        source={"kind": "parquet", "glob": "others/{{ day }}.parquet"},
        shards=2,
    )
    project = make_project(
        tmp_path / "project", root, monkeypatch, [attributes(), other]
    )
    write_source(project.folder, make_rows(1_000), day=FIRST)
    (project.folder / "others").symlink_to("days")
    assert project.run("toy", FIRST, instance).success
    assert project.run("other", FIRST, instance).success
    mine, theirs = (Version.current(project.snapshots(n)) for n in ("toy", "other"))
    assert mine.get(7).outputs == theirs.get(7).outputs
    assert (len(mine.manifest.files), len(theirs.manifest.files)) == (4, 2)


def test_an_older_day_is_scored_but_not_served_over_a_newer_one(project, instance):
    for day in (SECOND, FIRST):
        write_source(project.folder, make_rows(1_000), day=day)
        result = project.run("toy", day, instance)
        assert result.success, errors_of(result)
    assert metadata_of(result, "serving_snapshot")["published"] is False
    assert Version.current(project.snapshots("toy")).manifest.day == SECOND
    assert set(project.lake("toy").predictions.rows_by_day()) == {FIRST, SECOND}


def test_a_night_after_a_rollback_is_built_and_held_and_does_not_fail(served, instance):
    folder = served.snapshots("toy")
    first = folder.current()
    write_source(served.folder, make_rows(1_000, seed=2), day=SECOND)
    assert served.run("toy", SECOND, instance).success
    taken_back = folder.current()
    rollback(folder, why="odd scores", by="ada")

    write_source(served.folder, make_rows(1_000, seed=3), day=THIRD)
    result = served.run("toy", THIRD, instance)

    assert result.success
    assert folder.current() == first
    metadata = metadata_of(result, "serving_snapshot")
    assert metadata["published"] is False
    assert metadata["served_version"] == first
    assert "publishing is blocked until " in metadata["why"]
    assert "by ada: odd scores" in metadata["why"]
    assert metadata["version"] in {m.version for m in folder.versions()}
    (check,) = failed_checks(result)
    assert (check.check_name, check.severity.name) == ("snapshot_is_served", "WARN")
    assert "by ada: odd scores" in check.description
    assert "batch-assets snapshot unblock toy" in check.description
    assert "run the day again" in check.description

    unblock(folder, why="the source is mended", by="ada")
    again = served.run("toy", THIRD, instance)

    assert again.success
    assert not failed_checks(again)
    # What was built and proved is served as it is.
    assert folder.current() == metadata["version"] != taken_back


def test_a_retry_of_a_night_that_was_taken_back_does_not_serve_it(served, instance):
    store = served.snapshots("toy")
    first = store.current()
    write_source(served.folder, make_rows(1_000, seed=2), day=SECOND)
    served.run("toy", SECOND, instance)
    rollback(store, why="odd scores", by="ada")
    (store.folder / BLOCKED).unlink()  # As if its time were over.

    result = served.run("toy", SECOND, instance)

    assert result.success
    assert store.current() == first
    (check,) = failed_checks(result)
    assert "was rolled back by ada at " in check.description


def test_a_night_under_a_pin_is_published_and_says_that_nobody_reads_it(
    served, instance
):
    folder = served.snapshots("toy")
    first = folder.current()
    pin(folder, first, why="an experiment runs", by="ada")
    write_source(served.folder, make_rows(1_000, seed=2), day=SECOND)

    result = served.run("toy", SECOND, instance)

    assert result.success
    assert folder.current() != first
    (check,) = failed_checks(result)
    assert f"readers are pinned to {first}" in check.description


def failed_checks(result):
    return [c for c in result.get_asset_check_evaluations() if not c.passed]


def test_volume_far_from_the_days_before_only_warns(served, instance):
    write_source(served.folder, make_rows(300), day=SECOND)
    result = served.run("toy", SECOND, instance)
    assert result.success
    (volume,) = [
        check
        for check in result.get_asset_check_evaluations()
        if check.check_name == "volume_is_like_the_days_before"
    ]
    assert not volume.passed
    assert volume.severity == dg.AssetCheckSeverity.WARN
    assert volume.metadata["change"].value == pytest.approx(0.7)


def test_a_materialisation_is_json_all_through(served, instance):
    result = served.run("toy", FIRST, instance)
    found = metadata_of(result, "serving_snapshot")
    # Tables and their columns are Dagster's own, which writes them itself.
    json.dumps({k: v for k, v in found.items() if not k.startswith("dagster/column_")})


def test_an_incremental_pipeline_carries_what_has_not_changed(
    tmp_path, root, registry, monkeypatch, instance
):
    project = make_project(
        tmp_path / "project", root, monkeypatch, [attributes(incremental=True)]
    )
    rows = make_rows(1_000)
    write_source(project.folder, rows, day=FIRST)
    assert project.run("toy", FIRST, instance).success
    second = "2026-01-06"
    write_source(project.folder, rows.slice(0, 900), day=second)
    result = project.run("toy", second, instance)

    assert result.success
    found = metadata_of(result, "predictions")
    assert found["carried_rows"] == 900
    assert 0 < found["rescored_rows"] < 100
    assert found["built_on"] == FIRST
    (check,) = [
        check
        for check in result.get_asset_check_evaluations()
        if check.check_name == "carried_rows_equal_their_rescoring"
    ]
    assert check.passed
    assert check.metadata["carried_rows"].value == 900
