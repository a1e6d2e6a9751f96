"""Runs that were given up, came at once, or died half way; and parts that were harmed."""

import os
from contextlib import ExitStack

import dagster as dg
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from batch_assets.lake.claims import claimed
from batch_assets_tests.parts_by_hand import facts_of
from batch_assets_tests.projects import FIRST, SECOND, errors_of, state_of
from batch_assets_tests.toys import make_rows, read_day, write_source


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


@pytest.mark.parametrize("table", ["raw_features", "validated_features", "predictions"])
def test_a_damaged_part_is_made_again_by_the_next_run(served, instance, table):
    write_source(served.folder, make_rows(1_000, seed=3), day=SECOND)
    assert served.run("toy", SECOND, instance).success
    lake = served.lake("toy")
    expected = read_day(lake, "predictions", SECOND)
    for how in ("missing", "flipped bit", "another day's"):
        damage(lake, table, how)
        result = served.run("toy", SECOND, instance)
        assert result.success, (how, errors_of(result))
        # What was made again may lie in another order; it must be the same rows.
        assert read_day(lake, "predictions", SECOND).equals(expected), how


def damage(lake, table, how):
    """Harm the first part of the second day."""
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
    lake.quarantined_rows.commit_day(SECOND, stale, schema, facts_of(stale[0]))
    assert lake.books(SECOND).open_after_validation()
    assert served.run("toy", SECOND, instance).success
    assert not lake.books(SECOND).open_after_validation()
