"""What a table's log answered holds for one version of the table, and no longer."""

import shutil
from collections.abc import Callable
from typing import Any

import pyarrow as pa
import pytest
from deltalake import DeltaTable, write_deltalake

from batch_assets.lake import log_answers
from batch_assets.lake.log_answers import MOST_ANSWERS, MOST_TABLES, asked_once
from batch_assets.lake.tables import Lake
from batch_assets_tests.parts_by_hand import SCHEMA, scored_by, write_part
from batch_assets_tests.toys import DAY

JOB, OTHER = "a" * 64, "b" * 64


class Question:
    """A question that counts how often a table was opened for it."""

    def __init__(self, ask: Callable[[DeltaTable], Any] = lambda table: None) -> None:
        self.asked, self._ask = 0, ask

    def __call__(self, table: DeltaTable) -> Any:
        self.asked += 1
        return self._ask(table)


def append(path, number: int = 1) -> None:
    write_deltalake(str(path), pa.table({"n": [number]}), mode="append")


def rows(table: DeltaTable) -> int:
    return table.to_pyarrow_table().num_rows


def test_a_version_is_asked_once_and_the_next_one_again(tmp_path):
    append(tmp_path)
    question = Question(rows)

    assert [asked_once(tmp_path, "rows", question) for _ in range(5)] == [1] * 5
    assert question.asked == 1
    append(tmp_path)
    assert [asked_once(tmp_path, "rows", question) for _ in range(5)] == [2] * 5
    assert question.asked == 2
    assert asked_once(tmp_path, "another", Question(lambda table: "x")) == "x"


@pytest.mark.parametrize("versions", [1, 2, 3])
def test_a_table_that_was_made_anew_is_another(tmp_path, versions):
    path = tmp_path / "table"
    append(path)
    append(path)
    question = Question(lambda table: table.to_pyarrow_table()["n"].to_pylist())
    assert asked_once(path, "n", question) == [1, 1]

    shutil.rmtree(path)
    assert asked_once(path, "n", question) is None
    for _ in range(versions):
        append(path, 7)
    assert asked_once(path, "n", question) == [7] * versions

    # Without anybody having looked while it was gone, too.
    shutil.rmtree(path)
    for _ in range(versions):
        append(path, 8)
    assert asked_once(path, "n", question) == [8] * versions


def test_a_log_whose_newest_entry_is_a_checkpoint_is_asked_each_time(tmp_path):
    append(tmp_path)
    DeltaTable(tmp_path).create_checkpoint()
    (tmp_path / "_delta_log" / f"{0:020d}.json").unlink()
    question = Question(rows)

    assert [asked_once(tmp_path, "rows", question) for _ in range(3)] == [1, 1, 1]
    assert question.asked == 3


def test_no_more_is_kept_than_a_night_asks_for(tmp_path):
    append(tmp_path / "first")
    question = Question()
    for number in range(MOST_ANSWERS + 1):
        asked_once(tmp_path / "first", number, question)
    asked_once(tmp_path / "first", MOST_ANSWERS, question)
    assert question.asked == MOST_ANSWERS + 1
    asked_once(tmp_path / "first", 0, question)
    assert question.asked == MOST_ANSWERS + 2
    for number in range(MOST_TABLES):
        shutil.copytree(tmp_path / "first", tmp_path / str(number))
        asked_once(tmp_path / str(number), "n", Question())

    assert len(log_answers._tables) == MOST_TABLES
    assert tmp_path / "first" not in log_answers._tables


def test_a_night_sees_what_others_commit_in_the_meantime(tmp_path, lake):
    """Two lakes on one folder, as two processes have them, and many looks between."""
    mine, others = Lake(lake.folder.parents[1], "toy"), lake
    day_after = "2026-01-06"
    assert (mine.predictions.paths(DAY), mine.predictions.last_commit(DAY)) == (
        [],
        None,
    )

    def commit(job: str, day: str, keys: list[int]) -> None:
        part = write_part(others.predictions, keys, job=job, day=day)
        others.predictions.commit_day(day, [part], SCHEMA, scored_by(job))

    for job, keys in ((JOB, [1, 2]), (OTHER, [1, 2, 3])):
        commit(job, DAY, keys)
        for _ in range(3):
            (part,) = mine.predictions.parts(DAY)
            assert (part.receipt.job, part.rows) == (job, len(keys))
            assert mine.predictions.rows_by_day()[DAY] == len(keys)
            assert mine.predictions.last_commit(DAY).facts.job == job
    commit(JOB, day_after, [4])
    assert mine.predictions.rows_by_day() == {DAY: 3, day_after: 1}
    # Whoever is given an answer may do with it what they like.
    mine.predictions.rows_by_day().clear()
    mine.predictions.paths(DAY).clear()
    assert mine.predictions.rows_by_day() == {DAY: 3, day_after: 1}
    assert len(mine.predictions.paths(DAY)) == 1


def test_many_looks_open_the_table_once_for_its_files_and_once_for_its_commit(
    lake, monkeypatch
):
    part = write_part(lake.predictions, [1, 2])
    lake.predictions.commit_day(DAY, [part], SCHEMA, scored_by(JOB))
    opened = []
    really = log_answers.open_delta
    monkeypatch.setattr(
        log_answers, "open_delta", lambda path: opened.append(path) or really(path)
    )
    for _ in range(20):
        lake.predictions.parts(DAY)
        lake.predictions.rows_by_day()
        lake.predictions.last_commit(DAY)

    assert len(opened) == 2
