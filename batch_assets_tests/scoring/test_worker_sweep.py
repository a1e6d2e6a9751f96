"""How many workers: measured on whole chunks, kept, and taken by the nights of CUDA."""

from dataclasses import replace
from pathlib import Path

import pytest

from batch_assets.models.release import Release
from batch_assets.resources import EngineResource, GpuResource, StorageResource
from batch_assets.scoring import worker_sweep
from batch_assets.scoring.device import Device, find_device
from batch_assets.scoring.engines.local import LocalEngine
from batch_assets.scoring.sweep import Effort, sweep
from batch_assets.scoring.sweep_results import Sweep, Sweeps, WorkerPoint
from batch_assets.scoring.worker_sweep import candidates, sweep_workers, with_workers
from batch_assets_tests.toys import DAY, make_spec


def curve(release: Release, *rates: float) -> Sweep:
    found = sweep(release, find_device("cpu"), 1, Effort(None, 1, 0, 0.001, max_rows=2))
    points = tuple(WorkerPoint(2**n, rate) for n, rate in enumerate(rates))
    return replace(found, by_workers=points)


def test_numbers_of_workers_go_up_to_the_cores() -> None:
    assert candidates(1) == [1]
    assert candidates(2) == [1, 2]
    assert candidates(5) == [1, 2, 3, 4, 5]
    assert candidates(16) == [1, 2, 3, 4, 6, 8, 12, 16]
    assert candidates(100)[-2:] == [96, 100]


@pytest.mark.parametrize("key_dtype", ["int64", "string"])
def test_whole_chunks_are_scored_with_each_number(
    toy_release: Release, string_release: Release, key_dtype: str
) -> None:
    release = toy_release if key_dtype == "int64" else string_release
    seen: list[WorkerPoint] = []

    points = sweep_workers(
        release, find_device("cpu"), [1, 3], chunk_rows=500, tried=seen.append
    )

    assert [point.workers for point in points] == [1, 3]
    assert all(point.rows_per_second > 0 for point in points)
    assert seen == points


def test_no_number_is_begun_when_the_time_is_over(toy_release: Release) -> None:
    points = sweep_workers(
        toy_release, find_device("cpu"), [1, 2, 3], chunk_rows=100, over=lambda: True
    )

    assert [point.workers for point in points] == [1]


def test_a_sweep_leaves_nothing_behind(
    toy_release: Release, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))

    sweep_workers(toy_release, find_device("cpu"), [2], chunk_rows=100)

    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("rates", "workers"),
    [([10, 50, 97, 100], 4), ([10, 50, 96, 100], 8), ([10], 1), ([], None)],
)
def test_the_fewest_workers_within_3_percent_of_the_best_are_enough(
    toy_release: Release, rates: list[float], workers: int | None
) -> None:
    assert curve(toy_release, *rates).best_workers == workers


def test_what_was_found_is_kept_and_an_older_sweep_without_it_is_read(
    root: Path, toy_release: Release
) -> None:
    device, sweeps = find_device("cpu"), Sweeps(root)
    found = curve(toy_release, 10, 50, 51)
    path = sweeps.keep(found)

    assert sweeps.find(toy_release, device) == found
    assert sweeps.workers(toy_release, device) == 2
    text = path.read_text(encoding="utf-8")
    path.write_text(text.partition(' "by_workers"')[0].rstrip(",\n ") + "}")

    older = sweeps.find(toy_release, device)
    assert older == replace(found, by_workers=())
    assert sweeps.workers(toy_release, device) is None


def test_a_cpu_has_a_worker_for_each_core_and_is_not_asked(
    toy_release: Release, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker_sweep, "sweep_workers", lambda *_: pytest.fail("asked"))
    found = curve(toy_release)

    assert with_workers(found, toy_release, find_device("cpu"), Effort()) is found


def test_a_night_takes_the_workers_of_the_sweep(
    root: Path, registry: object, toy_release: Release
) -> None:
    Sweeps(root).keep(curve(toy_release, 10, 20, 40, 80, 81))
    storage, gpu = StorageResource(root=str(root)), GpuResource(device="cpu")

    with EngineResource().scoring(
        make_spec(), DAY, toy_release, storage, gpu
    ) as engine:
        assert engine.workers == 8

    assert LocalEngine(find_device("cpu")).workers != 8


def test_a_device_is_measured_in_the_batches_that_its_nights_take(
    toy_release: Release, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []

    def measured(
        release: Release, device: Device, numbers: list[int], **_: object
    ) -> list[WorkerPoint]:
        asked.append(device.batch_rows)
        return [WorkerPoint(number, 10.0 * number) for number in numbers]

    monkeypatch.setattr(worker_sweep, "sweep_workers", measured)
    monkeypatch.setattr(worker_sweep, "candidates", lambda: [1, 2, 4])
    found = curve(toy_release)

    device = replace(find_device("cpu"), kind="cuda")
    measured_too = with_workers(found, toy_release, device, Effort())

    assert asked == [found.knee.batch_rows]
    assert measured_too.best_workers == 4
