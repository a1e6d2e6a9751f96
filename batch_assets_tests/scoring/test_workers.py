"""What a worker on another machine does: two attempts of a chunk make one chunk."""

import dataclasses
import errno
import os
import pickle
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from batch_assets.errors import (
    CorruptPartError,
    EngineError,
    ScoringError,
    TamperedReleaseError,
)
from batch_assets.lake.parts import open_part
from batch_assets.lake.tables import Lake
from batch_assets.models.release import Release
from batch_assets.scoring.chunk_task import ChunkTask, Scored
from batch_assets.scoring.device import find_device
from batch_assets.scoring.engines import workers
from batch_assets.scoring.engines.workers import (
    Attempt,
    ScoreChunk,
    ScorerConfig,
    outcome_of,
    parallel_map,
    score_attempt,
)
from batch_assets.scoring.resume import completed_chunk
from batch_assets.scoring.scorer import Scorer
from batch_assets.spec import GateLimits
from batch_assets_tests.engines import engine_on, litter, parts_on_disk, score
from batch_assets_tests.nights import plan
from batch_assets_tests.toys import (
    DAY,
    copy_rows,
    expected_risk,
    make_contract,
    make_rows,
    validate,
    write_toy_release,
)

ROWS = 1_200


@pytest.fixture(scope="module")
def narrow(tmp_path_factory: pytest.TempPathFactory) -> Release:
    """The toy release, whose output ends lower: each chunk has dead letters."""
    outputs = [{"name": "risk", "dtype": "float32", "min": 0, "max": 0.7}]
    folder = tmp_path_factory.mktemp("narrow") / "release"
    return write_toy_release(folder, contract=make_contract(outputs=outputs))


@pytest.fixture
def task(lake: Lake, narrow: Release) -> ChunkTask:
    copy_rows(lake, make_rows(ROWS))
    validate(lake)
    return plan(lake, narrow, DAY, chunk_rows=100, gates=GateLimits()).tasks[1]


def scorer_of(release: Release, *, odd: bool = False) -> Scorer:
    """A scorer; an odd one gives the same rows other bytes, as another GPU would."""
    scorer = Scorer(release, find_device("cpu"))
    if odd:
        whole = scorer.score

        def score(features):  # type: ignore[no-untyped-def]
            outputs, spent = whole(features)
            return {name: values * 0.999 for name, values in outputs.items()}, spent

        scorer.score = score  # type: ignore[method-assign]
    return scorer


def must_be_whole(task: ChunkTask, release: Release, told: Scored) -> None:
    """What lies there is what the driver was told of, and is a pair."""
    assert completed_chunk(task, release) is not None
    assert open_part(task.predictions)[0] == told.part
    assert told.dead is not None
    assert open_part(task.dead_letters)[0] == told.dead
    assert told.part.receipt.total.rows + told.dead_rows == task.rows


def test_an_attempt_leaves_what_one_machine_leaves(
    lake: Lake, task: ChunkTask, narrow: Release
) -> None:
    workers.score_chunk(task, scorer_of(narrow))
    expected = parts_on_disk(lake)
    task.predictions.unlink()
    task.dead_letters.unlink()

    told = score_attempt(Attempt(task), scorer_of(narrow))

    assert parts_on_disk(lake) == expected
    assert told.seconds
    must_be_whole(task, narrow, told)
    assert litter(lake) == []


def test_a_second_attempt_takes_over_what_the_first_has_left(
    lake: Lake, task: ChunkTask, narrow: Release
) -> None:
    first = score_attempt(Attempt(task), scorer_of(narrow))
    before = parts_on_disk(lake)

    second = score_attempt(Attempt(task), scorer_of(narrow, odd=True))

    assert (second.part, second.dead) == (first.part, first.dead)
    assert parts_on_disk(lake) == before
    assert litter(lake) == []


def at_once(
    task: ChunkTask, monkeypatch: pytest.MonkeyPatch, *scorers: Scorer
) -> list[Scored]:
    """Attempts that are all about to give the chunk its name before any has."""
    scored, real = threading.Barrier(len(scorers)), workers.put_new
    told: list[Scored] = []

    def together(*arguments):  # type: ignore[no-untyped-def]
        scored.wait(30)
        return real(*arguments)

    monkeypatch.setattr(workers, "put_new", together)
    threads = [
        threading.Thread(
            target=lambda s=s: told.append(score_attempt(Attempt(task), s))
        )
        for s in scorers
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(told) == len(scorers)
    return told


@pytest.mark.parametrize("round_", range(3))
def test_of_attempts_at_once_the_first_has_made_the_chunk(
    lake: Lake,
    task: ChunkTask,
    narrow: Release,
    monkeypatch: pytest.MonkeyPatch,
    round_: int,
) -> None:
    scorer = scorer_of(narrow)

    told = at_once(task, monkeypatch, scorer, scorer, scorer)

    assert len({(one.part.sha256, one.dead and one.dead.sha256) for one in told}) == 1
    must_be_whole(task, narrow, told[0])
    assert litter(lake) == []


@pytest.mark.parametrize("round_", range(3))
def test_of_attempts_at_once_that_differ_both_tell_of_what_lies_there(
    lake: Lake,
    toy_release: Release,
    monkeypatch: pytest.MonkeyPatch,
    round_: int,
) -> None:
    copy_rows(lake, make_rows(ROWS))
    validate(lake)
    task = plan(lake, toy_release, DAY, chunk_rows=100, gates=GateLimits()).tasks[1]
    scorers = scorer_of(toy_release), scorer_of(toy_release, odd=True)

    told = at_once(task, monkeypatch, *scorers)

    there = open_part(task.predictions)[0]
    assert [one.part for one in told] == [there, there]
    assert litter(lake) == []


def test_attempts_at_once_with_other_dead_letters_are_told_apart_or_agree(
    lake: Lake, task: ChunkTask, narrow: Release, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The driver may be told of a pair that is not there: then a rerun must see it."""
    told = at_once(task, monkeypatch, scorer_of(narrow), scorer_of(narrow, odd=True))

    there = completed_chunk(task, narrow)
    if there is not None:
        assert (there.part, there.dead) in [(one.part, one.dead) for one in told]
    redone = score_attempt(Attempt(task), scorer_of(narrow))
    must_be_whole(task, narrow, redone)
    assert litter(lake) == []


def test_a_chunk_that_is_scored_anew_takes_the_place_of_the_old_one(
    lake: Lake, task: ChunkTask, narrow: Release
) -> None:
    old = score_attempt(Attempt(task), scorer_of(narrow, odd=True))

    new = score_attempt(Attempt(task, old.part.sha256), scorer_of(narrow))

    assert new.part.sha256 != old.part.sha256
    must_be_whole(task, narrow, new)


@pytest.mark.parametrize("table", ["predictions", "dead_letters"])
def test_a_torn_part_is_no_attempt(
    task: ChunkTask, narrow: Release, table: str
) -> None:
    score_attempt(Attempt(task), scorer_of(narrow, odd=True))
    os.truncate(getattr(task, table), 100)

    again = score_attempt(Attempt(task), scorer_of(narrow))

    must_be_whole(task, narrow, again)


def test_where_there_are_no_links_a_chunk_is_made_all_the_same(
    task: ChunkTask, narrow: Release, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.EPERM, "no links here")

    monkeypatch.setattr(os, "link", refuse)

    must_be_whole(task, narrow, score_attempt(Attempt(task), scorer_of(narrow)))


def test_an_attempt_that_fails_leaves_nothing(
    lake: Lake, task: ChunkTask, narrow: Release
) -> None:
    with pytest.raises(CorruptPartError, match="nowhere"):
        score_attempt(
            Attempt(dataclasses.replace(task, validated=Path("/nowhere.parquet"))),
            scorer_of(narrow),
        )

    assert not task.predictions.exists()
    assert litter(lake) == []


def config_of(release: Release, root: Path) -> ScorerConfig:
    return ScorerConfig(
        release.folder,
        release.name,
        release.digest,
        device="cpu",
        precision="float32",
        batch_rows="auto",
        compile=False,
        chunk_rows=100,
        root=root,
    )


def test_what_goes_to_a_worker_and_comes_back_has_no_rows_in_it(
    lake: Lake, narrow: Release, root: Path
) -> None:
    sizes = []
    for rows in (100, 10_000):
        copy_rows(lake, make_rows(rows))
        validate(lake, row_group_rows=10_000)
        task = plan(lake, narrow, DAY, chunk_rows=10_000, gates=GateLimits()).tasks[0]
        work, attempt = ScoreChunk(config_of(narrow, root)), Attempt(task)
        outcome = outcome_of(work, 0, attempt)
        assert outcome.error is None
        assert outcome.rows == task.rows
        sizes.append([len(pickle.dumps(one)) for one in ((work, attempt), outcome)])

    # A row more would be 20 bytes more.
    assert max(max(each) for each in sizes) < 4_000
    assert all(abs(few - many) < 400 for few, many in zip(*sizes, strict=True))


def flip_the_last_byte(release: Release, _: Path) -> None:
    with (release.folder / "model.pt2").open("r+b") as file:
        file.seek(-1, os.SEEK_END)
        file.write(b"x")


def put_another_release(release: Release, tmp_path: Path) -> None:
    other = write_toy_release(tmp_path / "other", about={"author": "another"})
    shutil.rmtree(release.folder)
    other.folder.rename(release.folder)


@pytest.mark.parametrize("harm", [flip_the_last_byte, put_another_release])
def test_a_release_is_hashed_again_where_it_is_loaded(
    task: ChunkTask, root: Path, tmp_path: Path, harm: Callable[[Release, Path], None]
) -> None:
    release = write_toy_release(tmp_path / "release", about={"author": "else"})
    harm(release, tmp_path)

    outcome = outcome_of(ScoreChunk(config_of(release, root)), 0, Attempt(task))

    assert isinstance(outcome.error, TamperedReleaseError)
    assert not task.predictions.exists()


def test_another_torch_than_the_drivers_scores_nothing(
    task: ChunkTask, narrow: Release, root: Path
) -> None:
    config = dataclasses.replace(config_of(narrow, root), torch_version="1.0.0")

    outcome = outcome_of(ScoreChunk(config), 0, Attempt(task))

    assert isinstance(outcome.error, EngineError)
    assert "the driver 1.0.0" in str(outcome.error)
    assert not task.predictions.exists()


class LocalError(Exception):
    """Of two arguments, so that it can't be unpickled."""

    def __init__(self, one: str, two: str) -> None:
        super().__init__(f"{one} and {two}")


def test_an_error_goes_to_the_driver_with_where_it_was_raised() -> None:
    def fail(item: str, _: object) -> None:
        raise KeyError(item) if item == "a" else LocalError("this", "that")

    known, strange = (outcome_of(fail, 0, item).error for item in ("a", "b"))

    assert isinstance(known, KeyError)
    assert f"on worker {os.uname().nodename} {os.getpid()}" in known.__notes__[0]
    assert "in fail" in known.__notes__[0]
    assert isinstance(strange, EngineError)
    assert str(strange) == "LocalError: this and that"


class Forgetful:
    """A pool that says it is done when it is not, and comes back with things twice.
    It loses the first of them.
    """

    device: Literal["cpu", "cuda"] = "cpu"

    def do(self, work, items):  # type: ignore[no-untyped-def]
        for number, item in enumerate(items[1:], 1):
            yield outcome_of(work, number, item)
            yield outcome_of(work, number, item)


def test_pieces_that_are_missing_are_an_error() -> None:
    rows: list[int] = []

    def work(item: int, report) -> int:  # type: ignore[no-untyped-def]
        report(item)
        return item

    with pytest.raises(EngineError, match="1 of 3 pieces are missing, though"):
        parallel_map(Forgetful(), work, [1, 2, 3], rows.append)
    assert rows == [2, 3]


def test_a_crew_gets_the_largest_chunks_first(
    lake: Lake, toy_release: Release, root: Path
) -> None:
    copy_rows(lake, make_rows(ROWS))
    validate(lake)
    night = score(lake, toy_release, engine_on(Alone(), root), chunk_rows=200)

    begun = [part.receipt.total.rows for part in night.parts]
    assert begun == sorted(begun, reverse=True)
    assert len(set(begun)) > 2


class Alone:
    """A pool of one, in this process."""

    device: Literal["cpu", "cuda"] = "cpu"

    def do(self, work, items):  # type: ignore[no-untyped-def]
        for number, item in enumerate(items):
            yield outcome_of(work, number, item)


def test_chunks_that_are_missing_are_no_success(
    lake: Lake, task: ChunkTask, narrow: Release, root: Path
) -> None:
    engine = engine_on(Forgetful(), root)

    with pytest.raises(ScoringError, match=r"^1 of \d+ chunks .* are missing, though"):
        score(lake, narrow, engine)

    assert lake.predictions.rows_by_day() == {}


def test_the_toy_has_dead_letters_in_each_chunk(task: ChunkTask) -> None:
    """Without them, half of what is claimed here is not."""
    table = pq.read_table(task.validated, partitioning=None)
    keys = pa.array(table["user_id"].to_pylist())
    rows = make_rows(ROWS)
    mine = rows.filter(pa.compute.is_in(rows["user_id"], keys))
    assert (expected_risk(mine) > 0.7).any()
