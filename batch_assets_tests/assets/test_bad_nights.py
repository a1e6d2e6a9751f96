"""Nights of the toy pipeline that must not be served, each kind of bad."""

import dagster as dg
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from batch_assets.snapshots.version import Version
from batch_assets_tests.projects import (
    FIRST,
    SECOND,
    attributes,
    errors_of,
    make_project,
    metadata_of,
    state_of,
)
from batch_assets_tests.toys import make_rows, write_source, write_toy_release


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
