"""The engine of threads: an error ends it at once, and torch is left as it was."""

import dataclasses
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pytest
import torch

from batch_assets.errors import CorruptPartError
from batch_assets.lake.tables import Lake
from batch_assets.models.release import Release
from batch_assets.scoring.chunk_task import ChunkTask
from batch_assets.scoring.device import find_device
from batch_assets.scoring.engines.local import LocalEngine
from batch_assets.spec import GateLimits
from batch_assets_tests.nights import plan
from batch_assets_tests.stuck import LOOPS, Stuck
from batch_assets_tests.toys import (
    DAY,
    copy_rows,
    make_contract,
    make_rows,
    validate,
    write_toy_release,
)

ROWS = 1_200


@pytest.fixture
def tasks(lake: Lake, toy_release: Release) -> list[ChunkTask]:
    copy_rows(lake, make_rows(ROWS))
    validate(lake)
    return plan(lake, toy_release, DAY, chunk_rows=100, gates=GateLimits()).tasks


@pytest.fixture(params=[1, 2, 5])
def engine(request: pytest.FixtureRequest, toy_release: Release) -> LocalEngine:
    engine = LocalEngine(find_device("cpu"), workers=request.param)
    engine.load(toy_release)
    return engine


@pytest.fixture(autouse=True)
def _three_threads() -> Iterator[None]:
    """A number that the engine would not choose by itself."""
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    yield
    torch.set_num_threads(before)


def scorers() -> list[str]:
    """The workers that are alive."""
    return [t.name for t in threading.enumerate() if t.name.startswith("scorer")]


def model_threads() -> list[threading.Thread]:
    """The threads in which the model answers the workers."""
    return [t for t in threading.enumerate() if t.name.startswith("model of scorer")]


def test_every_chunk_is_scored_once_however_many_workers(
    engine: LocalEngine, tasks: list[ChunkTask]
) -> None:
    receipts = [scored.part.receipt for scored in engine.run(tasks)]

    assert sorted((r.shard, r.chunk) for r in receipts) == [
        (task.shard, task.chunk) for task in tasks
    ]
    assert sum(receipt.total.rows for receipt in receipts) == ROWS


def test_the_largest_chunks_are_scored_first(
    toy_release: Release, tasks: list[ChunkTask]
) -> None:
    engine = LocalEngine(find_device("cpu"), workers=1)
    engine.load(toy_release)

    rows = [scored.part.receipt.total.rows for scored in engine.run(tasks)]

    assert rows == sorted((task.rows for task in tasks), reverse=True)
    assert len(set(rows)) > 1


def test_the_output_does_not_depend_on_the_number_of_workers(
    toy_release: Release, tasks: list[ChunkTask]
) -> None:
    found = []
    for workers in (1, 4):
        engine = LocalEngine(find_device("cpu"), workers)
        engine.load(toy_release)
        parts = [scored.part.path for scored in engine.run(tasks)]
        found.append({path: path.read_bytes() for path in parts})

    assert found[0] == found[1]


@pytest.mark.parametrize("at", [0, 5, -1], ids=["first", "inner", "last"])
def test_an_error_in_one_chunk_ends_the_run_and_does_not_hang(
    engine: LocalEngine, tasks: list[ChunkTask], at: int
) -> None:
    tasks.sort(key=lambda task: task.rows, reverse=True)  # As they are started.
    tasks[at] = dataclasses.replace(tasks[at], validated=Path("/nowhere.parquet"))
    before = time.monotonic()

    with pytest.raises(CorruptPartError, match=r"nowhere\.parquet"):
        list(engine.run(tasks))

    assert time.monotonic() - before < 30
    assert scorers() == []
    written = [task for task in tasks if task.predictions.exists()]
    # Chunks in flight finish, the others never start.
    assert len(written) <= tasks.index(tasks[at]) + 2 * engine.workers
    assert torch.get_num_threads() == 3


def test_threads_of_torch_are_one_while_it_runs_and_as_before_when_it_ends(
    engine: LocalEngine, tasks: list[ChunkTask]
) -> None:
    during = [torch.get_num_threads() for _ in engine.run(tasks)]

    assert set(during) == {1}
    assert torch.get_num_threads() == 3
    assert scorers() == []


def test_a_caller_that_stops_asking_stops_the_run(
    engine: LocalEngine, tasks: list[ChunkTask]
) -> None:
    run = engine.run(tasks)
    next(run)
    run.close()

    assert scorers() == []
    assert torch.get_num_threads() == 3
    assert len([t for t in tasks if t.predictions.exists()]) < len(tasks)


def test_an_engine_runs_again_with_what_it_loaded(
    engine: LocalEngine, tasks: list[ChunkTask]
) -> None:
    first = [scored.part.path.read_bytes() for scored in engine.run(tasks[:2])]
    again = [scored.part.path.read_bytes() for scored in engine.run(tasks[:2])]

    assert sorted(first) == sorted(again)


def test_model_threads_end_with_their_workers(
    engine: LocalEngine, tasks: list[ChunkTask]
) -> None:
    during = {thread for _ in engine.run(tasks) for thread in model_threads()}

    assert 1 <= len(during) <= engine.workers
    for thread in during:
        thread.join(5)
    assert model_threads() == []


def test_a_model_that_hangs_does_not_hold_a_run_that_ends_early(
    lake: Lake, tmp_path: Path
) -> None:
    home = os.getpid()
    contract = make_contract()
    rows = make_rows(ROWS)
    hung = [LOOPS if key == 1 else 30 for key in rows["user_id"].to_pylist()]
    rows = rows.set_column(1, "age", pa.array(hung, pa.int16()))
    release = write_toy_release(
        tmp_path / "release",
        module=Stuck(home),
        model_format="safetensors",
        import_path="batch_assets_tests.stuck:Stuck",
        arguments={"home": home},
        golden_inputs=torch.ones(4, len(contract.features)),
    )
    copy_rows(lake, rows)
    validate(lake)
    tasks = plan(lake, release, DAY, chunk_rows=100, gates=GateLimits()).tasks
    engine = LocalEngine(find_device("cpu"), workers=2, grace_seconds=0.3)
    engine.load(release)
    run = engine.run(tasks)
    for _ in range(len(tasks) - 1):
        next(run)
    before = time.monotonic()

    run.close()

    assert time.monotonic() - before < 2
    while scorers() and time.monotonic() - before < 10:
        time.sleep(0.01)
    assert scorers() == []
    assert model_threads() == []


def test_no_chunks_are_no_work(engine: LocalEngine) -> None:
    assert list(engine.run([])) == []
    assert torch.get_num_threads() == 3


def test_an_engine_that_loaded_nothing_does_not_run(tasks: list[ChunkTask]) -> None:
    with pytest.raises(RuntimeError, match="loads a release before it runs"):
        next(LocalEngine(find_device("cpu")).run(tasks))


def test_there_is_a_worker_for_each_core_unless_told_otherwise() -> None:
    assert LocalEngine(find_device("cpu")).workers >= 1
    assert LocalEngine(find_device("cpu"), workers=7).workers == 7
