"""The benchmark tells the truth: outputs are checked, medians and bars are what they say.

The peers have environments of their own; their columns run in `make bench`.
"""

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from batch_assets_tests.projects import FLIGHTS
from benchmarks import run as module
from benchmarks.column import open_work
from benchmarks.lock import RATE, lock_seconds, seconds_of
from benchmarks.model import SIZES, make_model
from benchmarks.run import (
    BARS,
    BEGIN,
    COLUMNS,
    END,
    ON_ENGINES,
    Bench,
    BenchmarkError,
    Column,
    Memory,
    Run,
    draw,
    figures,
    judge,
    show,
    write_truth,
)
from benchmarks.tables import with_tables

ROWS = 20_000


def ran(rate: float, peak: float = 1.0) -> Run:
    return Run(seconds=100 / rate, rows=100, version="1", peak_mb=peak, said={})


def results_of(ratio: float) -> dict:
    """As `make bench` leaves them, with the project so much faster than all else."""
    runs = {c.name: [ran(10.0)] * 3 for c in COLUMNS}
    runs["batch_assets"] = [ran(10.0 * ratio)] * 3
    columns = {name: figures(of, runs) for name, of in runs.items()}
    for name in ON_ENGINES:
        columns[name]["over_peer"] = ratio
    return {
        "machine": {"cpu": "a CPU", "cores": 2, "memory_gb": 24, "python": "3.11"},
        "small": columns,
        "heavy": columns,
        "night": {
            "rows": 100,
            "seconds": {"predictions": 2.0, "total": 6.5},
            "judged_over_unjudged": [1.01, 1.02, 1.04],
        },
        "memory_mb": {"50": 100, "400": 111},
        "serial": {"page_faults": 0.25, "lock_us": None},
        "incremental": {
            size: {
                "rows": 100,
                "unchanged_share": 0.8,
                "full_seconds": 10.0,
                "incremental_seconds": 2.6,
                "ratio": 0.26,
            }
            for size in SIZES
        },
    }


@pytest.fixture(scope="module")
def bench(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "WARM_ROWS", {"small": 2_000})
        yield Bench(tmp_path_factory.mktemp("bench"), {"bench": sys.executable})


@pytest.fixture(scope="module")
def work(bench):
    root = bench.prepared("small", ROWS)
    truth = bench.folder / "truth.parquet"
    write_truth(root, SIZES["small"], truth)
    return root, truth


def test_the_heavy_model_is_at_least_10_mflop_a_row():
    assert SIZES["heavy"].flop >= 10e6
    assert SIZES["small"].hidden == (256, 256)


def test_the_models_are_the_same_each_time():
    one, two = make_model(SIZES["small"]), make_model(SIZES["small"])
    for a, b in zip(one.parameters(), two.parameters(), strict=True):
        assert (a == b).all()


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [
        "local",
        "dagster",
        "plain",
        *(pytest.param(on, marks=pytest.mark.engines) for on in ("on_ray", "on_spark")),
    ],
)
def test_a_column_scores_every_row_as_torch_does(bench, work, name):
    root, truth = work
    column = Column(name, name)
    run = bench.run(column, "small", root, None)
    bench.check(column, run, truth, root)
    assert run.rows == ROWS
    assert run.rows_per_s > 0
    # Torch alone takes more.
    assert run.peak_mb > 50


@pytest.mark.slow
def test_the_floor_is_a_time(bench, work):
    root, _ = work
    run = bench.run(Column("floor", "floor"), "small", root, None)
    assert 0 < run.seconds < 10


@pytest.mark.slow
def test_a_night_tells_the_seconds_of_every_stage(bench, work):
    root, _ = work
    run = bench.run(Column("night", "night"), "small", root, None)
    stages = run.said["stages"]
    assert {
        "raw_features",
        "validated_features",
        "predictions",
        "serving_snapshot",
        "serving_snapshot_checks",
    } <= set(stages)
    assert 0 < sum(stages.values()) <= run.seconds


@pytest.mark.slow
def test_an_incremental_night_is_timed_beside_the_same_night_scored_whole(bench):
    root = bench.prepared("incremental", ROWS, changed=0.2)
    truth = bench.folder / "incremental.parquet"
    write_truth(root, SIZES["small"], truth)
    column = Column("incremental", "incremental")
    run = bench.run(column, "small", root, None)
    bench.check(column, run, truth, root)
    assert run.rows == ROWS
    assert 0.78 < run.said["carried"] / ROWS < 0.82
    assert 0 < run.said["full_seconds"] < 60
    assert 0 < run.said["ratio"] < 10


@pytest.mark.parametrize(
    "spoil",
    [
        lambda t: t.slice(1),
        lambda t: pa.concat_tables([t.slice(1), t.slice(1, 1)]),
        lambda t: t.set_column(2, "confidence", pa.array([0.0] * len(t))),
        lambda t: t.set_column(1, "label", pa.array([7] * len(t))),
    ],
    ids=["a row is gone", "a row is twice", "confidences", "labels"],
)
def test_a_wrong_output_ends_the_run(tmp_path, spoil):
    truth = pa.table(
        {
            "user_id": list(range(10)),
            "label": [1] * 10,
            "confidence": pa.array([0.9] * 10, pa.float32()),
        }
    )
    pq.write_table(truth, tmp_path / "truth.parquet")
    out = tmp_path / "out"
    out.mkdir()
    bench = object.__new__(Bench)
    bench.folder = tmp_path
    run = Run(1.0, 10, "1", 1.0, {})

    def write(table: pa.Table) -> None:
        version = pa.array(["v"] * len(table))
        pq.write_table(table.append_column("model_version", version), out / "p.parquet")

    write(truth)
    bench.check(COLUMNS[1], run, tmp_path / "truth.parquet", tmp_path)
    write(spoil(truth))
    with pytest.raises(BenchmarkError, match="expected"):
        bench.check(COLUMNS[1], run, tmp_path / "truth.parquet", tmp_path)


def test_a_column_that_fails_ends_the_run_with_its_error(tmp_path):
    bench = object.__new__(Bench)
    bench.folder = tmp_path
    bench._warm = {"small": tmp_path}
    bench._pythons = {"bench": sys.executable}
    with pytest.raises(BenchmarkError, match=r"work\.json"):
        bench.run(Column("plain", "plain"), "small", tmp_path, None)


def test_memory_is_that_of_the_process_and_its_children():
    child = "x = bytearray(200 << 20); import time; time.sleep(1.5)"
    parent = (
        f"import subprocess, sys; subprocess.run([sys.executable, '-c', {child!r}])"
    )
    process = subprocess.Popen([sys.executable, "-c", parent])
    with Memory(process.pid) as memory:
        process.wait()
    assert 200 < memory.peak_mb < 300
    assert not psutil.pid_exists(process.pid)


def test_a_ratio_is_the_median_of_the_rounds():
    runs = {
        "batch_assets": [ran(30), ran(10), ran(20), ran(99)],
        "plain": [ran(10), ran(10), ran(10)],
    }
    found = figures(runs["plain"], runs)
    assert found["ratio"] == 2.0
    assert found["rows_per_s"] == 10
    assert found["runs"] == 3


def test_bars_that_are_reached_and_bars_that_are_not():
    for ratio, reached in ((60.0, True), (0.5, False)):
        bars = judge(results_of(ratio))
        of_columns = bars[: len(BARS) + len(ON_ENGINES)]
        assert {bar["reached"] for bar in of_columns} == {reached}
    memory, night, judged, *incremental = bars[len(of_columns) + 1 :]
    assert [(bar["found"], bar["reached"]) for bar in incremental] == [
        (0.26, True),
        (0.26, False),
    ]
    assert (judged["found"], judged["reached"]) == (1.02, True)
    assert (night["found"], night["reached"]) == (3.25, False)
    assert (memory["found"], memory["reached"]) == (1.11, False)


def test_the_tables_replace_those_before_and_nothing_else(tmp_path):
    results = results_of(2.0)
    results["bars"] = judge(results)
    readme = f"# Title\n\n{BEGIN}\nold\n{END}\n\nmore\n"
    once = with_tables(readme, show(results), BEGIN, END)
    assert with_tables(once, show(results), BEGIN, END) == once
    assert once.startswith("# Title\n")
    assert once.endswith(f"{END}\n\nmore\n")
    assert "old" not in once
    assert "NOT reached" in once
    draw(results, tmp_path / "chart.png")
    assert (tmp_path / "chart.png").read_bytes().startswith(b"\x89PNG")


def test_the_readme_of_the_benchmark_has_the_figures_that_were_saved():
    folder = FLIGHTS / "benchmarks"
    results = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    text = (folder / "README.md").read_text(encoding="utf-8")
    assert with_tables(text, show(results), BEGIN, END) == text
    assert results["machine"]["cpu"] in text
    for size in SIZES:
        assert set(results[size]) == {c.name for c in COLUMNS if c.repeats_of(size)}
        for found in results[size].values():
            assert {"rows_per_s", "rows", "peak_mb", "version"} <= set(found)
    assert "total" in results["night"]["seconds"]


def test_fewer_rows_are_the_first_of_the_files(tmp_path):
    (tmp_path / "work.json").write_text(
        json.dumps(
            {
                "rows": 10,
                "files": ["a"],
                "fast_files": ["b"],
                "versions": {"small": "v"},
            }
        )
    )
    assert open_work(tmp_path, tmp_path, "small", 4).rows == 4
    assert open_work(tmp_path, tmp_path, "small", 40).rows == 10
    assert open_work(tmp_path, tmp_path, "small", None).rows == 10


def test_make_bench_stands_alone():
    found = subprocess.run(
        ["make", "--dry-run", "--always-make", "bench", "BENCH_ROWS=123"],
        cwd=FLIGHTS,
        env=os.environ,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert ".[bench]" in found
    assert "benchmarks/daft.txt" in found
    assert "--rows 123" in found
    assert Path(FLIGHTS / "benchmarks" / "daft.txt").is_file()


def test_the_lock_is_counted_where_a_worker_holds_it():
    stacks = """
main;run_night;wait (futures.py:305) 40
Thread-1;_worker (thread.py:83);score_chunk (chunk.py:56);write 25
Thread-2;score_chunk (chunk.py:40);read_rows 5
""".strip()

    assert seconds_of(stacks) == 30 / RATE
    assert seconds_of("") == 0


def test_where_nobody_may_look_the_lock_is_not_measured(monkeypatch, tmp_path):
    monkeypatch.setattr("shutil.which", lambda *_, **__: None)

    assert lock_seconds(["true"], tmp_path) is None


@pytest.mark.slow
def test_the_second_floor_is_a_time_too(bench, work):
    root, _ = work
    run = bench.run(Column("floor_fast", "floor_fast"), "small", root, None)
    assert 0 < run.seconds < 10


@pytest.mark.slow
def test_what_a_device_could_do_is_measured_on_a_cpu_as_well(tmp_path):
    """The same command as on CUDA: each figure is there, or says why not."""
    done = subprocess.run(
        [
            *(sys.executable, "-m", "benchmarks.cuda", "--device", "cpu"),
            *("--rows", "20000", "--seconds", "120", "--folder", str(tmp_path)),
        ],
        cwd=FLIGHTS,
        env=os.environ | {"PYTHONPATH": str(FLIGHTS)},
        capture_output=True,
        text=True,
        check=True,
    )

    assert "failed" not in done.stdout, done.stdout
    lines = done.stdout.splitlines()
    for what in ("bus, pinned", "decode, fast", "loop", "night, default"):
        assert any(line.startswith(f"| {what} |") for line in lines), done.stdout
    assert {"small", "heavy", "sequences"} <= set(done.stdout.replace("|", " ").split())
    assert not list(tmp_path.iterdir())


def test_the_histories_in_the_readme_are_the_results():
    from benchmarks import sequences

    results = json.loads((module.HERE / "sequences.json").read_text())
    assert list(results["columns"]) == [column.name for column in sequences.COLUMNS]
    text = (module.HERE / "README.md").read_text()
    told = text.partition(sequences.BEGIN)[2].partition(sequences.END)[0]
    assert told == f"\n{sequences.show(results)}"


def test_the_texts_in_the_readme_are_the_results():
    from benchmarks import texts
    from benchmarks.parts import show

    path, tables = module.HERE / "texts.json", ""
    if path.exists():  # No table of what was never measured to the end.
        results = json.loads(path.read_text())
        assert list(results["columns"]) == [column.name for column in texts.COLUMNS]
        tables = show(texts.PART, results)
    text = (module.HERE / "README.md").read_text()
    told = text.partition(texts.PART.begin)[2].partition(texts.PART.end)[0]
    assert told == f"\n{tables}"
    # Nor do the words below it say otherwise than the table.
    below = text.partition(texts.PART.end)[2].partition("\n## ")[0]
    assert ("Both bars are reached." in below) == (tables.count("| reached |") == 2)
    assert ("no table yet" in below) == (not tables)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", ["batch_assets", "plain"])
def test_a_column_of_texts_is_compared_with_torch(tmp_path, name):
    from benchmarks import texts
    from benchmarks.parts import PartBench

    part = dataclasses.replace(texts.PART, warm_rows=8)
    bench = PartBench(part, tmp_path, 40)
    truth = tmp_path / "truth.parquet"
    part.write_truth(bench.root, truth)
    (column,) = (column for column in part.columns if column.name == name)
    run = bench.run(column, part.model, bench.root, None)
    assert run.rows == 40
    bench.check(column, run, truth, bench.root)


def test_a_column_of_histories_is_compared_with_torch(tmp_path):
    from benchmarks import sequences

    bench = sequences.Sequences(tmp_path, 600)
    truth = tmp_path / "truth.parquet"
    sequences.write_truth(bench.root, truth)
    column = sequences.COLUMNS[1]
    run = bench.run(column, sequences.NAME, bench.root, None)
    assert run.rows == 600
    bench.check(column, run, truth, bench.root)
    rows = pq.read_table(truth)
    wrong = rows.set_column(2, "confidence", pa.array([0.5] * 600, pa.float32()))
    pq.write_table(wrong, truth)
    with pytest.raises(BenchmarkError, match="wrong confidences"):
        bench.check(column, run, truth, bench.root)


def test_the_frameworks_in_the_readme_are_the_results():
    from benchmarks import frameworks

    results = json.loads((module.HERE / "frameworks.json").read_text())
    assert list(results["frameworks"]) == list(frameworks.FRAMEWORKS)
    text = (module.HERE / "README.md").read_text()
    told = text.partition(frameworks.BEGIN)[2].partition(frameworks.END)[0]
    assert told == f"\n{frameworks.show(results)}"


def test_a_night_on_a_framework_that_says_something_else_ends_the_run():
    from benchmarks import frameworks

    truth = pa.table({"user_id": [1, 2, 3], "risk": [0.1, 0.2, 0.3]})
    frameworks.must_be_like(truth, truth, "night")
    with pytest.raises(BenchmarkError, match="night left 2 rows, expected each of 3"):
        frameworks.must_be_like(truth.slice(1), truth, "night")
    other = truth.set_column(1, "risk", pa.array([0.1, 0.2001, 0.3]))
    with pytest.raises(BenchmarkError, match="1 wrong probabilities of 3"):
        frameworks.must_be_like(other, truth, "night")
