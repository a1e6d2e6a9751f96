"""A night: the same plan each time, resumed where it stopped, committed if it closes."""

import gc
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from batch_assets.errors import (
    BooksError,
    ContractError,
    GateError,
    LakeError,
    ScoringError,
)
from batch_assets.lake.commits import ScoringCommit
from batch_assets.lake.delta_table import digest_of
from batch_assets.lake.parts import open_part
from batch_assets.lake.reconciliation import ControlTotal
from batch_assets.lake.tables import Lake
from batch_assets.models.release import Release
from batch_assets.scoring.chunk_task import Scored
from batch_assets.spec import GateLimits
from batch_assets_tests.counting import Counting
from batch_assets_tests.nights import (
    CHUNK_ROWS,
    ROWS,
    Altering,
    dead_share,
    files,
    log_of,
    narrow,
    plan,
    score,
)
from batch_assets_tests.parts_by_hand import rewritten
from batch_assets_tests.toys import (
    DAY,
    ROW_GROUP_ROWS,
    SHARDS,
    copy_rows,
    expected_risk,
    make_contract,
    make_rows,
    pin_rows,
    read_day,
    validate,
    write_toy_release,
)

ANY_KIND = pytest.mark.parametrize("kind", ["numbers", "histories"])


class Stop(Exception):  # noqa: N818 - it is a request, not an error
    """A guard's refusal."""


def test_the_plan_of_the_same_input_is_the_same(
    ready: Lake, toy_release: Release
) -> None:
    assert plan(ready, toy_release) == plan(ready, toy_release)


@pytest.mark.parametrize("chunk_rows", [1, ROW_GROUP_ROWS, 250, 10_000])
def test_chunks_are_whole_row_groups_of_about_chunk_rows(
    ready: Lake, toy_release: Release, chunk_rows: int
) -> None:
    tasks = plan(ready, toy_release, chunk_rows=chunk_rows).tasks

    for shard in range(SHARDS):
        mine = [task for task in tasks if task.shard == shard]
        with pq.ParquetFile(mine[0].validated) as file:
            groups, rows = file.num_row_groups, file.metadata.num_rows
        assert [task.chunk for task in mine] == list(range(len(mine)))
        assert mine[0].row_groups[0] == 0
        assert mine[-1].row_groups[1] == groups
        for before, after in zip(mine, mine[1:], strict=False):
            assert before.row_groups[1] == after.row_groups[0]
        assert sum(task.rows for task in mine) == rows
        # A row group is never cut, so a smaller chunk has exactly one.
        assert all(task.rows <= max(chunk_rows, ROW_GROUP_ROWS) for task in mine)
        assert len(mine) == -(-groups // max(chunk_rows // ROW_GROUP_ROWS, 1))


@pytest.mark.parametrize(
    "change", ["release", "chunk_rows", "precision", "input", "day", "nothing", "gates"]
)
def test_the_job_is_named_by_all_that_changes_the_output(
    ready: Lake, toy_release: Release, tmp_path: Path, change: str
) -> None:
    before = plan(ready, toy_release).job
    release, day, changes = toy_release, DAY, {}
    match change:
        case "release":
            release = write_toy_release(tmp_path / "other", about={"author": "else"})
        case "chunk_rows":
            changes = {"chunk_rows": CHUNK_ROWS + 1}
        case "precision":
            changes = {"computes_in": "bfloat16"}
        case "gates":
            changes = {"gates": GateLimits(max_dead_letter_share=0.5)}
        case "input":
            copy_rows(ready, make_rows(ROWS, seed=2))
            validate(ready)
        case "day":
            day = "2026-01-06"
            copy_rows(ready, make_rows(ROWS), day=day)
            validate(ready, day=day)

    after = plan(ready, release, day, **changes).job

    assert (after == before) == (change in ("nothing", "gates"))


def test_chunks_are_numbered_on_over_the_parts_of_a_shard(
    lake: Lake, toy_release: Release
) -> None:
    rows = make_rows(ROWS)
    pin_rows(lake, rows, files=10)
    validate(lake, row_group_rows=50)

    night = score(lake, toy_release, chunk_rows=30)

    chunks = [(p.receipt.shard, p.receipt.chunk) for p in lake.predictions.parts(DAY)]
    validated = lake.validated_features.parts(DAY)
    assert len(validated) > SHARDS
    assert len(chunks) == len(set(chunks)) >= len(validated)
    assert sorted(number for shard, number in chunks if shard == 0) == list(
        range(sum(shard == 0 for shard, _ in chunks))
    )
    assert night.total == ControlTotal.of(rows["user_id"])
    assert lake.books(DAY).open_after_scoring() == []
    found = read_day(lake, "predictions")["risk"].to_numpy()
    np.testing.assert_allclose(found, expected_risk(rows.sort_by("user_id")), rtol=1e-6)


def test_a_night_commits_every_row_once_with_its_score(
    ready: Lake, toy_release: Release
) -> None:
    done: list[int] = []

    night = score(ready, toy_release, progress=done.append)

    table = read_day(ready, "predictions")
    rows = make_rows(ROWS).sort_by("user_id")
    assert table["user_id"].equals(rows["user_id"])
    np.testing.assert_allclose(table["risk"], expected_risk(rows), rtol=1e-6)
    assert set(table["model_version"].to_pylist()) == {toy_release.digest}
    assert night.total == ControlTotal.of(rows["user_id"])
    assert night.dead_letters == ControlTotal()
    assert (night.unchanged, night.resumed_chunks) == (False, 0)
    assert night.scored_rows == sum(done) == ROWS
    assert night.rows_per_second > 0
    books = ready.books(DAY)
    assert books.open_after_scoring() == []
    assert books.total.scored.rows == ROWS
    commit = ready.predictions.last_commit(DAY)
    assert commit is not None
    assert commit.parts == digest_of(night.parts)
    assert commit.facts == ScoringCommit(
        night.job, "toy", toy_release.digest, scored=ROWS, dead=0
    )


def test_a_night_does_not_look_for_garbage_among_what_is_loaded(
    ready: Lake, toy_release: Release
) -> None:
    meanwhile: list[int] = []

    score(
        ready,
        toy_release,
        progress=lambda rows: meanwhile.append(gc.get_freeze_count()),
    )

    assert min(meanwhile) > 100_000
    assert gc.get_freeze_count() == 0


def test_rows_at_fault_are_committed_as_dead_letters(
    ready: Lake, tmp_path: Path
) -> None:
    release = narrow(tmp_path / "narrow")
    rows = make_rows(ROWS).sort_by("user_id")
    above = expected_risk(rows) > 0.9
    assert 0 < above.sum() < ROWS

    night = score(ready, release)

    letters = read_day(ready, "dead_letters")
    assert letters["user_id"].equals(rows["user_id"].filter(pa.array(above)))
    assert night.dead_letters.rows == above.sum()
    assert ready.books(DAY).open_after_scoring() == []


def test_a_night_at_its_limit_of_dead_letters_is_done(
    ready: Lake, tmp_path: Path
) -> None:
    dead, limit = dead_share(above=1)

    night = score(ready, narrow(tmp_path / "narrow"), gates=limit)

    assert night.dead_letters.rows == dead


def test_a_night_above_its_limit_stops_early_and_says_why(
    ready: Lake, tmp_path: Path
) -> None:
    release = narrow(tmp_path / "narrow")
    _, limit = dead_share(above=0.2)
    engine = Counting(workers=1)

    with pytest.raises(ScoringError, match=r"Most often, 1 times: output 'risk'") as e:
        score(ready, release, engine, gates=limit)

    assert f"of {ROWS:,} rows are dead letters already" in str(e.value)
    assert "max_dead_letter_share" in str(e.value)
    assert log_of(ready) == []
    left = [name for name in files(ready) if name.startswith("predictions")]
    assert 0 < len(left) < len(engine.given)
    (note,) = e.value.__notes__
    assert f"{len(left)} of {len(engine.given)} chunks of {DAY} are done" in note


@ANY_KIND
def test_an_engine_that_loses_a_chunk_can_not_look_like_success(
    ready: Lake, release: Release
) -> None:
    engine = Altering(lambda scored: scored[1:])

    with pytest.raises(ScoringError, match=r"^1 of \d+ chunks .* are missing"):
        score(ready, release, engine)

    assert log_of(ready) == []


def lose_a_row(table: pa.Table) -> pa.Table:
    return table.slice(1)


def double_and_lose(table: pa.Table) -> pa.Table:
    """As many rows as before: only the checksum of the keys can tell."""
    return pa.concat_tables([table.slice(0, 1), table.slice(0, len(table) - 1)])


def double(table: pa.Table) -> pa.Table:
    return pa.concat_tables([table, table.slice(0, 1)])


@ANY_KIND
@pytest.mark.parametrize("change", [lose_a_row, double_and_lose, double])
def test_an_engine_that_loses_or_doubles_rows_leaves_the_books_open(
    ready: Lake, release: Release, change: Callable[[pa.Table], pa.Table]
) -> None:
    def alter(scored: list[Scored]) -> list[Scored]:
        path = scored[0].part.path
        table = change(pq.read_table(path, partitioning=None))
        rewritten(path, table, total=ControlTotal.of(table["user_id"]))
        part, file = open_part(path)
        file.close()
        return [Scored(part, None), *scored[1:]]

    with pytest.raises(BooksError, match=f"books of {DAY} don't close in shard"):
        score(ready, release, Altering(alter))

    assert log_of(ready) == []


@ANY_KIND
def test_a_chunk_that_comes_twice_counts_once(ready: Lake, release: Release) -> None:
    night = score(ready, release, Altering(lambda scored: scored + scored[:2]))

    assert night.total.rows == len(read_day(ready, "predictions")) == ROWS


@ANY_KIND
def test_a_chunk_that_nobody_planned_is_never_committed(
    ready: Lake, release: Release
) -> None:
    def alter(scored: list[Scored]) -> list[Scored]:
        stray = ready.predictions.part_path(DAY, 99, "f" * 64, 0)
        stray.parent.mkdir(parents=True)
        shutil.copy(scored[0].part.path, stray)
        table = pq.read_table(stray, partitioning=None)
        rewritten(stray, table, shard=99)
        part, file = open_part(stray)
        file.close()
        return [*scored, Scored(part, None)]

    with pytest.raises(ScoringError, match="nobody planned"):
        score(ready, release, Altering(alter))

    assert log_of(ready) == []


def test_a_guard_that_refuses_leaves_the_day_as_it_was(
    ready: Lake, toy_release: Release, tmp_path: Path
) -> None:
    score(ready, toy_release)
    before, log = read_day(ready, "predictions"), log_of(ready)
    other = write_toy_release(tmp_path / "other", about={"author": "else"})

    def guard() -> None:
        raise Stop

    with pytest.raises(Stop):
        score(ready, other, guard=guard)

    assert log_of(ready) == log
    assert read_day(ready, "predictions").equals(before)


def test_a_shut_gate_of_validation_stops_before_the_model_is_loaded(
    lake: Lake, toy_release: Release
) -> None:
    rows = make_rows(ROWS)
    ages = pa.array([200] * 100 + rows["age"].to_pylist()[100:], pa.int16())
    copy_rows(lake, rows.set_column(1, "age", ages))
    validate(lake)
    engine = Counting()

    with pytest.raises(GateError, match="quarantine_share_is_within_limit"):
        score(lake, toy_release, engine)

    assert (engine.loads, engine.given, files(lake)) == (0, [], {})
    assert score(lake, toy_release, gates=GateLimits(max_quarantine_share=0.1)).parts


def test_a_day_validated_under_another_contract_is_not_scored(
    ready: Lake, tmp_path: Path
) -> None:
    features = make_contract().model_dump()["features"]
    features[0]["max"] = 130
    contract = make_contract(features=features)
    engine = Counting()

    with pytest.raises(ContractError, match="was validated under contract"):
        score(ready, write_toy_release(tmp_path / "other", contract=contract), engine)

    assert engine.loads == 0


def test_a_day_that_is_not_validated_is_not_scored(
    lake: Lake, toy_release: Release
) -> None:
    copy_rows(lake, make_rows(10))

    with pytest.raises(LakeError, match="validated_features has no"):
        plan(lake, toy_release)
    with pytest.raises(GateError):
        score(lake, toy_release)


def test_a_shard_without_rows_leaves_a_receipt_too(
    lake: Lake, toy_release: Release
) -> None:
    copy_rows(lake, make_rows(3), shards=16)
    validate(lake)

    night = score(lake, toy_release)

    assert {part.receipt.shard for part in night.parts} == set(range(16))
    assert night.total.rows == 3
    assert 0 in {part.receipt.total.rows for part in night.parts}
    assert len(lake.predictions.parts(DAY)) == 16


def test_a_day_without_rows_is_a_whole_night(lake: Lake, toy_release: Release) -> None:
    copy_rows(lake, make_rows(0), allow_empty=True)
    validate(lake)

    night = score(lake, toy_release)

    assert (len(night.parts), night.total) == (SHARDS, ControlTotal())
    assert score(lake, toy_release).unchanged
