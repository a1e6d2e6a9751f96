"""What rows with their outcomes add up to, of all rows and of each segment.

Shards are added one after the other, in any number; nothing but sums and counts is kept.
It reads no file.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl

PREDICTED, HAPPENED = "predicted", "happened"


@dataclass(frozen=True)
class Measure:
    """A metric of some rows; `error` is its standard error, where there is one."""

    metric: str
    value: float
    error: float | None = None


@dataclass(frozen=True)
class Lines:
    """In which lines each row counts: in 0 with all, then in one of each segment column.

    `of_rows` has an array int64 (rows,) for each, -1 where a row is in no segment.
    """

    size: int
    of_rows: Sequence[np.ndarray]

    def sums(self, weights: np.ndarray | None = None) -> np.ndarray:
        """Return the sum of the rows' weights, or their number, by line: float64 (lines,)."""
        total = np.zeros(self.size)
        for line in self.of_rows:
            there = line >= 0
            of_line = None if weights is None else weights[there]
            total += np.bincount(line[there], of_line, minlength=self.size)
        return total

    def pairs(self, codes: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yield line and code of each row in one number, and which rows these are."""
        for line in self.of_rows:
            there = np.flatnonzero(line >= 0)
            yield (line[there] << 32) | codes[there], there


class Mean:
    """The mean of a number of each row, by line."""

    def __init__(self, lines: int) -> None:
        self.rows, self.sum, self.squares = (np.zeros(lines) for _ in range(3))

    def add(self, values: np.ndarray, lines: Lines) -> None:
        """Add a number of each row, float64 (rows,)."""
        self.rows += lines.sums()
        self.sum += lines.sums(values)
        self.squares += lines.sums(values * values)

    def of(self, line: int) -> tuple[float, float]:
        """Return the mean of a line that has rows, and its standard error."""
        rows = self.rows[line]
        mean = self.sum[line] / rows
        variance = max(self.squares[line] / rows - mean * mean, 0.0)
        return float(mean), float(np.sqrt(variance / rows))

    def measure(self, metric: str, line: int) -> Measure:
        """Return the mean of a line as a metric."""
        return Measure(metric, *self.of(line))


class Tally(ABC):
    """The rows of a task, added up by line."""

    rows: np.ndarray

    def __init__(self, lines: int) -> None:
        self.rows = np.zeros(lines, np.int64)

    def add(self, rows: pl.DataFrame, lines: Lines) -> None:
        """Add rows whose outcome is known, with `predicted` and `happened`."""
        self.rows += lines.sums().astype(np.int64)
        self._add(rows, lines)

    @abstractmethod
    def _add(self, rows: pl.DataFrame, lines: Lines) -> None: ...

    @abstractmethod
    def measures(self, line: int) -> list[Measure]:
        """Return the metrics of a line that has rows."""


class RegressionTally(Tally):
    """Numbers against numbers."""

    def __init__(self, lines: int) -> None:
        super().__init__(lines)
        self._absolute, self._off, self._happened = (Mean(lines) for _ in range(3))

    def _add(self, rows: pl.DataFrame, lines: Lines) -> None:
        happened = rows[HAPPENED].to_numpy().astype(np.float64)
        off = rows[PREDICTED].to_numpy().astype(np.float64) - happened
        self._absolute.add(np.abs(off), lines)
        self._off.add(off, lines)
        self._happened.add(happened, lines)

    def measures(self, line: int) -> list[Measure]:
        squares, rows = self._off.squares[line], self.rows[line]
        mean, _ = self._happened.of(line)
        spread = self._happened.squares[line] - rows * mean * mean
        found = [
            self._absolute.measure("mae", line),
            Measure("rmse", float(np.sqrt(squares / rows))),
            self._off.measure("bias", line),
        ]
        # Rounding alone makes a spread of what is the same for every row.
        if spread > 1e-12 * max(self._happened.squares[line], 1e-300):
            found.append(Measure("r2", float(1 - squares / spread)))
        return found


class MulticlassTally(Tally):
    """Classes against classes, by their positions."""

    def __init__(self, lines: int, classes: int) -> None:
        super().__init__(lines)
        self._classes = classes
        self._counts: dict[int, int] = {}

    def _add(self, rows: pl.DataFrame, lines: Lines) -> None:
        codes = (
            rows[HAPPENED].to_numpy().astype(np.int64) * self._classes
            + rows[PREDICTED].to_numpy()
        )
        for pairs, _ in lines.pairs(codes):
            for pair, count in zip(*np.unique(pairs, return_counts=True), strict=True):
                self._counts[int(pair)] = self._counts.get(int(pair), 0) + int(count)

    def measures(self, line: int) -> list[Measure]:
        happened, predicted, hit = (np.zeros(self._classes) for _ in range(3))
        for pair, count in self._counts.items():
            if pair >> 32 == line:
                true, said = divmod(pair & 0xFFFFFFFF, self._classes)
                happened[true] += count
                predicted[said] += count
                hit[true] += count * (true == said)
        rows = happened.sum()
        accuracy = float(hit.sum() / rows)
        there = happened + predicted > 0
        f1 = 2 * hit[there] / (happened + predicted)[there]
        return [
            Measure(
                "accuracy", accuracy, float(np.sqrt(accuracy * (1 - accuracy) / rows))
            ),
            Measure("macro_f1", float(f1.mean())),
        ]


class RankingTally(Tally):
    """Lists of items, the best first, against the items that were right.

    A row for which no item was right can't be ranked well or badly, and does not count.
    """

    def __init__(self, lines: int, k: int) -> None:
        super().__init__(lines)
        self._k = k
        self._recall, self._ndcg, self._hit = (Mean(lines) for _ in range(3))

    def _add(self, rows: pl.DataFrame, lines: Lines) -> None:
        wanted, hits, gain = _hits(rows, self._k)
        some = wanted > 0
        lines = Lines(lines.size, [np.where(some, one, -1) for one in lines.of_rows])
        worth = 1 / np.log2(np.arange(self._k) + 2)
        best = np.cumsum(worth)[np.clip(wanted, 1, self._k) - 1]
        self._recall.add(hits / np.maximum(wanted, 1), lines)
        self._ndcg.add(gain / best, lines)
        self._hit.add((hits > 0).astype(np.float64), lines)

    def measures(self, line: int) -> list[Measure]:
        if not self._recall.rows[line]:
            return []
        return [
            self._recall.measure("recall", line),
            self._ndcg.measure("ndcg", line),
            self._hit.measure("hit_rate", line),
        ]


def _hits(rows: pl.DataFrame, k: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """How many items were right, how many of them are among k, and what these gain."""
    numbered = rows.select(
        pl.col(PREDICTED).list.head(k),
        pl.col(HAPPENED).cast(rows[PREDICTED].dtype).list.drop_nulls().list.unique(),
    ).with_row_index("row")
    wanted = numbered[HAPPENED].list.len().to_numpy().astype(np.int64)
    said = numbered.select(
        "row", PREDICTED, place=pl.int_ranges(pl.col(PREDICTED).list.len())
    ).explode(PREDICTED, "place")
    right = numbered.select("row", HAPPENED).explode(HAPPENED)
    found = said.join(
        right, left_on=["row", PREDICTED], right_on=["row", HAPPENED], how="semi"
    ).drop_nulls()
    at, place = found["row"].to_numpy(), found["place"].to_numpy()
    hits = np.bincount(at, minlength=len(rows)).astype(np.float64)
    gain = np.bincount(at, 1 / np.log2(place + 2), minlength=len(rows))
    return wanted, hits, gain
