"""How many rows at once: measured to the edge of memory, kept, and used by the nights."""

import base64
import json
import logging
import time
from dataclasses import replace

import dagster as dg
import pytest
from click.testing import CliRunner

from batch_assets.cli.main import main
from batch_assets.models.formats import golden_batch
from batch_assets.models.input_rows import longest_of
from batch_assets.scoring import sweep as module
from batch_assets.scoring.device import find_device
from batch_assets.scoring.scorer import Scorer
from batch_assets.scoring.sweep import Effort, sweep
from batch_assets.scoring.sweep_plot import draw
from batch_assets.scoring.sweep_results import Point, Sweep, Sweeps
from batch_assets_tests.histories import write_histories
from batch_assets_tests.projects import attributes, make_project, metadata_of
from batch_assets_tests.texts import write_texts
from batch_assets_tests.toys import DAY, make_rows, write_source

PNG = b"\x89PNG\r\n"


def curve(**rates: int) -> Sweep:
    points = tuple(Point(int(n[1:]), float(rate), 1.0) for n, rate in rates.items())
    return Sweep("toy", "d", "cpu x", "float32", 2, "2", 0.0, "memory", points)


def kept(root, release, device, **rates: int) -> Sweep:
    found = replace(curve(**rates), digest=release.digest, device=device.label)
    Sweeps(root).keep(found)
    return found


@pytest.mark.parametrize(
    ("rates", "knee"),
    [
        ({"_1": 10, "_2": 50, "_4": 97, "_8": 100}, 4),
        ({"_1": 10, "_2": 50, "_4": 96, "_8": 100}, 8),
        ({"_1": 10, "_2": 100, "_4": 60, "_8": 99}, 2),
        ({"_1": 10}, 1),
    ],
)
def test_the_knee_is_the_smallest_batch_within_3_percent_of_the_best(rates, knee):
    assert curve(**rates).knee.batch_rows == knee


def test_a_sweep_doubles_the_rows_up_to_its_last(toy_release):
    seen = []
    found = sweep(
        toy_release,
        find_device("cpu"),
        2,
        Effort(seconds=None, run_seconds=0.002, max_rows=100),
        tried=seen.append,
    )
    assert [point.batch_rows for point in found.points] == [1, 2, 4, 8, 16, 32, 64]
    assert [point.batch_rows for point in seen] == [1, 2, 4, 8, 16, 32, 64]
    assert all(point.rows_per_second > 0 for point in found.points)
    assert found.digest == toy_release.digest
    assert found.precision == "float32"
    assert found.workers == 2
    assert "more than 100 rows" in found.edge
    # A toy of five operations is far from any limit at a row a batch.
    assert found.points[-1].rows_per_second > 5 * found.points[0].rows_per_second


def test_a_size_counts_by_the_median_of_its_runs_without_the_first(
    toy_release, monkeypatch
):
    asked = []
    forward = Scorer.forward

    def slow_at_first(self, features, size=0):
        asked.append(len(features))
        return forward(self, features, size)

    monkeypatch.setattr(Scorer, "forward", slow_at_first)
    rates = iter([5.0, 1.0, 9.0, 2.0])
    monkeypatch.setattr(module._Trial, "calibrated", lambda *_: (1, next(rates)))
    monkeypatch.setattr(module._Trial, "rate", lambda *_: next(rates))
    found = sweep(
        toy_release, find_device("cpu"), 1, Effort(repeats=3, finals=0, max_rows=1)
    )
    assert found.points[0].rows_per_second == 5.0
    # Of the golden batch, and to get warm.
    assert asked.count(1) == 1


def test_a_sweep_ends_where_memory_ends(toy_release, monkeypatch):
    forward = Scorer.forward

    def small(self, features, size=0):
        if len(features) > 16 and self.ready:
            raise MemoryError
        return forward(self, features, size)

    monkeypatch.setattr(Scorer, "ready", False, raising=False)
    scorer_of = module.Scorer

    def ready(*given):
        scorer = scorer_of(*given)
        scorer.ready = True
        return scorer

    monkeypatch.setattr(Scorer, "forward", small)
    monkeypatch.setattr(module, "Scorer", ready)
    found = sweep(
        toy_release, find_device("cpu"), 2, Effort(None, run_seconds=0.002, max_rows=64)
    )
    assert found.points[-1].batch_rows == 16
    assert found.edge == "out of memory at 32 rows"


def test_a_cpu_is_not_driven_into_the_ground(toy_release, monkeypatch):
    monkeypatch.setattr(module._Trial, "memory", lambda self, rows: float(rows * 1e9))
    monkeypatch.setattr(module._Trial, "_seconds", lambda self, calls: 1.0)
    found = sweep(
        toy_release, find_device("cpu"), 2, Effort(max_rows=64, run_seconds=0.1)
    )
    assert [point.batch_rows for point in found.points] == [1]
    assert "2 rows would need 2,000,000,000 MiB" in found.edge


@pytest.mark.parametrize(
    ("rates", "sizes"),
    [
        ([8, 9, 7, 8.5], [1, 2, 4, 8]),  # None takes a second.
        ([8, 9, 3, 6], [1, 2, 4]),
        ([1, 2, 3, 4], [1, 2, 4, 8]),  # Slow, but faster and faster.
    ],
)
def test_a_cpu_is_not_kept_busy_by_batches_that_gain_nothing(
    toy_release, monkeypatch, rates, sizes
):
    rate = iter(map(float, rates))
    monkeypatch.setattr(module._Trial, "calibrated", lambda *_: (1, next(rate)))
    found = sweep(
        toy_release, find_device("cpu"), 1, Effort(repeats=1, finals=0, max_rows=8)
    )

    assert [point.batch_rows for point in found.points] == sizes
    if sizes[-1] < 8:
        assert found.edge == "4 rows take 1.3 s and are no faster than fewer"


def test_an_error_that_is_not_of_memory_goes_out(toy_release, monkeypatch):
    def broken(self, calls):
        msg = "shapes do not match"
        raise RuntimeError(msg)

    monkeypatch.setattr(module._Trial, "_seconds", broken)
    with pytest.raises(RuntimeError, match="shapes"):
        sweep(toy_release, find_device("cpu"), 2, Effort(max_rows=4))


def test_a_kept_sweep_is_found_for_its_release_device_and_precision(
    root, toy_release, string_release
):
    device = find_device("cpu")
    found = kept(root, toy_release, device, _1=10, _2=100)
    sweeps = Sweeps(root)
    assert sweeps.find(toy_release, device) == found
    assert sweeps.find(string_release, device) is None
    assert sweeps.find(toy_release, replace(device, name="another")) is None
    assert sweeps.find(toy_release, replace(device, precision="bfloat16")) is None


def test_auto_is_the_knee_and_a_set_size_stays(root, toy_release):
    device, by_hand = find_device("cpu"), find_device("cpu", batch_rows="333")
    assert Sweeps(root).tuned(toy_release, device) == device
    kept(root, toy_release, device, _1=10, _512=100)
    tuned = Sweeps(root).tuned(toy_release, device)
    assert (tuned.batch_rows, tuned.batch_rows_from) == (512, "sweep")
    assert Sweeps(root).tuned(toy_release, by_hand) == by_hand
    assert by_hand.batch_rows_from == "set"


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"points": []}', '{"points": 3}'])
def test_a_sweep_that_cant_be_read_stops_no_night(root, toy_release, caplog, text):
    device = find_device("cpu")
    kept(root, toy_release, device, _1=10)
    (path,) = root.glob("sweeps/toy/*.json")
    path.write_text(text, encoding="utf-8")
    with caplog.at_level(logging.WARNING):
        assert Sweeps(root).tuned(toy_release, device) == device
    assert str(path) in caplog.text


def test_a_newer_sweep_takes_the_place_of_an_older(root, toy_release):
    device = find_device("cpu")
    kept(root, toy_release, device, _1=10, _2=100)
    newer = kept(root, toy_release, device, _1=10, _2=100, _4=200)
    assert Sweeps(root).find(toy_release, device) == newer
    assert len(list(root.glob("sweeps/**/*"))) == 2


def test_a_curve_is_drawn_even_of_one_point_and_without_memory():
    assert draw(curve(_1=10, _2=50, _4=97)).startswith(PNG)
    bare = curve(_1=10)
    bare = replace(bare, points=(replace(bare.points[0], memory_mb=None),))
    assert draw(bare).startswith(PNG)


@pytest.fixture
def project(tmp_path, root, registry, monkeypatch):
    monkeypatch.setattr(module, "MAX_ROWS", {"cpu": 256, "cuda": 256})
    return make_project(tmp_path / "p", root, monkeypatch, [attributes()])


def test_the_asset_shows_the_curve_and_the_nights_use_its_knee(project):
    write_source(project.folder, make_rows(1_000), day=DAY)
    with dg.instance_for_test() as instance:
        result = project.materialize(
            "toy", ["model_release", "batch_size_sweep"], None, instance
        )
        assert result.success
        found = metadata_of(result, "batch_size_sweep")
        picture = found["curve"].partition("base64,")[2].rstrip(")")
        assert base64.b64decode(picture).startswith(PNG)
        # It goes into Dagster's database.
        assert len(picture) < 100_000
        assert found["knee_rows"] in [2**n for n in range(9)]

        night = project.run("toy", DAY, instance)

        assert night.success
        scored = metadata_of(night, "predictions")
        assert scored["batch_rows"] == found["knee_rows"]
        assert scored["batch_rows_from"] == "sweep"
        assert not night.asset_materializations_for_node("toy__batch_size_sweep")


def test_the_command_measures_keeps_and_says(root, registry, toy_release, monkeypatch):
    monkeypatch.setattr(module, "MAX_ROWS", {"cpu": 8, "cuda": 8})
    monkeypatch.setenv("BATCH_ASSETS_ROOT", str(root))
    result = CliRunner().invoke(main, ["sweep", "toy", "--device", "cpu"])
    assert result.exit_code == 0, result.output
    assert "knee" in result.output
    kept = Sweeps(root).find(toy_release, find_device("cpu"))
    assert kept is not None
    assert [point.batch_rows for point in kept.points] == [1, 2, 4, 8]

    result = CliRunner().invoke(main, ["sweep", "toy", "--device", "cpu", "--json"])
    said = json.loads(result.stdout)
    assert said["knee"]["batch_rows"] in (1, 2, 4, 8)
    assert said["sweep"]["digest"] == toy_release.digest


def test_the_command_says_what_is_not_there(root, registry, monkeypatch):
    monkeypatch.setenv("BATCH_ASSETS_ROOT", str(root))
    result = CliRunner().invoke(main, ["sweep", "nobody"])
    assert result.exit_code == 1
    assert "nobody" in result.output
    assert not (root / "sweeps").exists()


@pytest.mark.parametrize(
    ("rates", "sizes", "edge"),
    [
        ([1, 2, 4, 4, 4.1, 4.05], [1, 2, 4, 8, 16, 32], "more than 4 rows are no"),
        (
            [1, 2, 4, 4, 4.1, 4.2, 4.3, 4.4],
            [1, 2, 4, 8, 16, 32, 64, 128],
            "no batch of",
        ),
        ([4, 3, 2, 1], [1, 2, 4, 8], "more than 1 rows are no faster"),
    ],
)
def test_a_sweep_ends_where_more_rows_bring_nothing(
    toy_release, monkeypatch, rates, sizes, edge
):
    rate = iter(rates)
    monkeypatch.setattr(module._Trial, "calibrated", lambda *_: (1, 1e6 * next(rate)))
    effort = Effort(repeats=1, finals=0, max_rows=sizes[-1])
    found = sweep(toy_release, find_device("cpu"), 1, effort)

    assert [point.batch_rows for point in found.points] == sizes
    assert found.edge.startswith(edge)


def test_to_the_edge_a_sweep_goes_on_though_nothing_is_gained(toy_release, monkeypatch):
    monkeypatch.setattr(module._Trial, "calibrated", lambda *_: (1, 1e6))
    effort = Effort(seconds=None, repeats=1, finals=0, max_rows=64)
    found = sweep(toy_release, find_device("cpu"), 1, effort)

    assert len(found.points) == 7


def test_a_sweep_does_not_begin_what_would_take_too_long(toy_release, monkeypatch):
    def slow(self, rows, seconds):
        time.sleep(0.05 * rows)
        return 1, float(rows)

    monkeypatch.setattr(module._Trial, "calibrated", slow)
    again = []
    monkeypatch.setattr(
        module._Trial, "rate", lambda self, rows, calls: again.append(rows) or 1.0
    )
    found = sweep(toy_release, find_device("cpu"), 1, Effort(3, 2, 0, max_rows=1 << 20))

    # 0.05 + 0.1 + 0.2 + 0.4 + 0.8, and the next would end past two seconds.
    assert 1 <= len(found.points) <= 5
    assert found.edge.endswith("rows would take longer than 3 s")
    assert len(again) <= len(found.points)


def test_no_size_is_measured_again_when_the_time_is_over(toy_release, monkeypatch):
    monkeypatch.setattr(module.Clock, "over", lambda self: True)
    monkeypatch.setattr(module._Trial, "rate", lambda *_: pytest.fail("measured again"))
    effort = Effort(repeats=3, run_seconds=0.001, max_rows=2)

    assert len(sweep(toy_release, find_device("cpu"), 1, effort).points) >= 1


def test_the_command_goes_to_the_edge_when_it_is_asked_to(root, registry, monkeypatch):
    efforts = []

    def measured(release, device, workers, effort, *, tried):
        efforts.append(effort)
        return replace(curve(_1=10), digest=release.digest)

    monkeypatch.setattr(module, "sweep", measured)
    monkeypatch.setenv("BATCH_ASSETS_ROOT", str(root))
    for options in ([], ["--to-the-edge"]):
        command = ["sweep", "toy", "--device", "cpu", *options]
        assert CliRunner().invoke(main, command).exit_code == 0

    assert efforts == [Effort(), Effort(seconds=None)]
    assert Effort().seconds == 60


def test_sizes_that_may_be_the_knee_are_measured_more_often(toy_release, monkeypatch):
    rate = iter([1e6, 5e6, 4.9e6, 4e6])
    monkeypatch.setattr(module._Trial, "calibrated", lambda *_: (1, next(rate)))
    again = []
    rates = {1: 1e6, 2: 5e6, 4: 5.2e6, 8: 4e6}

    def measured(self, rows, calls):
        again.append(rows)
        return rates[rows]

    monkeypatch.setattr(module._Trial, "rate", measured)
    found = sweep(toy_release, find_device("cpu"), 1, Effort(None, 3, 2, max_rows=8))

    assert again == [1, 2, 4, 8] * 2 + [2, 4] * 2
    assert found.knee.batch_rows == 4


def test_to_load_the_model_takes_nothing_of_the_time(toy_release, monkeypatch):
    scorer = module.Scorer

    def slow(*given):
        time.sleep(0.5)
        return scorer(*given)

    monkeypatch.setattr(module, "Scorer", slow)
    monkeypatch.setattr(module._Trial, "calibrated", lambda *_: (1, 1e6))
    found = sweep(toy_release, find_device("cpu"), 1, Effort(0.45, 1, 0, max_rows=2))

    assert "longer" not in found.edge


@pytest.mark.parametrize("write", [write_histories, write_texts])
def test_a_sweep_asks_rows_of_the_longest_length_alone(tmp_path, monkeypatch, write):
    release = write(tmp_path / "release")
    contract, asked, forward = release.contract, [], Scorer.forward

    def noted(scorer, rows):
        asked.append(longest_of(rows, contract))
        return forward(scorer, rows)

    scorer = Scorer(release, find_device("cpu"))
    lengths = longest_of(scorer.tokenised(golden_batch(release)[0]), contract)
    # What the proof asks is of every length.
    monkeypatch.setattr(Scorer, "_replay_golden_batch", lambda scorer: None)
    monkeypatch.setattr(Scorer, "forward", noted)
    sweep(release, find_device("cpu"), 1, Effort(None, 1, 0, 0.001, max_rows=8))

    assert lengths.min() < lengths.max()
    assert {len(batch) for batch in asked} == {1, 2, 4, 8}
    assert {int(one) for batch in asked for one in batch} == {int(lengths.max())}
