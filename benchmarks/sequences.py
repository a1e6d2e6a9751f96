"""`make bench`, its second part: histories and a small transformer, as one table.

Its columns take turns and are checked as those of the first part are.
"""

import argparse
import json
import shutil
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.histories import LONGEST, NAME, load_model, make_rows, prepare, score
from benchmarks.run import HERE, Bench, Column, Run, ratio, say
from benchmarks.tables import machine, print_tables, with_tables

BEGIN, END = "<!-- sequences -->", "<!-- end of sequences -->"
ROUNDS, WARM_ROWS, TRUTH_ROWS = 5, 2_048, 512
NIGHT = "batch_assets"
COLUMNS = [
    Column("floor", "sequences_floor"),
    Column(NIGHT, "sequences_night"),
    Column("by arrival", "sequences_arrival"),
    Column("ray_data", "sequences_ray_data"),
    Column("plain", "sequences_plain"),
]
# The project's rate over a column's, at least.
BARS = {"floor": 0.9, "by arrival": 1.5, "ray_data": 3.0}


class Sequences(Bench):
    """Its own rows, in the place of those of the other models."""

    def __init__(self, folder: Path, rows: int) -> None:
        self.folder = folder
        self._pythons = {"bench": sys.executable}
        self._warm = {NAME: folder / "warm"}
        self.root = folder / "root"
        for root, count in ((self._warm[NAME], WARM_ROWS), (self.root, rows)):
            say(f"generating {count:,} rows")
            prepare(root, count)


def write_truth(root: Path, path: Path) -> None:
    """What torch says of each row, so many at a time."""
    model, pieces = load_model(root / f"{NAME}.pt"), []
    rows = pq.ParquetFile(root / "source.parquet")
    for batch in rows.iter_batches(TRUTH_ROWS):
        label, confidence = score(model, batch["items"])
        said = {"label": label.numpy(), "confidence": confidence.numpy()}
        pieces.append(pa.table({"user_id": batch["user_id"], **said}))
    pq.write_table(pa.concat_tables(pieces), path)


def compare(bench: Sequences) -> dict[str, list[Run]]:
    truth = bench.folder / "truth.parquet"
    write_truth(bench.root, truth)
    runs: dict[str, list[Run]] = {column.name: [] for column in COLUMNS}
    for number in range(ROUNDS):
        # What ran before leaves a machine warm or rested: nobody always goes first.
        for column in reversed(COLUMNS) if number % 2 else COLUMNS:
            run = bench.run(column, NAME, bench.root, None)
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


def show(results: dict[str, Any]) -> str:
    """The tables, in Markdown."""
    at, columns = results["machine"], results["columns"]
    lines = [
        f"{at['cpu']}, {at['cores']} cores, {at['memory_gb']} GB; Python {at['python']}; "
        f"{results['rows']:,} rows, medians of {ROUNDS} rounds.",
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
            f"| sequences: batch_assets over {name} | at least {bar:g} "
            f"| {columns[name]['ratio']:.2f} "
            f"| {'reached' if columns[name]['ratio'] >= bar else 'NOT reached'} |"
            for name, bar in BARS.items()
        ),
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=32_768)
    parser.add_argument("--into", type=Path, default=HERE, help="where results go")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="batch-assets-bench-") as folder:
        bench = Sequences(Path(folder), asked.rows)
        results = results_of(compare(bench), tokens_of_a_row())
    tables = show(results)
    print_tables(tables)
    (asked.into / "sequences.json").write_text(
        json.dumps(results, indent=2) + "\n", encoding="utf-8"
    )
    readme = asked.into / "README.md"
    if not readme.exists():
        shutil.copy(HERE / "README.md", readme)
    text = with_tables(readme.read_text(encoding="utf-8"), tables, BEGIN, END)
    readme.write_text(text, encoding="utf-8")


def tokens_of_a_row() -> float:
    """How long a history is in the mean; a third of the longest."""
    mean = len(make_rows(100_000)["items"].combine_chunks().flatten()) / 100_000
    assert 0.3 < mean / LONGEST < 0.37
    return mean


if __name__ == "__main__":
    main()
