"""What the parts of `make bench` after the first have in common: rounds, and one table.

Columns take turns and are checked as those of the first part are. A part has rows of its
own, and bars.
"""

import argparse
import json
import shutil
import statistics
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.run import HERE, Bench, Column, Run, ratio, say
from benchmarks.tables import machine, print_tables, with_tables

NIGHT = "batch_assets"


@dataclass(frozen=True)
class Part:
    """A part of the benchmark.

    Attributes:
        name: of its tables in the README, and of its results.
        model: its rows and its release go by this name.
        columns: those that are compared, the project's own among them.
        bars: the project's rate over a column's, at least.
        prepare: writes so many rows into a folder, and what scores them.
        write_truth: writes what torch says of each row of a folder.
        tokens: of a row in the mean.
        rounds: how often each column runs.
        warm_rows: what each column scores before it is timed.
    """

    name: str
    model: str
    columns: list[Column]
    bars: dict[str, float]
    prepare: Callable[[Path, int], None]
    write_truth: Callable[[Path, Path], None]
    tokens: Callable[[], float]
    rounds: int
    warm_rows: int

    @property
    def begin(self) -> str:
        return f"<!-- {self.name} -->"

    @property
    def end(self) -> str:
        return f"<!-- end of {self.name} -->"


class PartBench(Bench):
    """Its own rows, in the place of those of the other models."""

    def __init__(self, part: Part, folder: Path, rows: int) -> None:
        self.folder = folder
        self._pythons = {"bench": sys.executable}
        self._warm = {part.model: folder / "warm"}
        self.root = folder / "root"
        for root, count in (
            (self._warm[part.model], part.warm_rows),
            (self.root, rows),
        ):
            say(f"generating {count:,} rows")
            part.prepare(root, count)


def compare(part: Part, bench: PartBench) -> dict[str, list[Run]]:
    """All columns, round by round."""
    truth = bench.folder / "truth.parquet"
    part.write_truth(bench.root, truth)
    runs: dict[str, list[Run]] = {column.name: [] for column in part.columns}
    for number in range(part.rounds):
        # What ran before leaves a machine warm or rested: nobody always goes first.
        for column in reversed(part.columns) if number % 2 else part.columns:
            run = bench.run(column, part.model, bench.root, None)
            if column.name != "floor":
                bench.check(column, run, truth, bench.root)
            runs[column.name].append(run)
            say(f"{column.name}: {run.rows_per_s:,.0f} rows/s")
    return runs


def results_of(runs: dict[str, list[Run]], tokens: float) -> dict[str, Any]:
    """Medians, by column; `tokens` are those of a row in the mean."""
    columns = {}
    for name, of in runs.items():
        rate = statistics.median(run.rows_per_s for run in of)
        columns[name] = {
            "rows_per_s": round(rate),
            "tokens_per_s": round(rate * tokens),
            "peak_mb": round(max(run.peak_mb for run in of)),
            "ratio": ratio(runs[NIGHT], of),
            "version": of[0].version,
        }
    return {"machine": machine(), "rows": runs[NIGHT][0].rows, "columns": columns}


def show(part: Part, results: dict[str, Any]) -> str:
    """The tables, in Markdown."""
    at, columns = results["machine"], results["columns"]
    lines = [
        f"{at['cpu']}, {at['cores']} cores, {at['memory_gb']} GB; Python {at['python']}; "
        f"{results['rows']:,} rows, medians of {part.rounds} rounds.",
        "",
        "| column | rows/s | tokens/s | peak MB | batch_assets over it | version |",
        "|---|--:|--:|--:|--:|---|",
        *(
            f"| {name} | {c['rows_per_s']:,} | {c['tokens_per_s']:,} | {c['peak_mb']:,} "
            f"| {c['ratio']:.2f} | {c['version']} |"
            for name, c in columns.items()
        ),
        "",
        "| bar | must be | found | |",
        "|---|---|--:|---|",
        *(
            f"| {part.name}: batch_assets over {name} | at least {bar:g} "
            f"| {columns[name]['ratio']:.2f} "
            f"| {'reached' if columns[name]['ratio'] >= bar else 'NOT reached'} |"
            for name, bar in part.bars.items()
        ),
    ]
    return "\n".join(lines) + "\n"


def measure(part: Part, rows: int, about: str | None) -> None:
    """Run a part as a command, and leave its tables in the README and its results."""
    parser = argparse.ArgumentParser(description=about)
    parser.add_argument("--rows", type=int, default=rows)
    parser.add_argument("--into", type=Path, default=HERE, help="where results go")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="batch-assets-bench-") as folder:
        bench = PartBench(part, Path(folder), asked.rows)
        results = results_of(compare(part, bench), part.tokens())
    tables = show(part, results)
    print_tables(tables)
    (asked.into / f"{part.name}.json").write_text(
        json.dumps(results, indent=2) + "\n", encoding="utf-8"
    )
    readme = asked.into / "README.md"
    if not readme.exists():
        shutil.copy(HERE / "README.md", readme)
    text = with_tables(readme.read_text(encoding="utf-8"), tables, part.begin, part.end)
    readme.write_text(text, encoding="utf-8")
