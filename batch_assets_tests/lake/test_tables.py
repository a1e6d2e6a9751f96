"""Tables: a day changes in one commit, or not at all."""

import json
import multiprocessing
from dataclasses import asdict
from pathlib import Path

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from deltalake import DeltaTable

from batch_assets.errors import BatchAssetsError, CorruptPartError, LakeError
from batch_assets.lake.commits import BaselineDecision
from batch_assets.lake.delta_table import Table, digest_of
from batch_assets.lake.reconciliation import ControlTotal, Page
from batch_assets.lake.tables import Lake
from batch_assets_tests.parts_by_hand import (
    SCHEMA,
    commit,
    facts_of,
    predictions_in,
    scored_by,
    write_part,
)
from batch_assets_tests.toys import DAY

NEXT_DAY = "2026-01-06"


def keys_of(table: Table, day: str = DAY) -> list[int]:
    """The day's keys as Delta shows them to any reader."""
    if not (table.path / "_delta_log").is_dir():
        return []
    rows = DeltaTable(table.path).to_pyarrow_table(filters=[("day", "=", day)])
    return sorted(rows["user_id"].to_pylist())


def commit_in_a_process(folder: str, day: str) -> None:
    """Commit a day of two parts; run in a spawned process: Delta may not be forked."""
    table = predictions_in(Path(folder))
    parts = [write_part(table, [s, s + 10], day=day, shard=s) for s in (0, 1)]
    table.commit_day(day, parts, SCHEMA, scored_by("a" * 64))


def test_a_table_without_a_commit_is_empty(lake):
    table = lake.predictions

    assert table.parts(DAY) == []
    assert table.paths(DAY) == []
    assert table.last_commit(DAY) is None
    assert table.rows_by_day() == {}


def test_a_committed_day_gives_back_its_parts_by_shard_and_chunk(lake):
    table = lake.predictions
    places = [(10, 0), (2, 1), (2, 0)]
    parts = [
        write_part(table, [shard, chunk], shard=shard, chunk=chunk)
        for shard, chunk in places
    ]

    table.commit_day(DAY, parts, SCHEMA, scored_by("a" * 64))

    assert table.parts(DAY) == [parts[2], parts[1], parts[0]]
    assert table.rows_by_day() == {DAY: 6}


def test_files_without_a_commit_are_invisible(lake):
    commit(lake.predictions, [1, 2])

    write_part(lake.predictions, [3], job="b" * 64)
    write_part(lake.predictions, [4], day=NEXT_DAY)

    assert keys_of(lake.predictions) == [1, 2]
    assert [p.receipt.total.rows for p in lake.predictions.parts(DAY)] == [2]
    assert lake.predictions.parts(NEXT_DAY) == []


def test_a_day_is_replaced_and_other_days_are_untouched(lake):
    commit(lake.predictions, [1, 2])
    commit(lake.predictions, [7], day=NEXT_DAY)

    commit(lake.predictions, [3], job="b" * 64)

    assert keys_of(lake.predictions) == [3]
    assert keys_of(lake.predictions, NEXT_DAY) == [7]
    assert lake.predictions.rows_by_day() == {DAY: 1, NEXT_DAY: 1}


def test_a_replacement_is_one_commit(lake):
    commit(lake.predictions, [1, 2])
    before = DeltaTable(lake.predictions.path)

    parts = [write_part(lake.predictions, [s], shard=s, job="b" * 64) for s in range(5)]
    lake.predictions.commit_day(DAY, parts, SCHEMA, scored_by("b" * 64))

    after = DeltaTable(lake.predictions.path)
    assert after.version() == before.version() + 1
    # Whoever opened the table before still reads the day as it was.
    assert sorted(before.to_pyarrow_table()["user_id"].to_pylist()) == [1, 2]


def test_the_same_parts_again_change_nothing(lake):
    commit(lake.predictions, [1, 2])
    version = DeltaTable(lake.predictions.path).version()

    commit(lake.predictions, [1, 2])

    assert DeltaTable(lake.predictions.path).version() == version
    assert keys_of(lake.predictions) == [1, 2]


def test_committed_rows_bear_their_day_and_shard_for_any_reader(lake):
    part = write_part(lake.predictions, [5], shard=3)
    lake.predictions.commit_day(DAY, [part], SCHEMA, scored_by("ab"))

    rows = pl.read_delta(str(lake.predictions.path)).to_dicts()

    assert rows == [{"user_id": 5, "risk": 5.0, "day": DAY, "shard": 3}]


def test_a_commit_records_its_facts(lake):
    part = write_part(lake.predictions, [1])
    facts = scored_by("ab", release="cd")
    lake.predictions.commit_day(DAY, [part], SCHEMA, facts)
    commit(lake.predictions, [2], day=NEXT_DAY)

    found = lake.predictions.last_commit(DAY)

    assert (found.facts, found.parts) == (facts, digest_of([part]))
    history = DeltaTable(lake.predictions.path).history()
    entry = next(e for e in history if e["version"] == found.version)
    assert json.loads(entry["batch_assets"]) == {
        "day": DAY,
        "job": "ab",
        "model": "",
        "release": "cd",
        "scored": 0,
        "dead": 0,
        "carried": 0,
        "rescored": 0,
        "grounds": asdict(BaselineDecision()),
        "parts": digest_of([part]),
    }
    assert found.at.tzinfo is not None


def test_the_last_commit_of_a_day_is_its_newest(lake):
    commit(lake.predictions, [1])
    commit(lake.predictions, [2], job="b" * 64)

    assert lake.predictions.last_commit(DAY).facts.job == "b" * 64


def test_a_column_can_be_added_on_a_later_day(lake):
    wider = SCHEMA.append(pa.field("reach", pa.float32()))
    commit(lake.predictions, [1])

    commit(lake.predictions, [2], day=NEXT_DAY, schema=wider)

    rows = pl.read_delta(str(lake.predictions.path)).sort("user_id")
    assert rows.select("user_id", "reach").rows() == [(1, None), (2, 2.0)]
    assert keys_of(lake.predictions) == [1]


def test_a_column_can_be_left_out_on_a_later_day(lake):
    commit(lake.predictions, [1])

    commit(
        lake.predictions, [2], day=NEXT_DAY, schema=pa.schema([("user_id", pa.int64())])
    )

    rows = pl.read_delta(str(lake.predictions.path)).sort("user_id")
    assert rows.select("user_id", "risk").rows() == [(1, 1.0), (2, None)]


@pytest.mark.parametrize("other_columns", [[], [("reach", pa.float32())]])
def test_a_retyped_column_is_refused_and_nothing_changes(lake, other_columns):
    commit(lake.predictions, [1])
    version = DeltaTable(lake.predictions.path).version()
    retyped = pa.schema(
        [("user_id", pa.int64()), ("risk", pa.float64()), *other_columns]
    )

    with pytest.raises(LakeError, match=r"'risk', got: double, expected: float"):
        commit(lake.predictions, [2], day=NEXT_DAY, schema=retyped)

    assert DeltaTable(lake.predictions.path).version() == version
    assert keys_of(lake.predictions) == [1]
    assert keys_of(lake.predictions, NEXT_DAY) == []


def test_a_guard_that_raises_leaves_the_table_as_it_was(lake):
    def lost() -> None:
        msg = "the lock was lost"
        raise BatchAssetsError(msg)

    commit(lake.predictions, [1])
    wider = SCHEMA.append(pa.field("reach", pa.float32()))
    part = write_part(lake.predictions, [2], job="b" * 64, schema=wider)
    version = DeltaTable(lake.predictions.path).version()

    with pytest.raises(BatchAssetsError, match="the lock was lost"):
        lake.predictions.commit_day(DAY, [part], wider, scored_by("ab"), guard=lost)

    assert DeltaTable(lake.predictions.path).version() == version
    assert keys_of(lake.predictions) == [1]


def test_a_day_is_emptied_by_a_commit_without_parts(lake):
    commit(lake.dead_letters, [1])
    commit(lake.dead_letters, [7], day=NEXT_DAY)

    lake.dead_letters.commit_day(DAY, [], SCHEMA, scored_by("b" * 64))

    assert keys_of(lake.dead_letters) == []
    assert lake.dead_letters.parts(DAY) == []
    assert keys_of(lake.dead_letters, NEXT_DAY) == [7]
    assert lake.dead_letters.rows_by_day() == {NEXT_DAY: 1}


def test_emptying_an_empty_day_commits_nothing(lake):
    commit(lake.dead_letters, [1])
    version = DeltaTable(lake.dead_letters.path).version()

    lake.dead_letters.commit_day(NEXT_DAY, [], SCHEMA, scored_by("ab"))
    lake.quarantined_rows.commit_day(DAY, [], SCHEMA, scored_by("ab"))

    assert DeltaTable(lake.dead_letters.path).version() == version
    assert not lake.quarantined_rows.path.exists()


def test_processes_commit_different_days_at_the_same_time(lake):
    commit(lake.predictions, [99])
    days = [f"2026-02-{n:02d}" for n in range(1, 5)]
    context = multiprocessing.get_context("spawn")
    workers = [
        context.Process(
            target=commit_in_a_process, args=(str(lake.predictions.path), day)
        )
        for day in days
    ]

    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(timeout=120)

    assert [worker.exitcode for worker in workers] == [0] * len(days)
    assert lake.predictions.rows_by_day() == {DAY: 1} | dict.fromkeys(days, 4)


def test_a_commit_that_lost_a_race_tries_again(lake):
    commit(lake.predictions, [1])
    part = write_part(lake.predictions, [2], job="b" * 64)
    rivals = iter([[3], [4]])

    def rival_comes_first() -> None:
        keys = next(rivals, None)
        if keys is not None:
            commit(lake.predictions, keys, job="c" * 64, chunk=keys[0])

    lake.predictions.commit_day(
        DAY, [part], SCHEMA, scored_by("ab"), guard=rival_comes_first
    )

    assert keys_of(lake.predictions) == [2]


@pytest.mark.parametrize("before", [[], [1]], ids=["a fresh day", "a committed day"])
def test_two_jobs_that_commit_a_day_at_once_are_never_both_in_it(lake, before):
    """Each has read the day before the other commits."""
    if before:
        commit(lake.predictions, before)
    else:
        commit(lake.predictions, [99], day=NEXT_DAY)
    mine = write_part(lake.predictions, [2], job="b" * 64)
    rivals = iter([[3]])

    def rival_adds_a_part() -> None:
        if (keys := next(rivals, None)) is not None:
            part = write_part(lake.predictions, keys, job="c" * 64)
            there = lake.predictions.parts(DAY)
            lake.predictions.commit_day(DAY, [*there, part], SCHEMA, scored_by("ab"))

    lake.predictions.commit_day(
        DAY, [mine], SCHEMA, scored_by("ab"), guard=rival_adds_a_part
    )

    assert keys_of(lake.predictions) == [2]


def test_parts_are_added_to_a_day_in_one_commit_that_keeps_the_others(lake):
    commit(lake.predictions, [1, 2])
    before = DeltaTable(lake.predictions.path)
    there = lake.predictions.parts(DAY)

    more = [write_part(lake.predictions, [n], shard=n, chunk=1) for n in (3, 4)]
    lake.predictions.commit_day(DAY, [*there, *more], SCHEMA, scored_by("ab"))

    after = DeltaTable(lake.predictions.path)
    assert after.version() == before.version() + 1
    assert keys_of(lake.predictions) == [1, 2, 3, 4]
    # The files that were there are not even named again.
    log = lake.predictions.path / "_delta_log" / f"{after.version():020d}.json"
    entries = [json.loads(line) for line in log.read_text("utf-8").splitlines()]
    assert [e["add"]["path"] for e in entries if "add" in e] == [
        part.path.relative_to(lake.predictions.path).as_posix() for part in more
    ]
    assert not [e for e in entries if "remove" in e]


def test_a_run_that_lost_its_right_while_it_waits_does_not_commit(lake):
    commit(lake.predictions, [1])
    part = write_part(lake.predictions, [2], job="b" * 64)
    calls = []

    def guard() -> None:
        calls.append(1)
        if len(calls) > 1:
            msg = "a newer run took over"
            raise BatchAssetsError(msg)
        commit(lake.predictions, [3], job="c" * 64)

    with pytest.raises(BatchAssetsError, match="a newer run took over"):
        lake.predictions.commit_day(DAY, [part], SCHEMA, scored_by("ab"), guard=guard)

    assert keys_of(lake.predictions) == [3]


def test_a_committed_part_that_is_gone_is_an_error_not_fewer_rows(lake):
    commit(lake.predictions, [1])
    lake.predictions.paths(DAY)[0].unlink()

    with pytest.raises(CorruptPartError, match="can't be read"):
        lake.predictions.parts(DAY)


def test_a_table_may_lie_under_a_path_with_odd_characters(tmp_path):
    lake = Lake(tmp_path / "a root, 100 % æ", "toy")

    commit(lake.predictions, [1])

    assert [part.receipt.total.rows for part in lake.predictions.parts(DAY)] == [1]


def test_part_names_differ_between_jobs_and_chunks(lake):
    table = lake.predictions

    names = {
        table.part_path(DAY, 3, job, chunk)
        for job in ("a" * 64, "b" * 64)
        for chunk in (0, 1)
    }

    assert len(names) == 4
    assert table.part_path(DAY, 3, "a" * 64, 1) == (
        table.path / f"day={DAY}" / "shard=3" / f"{'a' * 16}-00001.parquet"
    )


def test_the_books_are_read_from_every_committed_receipt(lake):
    schema = pa.schema([("user_id", pa.int64())])
    keys = {
        "raw_features": {0: [1, 2, 3], 1: [4]},
        "validated_features": {0: [1, 3], 1: [4]},
        "quarantined_rows": {0: [2]},
        "predictions": {0: [1], 1: [4]},
        "dead_letters": {0: [3]},
    }
    for name, shards in keys.items():
        table = getattr(lake, name)
        parts = [
            write_part(table, k, shard=s, schema=schema) for s, k in shards.items()
        ]
        table.commit_day(DAY, parts, schema, facts_of(parts[0]))

    books = lake.books(DAY)

    def total(*found: int) -> ControlTotal:
        return ControlTotal.of(pa.array(found, pa.int64()))

    assert books.pages == {
        0: Page(total(1, 2, 3), total(1, 3), total(2), total(1), total(3)),
        1: Page(total(4), total(4), total(), total(4), total()),
    }
    assert (books.open_after_validation(), books.open_after_scoring()) == ([], [])
    assert lake.books(NEXT_DAY).pages == {}


@pytest.mark.parametrize(
    ("side", "main", "open_shards"),
    [
        ("quarantined_rows", "validated_features", ([3], [])),
        ("dead_letters", "predictions", ([], [3])),
    ],
)
def test_two_sides_of_a_day_by_different_jobs_do_not_close(
    lake, side, main, open_shards
):
    """Their rows may add up by chance: two runs that nobody kept apart."""
    commit(lake.raw_features, [1, 2, 3, 4], shard=3)
    commit(lake.validated_features, [1, 2, 3, 4], shard=3)
    commit(lake.quarantined_rows, [], shard=3)
    commit(lake.predictions, [1, 2, 3], shard=3)
    commit(lake.dead_letters, [4], shard=3)
    books = lake.books(DAY)
    assert (books.open_after_validation(), books.open_after_scoring()) == ([], [])

    part = getattr(lake, side).parts(DAY)[0]
    table = getattr(lake, side)
    keys = pq.read_table(part.path, partitioning=None)["user_id"].to_pylist()
    other = write_part(table, keys, shard=3, job="b" * 64, made_of="a" * 64)
    table.commit_day(DAY, [other], SCHEMA, facts_of(other))

    books = lake.books(DAY)
    assert (books.open_after_validation(), books.open_after_scoring()) == open_shards


def test_sweeping_a_day_removes_what_is_half_written_and_nothing_else(lake):
    commit(lake.predictions, [1, 2])
    commit(lake.predictions, [3], day=NEXT_DAY)
    whole = sorted(lake.folder.rglob("*.parquet"))
    half, others = (
        lake.predictions.part_path(day, 0, "c" * 64, 0).with_suffix(".parquet.12.tmp")
        for day in (DAY, NEXT_DAY)
    )
    half.touch()
    others.touch()

    lake.remove_leftovers(DAY)

    assert not half.exists()
    assert others.exists()
    assert sorted(lake.folder.rglob("*.parquet")) == whole


def test_a_shard_in_several_chunks_is_one_page(lake):
    parts = [write_part(lake.predictions, [n], chunk=n) for n in range(3)]
    lake.predictions.commit_day(DAY, parts, SCHEMA, scored_by("ab"))

    assert lake.books(DAY).pages[0].scored == ControlTotal.of(pa.array([0, 1, 2]))


def test_a_parquet_reader_needs_no_delta(lake):
    commit(lake.predictions, [1, 2])

    rows = pq.read_table(lake.predictions.paths(DAY)[0], partitioning=None)

    assert rows.to_pydict() == {"user_id": [1, 2], "risk": [1.0, 2.0]}


def test_a_file_of_another_size_than_was_committed_is_refused(lake):
    commit(lake.predictions, [1, 2, 3])
    path = lake.predictions.paths(DAY)[0]
    path.unlink()
    write_part(lake.predictions, [1, 2, 3, 4, 5, 6])

    with pytest.raises(CorruptPartError, match="were committed"):
        lake.predictions.parts(DAY)


def test_other_bytes_of_the_same_names_and_sizes_are_committed(lake):
    """As a model leaves them that rounds otherwise the second time."""
    table = lake.predictions
    commit(table, [1, 2])
    [before] = table.parts(DAY)

    commit(table, [2, 1])

    [after] = table.parts(DAY)
    assert (after.path, after.size) == (before.path, before.size)
    assert after.sha256 != before.sha256
    assert table.last_commit(DAY).parts == digest_of([after])


@pytest.mark.parametrize(
    ("table", "shards"),
    [("raw_features", ([0], [])), ("validated_features", ([0], [0]))],
)
def test_what_was_made_of_a_replaced_part_does_not_close(lake, table, shards):
    """The same keys again from another job: every total agrees."""
    for name in ("raw_features", "validated_features", "predictions"):
        commit(getattr(lake, name), [1, 2, 3])
    assert lake.books(DAY).open_after_validation() == []

    commit(getattr(lake, table), [1, 2, 3], job="b" * 64)

    books = lake.books(DAY)
    assert (books.open_after_validation(), books.open_after_scoring()) == shards
