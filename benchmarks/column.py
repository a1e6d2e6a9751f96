"""One column in its own process: warm up, then time one run and tell of it in JSON.

It needs the standard library alone, so that it runs in every column's environment.
"""

import argparse
import json
import os
import resource
import shutil
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

CORES = len(os.sched_getaffinity(0))


@dataclass(frozen=True)
class Work:
    """What to score: the files of a root, with which model, and where to leave it.

    The same rows lie in `files`, compact, and in `fast_files`, as they do in memory.
    `rows` may be fewer than they have: the first of them, in their order.
    """

    root: Path
    out: Path
    size: str
    rows: int
    files: list[str]
    fast_files: list[str]
    version: str

    def files_of(self, layout: str) -> list[str]:
        """The files in a layout, `fast` or `compact`."""
        return self.fast_files if layout == "fast" else self.files

    @property
    def model(self) -> Path:
        return self.root / f"{self.size}.pt"


def open_work(root: Path, out: Path, size: str, rows: int | None) -> Work:
    described = json.loads((root / "work.json").read_text(encoding="utf-8"))
    return Work(
        root,
        out,
        size,
        min(rows or described["rows"], described["rows"]),
        described["files"],
        described["fast_files"],
        described["versions"][size],
    )


def arguments() -> argparse.Namespace:
    """What every column is called with: a small root, the root, where to, which model."""
    parser = argparse.ArgumentParser()
    parser.add_argument("warm", type=Path)
    parser.add_argument("root", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("size")
    parser.add_argument("--rows", type=int)
    return parser.parse_args()


def settle(files: list[str]) -> None:
    """Have the files in the page cache, and nothing that is yet to go to disk.

    What the columns before have pushed out or left behind is no column's merit or fault.
    """
    os.sync()
    for name in files:
        with open(name, "rb", buffering=0) as file:
            while file.read(1 << 22):
                pass


def page_faults() -> int:
    """How often this process was given memory, a page at a time."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt


Score = Callable[[Work], float | None]


def main(
    score: Score,
    version: str,
    before: Callable[[Work], None] = lambda work: None,
    after: Callable[[Work], None] = lambda work: None,
    startup_s: float | None = None,
    warms_up: bool = True,
) -> None:
    """Score the small root to get warm, then the root, and print what came of it.

    Args:
        score: scores all rows and leaves Parquet files under `out`, or `after` does. It
            may return the seconds that count, where they are not those that it took.
        version: of what it measures.
        before: what must be done before each, and is not timed.
        after: what must be done after each, likewise.
        startup_s: seconds that its engine took to start, which don't count.
        warms_up: whether it scores the small root.
    """
    asked = arguments()
    for root in (asked.warm, asked.root) if warms_up else (asked.root,):
        work = open_work(root, asked.out, asked.size, asked.rows)
        shutil.rmtree(work.out, ignore_errors=True)
        work.out.mkdir(parents=True)
        before(work)
        settle(work.files + work.fast_files)
        faults, start = page_faults(), time.perf_counter()
        counted = score(work)
        took, faults = time.perf_counter() - start, page_faults() - faults
        after(work)
    found = {
        "seconds": took if counted is None else counted,
        "rows": work.rows,
        "version": version,
        "startup_s": startup_s,
        "page_faults": faults / max(work.rows, 1),
    }
    sys.stdout.write(f"\n{json.dumps(found)}\n")
