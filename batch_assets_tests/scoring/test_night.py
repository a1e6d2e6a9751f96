"""A night: the same plan each time, resumed where it stopped, committed if it closes."""

import gc
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

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
from batch_assets.scoring.chunk_task import ChunkTask, Scored
from batch_assets.scoring.night import Night
from batch_assets.scoring.plan import Plan
from batch_assets.spec import Gates
from batch_assets_tests import nights
from batch_assets_tests.counting import Counting
from batch_assets_tests.nights import score_rows
from batch_assets_tests.parts_by_hand import rewritten
from batch_assets_tests.toys import (
    DAY,
    NAME,
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

ROWS = 1_200
CHUNK_ROWS = 2 * ROW_GROUP_ROWS
OPEN = Gates(max_dead_letter_share=1)


class Altering(Counting):
    """An engine that does something to what the chunks left."""

    def __init__(self, alter: Callable[[list[Scored]], list[Scored]]) -> None:
        super().__init__()
        self.alter = alter

    def run(self, tasks: Sequence[ChunkTask]) -> Iterator[Scored]:
        yield from self.alter(list(super().run(tasks)))


class Stopping(Counting):
    """An engine that is killed after some chunks."""

    def __init__(self, after: int) -> None:
        super().__init__()
        self.after = after

    def run(self, tasks: Sequence[ChunkTask]) -> Iterator[Scored]:
        yield from super().run(tasks[: self.after])
        msg = "the node was preempted"
        raise ConnectionError(msg)


class Stop(Exception):  # noqa: N818 - it is a request, not an error
    """A guard's refusal."""


@pytest.fixture(scope="module")
def validated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A root with a validated day of several shards and chunks; copy it."""
    folder = tmp_path_factory.mktemp("validated") / "root"
    lake = Lake(folder, NAME)
    copy_rows(lake, make_rows(ROWS))
    validate(lake)
    return folder


@pytest.fixture
def ready(validated: Path, root: Path) -> Lake:
    shutil.copytree(validated, root, dirs_exist_ok=True)
    return Lake(root, NAME)


def plan(lake: Lake, release: Release, day: str = DAY, **changes: Any) -> Plan:
    arguments: dict[str, Any] = {
        "chunk_rows": CHUNK_ROWS,
        "gates": Gates(),
    }
    return nights.plan(lake, release, day, **(arguments | changes))


def score(
    lake: Lake, release: Release, engine: Any = None, day: str = DAY, **changes: Any
) -> Night:
    arguments: dict[str, Any] = {
        "chunk_rows": CHUNK_ROWS,
        "gates": OPEN,
    }
    return score_rows(lake, release, day, engine or Counting(), **(arguments | changes))


def files(lake: Lake) -> dict[str, bytes]:
    """What lies in the tables of predictions and dead letters, committed or not."""
    return {
        str(path.relative_to(lake.folder)): path.read_bytes()
        for table in (lake.predictions, lake.dead_letters)
        for path in sorted(table.path.glob("day=*/*/*.parquet"))
    }


def log_of(lake: Lake) -> list[str]:
    """Every commit of predictions and dead letters."""
    return sorted(
        str(path.relative_to(lake.folder))
        for table in (lake.predictions, lake.dead_letters)
        for path in table.path.glob("_delta_log/*.json")
    )


def narrow(folder: Path, high: float = 0.9) -> Release:
    """The toy release under a contract whose output ends lower: it has dead letters."""
    outputs = [{"name": "risk", "dtype": "float32", "min": 0, "max": high}]
    return write_toy_release(folder, contract=make_contract(outputs=outputs))


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
            changes = {"gates": Gates(max_dead_letter_share=0.5)}
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


def dead_share(above: float) -> tuple[int, Gates]:
    """How many rows the narrow release can't score, and the limit at a multiple."""
    dead = int((expected_risk(make_rows(ROWS)) > 0.9).sum())
    return dead, Gates(max_dead_letter_share=above * dead / ROWS)


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


def test_what_a_stopped_night_did_stays_done_when_more_is_allowed(
    ready: Lake, tmp_path: Path
) -> None:
    release = narrow(tmp_path / "narrow")
    _, limit = dead_share(above=0.2)
    with pytest.raises(ScoringError):
        score(ready, release, Counting(workers=1), gates=limit)
    before = files(ready)

    night = score(ready, release)

    assert night.resumed_chunks == sum(n.startswith("predictions") for n in before) > 0
    assert before.items() <= files(ready).items()


def test_after_a_stopped_night_chunks_without_dead_letters_are_not_scored_again(
    ready: Lake, tmp_path: Path
) -> None:
    """The device may have been at fault: the others are tried again."""
    highest = np.sort(expected_risk(make_rows(ROWS)))
    release = narrow(tmp_path / "narrow", high=float(highest[-4:-2].mean()))
    score(ready, release)
    with_dead, every = (
        {(part.receipt.shard, part.receipt.chunk) for part in table.parts(DAY)}
        for table in (ready.dead_letters, ready.predictions)
    )
    assert 0 < len(with_dead) < len(every)
    for table in (ready.predictions, ready.dead_letters):
        shutil.rmtree(table.path / "_delta_log")
    engine = Counting(workers=1)

    with pytest.raises(ScoringError):
        score(ready, release, engine, gates=Gates(max_dead_letter_share=0))

    assert set(engine.given) == with_dead


def test_a_second_time_nothing_changes(ready: Lake, toy_release: Release) -> None:
    first = score(ready, toy_release)
    before, log = files(ready), log_of(ready)
    engine = Counting()

    second = score(ready, toy_release, engine)

    assert second.unchanged
    assert (second.job, second.total) == (first.job, first.total)
    assert engine.loads == 0
    assert files(ready) == before
    assert log_of(ready) == log


def test_another_release_replaces_the_day_in_one_commit(
    ready: Lake, toy_release: Release, tmp_path: Path
) -> None:
    score(ready, toy_release)
    log = log_of(ready)
    other = write_toy_release(tmp_path / "other", about={"author": "else"})

    score(ready, other)

    table = read_day(ready, "predictions")
    assert set(table["model_version"].to_pylist()) == {other.digest}
    assert len(table) == ROWS
    assert len(log_of(ready)) == len(log) + 1


@pytest.mark.parametrize("after", [0, 1, 5])
def test_a_night_that_was_stopped_goes_on_where_it_was(
    ready: Lake, tmp_path: Path, after: int
) -> None:
    undisturbed = Lake(tmp_path / "undisturbed", NAME)
    shutil.copytree(ready.folder, undisturbed.folder)
    release = narrow(tmp_path / "narrow")
    total = len(plan(ready, release).tasks)

    with pytest.raises(ConnectionError):
        score(ready, release, Stopping(after))
    left = set(files(ready))
    engine = Counting()
    night = score(ready, release, engine)

    assert ready.predictions.rows_by_day() == {DAY: night.total.rows}
    assert night.resumed_chunks == after
    assert len(engine.given) == total - after
    assert night.scored_rows < ROWS or not after
    assert len([name for name in left if name.startswith("predictions")]) == after
    score(undisturbed, release)
    assert files(ready) == files(undisturbed)


def test_nothing_is_committed_when_the_engine_stops(
    ready: Lake, toy_release: Release
) -> None:
    with pytest.raises(ConnectionError):
        score(ready, toy_release, Stopping(3))

    assert log_of(ready) == []
    assert ready.predictions.parts(DAY) == []
    assert len(files(ready)) == 3


def test_chunks_whose_parts_are_gone_are_scored_again_and_no_others(
    ready: Lake, toy_release: Release
) -> None:
    score(ready, toy_release)
    before = files(ready)
    tasks = plan(ready, toy_release).tasks
    shutil.rmtree(ready.predictions.path / "_delta_log")
    for task in (tasks[0], tasks[3]):
        task.predictions.unlink()
    engine = Counting()

    night = score(ready, toy_release, engine)

    assert sorted(engine.given) == [(t.shard, t.chunk) for t in (tasks[0], tasks[3])]
    assert night.resumed_chunks == len(tasks) - 2
    assert files(ready) == before


def truncate(path: Path, other: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def flip_a_page(path: Path, other: Path) -> None:
    with pq.ParquetFile(path) as file:
        column = file.metadata.row_group(0).column(1)
    data = bytearray(path.read_bytes())
    data[column.data_page_offset + column.total_compressed_size - 1] ^= 1
    path.write_bytes(data)


def flip_the_footer(path: Path, other: Path) -> None:
    data = bytearray(path.read_bytes())
    data[data.index(b"batch_assets.receipt") + 60] ^= 1
    path.write_bytes(data)


def empty(path: Path, other: Path) -> None:
    path.write_bytes(b"")


def put_another_chunk(path: Path, other: Path) -> None:
    shutil.copy(other, path)


def put_another_job(path: Path, other: Path) -> None:
    table = pq.read_table(path, partitioning=None)
    rewritten(path, table, job="0" * 64)


def put_another_release(path: Path, other: Path) -> None:
    table = pq.read_table(path, partitioning=None)
    rewritten(path, table, release="0" * 64)


def double_a_row(path: Path, other: Path) -> None:
    table = pq.read_table(path, partitioning=None)
    rewritten(
        path, pa.concat_tables([table.slice(0, 1), table.slice(0, len(table) - 1)])
    )


def test_dead_letters_of_another_attempt_are_not_taken_for_this_ones(
    ready: Lake, tmp_path: Path
) -> None:
    """They are whole, of this very chunk, and of as many rows: only the digest tells."""
    release = narrow(tmp_path / "narrow")
    score(ready, release)
    before = files(ready)
    task = next(t for t in plan(ready, release).tasks if t.dead_letters.exists())
    for table in (ready.predictions, ready.dead_letters):
        shutil.rmtree(table.path / "_delta_log")
    letters = pq.read_table(task.dead_letters, partitioning=None)
    reasons = pa.repeat("it hung", len(letters))
    at = letters.schema.get_field_index("reason")
    rewritten(task.dead_letters, letters.set_column(at, "reason", reasons))
    engine = Counting()

    score(ready, release, engine)

    assert engine.given == [(task.shard, task.chunk)]
    assert files(ready) == before


@pytest.mark.parametrize(
    "harm",
    [
        truncate,
        flip_a_page,
        flip_the_footer,
        empty,
        put_another_chunk,
        put_another_job,
        put_another_release,
        double_a_row,
    ],
)
def test_a_part_that_is_not_whole_or_not_ours_is_scored_again(
    ready: Lake, toy_release: Release, harm: Callable[[Path, Path], None]
) -> None:
    score(ready, toy_release)
    before = files(ready)
    tasks = plan(ready, toy_release).tasks
    shutil.rmtree(ready.predictions.path / "_delta_log")
    harm(tasks[2].predictions, tasks[0].predictions)
    assert files(ready) != before
    engine = Counting()

    score(ready, toy_release, engine)

    assert engine.given == [(tasks[2].shard, tasks[2].chunk)]
    assert files(ready) == before


@pytest.mark.parametrize("harm", [truncate, flip_a_page, Path.unlink])
def test_a_chunk_whose_dead_letters_are_not_whole_is_scored_again(
    ready: Lake, tmp_path: Path, harm: Callable[..., None]
) -> None:
    release = narrow(tmp_path / "narrow")
    score(ready, release)
    before = files(ready)
    for table in (ready.predictions, ready.dead_letters):
        shutil.rmtree(table.path / "_delta_log")
    task = next(t for t in plan(ready, release).tasks if t.dead_letters.exists())
    harm(*[task.dead_letters, task.dead_letters][: 1 if harm is Path.unlink else 2])
    engine = Counting()

    score(ready, release, engine)

    assert engine.given == [(task.shard, task.chunk)]
    assert files(ready) == before


def test_an_engine_that_loses_a_chunk_can_not_look_like_success(
    ready: Lake, toy_release: Release
) -> None:
    engine = Altering(lambda scored: scored[1:])

    with pytest.raises(ScoringError, match=r"^1 of \d+ chunks .* are missing"):
        score(ready, toy_release, engine)

    assert log_of(ready) == []


def lose_a_row(table: pa.Table) -> pa.Table:
    return table.slice(1)


def double_and_lose(table: pa.Table) -> pa.Table:
    """As many rows as before: only the checksum of the keys can tell."""
    return pa.concat_tables([table.slice(0, 1), table.slice(0, len(table) - 1)])


def double(table: pa.Table) -> pa.Table:
    return pa.concat_tables([table, table.slice(0, 1)])


@pytest.mark.parametrize("change", [lose_a_row, double_and_lose, double])
def test_an_engine_that_loses_or_doubles_rows_leaves_the_books_open(
    ready: Lake, toy_release: Release, change: Callable[[pa.Table], pa.Table]
) -> None:
    def alter(scored: list[Scored]) -> list[Scored]:
        path = scored[0].part.path
        table = change(pq.read_table(path, partitioning=None))
        rewritten(path, table, total=ControlTotal.of(table["user_id"]))
        part, file = open_part(path)
        file.close()
        return [Scored(part, None), *scored[1:]]

    with pytest.raises(BooksError, match=f"books of {DAY} don't close in shard"):
        score(ready, toy_release, Altering(alter))

    assert log_of(ready) == []


def test_a_chunk_that_comes_twice_counts_once(
    ready: Lake, toy_release: Release
) -> None:
    night = score(ready, toy_release, Altering(lambda scored: scored + scored[:2]))

    assert night.total.rows == len(read_day(ready, "predictions")) == ROWS


def test_a_chunk_that_nobody_planned_is_never_committed(
    ready: Lake, toy_release: Release
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
        score(ready, toy_release, Altering(alter))

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
    assert score(lake, toy_release, gates=Gates(max_quarantine_share=0.1)).parts


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
