"""Nights of the toy pipeline through Dagster: the good one, and each kind of bad."""

import json
import os
from contextlib import ExitStack

import dagster as dg
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from batch_assets.lake.claims import claimed
from batch_assets.snapshots.operations import pin, rollback, unblock
from batch_assets.snapshots.store import BLOCKED
from batch_assets.snapshots.version import Version
from batch_assets_tests.projects import (
    Project,
    attributes,
    errors_of,
    make_project,
    metadata_of,
)
from batch_assets_tests.toys import (
    expected_risk,
    make_rows,
    read_day,
    write_source,
    write_toy_release,
)

FIRST, SECOND, THIRD = "2026-01-05", "2026-01-06", "2026-01-07"


@pytest.fixture
def instance():
    with dg.instance_for_test() as found:
        yield found


@pytest.fixture
def project(tmp_path, root, registry, monkeypatch) -> Project:
    """A project whose first night is done and served."""
    return make_project(tmp_path / "project", root, monkeypatch, [attributes()])


@pytest.fixture
def served(project, instance) -> Project:
    write_source(project.folder, make_rows(1_000), day=FIRST)
    result = project.run("toy", FIRST, instance)
    assert result.success
    return project


def state_of(project: Project) -> dict[str, object]:
    """Everything that a failed night must leave as it is."""
    lake = project.lake("toy")
    tables = (lake.predictions, lake.dead_letters, lake.validated_features)
    return {
        "served": project.snapshots("toy").current(),
        **{table.name: table.rows_by_day() for table in tables},
    }


def test_a_good_night_is_served_as_the_model_says(project, instance):
    rows = make_rows(1_000)
    write_source(project.folder, rows, day=FIRST)
    result = project.run("toy", FIRST, instance)
    assert result.success
    snapshot = Version.current(project.snapshots("toy"))
    for key, risk in zip(rows["user_id"].to_pylist(), expected_risk(rows), strict=True):
        assert snapshot.get(key).outputs["risk"] == pytest.approx(float(risk), abs=1e-6)
    checks = result.get_asset_check_evaluations()
    assert len(checks) == 11
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
    stages = ("read", "pack", "copy", "compute", "write", "idle")
    shares = {stage: found[f"{stage}_share"] for stage in stages}
    assert sum(shares.values()) == pytest.approx(1)
    assert min(shares[s] for s in ("read", "pack", "compute", "write")) > 0
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


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda t: t.drop_columns(["plan"]), "1 missing: 'plan'"),
        (lambda t: t.append_column("x", t["age"]), "1 extra: 'x'"),
        (
            lambda t: t.set_column(1, "age", t["age"].cast(pa.int64())),
            "'age', got: int64, expected: int16",
        ),
        (
            lambda t: t.set_column(0, "user_id", t["user_id"].cast(pa.string())),
            "'user_id', got: string, expected: int64",
        ),
    ],
    ids=["missing", "extra", "retyped", "key of the wrong type"],
)
def test_a_bad_schema_stops_before_a_row_is_read(served, instance, change, said):
    before = state_of(served)
    write_source(served.folder, change(make_rows(1_000)), day=SECOND)
    result = served.run("toy", SECOND, instance)
    assert not result.success
    assert "ContractError" in errors_of(result)
    assert said in errors_of(result)
    assert SECOND not in served.lake("toy").raw_features.rows_by_day()
    assert state_of(served) == before


def test_a_day_without_rows_is_an_error(served, instance):
    before = state_of(served)
    write_source(served.folder, make_rows(0), day=SECOND)
    result = served.run("toy", SECOND, instance)
    assert not result.success
    assert "EmptySourceError" in errors_of(result)
    assert "allow_empty" in errors_of(result)
    assert state_of(served) == before


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


def test_a_source_that_is_not_there_is_an_error(served, instance):
    before = state_of(served)
    result = served.run("toy", SECOND, instance)
    assert not result.success
    assert "SourceError" in errors_of(result)
    assert "no file matches" in errors_of(result)
    assert state_of(served) == before


def test_a_corrupt_file_is_an_error(served, instance):
    before = state_of(served)
    path = write_source(served.folder, make_rows(1_000), day=SECOND)
    path.write_bytes(path.read_bytes()[:-200])
    result = served.run("toy", SECOND, instance)
    assert not result.success
    assert "SourceError" in errors_of(result)
    assert str(path) in errors_of(result)
    assert state_of(served) == before


def test_bad_rows_wait_and_the_others_are_served(served, instance):
    rows = make_rows(1_000).sort_by("user_id")
    visits = rows["visits"].to_pylist()
    ages = rows["age"].to_pylist()
    keys = rows["user_id"].to_pylist()
    visits[0], visits[1], ages[2], ages[3] = float("nan"), float("inf"), None, 121
    keys[5] = keys[4]
    schema = rows.schema
    rows = rows.set_column(2, schema.field("visits"), pa.array(visits, pa.float32()))
    rows = rows.set_column(1, schema.field("age"), pa.array(ages, pa.int16()))
    rows = rows.set_column(0, schema.field("user_id"), pa.array(keys, pa.int64()))
    write_source(served.folder, rows, day=SECOND)
    result = served.run("toy", SECOND, instance)
    assert result.success, errors_of(result)
    assert metadata_of(result, "quarantined_rows")["rules"] == {
        "user_id is there more than once": 2,
        "visits is NaN": 1,
        "visits is infinite": 1,
        "age is null": 1,
        "age is above max": 1,
    }
    page = served.lake("toy").books(SECOND).total
    assert (page.raw.rows, page.quarantined.rows, page.scored.rows) == (1_000, 6, 994)
    assert Version.current(served.snapshots("toy")).get(keys[4]) is None


def test_too_much_quarantine_stops_the_night_before_it_is_scored(served, instance):
    before = state_of(served)
    rows = make_rows(1_000)
    ages = pc.if_else(
        pc.less(rows["user_id"], 31), pa.scalar(-1, pa.int16()), rows["age"]
    )
    rows = rows.set_column(1, "age", ages)
    write_source(served.folder, rows, day=SECOND)
    result = served.run("toy", SECOND, instance)
    assert not result.success
    assert "30 of 1,000 raw rows are quarantined" in errors_of(result)
    assert SECOND not in served.lake("toy").predictions.rows_by_day()
    assert state_of(served)["served"] == before["served"]


def test_the_scorer_asks_the_gate_itself(served, instance):
    """Launched alone, after the check failed in another run."""
    rows = make_rows(1_000)
    rows = rows.set_column(1, "age", pa.array([-1] * 1_000, pa.int16()))
    write_source(served.folder, rows, day=SECOND)
    served.run("toy", SECOND, instance)
    result = (
        served.definitions.resolve_implicit_global_asset_job_def().execute_in_process(
            partition_key=SECOND,
            instance=instance,
            raise_on_error=False,
            asset_selection=[
                dg.AssetKey(["toy", "predictions"]),
                dg.AssetKey(["toy", "dead_letters"]),
            ],
        )
    )
    assert not result.success
    assert "GateError" in errors_of(result)
    assert SECOND not in served.lake("toy").predictions.rows_by_day()


def test_revoked_between_two_nights_the_next_night_says_who_and_why(
    served, instance, toy_release
):
    before = state_of(served)
    served.registry.revoke("toy", toy_release.digest, why="it favours cats", by="bob")
    write_source(served.folder, make_rows(1_000), day=SECOND)
    result = served.run("toy", SECOND, instance)
    assert not result.success
    assert "RevokedError" in errors_of(result)
    assert "by bob" in errors_of(result)
    assert "it favours cats" in errors_of(result)
    assert state_of(served) == before


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda folder: (folder / "model.pt2").write_bytes(b"short"), "has 5 bytes"),
        (lambda folder: (folder / "model.pt2").unlink(), "files missing"),
    ],
    ids=["truncated", "missing file"],
)
def test_a_release_that_is_not_whole_is_refused(
    served, instance, toy_release, spoil, said
):
    before = state_of(served)
    folder = served.root / "models" / "toy" / toy_release.digest
    for path in folder.iterdir():
        path.chmod(0o644)
    spoil(folder)
    write_source(served.folder, make_rows(1_000), day=SECOND)
    result = served.run("toy", SECOND, instance)
    assert not result.success
    assert "TamperedReleaseError" in errors_of(result)
    assert said in errors_of(result)
    assert state_of(served) == before


def test_an_unapproved_and_an_unknown_release_are_refused(
    tmp_path, root, monkeypatch, instance, toy_release
):
    project = make_project(tmp_path / "project", root, monkeypatch, [attributes()])
    write_source(project.folder, make_rows(1_000), day=FIRST)
    unknown = project.run("toy", FIRST, instance)
    project.registry.add(toy_release.folder)
    unapproved = project.run("toy", FIRST, instance)
    assert "UnknownReleaseError" in errors_of(unknown)
    assert "UnapprovedError" in errors_of(unapproved)
    assert not (root / "lake").exists()


def test_a_model_that_gives_no_numbers_is_not_served(served, instance, tmp_path):
    import torch

    class Broken(torch.nn.Module):
        """Well on its golden rows, which have an age that nobody has."""

        def forward(self, features: torch.Tensor) -> torch.Tensor:
            return torch.where(features[:, 0] < 0, 0.5, float("nan"))

    before = state_of(served)["served"]
    release = write_toy_release(
        tmp_path / "broken", module=Broken(), golden_inputs=torch.full((4, 4), -1.0)
    )
    served.registry.add(release.folder)
    served.registry.approve("toy", release.digest, why="in a hurry", by="eve")
    write_source(served.folder, make_rows(1_000), day=SECOND)
    result = served.run("toy", SECOND, instance)
    assert not result.success
    said = errors_of(result)
    assert "of 1,000 rows are dead letters already" in said
    assert "times: output 'risk' is nan" in said
    assert served.snapshots("toy").current() == before
    assert SECOND not in served.lake("toy").predictions.rows_by_day()


def test_cuda_where_there_is_none_is_an_error(served, instance):
    import torch

    if torch.cuda.is_available():
        pytest.skip("there is a CUDA device here")
    before = state_of(served)
    write_source(served.folder, make_rows(1_000), day=SECOND)
    result = served.run(
        "toy",
        SECOND,
        instance,
        run_config={"resources": {"gpu": {"config": {"device": "cuda"}}}},
    )
    assert not result.success
    assert "DeviceError" in errors_of(result)
    assert state_of(served)["predictions"] == before["predictions"]
    assert state_of(served)["served"] == before["served"]


def test_a_run_that_was_given_up_may_not_commit(project, instance, monkeypatch):
    """The run is cancelled while it copies: what it wrote must stay invisible."""
    from batch_assets.lake import raw

    write_source(project.folder, make_rows(1_000), day=FIRST)
    real = raw.hash_keys

    def cancel_then_hash(keys):
        for run in instance.get_runs():
            instance.report_run_canceled(run)
        return real(keys)

    monkeypatch.setattr(raw, "hash_keys", cancel_then_hash)
    result = project.run("toy", FIRST, instance)
    assert not result.success
    assert "may not commit" in errors_of(result)
    assert not project.lake("toy").raw_features.rows_by_day()


def test_a_second_run_of_a_day_is_refused_while_the_first_is_at_it(served, instance):
    write_source(served.folder, make_rows(900, seed=7), day=FIRST)
    before = state_of(served)
    with claimed(served.lake("toy").folder, FIRST, "the-first", lambda run: False):
        result = served.run("toy", FIRST, instance)
    assert not result.success
    assert "is being made by run the-first" in errors_of(result)
    assert state_of(served) == before
    assert served.run("toy", FIRST, instance).success


def test_a_night_removes_what_killed_runs_left_half_written(served, instance):
    table = served.lake("toy").predictions
    half = table.paths(FIRST)[0].with_suffix(".parquet.12.tmp")
    half.touch()
    assert served.run("toy", FIRST, instance).success
    assert not half.exists()


def test_a_run_whose_day_was_taken_over_may_not_commit(project, instance, monkeypatch):
    from batch_assets.lake import raw

    write_source(project.folder, make_rows(1_000), day=FIRST)
    folder = project.lake("toy").folder
    real = raw.hash_keys
    with ExitStack() as successor:

        def take_over_then_hash(keys):
            monkeypatch.setattr(raw, "hash_keys", real)
            claim = claimed(folder, FIRST, "successor", lambda run: True)
            successor.enter_context(claim)
            return real(keys)

        monkeypatch.setattr(raw, "hash_keys", take_over_then_hash)
        result = project.run("toy", FIRST, instance)
    assert not result.success
    assert "taken over by run successor" in errors_of(result)
    assert not project.lake("toy").raw_features.rows_by_day()


def test_predictions_alone_need_a_release_in_the_graph(project, instance):
    result = (
        project.definitions.resolve_implicit_global_asset_job_def().execute_in_process(
            partition_key=FIRST,
            instance=instance,
            raise_on_error=False,
            asset_selection=[
                dg.AssetKey(["toy", "predictions"]),
                dg.AssetKey(["toy", "dead_letters"]),
            ],
        )
    )
    assert not result.success
    assert "never materialised" in errors_of(result)


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
    store = served.snapshots("toy")
    first = store.current()
    write_source(served.folder, make_rows(1_000, seed=2), day=SECOND)
    assert served.run("toy", SECOND, instance).success
    taken_back = store.current()
    rollback(store, why="odd scores", by="ada")

    write_source(served.folder, make_rows(1_000, seed=3), day=THIRD)
    result = served.run("toy", THIRD, instance)

    assert result.success
    assert store.current() == first
    metadata = metadata_of(result, "serving_snapshot")
    assert metadata["published"] is False
    assert metadata["served_version"] == first
    assert "publishing is blocked until " in metadata["why"]
    assert "by ada: odd scores" in metadata["why"]
    assert metadata["version"] in {m.version for m in store.versions()}
    (check,) = failed_checks(result)
    assert (check.check_name, check.severity.name) == ("snapshot_is_served", "WARN")
    assert "by ada: odd scores" in check.description
    assert "batch-assets snapshot unblock toy" in check.description
    assert "run the day again" in check.description

    unblock(store, why="the source is mended", by="ada")
    again = served.run("toy", THIRD, instance)

    assert again.success
    assert not failed_checks(again)
    # What was built and proved is served as it is.
    assert store.current() == metadata["version"] != taken_back


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
    store = served.snapshots("toy")
    first = store.current()
    pin(store, first, why="an experiment runs", by="ada")
    write_source(served.folder, make_rows(1_000, seed=2), day=SECOND)

    result = served.run("toy", SECOND, instance)

    assert result.success
    assert store.current() != first
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
    json.dumps(metadata_of(result, "serving_snapshot"))


def test_rows_made_of_raw_rows_that_were_replaced_are_not_served_again(
    served, instance
):
    """The same keys with other features: every total agrees, and yet they are stale."""
    before = state_of(served)
    write_source(served.folder, make_rows(1_000, seed=9), day=FIRST)
    job = served.definitions.resolve_implicit_global_asset_job_def()

    def run(*names: str):
        return job.execute_in_process(
            partition_key=FIRST,
            instance=instance,
            raise_on_error=False,
            asset_selection=[dg.AssetKey(["toy", name]) for name in names],
        )

    assert run("raw_features").success
    for names in (("predictions", "dead_letters"), ("serving_snapshot",)):
        result = run(*names)
        assert not result.success
        assert "have been replaced since" in errors_of(result)
    assert state_of(served) == before
    assert served.run("toy", FIRST, instance).success
    assert state_of(served)["served"] != before["served"]


@pytest.mark.parametrize("how", ["missing", "flipped bit", "another day's"])
@pytest.mark.parametrize("table", ["raw_features", "validated_features", "predictions"])
def test_a_damaged_part_is_made_again_by_the_next_run(served, instance, table, how):
    write_source(served.folder, make_rows(1_000, seed=3), day=SECOND)
    assert served.run("toy", SECOND, instance).success
    lake = served.lake("toy")
    expected = read_day(lake, "predictions", SECOND)
    path = getattr(lake, table).paths(SECOND)[0]
    match how:
        case "missing":
            path.unlink()
        case "flipped bit":
            data = bytearray(path.read_bytes())
            data[60] ^= 1
            path.write_bytes(data)
        case _:
            path.write_bytes(getattr(lake, table).paths(FIRST)[0].read_bytes())
    result = served.run("toy", SECOND, instance)
    assert result.success, errors_of(result)
    # What was made again may lie in another order; it must be the same rows.
    assert read_day(lake, "predictions", SECOND).equals(expected)


def test_a_run_that_died_between_two_commits_is_mended_by_the_next(served, instance):
    """Dead letters are committed before predictions, quarantine before validated."""
    lake = served.lake("toy")
    rows = make_rows(1_000)
    ages = pc.if_else(
        pc.less(rows["user_id"], 6), pa.scalar(-1, pa.int16()), rows["age"]
    )
    source = write_source(served.folder, rows, day=SECOND)
    time = source.stat().st_mtime_ns
    assert served.run("toy", SECOND, instance).success
    write_source(served.folder, rows.set_column(1, "age", ages), day=SECOND)
    assert served.run("toy", SECOND, instance).success
    stale = lake.quarantined_rows.parts(SECOND)
    assert stale
    schema = pq.read_schema(stale[0].path)
    source = write_source(served.folder, rows, day=SECOND)
    os.utime(source, ns=(time, time))
    assert served.run("toy", SECOND, instance).success
    lake.quarantined_rows.commit_day(
        SECOND, stale, schema, {"job": stale[0].receipt.job}
    )
    assert lake.books(SECOND).open_after_validation()
    assert served.run("toy", SECOND, instance).success
    assert not lake.books(SECOND).open_after_validation()


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
