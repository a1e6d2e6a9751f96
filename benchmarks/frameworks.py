"""`make bench-frameworks`: a night on each framework's model, against a plain loop over it.

Its columns take turns and are checked as those of `make bench` are: each row must have
the probability that the framework itself says.
"""

import argparse
import json
import shutil
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.run import HERE, Bench, BenchmarkError, Column, Run, ratio, say
from benchmarks.tables import machine, print_tables, with_tables
from benchmarks.trained import FRAMEWORKS, prepare, train

BEGIN, END = "<!-- frameworks -->", "<!-- end of frameworks -->"
ROUNDS, WARM_ROWS = 5, 1 << 15
NIGHT = Column("batch_assets", "frameworks_night")
PLAIN = Column("plain", "frameworks_plain")
# A night's rate over the loop's, at least.
BAR = 1.3
# How far a probability may be off what the plain loop says.
CLOSE = 1e-5
# Of how many rows it may be, where numbers are scaled in ONNX before they reach a tree: one
# that lies beside a threshold in its last bit could fall to the other side.
FLIPPED = {"sklearn": 1e-5}


class Frameworks(Bench):
    """One day, and a release of each framework, in the place of the other models."""

    def __init__(self, folder: Path, rows: int) -> None:
        self.folder = folder
        self._pythons = {"bench": sys.executable}
        say(f"training {', '.join(FRAMEWORKS)}")
        models = {framework: train(framework) for framework in FRAMEWORKS}
        self.root, warm = folder / "root", folder / "warm"
        self._warm = dict.fromkeys(FRAMEWORKS, warm)
        for root, count in ((warm, WARM_ROWS), (self.root, rows)):
            say(f"generating {count:,} rows")
            prepare(root, count, models)


def outputs_of(folder: Path) -> pa.Table:
    """What a column left, by key."""
    tables = [
        pq.read_table(path, columns=["user_id", "risk"])
        for path in folder.glob("*.parquet")
    ]
    return pa.concat_tables(tables).sort_by("user_id")


def must_be_like(
    found: pa.Table, truth: pa.Table, who: str, flipped: float = 0.0
) -> None:
    """Refuse a column that lacks a row, has one twice, or says something else.

    Raises:
        BenchmarkError: with how many.
    """
    same = found["user_id"].combine_chunks().equals(truth["user_id"].combine_chunks())
    if not same:
        msg = f"{who} left {len(found)} rows, expected each of {len(truth)} once"
        raise BenchmarkError(msg)
    off = ~np.isclose(found["risk"], truth["risk"], rtol=CLOSE, atol=CLOSE)
    if off.mean() > flipped:
        msg = f"{who} has {int(off.sum())} wrong probabilities of {len(off)}"
        raise BenchmarkError(msg)


def compare(bench: Frameworks) -> dict[str, dict[str, list[Run]]]:
    """The runs of each column, by framework."""
    runs: dict[str, dict[str, list[Run]]] = {}
    for framework in FRAMEWORKS:
        of: dict[str, list[Run]] = {NIGHT.name: [], PLAIN.name: []}
        truth = None
        for number in range(ROUNDS):
            # Nobody always goes first.
            columns = (PLAIN, NIGHT) if number % 2 == 0 else (NIGHT, PLAIN)
            for column in columns:
                run = bench.run(column, framework, bench.root, None)
                of[column.name].append(run)
                found = outputs_of(bench.folder / "out")
                # The first to go is the loop.
                truth = truth or found
                who = f"{column.name} of {framework}"
                must_be_like(found, truth, who, FLIPPED.get(framework, 0.0))
                say(f"{framework}, {column.name}: {run.rows_per_s:,.0f} rows/s")
        runs[framework] = of
    return runs


def results_of(runs: dict[str, dict[str, list[Run]]]) -> dict[str, Any]:
    """Medians, by framework."""
    frameworks = {}
    for name, of in runs.items():
        night, plain = of[NIGHT.name], of[PLAIN.name]
        frameworks[name] = {
            "night": round(statistics.median(run.rows_per_s for run in night)),
            "plain": round(statistics.median(run.rows_per_s for run in plain)),
            "ratio": ratio(night, plain),
            "version": plain[0].version,
        }
    rows = next(iter(runs.values()))[NIGHT.name][0].rows
    return {"machine": machine(), "rows": rows, "frameworks": frameworks}


def show(results: dict[str, Any]) -> str:
    """The table, in Markdown."""
    at = results["machine"]
    lines = [
        f"{at['cpu']}, {at['cores']} cores, {at['memory_gb']} GB; Python {at['python']}; "
        f"{results['rows']:,} rows, medians of {ROUNDS} rounds.",
        "",
        "| framework | night, rows/s | plain loop, rows/s | night over loop "
        "| must be | | version |",
        "|---|--:|--:|--:|---|---|---|",
        *(
            f"| {name} | {of['night']:,} | {of['plain']:,} | {of['ratio']:.2f} "
            f"| at least {BAR:g} | {'reached' if of['ratio'] >= BAR else 'NOT reached'} "
            f"| {of['version']} |"
            for name, of in results["frameworks"].items()
        ),
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1 << 20)
    parser.add_argument("--into", type=Path, default=HERE, help="where results go")
    asked = parser.parse_args()
    asked.into.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="batch-assets-bench-") as folder:
        results = results_of(compare(Frameworks(Path(folder), asked.rows)))
    tables = show(results)
    print_tables(tables)
    (asked.into / "frameworks.json").write_text(
        json.dumps(results, indent=2) + "\n", encoding="utf-8"
    )
    readme = asked.into / "README.md"
    if not readme.exists():
        shutil.copy(HERE / "README.md", readme)
    text = with_tables(readme.read_text(encoding="utf-8"), tables, BEGIN, END)
    readme.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
