"""On Ray and on Spark something dies in the middle: the night ends right or says why."""

import dataclasses
import functools
import gc
import math
import os
import random
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import torch

from batch_assets.errors import ConfigError, DeviceError, EngineError
from batch_assets.lake.tables import Lake
from batch_assets.models.release import Release
from batch_assets.planner.simulation import Preemption, Scoring, simulate
from batch_assets.scoring.chunk_task import ChunkTask
from batch_assets.spec import EngineSpec, GateLimits, Ray, Spark
from batch_assets_tests import histories
from batch_assets_tests.deadly import FATAL, write_deadly_release
from batch_assets_tests.engines import (
    ENGINES,
    engine_on,
    litter,
    mapping_on,
    parts_on_disk,
    pool_of,
    running_ray,
    running_spark,
    score,
    scoring_on,
)
from batch_assets_tests.nights import plan
from batch_assets_tests.toys import (
    DAY,
    NAME,
    copy_rows,
    make_contract,
    make_rows,
    validate,
)

pytestmark = [pytest.mark.engines, pytest.mark.timeout(240)]

ROWS = 1_200
ANY_KIND = pytest.mark.parametrize("kind", ["numbers", "histories"])


@pytest.fixture(scope="module", autouse=True)
def _ray() -> Iterator[None]:
    # Torch sees no such GPU: it is there for Ray to hand out.
    with running_ray(gpus=1):
        yield


@pytest.fixture(params=["ray", "spark"])
def engine(request: pytest.FixtureRequest) -> EngineSpec:
    return ENGINES[request.param]


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "home"


@pytest.fixture(scope="module")
def validated_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """A root of a kind with a validated day, in which one row is fatal; copy it."""

    @functools.cache
    def validated(kind: str) -> Path:
        root = tmp_path_factory.mktemp("validated") / "root"
        made = {
            "numbers": (make_contract(), make_rows(ROWS)),
            "histories": (histories.make_contract(), histories.make_rows(ROWS)),
        }
        contract, rows = made[kind]
        ages = rows["age"].to_numpy().copy()
        ages[ages == FATAL] = 50
        ages[ROWS // 2] = FATAL
        at = rows.schema.get_field_index("age")
        rows = rows.set_column(at, rows.schema.field("age"), pa.array(ages))
        lake = Lake(root, NAME)
        copy_rows(lake, rows, contract=contract)
        validate(lake, contract=contract)
        return root

    return validated


def tasks_of(lake: Lake, release: Release) -> list[ChunkTask]:
    return plan(lake, release, DAY, chunk_rows=100, gates=GateLimits()).tasks


def on_disk(tasks: list[ChunkTask]) -> int:
    return sum(task.predictions.exists() for task in tasks)


def calls(home: Path) -> int:
    """How many batches have been begun; of these small chunks, each is one."""
    return len((home / "calls").read_text(encoding="utf-8").splitlines())


def say(home: Path, *, deaths: int = 0, seconds: float = 0) -> None:
    (home / "deaths").write_text(str(deaths), encoding="utf-8")
    (home / "seconds").write_text(str(seconds), encoding="utf-8")


def must_end_as_on_one_machine(lake: Lake, release: Release, validated: Path) -> None:
    other = validated.parent / f"other-{os.urandom(4).hex()}"
    shutil.copytree(validated, other)
    with scoring_on(ENGINES["local"], other) as scorer:
        score(Lake(other, NAME), release, scorer)
    assert parts_on_disk(lake) == parts_on_disk(Lake(other, NAME))
    assert not lake.books(DAY).open_after_scoring()
    assert litter(lake) == []


@ANY_KIND
def test_a_worker_that_dies_is_replaced_and_its_chunk_done_again(
    engine: EngineSpec, ready: Lake, root: Path, validated: Path, home: Path, kind: str
) -> None:
    release = write_deadly_release(home, kind=kind, deaths=2)

    with scoring_on(engine, root) as scorer:
        score(ready, release, scorer)

    assert (home / "deaths").read_text(encoding="utf-8") == "0"
    must_end_as_on_one_machine(ready, release, validated)


@ANY_KIND
def test_a_chunk_that_every_worker_dies_of_stops_the_night_and_the_rest_stays_done(
    engine: EngineSpec, ready: Lake, root: Path, validated: Path, home: Path, kind: str
) -> None:
    release = write_deadly_release(home, kind=kind, deaths=1_000)
    tasks = tasks_of(ready, release)

    with scoring_on(engine, root) as scorer, pytest.raises(EngineError) as stopped:
        score(ready, release, scorer)

    assert (home / "deaths").read_text(encoding="utf-8") == "997"
    assert "Nothing was committed" in str(stopped.value)
    if engine.kind == "ray":
        assert "3 workers died on shard" in str(stopped.value)
    assert ready.predictions.rows_by_day() == {}
    left = on_disk(tasks)
    assert 0 < left < len(tasks)
    say(home)
    with scoring_on(ENGINES["local"], root) as scorer:
        night = score(ready, release, scorer)
    assert night.resumed_chunks == left
    must_end_as_on_one_machine(ready, release, validated)


@ANY_KIND
def test_an_actor_that_ray_ends_is_replaced(
    ready: Lake, root: Path, validated: Path, home: Path, kind: str
) -> None:
    import ray

    release = write_deadly_release(home, kind=kind, seconds=0.3)
    with pool_of(Ray(kind="ray", workers=2), root) as pool:
        scorer, killed = engine_on(pool, root), []

        def kill_one(rows: int) -> None:
            if rows and len(killed) < 2:
                killed.append(pool._workers_up[0])
                ray.kill(killed[-1])

        score(ready, release, scorer, progress=kill_one)

    assert len(killed) == 2
    # It may have been writing; the next step of the night tidies up.
    ready.remove_leftovers(DAY)
    must_end_as_on_one_machine(ready, release, validated)


def test_each_worker_loads_the_release_once(
    engine: EngineSpec, ready: Lake, root: Path, home: Path
) -> None:
    release = write_deadly_release(home, seconds=0.1)
    (home / "loads").unlink()
    with scoring_on(engine, root) as scorer:
        score(ready, release, scorer)

    loads = (home / "loads").read_text(encoding="utf-8").splitlines()
    # On a machine that is busy the second may come when all is done.
    assert 1 <= len(loads) == scorer.workers <= 2
    assert len(tasks_of(ready, release)) > 10


def test_a_run_that_ends_early_lets_chunks_in_flight_finish_and_begins_no_other(
    engine: EngineSpec, ready: Lake, root: Path, home: Path
) -> None:
    release = write_deadly_release(home, seconds=1)
    tasks = tasks_of(ready, release)
    with scoring_on(engine, root) as scorer:
        scorer.load(release)
        run, done = scorer.run(tasks), 0
        while scorer.workers < 2:
            next(run)
            done += 1
        # Both may have come back at once: wait until a worker is at its next.
        while (begun := calls(home)) <= on_disk(tasks):
            time.sleep(0.01)
        run.close()
        left = on_disk(tasks)

    # Each of Spark's two workers may have begun one more before it saw the end.
    assert done < left == calls(home) <= begun + 2
    assert left < len(tasks)
    assert litter(ready) == []


def test_chunks_that_take_longer_than_the_grace_period_are_abandoned(
    engine: EngineSpec, ready: Lake, root: Path, home: Path
) -> None:
    release = write_deadly_release(home)
    tasks = tasks_of(ready, release)
    with pool_of(engine, root, grace_seconds=0.5) as pool:
        scorer = engine_on(pool, root)
        scorer.load(release)
        assert len(list(scorer.run(tasks[:2]))) == 2
        say(home, seconds=600)
        run = scorer.run(tasks)
        # No chunk comes back from it, so it is ended from within.
        signal.signal(signal.SIGALRM, _interrupt)
        signal.setitimer(signal.ITIMER_REAL, 2)
        with pytest.raises(KeyboardInterrupt):
            list(run)
        begin = time.monotonic()
        say(home)
        # The pool goes on with other workers.
        assert len(list(scorer.run(tasks))) == len(tasks)

    assert time.monotonic() - begin < 60
    ready.remove_leftovers(DAY)
    assert litter(ready) == []


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def test_the_first_error_of_a_worker_ends_the_run_as_what_it_is(
    engine: EngineSpec, ready: Lake, root: Path, home: Path
) -> None:
    release = write_deadly_release(home)
    tasks = tasks_of(ready, release)
    tasks[3] = dataclasses.replace(tasks[3], validated=Path("/nowhere.parquet"))

    with scoring_on(engine, root) as scorer:
        scorer.load(release)
        with pytest.raises(Exception, match=r"nowhere\.parquet") as raised:
            list(scorer.run(tasks))

    assert type(raised.value).__name__ == "CorruptPartError"
    assert litter(ready) == []


def test_spark_that_speculates_doubles_no_row(
    ready: Lake,
    root: Path,
    validated: Path,
    home: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """One chunk is so slow that Spark begins a second attempt of it, elsewhere."""
    release = write_deadly_release(home, seconds=0.1, stall=8)
    monkeypatch.setenv("PYSPARK_PYTHON", sys.executable)
    settings: dict[str, str | int | float | bool] = {
        "spark.driver.host": "127.0.0.1",
        "spark.executorEnv.PYTHONPATH": str(Path(__file__).parents[2]),
        "spark.speculation": True,
        "spark.speculation.quantile": 0.5,
        "spark.speculation.multiplier": 1.1,
    }

    with running_spark() as master:
        engine = Spark(kind="spark", settings={**settings, "spark.master": master})
        with scoring_on(engine, root) as scorer:
            night = score(ready, release, scorer)

    assert night.total.rows == ROWS
    calls = (home / "calls").read_text(encoding="utf-8").splitlines()
    assert len(calls) == len(tasks_of(ready, release)) + 1
    (home / "stall").write_text("0", encoding="utf-8")
    must_end_as_on_one_machine(ready, release, validated)


def test_what_a_spark_worker_has_loaded_is_not_looked_at_after_each_task(
    root: Path,
) -> None:
    with pool_of(ENGINES["spark"], root) as pool:
        assert [o.result > 100_000 for o in pool.do(_frozen, [0] * 2)] == [False] * 2
        assert [o.result > 100_000 for o in pool.do(_frozen, [0] * 2)] == [True] * 2


def _frozen(*_: object) -> int:
    time.sleep(0.5)  # Both workers have one.
    return gc.get_freeze_count()


def test_executors_that_do_not_see_the_root_are_no_success(
    ready: Lake,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Spark reports success: its tasks saw no door, and did nothing."""
    from batch_assets.scoring.engines.spark import spark_pool

    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    settings = ENGINES["spark"]
    assert settings.kind == "spark"
    with spark_pool(settings, Path("tables"), device="cpu", grace_seconds=1) as pool:
        monkeypatch.chdir(elsewhere)  # Executors stay where they are.
        with pytest.raises(EngineError, match="reported success, but 3 of 3 items"):
            list(pool.do(_nothing, [1, 2, 3]))


def test_what_a_lost_spark_driver_left_ends_when_the_next_run_sweeps(
    lake: Lake, root: Path, tmp_path: Path
) -> None:
    settings = ENGINES["spark"]
    assert settings.kind == "spark"
    done = tmp_path / "done"
    done.touch()
    with pool_of(settings, root) as pool:
        run = pool.do(_slowly, [done] * 40)
        next(run)
        lake.remove_leftovers(DAY)
        with pytest.raises(EngineError, match="items left no outcome"):
            list(run)

    # Two were being done when it swept, and each worker may have begun another.
    assert len(done.read_text(encoding="utf-8")) < 10


def _slowly(done: Path, _: object) -> None:
    time.sleep(0.5)
    with done.open("a", encoding="utf-8") as file:
        file.write(".")


def test_an_outcome_that_another_has_posted_is_not_read(tmp_path: Path) -> None:
    settings = ENGINES["spark"]
    assert settings.kind == "spark"
    folder = tmp_path / "root" / "lake" / NAME / f".spread-{DAY}"
    with pool_of(settings, tmp_path / "root") as pool:
        run = pool.do(_post_another, [str(folder)])
        with pytest.raises(EngineError, match="not written by a task of this job"):
            list(run)


def _nothing(*_: object) -> None:
    pass


def _post_another(folder: str, _: object) -> None:
    (mine,) = Path(folder).iterdir()
    (mine / "7.outcome").write_bytes(b"x" * 100)
    time.sleep(1)


@pytest.mark.parametrize("kind", ["ray", "spark"])
def test_an_engine_that_is_not_installed_says_what_to_install(
    root: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    module = {"ray": "ray", "spark": "pyspark.sql"}[kind]
    monkeypatch.setitem(sys.modules, module, None)

    with (
        pytest.raises(EngineError, match=rf"pip install 'batch-assets\[{kind}\]'"),
        pool_of(ENGINES[kind], root),
    ):
        pass


@pytest.mark.parametrize("name", ["spark.remote", "spark.master"])
def test_a_spark_that_does_not_answer_is_said_in_seconds(root: Path, name: str) -> None:
    scheme = {"spark.remote": "sc", "spark.master": "spark"}[name]
    address = f"{scheme}://127.0.0.1:1"
    begin = time.monotonic()

    with (
        pytest.raises(EngineError, match=rf"had at {address}: .*refused"),
        pool_of(Spark(kind="spark", settings={name: address}), root),
    ):
        pass

    assert time.monotonic() - begin < 15


@pytest.mark.parametrize(
    ("kind", "device", "said"),
    [
        ("ray", "cuda:1", "it is Ray that hands them out"),
        ("spark", "cuda:1", "it is Spark that hands them out"),
        ("spark", "cuda", "spark.task.resource.gpu.amount is not set"),
    ],
)
def test_a_device_that_an_engine_can_not_give_is_refused(
    root: Path, kind: str, device: str, said: str
) -> None:
    with (
        pytest.raises(ConfigError, match=said),
        pool_of(ENGINES[kind], root, device=device),
    ):
        pass


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"gpus_per_worker": 0.5}, "asks for 0.5 GPUs per worker"),
        ({"cpus_per_worker": 64}, "room for no worker: each asks for 64 CPUs"),
    ],
)
def test_what_a_ray_cluster_has_no_room_for_is_refused(
    root: Path, changes: dict[str, Any], said: str
) -> None:
    with (
        pytest.raises((EngineError, ConfigError), match=said),
        pool_of(Ray(kind="ray", **changes), root),
    ):
        pass


def test_more_gpus_for_a_worker_than_a_ray_has_are_refused(root: Path) -> None:
    with (
        pytest.raises(EngineError, match=r"3 CPUs and 2 GPUs.*2 CPUs and 1 GPUs"),
        pool_of(Ray(kind="ray", gpus_per_worker=2), root, device="cuda"),
    ):
        pass


@pytest.mark.parametrize("device", ["auto", "cuda"])
def test_workers_share_a_gpu_and_refuse_to_score_without_it(
    ready: Lake, toy_release: Release, root: Path, device: str
) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a CUDA device here")
    settings = Ray(kind="ray", gpus_per_worker=0.5)

    with pool_of(settings, root, device=device) as pool:
        assert pool.device == "cuda"
        assert pool._size == 2
        with pytest.raises(DeviceError, match="'cuda' was asked for"):
            score(ready, toy_release, engine_on(pool, root))
    assert ready.predictions.rows_by_day() == {}


def test_validation_asks_for_no_gpu(root: Path) -> None:
    settings = Ray(kind="ray", gpus_per_worker=0.5)

    with mapping_on(settings, root) as parallel_map:
        assert parallel_map(_gpus, [1, 2]) == [[], []]


def _gpus(*_: object) -> list[object]:
    import ray

    return list(ray.get_gpu_ids())


def test_a_ray_worker_of_two_cpus_scores_two_chunks_at_once(
    ready: Lake, root: Path, validated: Path, home: Path
) -> None:
    release = write_deadly_release(home, seconds=0.2)
    with scoring_on(Ray(kind="ray", cpus_per_worker=2), root) as scorer:
        score(ready, release, scorer)

    assert scorer.workers == 2
    assert len({name.rpartition(" ")[0] for name in scorer._seen}) == 1
    must_end_as_on_one_machine(ready, release, validated)


def test_a_night_whose_workers_are_taken_away_at_random_ends_by_its_plan(
    ready: Lake, root: Path, validated: Path, home: Path
) -> None:
    """Spot, in chunks and not in seconds: what one takes is the machine's matter."""
    import ray

    release = write_deadly_release(home, seconds=0.3)
    chunks, taken = len(tasks_of(ready, release)), 0.3
    # A chunk is a second of the plan, in which so many devices are taken away.
    rate = -math.log(1 - taken)
    planned = simulate(Scoring([1.0] * chunks), 2, Preemption(rate, 0.0), runs=2_000)
    chance = random.Random(7)
    fates = [chance.random() < taken for _ in range(chunks)]
    killed: list[Any] = []
    spot = Ray(kind="ray", workers=2, attempts=20)
    with pool_of(spot, root) as pool:
        scorer, lost = engine_on(pool, root), 0
        discard = pool._discard

        def discarded(actor: Any) -> None:
            nonlocal lost
            lost += 1
            discard(actor)

        def take_away(rows: int) -> None:
            if rows and fates.pop() and pool._workers_up:
                killed.append(chance.choice(pool._workers_up))
                ray.kill(killed[-1])

        pool._discard = discarded
        score(ready, release, scorer, progress=take_away)

    assert fates == []
    assert 1 <= lost <= len(killed)
    # Every try takes a chunk's time at most, and two go on at once.
    assert (chunks + lost) / 2 <= planned.high
    ready.remove_leftovers(DAY)
    must_end_as_on_one_machine(ready, release, validated)
