"""`make bench`: every column on the same rows, in one go, as one table.

Each column runs in a process of its own, which warms up on fewer rows and then times
one run. The columns take turns, round by round and every second time backwards, so that
a machine whose speed drifts drifts for all of them; ratios are taken within a round. It
knows no column's inside.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from benchmarks.lock import lock_seconds
from benchmarks.model import NAMES, SIZES, Size, load_model, score
from benchmarks.tables import machine, print_tables, with_tables
from benchmarks.tune import copy_tuning
from benchmarks.work import SHARDS, prepare

HERE = Path(__file__).parent
REPOSITORY = HERE.parent
MEBI = 1 << 20
# Between these lines of the README are the newest tables.
BEGIN, END = "<!-- results -->", "<!-- end of results -->"
# Each look takes milliseconds of a core that is being measured.
SAMPLE_SECONDS = 0.5
REPEATS = 3
# So that the whole ends in time: the heavy model gets fewer rows, and the tutorial too.
HEAVY_ROWS = 65_536
# Most rows of an incremental night are not scored.
HEAVY_INCREMENTAL_ROWS = 131_072
TUTORIAL_ROWS = {"small": 30_000, "heavy": 5_000}
# Enough for a process to be warm, in seconds, and in how many shards: one for each worker,
# in files no smaller than those that are timed, as is then what is allocated for one.
WARM_ROWS = {"small": 1 << 18, "heavy": 1 << 13}
WARM_SHARDS = 2
# The days whose memory is compared, in times the rows of the others.
MEMORY_DAYS = (0.5, 4)
# How far a column's confidence may be off what torch said of the row.
CLOSE = 1e-4


@dataclass(frozen=True)
class Column:
    """A column of the table: its module, and how often each of its runs is repeated.

    `heavy_repeats` are those with the heavy model, which takes longer to say the same.
    """

    name: str
    module: str
    repeats: int = REPEATS
    heavy_repeats: int = REPEATS
    environment: str = "bench"

    def repeats_of(self, size: str) -> int:
        return self.repeats if size == "small" else self.heavy_repeats


COLUMNS = [
    Column("floor", "floor", 7, 5),
    Column("floor_fast", "floor_fast", 7, 5),
    Column("batch_assets", "local", 7, 5),
    Column("batch_assets_eager", "eager", heavy_repeats=0),
    Column("batch_assets_dagster", "dagster"),
    Column("batch_assets_ray", "on_ray"),
    Column("ray_data", "ray_data"),
    Column("batch_assets_spark", "on_spark"),
    Column("spark", "spark"),
    Column("daft", "daft", environment="daft"),
    Column("plain", "plain"),
    Column("tutorial", "tutorial"),
]
# The project's rate over a column's, at least.
BARS = {
    ("small", "floor"): 1.0,
    ("small", "floor_fast"): 0.92,
    ("heavy", "floor"): 0.95,
    ("small", "ray_data"): 5.0,
    ("small", "spark"): 4.5,
    ("small", "daft"): 2.2,
    ("small", "plain"): 1.8,
    ("small", "tutorial"): 50.0,
}
# This project on an engine, and that engine's own way of the same work.
ON_ENGINES = {"batch_assets_ray": "ray_data", "batch_assets_spark": "spark"}
MIN_ON_ENGINE = 2.0
MAX_DAGSTER_SECONDS = 3.0
MAX_MEMORY_GROWTH = 0.10
MAX_NIGHT = 1.6
# A night whose chunks are profiled for the gates of drift, over one whose are not.
MAX_JUDGED = 1.03
# Whole nights of each kind, in turns.
NIGHTS = 5
# A night that is built on the one before, over the same night scored whole, at most.
MAX_INCREMENTAL = {"small": 0.35, "heavy": 0.22}
# The share of the rows that is not as it was the night before.
CHANGED = 0.2


@dataclass(frozen=True)
class Run:
    """What a column said of one run, and the most memory that its processes held."""

    seconds: float
    rows: int
    version: str
    peak_mb: float
    said: dict[str, Any]

    @property
    def rows_per_s(self) -> float:
        return self.rows / self.seconds


class BenchmarkError(Exception):
    """A column failed, or its output is wrong."""


class Bench:
    """The folders of one benchmark, and how a column is run in them."""

    def __init__(self, folder: Path, pythons: dict[str, str]) -> None:
        self.folder = folder
        self._pythons = pythons
        self._warm: dict[str, Path] = {}
        for size, rows in WARM_ROWS.items():
            root = self.prepared(f"warm-{size}", rows, WARM_SHARDS)
            say(f"compiling {size}, and sweeping its batches")
            self._tune(root, size)
            self._warm[size] = root

    def prepared(
        self,
        name: str,
        rows: int,
        shards: int = SHARDS,
        changed: float | None = None,
    ) -> Path:
        root = self.folder / name
        say(f"generating {rows:,} rows")
        prepare(root, rows, shards=shards, changed=changed)
        for tuned in self._warm.values():
            copy_tuning(tuned, root)
        return root

    def _tune(self, root: Path, size: str) -> None:
        """In a process of its own: what a compiler leaves in memory counts nowhere."""
        subprocess.run(
            [self._pythons["bench"], "-m", "benchmarks.tune", str(root), size],
            cwd=REPOSITORY,
            check=True,
        )

    def run(self, column: Column, size: str, root: Path, rows: int | None) -> Run:
        """Run a column in its own process.

        Raises:
            BenchmarkError: it failed.
        """
        command = self._command(column, size, root, rows)
        told, problems = self.folder / "stdout", self.folder / "stderr"
        with told.open("w") as stdout, problems.open("w") as stderr:
            process = subprocess.Popen(
                command,
                cwd=REPOSITORY,
                env=os.environ | {"PYTHONPATH": str(REPOSITORY)},
                stdout=stdout,
                stderr=stderr,
            )
            with Memory(process.pid) as memory:
                code = process.wait()
        if code:
            msg = f"{column.name} ended with {code}:\n{problems.read_text()[-2000:]}"
            raise BenchmarkError(msg)
        said = json.loads(told.read_text().strip().splitlines()[-1])
        return Run(said["seconds"], said["rows"], said["version"], memory.peak_mb, said)

    def serial(self, size: str, root: Path) -> dict[str, float | None]:
        """What of a night keeps more cores from doing more, for a row.

        Page faults, and microseconds under the interpreter's lock, of which the warm-up
        has its part; None where nobody may look.
        """
        column = Column("batch_assets", "local")
        run = self.run(column, size, root, None)
        held = lock_seconds(self._command(column, size, root, None), REPOSITORY)
        rows = run.rows + WARM_ROWS[size]
        return {
            "page_faults": round(run.said["page_faults"], 4),
            "lock_us": None if held is None else round(held / rows * 1e6, 4),
        }

    def _command(
        self, column: Column, size: str, root: Path, rows: int | None
    ) -> list[str]:
        return [
            self._pythons[column.environment],
            *("-m", f"benchmarks.columns.{column.module}"),
            *(str(self._warm[size]), str(root), str(self.folder / "out"), size),
            *(["--rows", str(rows)] if rows else []),
        ]

    def check(self, column: Column, run: Run, truth: Path, root: Path) -> None:
        """Compare a column's output with what torch says of the same rows.

        Raises:
            BenchmarkError: keys are gone or twice, or predictions differ.
        """
        query = f"""
            SELECT count(*), count(DISTINCT f.user_id),
                count(*) FILTER (abs(f.confidence - t.confidence) > {CLOSE}),
                count(*) FILTER (f.label <> t.label AND t.confidence > 0.51),
                count(DISTINCT f.model_version)
            FROM read_parquet('{self.folder}/out/**/*.parquet') f
            JOIN read_parquet('{truth}') t USING (user_id)
        """
        # A connection of its own: what is left unread on one blocks its next question.
        with duckdb.connect() as connection:
            found = connection.execute(query).fetchone()
        if found != (run.rows, run.rows, 0, 0, 1):
            msg = (
                f"{column.name}: rows, keys, wrong confidences, wrong labels and "
                f"versions are {found}, expected {(run.rows, run.rows, 0, 0, 1)}"
            )
            raise BenchmarkError(msg)


class Memory:
    """The most memory that a process and its children held, in MiB.

    What they share counts once: it is the sum of the proportional set sizes.
    """

    def __init__(self, pid: int) -> None:
        self.peak_mb = 0.0
        self._root = psutil.Process(pid)
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch)

    def __enter__(self) -> "Memory":
        self._thread.start()
        return self

    def __exit__(self, *raised: object) -> None:
        self._done.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._done.wait(SAMPLE_SECONDS):
            total = 0
            try:
                for process in [self._root, *self._root.children(recursive=True)]:
                    total += _pss(process.pid)
            except psutil.NoSuchProcess:
                continue
            self.peak_mb = max(self.peak_mb, total / MEBI)


def _pss(pid: int) -> int:
    try:
        with open(f"/proc/{pid}/smaps_rollup", encoding="utf-8") as file:
            for line in file:
                if line.startswith("Pss:"):
                    return int(line.split()[1]) * 1024
    except OSError:  # It has ended.
        pass
    return 0


def write_truth(root: Path, size: Size, path: Path) -> None:
    """What torch says of each row, a file at a time."""
    model, pieces = load_model(root / f"{size.name}.pt", size), []
    for file in json.loads((root / "work.json").read_text())["files"]:
        table = pq.ParquetFile(file).read()
        features = np.stack([table[name].to_numpy() for name in NAMES])
        label, confidence = score(model, torch.from_numpy(features).T)
        pieces.append(
            pa.table(
                {
                    "user_id": table["user_id"],
                    "label": label.numpy(),
                    "confidence": confidence.numpy(),
                }
            )
        )
    pq.write_table(pa.concat_tables(pieces), path)


def compare(bench: Bench, rows: int) -> dict[str, Any]:
    """All columns on both models, and the night: `{size: {column: figures}}`."""
    tables: dict[str, Any] = {}
    for size in SIZES.values():
        count = rows if size.name == "small" else min(rows, HEAVY_ROWS)
        root = bench.prepared(size.name, count)
        truth = bench.folder / f"{size.name}.parquet"
        write_truth(root, size, truth)
        runs: dict[str, list[Run]] = defaultdict(list)
        for number in range(max(c.repeats_of(size.name) for c in COLUMNS)):
            turn = [c for c in COLUMNS if number < c.repeats_of(size.name)]
            # What ran before leaves a machine warm or rested: nobody always goes first.
            for column in reversed(turn) if number % 2 else turn:
                fewer = TUTORIAL_ROWS[size.name] if column.name == "tutorial" else None
                run = bench.run(column, size.name, root, fewer)
                if not column.name.startswith("floor"):
                    bench.check(column, run, truth, root)
                runs[column.name].append(run)
                say(f"{size.name} {column.name}: {run.rows_per_s:,.0f} rows/s")
        tables[size.name] = {name: figures(of, runs) for name, of in runs.items()}
        for name, peer in ON_ENGINES.items():
            tables[size.name][name]["over_peer"] = ratio(runs[name], runs[peer])
        if size.name == "small":
            tables["night"] = time_night(bench, root)
            tables["serial"] = bench.serial(size.name, root)
        shutil.rmtree(root)
    return tables


def figures(of: list[Run], runs: dict[str, list[Run]]) -> dict[str, Any]:
    """Medians of a column's runs, and of the project's rate over its own by round."""
    startups = [run.said["startup_s"] for run in of if run.said.get("startup_s")]
    return {
        "rows_per_s": round(statistics.median(run.rows_per_s for run in of)),
        "rows": of[0].rows,
        "seconds": round(statistics.median(run.seconds for run in of), 3),
        "peak_mb": round(max(run.peak_mb for run in of)),
        "version": of[0].version,
        "runs": len(of),
        "ratio": ratio(runs["batch_assets"], of),
        "startup_s": round(statistics.median(startups), 1) if startups else None,
    }


def ratio(ours: list[Run], theirs: list[Run]) -> float:
    """The median of the rounds' ratios of two rates."""
    ratios = [a.rows_per_s / b.rows_per_s for a, b in zip(ours, theirs, strict=False)]
    return round(statistics.median(ratios), 3)


def compare_memory(bench: Bench, rows: int) -> dict[str, float]:
    """Peak memory of a night of this project, by its rows."""
    peaks = {}
    for count in (int(times * rows) for times in MEMORY_DAYS):
        root = bench.prepared("memory", count)
        run = bench.run(Column("batch_assets", "local"), "small", root, None)
        peaks[str(count)] = round(run.peak_mb)
        say(f"{count:,} rows: {run.peak_mb:,.0f} MiB")
        shutil.rmtree(root)
    return peaks


def time_night(bench: Bench, root: Path) -> dict[str, Any]:
    """Seconds of each stage of whole nights through Dagster; of the median night.

    `judged_over_unjudged` is what drift costs: the processor time of a night whose chunks
    are profiled over that of one whose chunks are not, in turns. Of three per cent the
    clock on the wall tells nothing: nights differ by more from one minute to the next.
    """
    nights, ratios = [], []
    for number in range(NIGHTS):
        worked = {}
        # What ran before leaves a machine warm or rested: neither always goes first.
        for name in ("night", "night_unjudged")[:: -1 if number % 2 else 1]:
            run = bench.run(Column(name, name), "small", root, None)
            worked[name] = run.said["cpu_seconds"]
            say(f"{name}: {run.seconds:.2f} s, {worked[name]:.2f} s of processor time")
            if name == "night":
                nights.append(run.said["stages"] | {"total": round(run.seconds, 3)})
        ratios.append(round(worked["night"] / worked["night_unjudged"], 3))
    nights.sort(key=lambda stages: stages["total"])
    return {
        "rows": run.rows,
        "seconds": nights[len(nights) // 2],
        "judged_over_unjudged": ratios,
    }


def time_incremental(bench: Bench, rows: int) -> dict[str, Any]:
    """An incremental night of each model, and the same night scored whole."""
    found = {}
    for size in SIZES.values():
        count = rows if size.name == "small" else min(rows, HEAVY_INCREMENTAL_ROWS)
        root = bench.prepared("incremental", count, changed=CHANGED)
        truth = bench.folder / "incremental.parquet"
        write_truth(root, size, truth)
        column = Column("incremental", "incremental")
        run = bench.run(column, size.name, root, None)
        bench.check(column, run, truth, root)
        full = run.said["full_seconds"]
        say(f"{size.name}: {run.seconds:.2f} s incremental, {full:.2f} s full")
        found[size.name] = {
            "rows": run.rows,
            "unchanged_share": round(run.said["carried"] / run.rows, 3),
            "full_seconds": round(full, 3),
            "incremental_seconds": round(run.seconds, 3),
            "ratio": round(run.said["ratio"], 3),
        }
        shutil.rmtree(root)
    return found


def judge(results: dict[str, Any]) -> list[dict[str, Any]]:
    """Each bar, what was reached, and whether that is enough."""
    bars = [
        {
            "what": f"{size}: batch_assets over {column}",
            "bar": f"at least {bar:g}",
            "found": results[size][column]["ratio"],
            "reached": results[size][column]["ratio"] >= bar,
        }
        for (size, column), bar in BARS.items()
    ] + [
        {
            "what": f"small: {name} over {peer}",
            "bar": f"at least {MIN_ON_ENGINE:g}",
            "found": results["small"][name]["over_peer"],
            "reached": results["small"][name]["over_peer"] >= MIN_ON_ENGINE,
        }
        for name, peer in ON_ENGINES.items()
    ]
    small, night = results["small"], results["night"]["seconds"]
    overhead = (
        small["batch_assets_dagster"]["seconds"] - small["batch_assets"]["seconds"]
    )
    few, many = results["memory_mb"].items()
    whole = night["total"] / night["predictions"]
    for what, bar, found in (
        ("seconds that Dagster adds to a partition", MAX_DAGSTER_SECONDS, overhead),
        (
            f"memory of {int(many[0]):,} rows over {int(few[0]):,}",
            1 + MAX_MEMORY_GROWTH,
            many[1] / few[1],
        ),
        ("whole night over its scoring", MAX_NIGHT, whole),
        (
            "whole night judged over not judged",
            MAX_JUDGED,
            statistics.median(results["night"]["judged_over_unjudged"]),
        ),
        *(
            (
                f"{size}: incremental over full",
                bar,
                results["incremental"][size]["ratio"],
            )
            for size, bar in MAX_INCREMENTAL.items()
        ),
    ):
        bars.append(
            {
                "what": what,
                "bar": f"at most {bar:g}",
                "found": round(found, 3),
                "reached": found <= bar,
            }
        )
    return bars


def show(results: dict[str, Any]) -> str:
    """The tables, in Markdown: they are read on a terminal and in the README."""
    at = results["machine"]
    lines = [
        f"{at['cpu']}, {at['cores']} cores, {at['memory_gb']} GB; Python {at['python']}.",
    ]
    for size in SIZES.values():
        lines += [
            "",
            f"{size.name}, {size.flop / 1e6:.2f} MFLOP a row:",
            "",
            "| column | rows/s | rows | peak MB | runs | batch_assets over it "
            "| start-up, s | version |",
            "|---|--:|--:|--:|--:|--:|--:|---|",
        ]
        lines += [
            f"| {name} | {c['rows_per_s']:,} | {c['rows']:,} | {c['peak_mb']:,} "
            f"| {c['runs']} | {c['ratio']:.2f} | {c['startup_s'] or ''} | {c['version']} |"
            for name, c in results[size.name].items()
        ]
    night = results["night"]
    lines += [
        "",
        f"A whole night of the small model through Dagster, {night['rows']:,} rows:",
        "",
        "| stage | seconds |",
        "|---|--:|",
        *(f"| {name} | {took:.2f} |" for name, took in night["seconds"].items()),
        "",
        "A night built on the one before, and the same night scored whole:",
        "",
        "| model | rows | unchanged | whole, seconds | incremental, seconds | ratio |",
        "|---|--:|--:|--:|--:|--:|",
        *(
            f"| {size} | {c['rows']:,} | {c['unchanged_share']:.0%} "
            f"| {c['full_seconds']:.2f} | {c['incremental_seconds']:.2f} "
            f"| {c['ratio']:.2f} |"
            for size, c in results["incremental"].items()
        ),
        "",
        "What of a night keeps more cores from doing more, for a row of the small model:",
        "",
        "| page faults | µs under the interpreter's lock |",
        "|--:|--:|",
        f"| {results['serial']['page_faults']:.3f} | {_or_dash(results['serial'])} |",
        "",
        "| bar | must be | found | |",
        "|---|---|--:|---|",
    ]
    lines += [
        f"| {bar['what']} | {bar['bar']} | {bar['found']:.2f} "
        f"| {'reached' if bar['reached'] else 'NOT reached'} |"
        for bar in results["bars"]
    ]
    return "\n".join(lines) + "\n"


def _or_dash(serial: dict[str, float | None]) -> str:
    held = serial["lock_us"]
    return "-" if held is None else f"{held:.3f}"


def draw(results: dict[str, Any], path: Path) -> None:
    """Rows per second of each column, on a scale that shows the slowest too."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(1, len(SIZES), figsize=(11, 4), layout="constrained")
    for axis, size in zip(axes, SIZES.values(), strict=True):
        columns = results[size.name]
        rates = [c["rows_per_s"] for c in columns.values()]
        colors = ["#c44e52" if "batch" in n else "#8c96a8" for n in columns]
        bars = axis.barh(list(columns), rates, color=colors)
        axis.bar_label(bars, [f"{rate:,}" for rate in rates], padding=3, fontsize=8)
        axis.set_xscale("log")
        axis.set_xlim(min(rates) / 2, max(rates) * 6)
        axis.invert_yaxis()
        axis.set_title(f"{size.name}, {size.flop / 1e6:.2f} MFLOP a row")
        axis.set_xlabel("rows per second, logarithmic")
        axis.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=130)


def say(text: str) -> None:
    sys.stderr.write(f"{time.strftime('%H:%M:%S')} {text}\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=4_000_000)
    parser.add_argument("--daft", default=sys.executable, help="Daft's interpreter")
    parser.add_argument("--into", type=Path, default=HERE, help="where results go")
    asked = parser.parse_args()
    for tool, why in (
        ("java", "Spark needs Java 17 or newer: install a JRE"),
        ("g++", "compiled models need a C++ compiler: install g++"),
    ):
        if not shutil.which(tool):
            sys.exit(f"{why}, then run this again. Nothing was measured.")
    with tempfile.TemporaryDirectory(prefix="batch-assets-bench-") as folder:
        bench = Bench(Path(folder), {"bench": sys.executable, "daft": asked.daft})
        results: dict[str, Any] = {"machine": machine()}
        results |= compare(bench, asked.rows)
        results["incremental"] = time_incremental(bench, asked.rows)
        results["memory_mb"] = compare_memory(bench, asked.rows)
    results["bars"] = judge(results)
    asked.into.mkdir(parents=True, exist_ok=True)
    (asked.into / "results.json").write_text(json.dumps(results, indent=2) + "\n")
    readme = asked.into / "README.md"
    if readme.is_file():
        readme.write_text(with_tables(readme.read_text(), show(results), BEGIN, END))
    draw(results, asked.into / "results.png")
    print_tables(show(results))


if __name__ == "__main__":
    main()
