"""A night that was stopped goes on where it was, over parts that are whole and its own."""

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from batch_assets.errors import ScoringError
from batch_assets.lake.tables import Lake
from batch_assets.models.release import Release
from batch_assets.spec import GateLimits
from batch_assets_tests.counting import Counting
from batch_assets_tests.nights import (
    ROWS,
    Stopping,
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
    NAME,
    expected_risk,
    make_rows,
    read_day,
    write_toy_release,
)


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
        score(ready, release, engine, gates=GateLimits(max_dead_letter_share=0))

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
