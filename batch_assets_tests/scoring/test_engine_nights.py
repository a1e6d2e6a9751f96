"""Whole nights on Ray and Spark, as a person types them; killed, interrupted, resumed."""

import json
import os
import shutil
import signal
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import psutil
import pytest

from batch_assets.defs.baskets import train
from batch_assets.defs.baskets.rows import connect, data_folder
from batch_assets.lake.tables import Lake
from batch_assets.launch.demo import DEMOS
from batch_assets.models.registry import Registry
from batch_assets_tests.commands import (
    HOME_ROWS,
    chunks_on_disk,
    finish,
    make_home,
    started,
    wait_for_chunks,
)
from batch_assets_tests.engines import litter, parts_on_disk
from batch_assets_tests.projects import FLIGHTS, attributes, write_project
from batch_assets_tests.toys import DAY

pytestmark = [pytest.mark.engines, pytest.mark.timeout(600)]


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return make_home(tmp_path)


def run(home: Path, *arguments: str, code: int = 0, **env: str) -> dict:
    command = ("run", "toy", "--day", DAY, "--json", *arguments)
    return json.loads(finish(home, *command, code=code, **env))


def declare(home: Path, engine: Any, definitions: str = "") -> None:
    """Write the project anew, with another engine in its YAML."""
    pipeline = attributes(
        engine=engine, gates={"max_dead_letter_share": 0.1, "min_coverage": 0.9}
    )
    (home / "p").rename(home / "before")
    write_project(home / "p", "toys_project", [pipeline])
    (home / "before" / "days").rename(home / "p" / "days")
    if definitions:
        path = home / "p" / "toys_project" / "definitions.py"
        path.write_text(definitions, encoding="utf-8")


@pytest.mark.parametrize("engine", ["ray", "spark"])
def test_with_one_word_in_the_yaml_nights_and_replays_are_served_from_an_engine(
    home: Path, engine: str
) -> None:
    declare(home, engine)
    report = run(home, BROKEN_AGES="7 11")

    assert report["success"], report
    assert report["checks_passed"] == report["checks"]
    assert report["scored_rows"] + report["dead_letters"] == HOME_ROWS
    assert report["dead_letters"] > 0
    command = ("dead-letters", "replay", "toy", "--day", DAY, "--json")
    replayed = json.loads(finish(home, *command))
    assert replayed["rescued_rows"] == report["dead_letters"]
    lake = Lake(home / "root", "toy")
    before = parts_on_disk(lake)
    assert run(home, "--engine", "local")["unchanged"]
    assert parts_on_disk(lake) == before
    assert litter(lake) == []


WITH_A_CLUSTER = """\
from pathlib import Path

import dagster as dg
from dagster_ray import LocalRay

from batch_assets.definitions import project_defs


@dg.definitions
def defs() -> dg.Definitions:
    ray = LocalRay(ray_init_options={"num_cpus": 2, "include_dashboard": False})
    return dg.Definitions.merge(
        project_defs(Path(__file__).parents[1]), dg.Definitions(resources={"cluster": ray})
    )
"""


def test_a_night_runs_on_the_cluster_of_a_dagster_ray_resource(home: Path) -> None:
    declare(home, {"kind": "ray", "resource": "cluster"}, WITH_A_CLUSTER)

    report = run(home)

    assert (report["success"], report["scored_rows"]) == (True, HOME_ROWS), report


def flights_release(tmp_path: Path) -> Path:
    return FLIGHTS / "data" / "releases" / "flight_delay"


def baskets_release(tmp_path: Path) -> Path:
    """One that has learned from two evenings, with the data where the demo has it."""
    DEMOS["baskets"].take_data(FLIGHTS)
    evenings = date(2017, 10, 25), date(2017, 10, 29)
    return train.write(connect(data_folder()), tmp_path / "release", evenings).folder


@pytest.mark.parametrize(
    ("pipeline", "release_of", "day", "quarantined"),
    [
        ("flights", flights_release, "2013-07-26", 1),
        ("baskets", baskets_release, "2017-11-05", 0),
    ],
)
def test_a_demo_leaves_the_same_predictions_on_every_engine(
    tmp_path: Path,
    pipeline: str,
    release_of: Callable[[Path], Path],
    day: str,
    quarantined: int,
) -> None:
    found, measured = [], []
    shutil.copy(FLIGHTS / "dagster.yaml", tmp_path)
    registry = Registry(tmp_path / "local")
    release = registry.add(release_of(tmp_path))
    registry.approve(release.name, release.digest, why="a test needs it")
    for engine in ("local", "ray", "spark"):
        root = tmp_path / engine
        if engine != "local":
            shutil.copytree(tmp_path / "local" / "models", root / "models")
        env = {"BATCH_ASSETS_ROOT": str(root), "DAGSTER_HOME": str(tmp_path)}
        command = ("run", pipeline, "--day", day, "--engine", engine)
        report = json.loads(finish(tmp_path, *command, "--json", cwd=FLIGHTS, **env))
        assert report["success"], report
        assert report["quarantined_rows"] == quarantined
        assert report["checks_passed"] == report["checks"]
        lake = Lake(root, pipeline)
        found.append(parts_on_disk(lake))
        measured.append(
            [t.read(day, day) for t in (lake.profile_metrics, lake.drift_metrics)]
        )

    assert found[0] == found[1] == found[2]
    assert measured[0] == measured[1] == measured[2]
    assert any("predictions" in path for path in found[0])


@pytest.mark.parametrize("engine", ["ray", "spark"])
def test_a_night_that_is_interrupted_on_an_engine_goes_on_on_one_machine(
    home: Path, engine: str
) -> None:
    command = ("run", "toy", "--day", DAY, "--engine", engine)
    with started(home, *command, SLOW_SECONDS="1") as process:
        wait_for_chunks(home, process, 2)
        time.sleep(0.4)  # Between two chunks of a worker there is none in flight.
        done = chunks_on_disk(home)
        process.send_signal(signal.SIGTERM)
        _, err = process.communicate(timeout=120)

    assert process.returncode == 130, err
    left = chunks_on_disk(home)
    assert done < left <= done + 2 * len(os.sched_getaffinity(0))
    assert f"{left} of" in err
    assert "done and stay on disk, nothing was committed" in err
    assert Lake(home / "root", "toy").predictions.rows_by_day() == {}
    assert litter(Lake(home / "root", "toy")) == []

    report = run(home)
    assert (report["success"], report["scored_rows"]) == (True, HOME_ROWS)
    assert report["resumed_chunks"] == left


@pytest.mark.parametrize(("engine", "then"), [("ray", "spark"), ("spark", "ray")])
def test_a_night_whose_driver_is_killed_on_an_engine_goes_on_on_another(
    home: Path, engine: str, then: str
) -> None:
    command = ("run", "toy", "--day", DAY, "--engine", engine)
    with started(home, *command, SLOW_SECONDS="1") as process:
        wait_for_chunks(home, process, 2)
        children = psutil.Process(process.pid).children(recursive=True)
        # Ray's own two agents, which score nothing, take minutes to see it.
        workers = [child for child in children if "Agent" not in child.name()]
        assert len(workers) >= 2
        process.send_signal(signal.SIGKILL)
        process.wait(60)
        # What it had started ends without it, though not at once.
        _, alive = psutil.wait_procs(workers, timeout=60)
        assert alive == []
    left = chunks_on_disk(home)
    assert left >= 2

    report = run(home, "--engine", then)

    assert (report["success"], report["scored_rows"]) == (True, HOME_ROWS)
    assert report["resumed_chunks"] == left
    assert litter(Lake(home / "root", "toy")) == []


def test_a_night_runs_over_spark_connect(home: Path) -> None:
    declare(home, {"kind": "spark", "settings": {"spark.remote": "local[2]"}})

    report = run(home)

    assert (report["success"], report["scored_rows"]) == (True, HOME_ROWS), report
    assert litter(Lake(home / "root", "toy")) == []


@pytest.mark.parametrize(
    ("engine", "env", "said"),
    [
        ("ray", {"RAY_ADDRESS": "127.0.0.1:1"}, "no Ray can be reached at 127.0.0.1:1"),
        ("spark", {"JAVA_HOME": "/nowhere"}, "needs Java 17 or newer; found none at"),
    ],
)
def test_an_engine_that_is_not_there_ends_in_one_line(
    home: Path, engine: str, env: dict[str, str], said: str
) -> None:
    command = ("run", "toy", "--day", DAY, "--engine", engine)
    with started(home, *command, **env) as process:
        out, err = process.communicate(timeout=120)

    assert process.returncode == 1
    assert said in out + err
    assert "Traceback" not in out + err
