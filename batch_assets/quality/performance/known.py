"""A day's predictions beside their outcomes, shard by shard.

It judges nothing: what came is counted, and what is no outcome is refused.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa

from batch_assets.errors import LakeError, SourceError
from batch_assets.lake.delta_table import Table
from batch_assets.lake.parts import Part, read_columns
from batch_assets.lake.receipts import Receipt
from batch_assets.lake.tables import Lake
from batch_assets.models.columns import quoted
from batch_assets.models.contract import Contract
from batch_assets.models.output_specs import Label
from batch_assets.models.profiling import SegmentColumn
from batch_assets.quality.performance.tallies import HAPPENED, PREDICTED, Lines
from batch_assets.spec import OutcomesSpec


@dataclass
class Arrived:
    """How many predictions of a day have an outcome, and how many outcomes none of these.

    Attributes:
        predicted: rows with a prediction.
        known: those of them whose outcome is known.
        unknown: those whose outcome is null.
        missing: those without an outcome.
        unpredicted: outcomes of other keys.
    """

    predicted: int = 0
    known: int = 0
    unknown: int = 0
    missing: int = 0
    unpredicted: int = 0

    @property
    def share(self) -> float:
        """Of the predictions, those whose outcome is known."""
        return self.known / self.predicted if self.predicted else 0.0


@dataclass
class KnownRows:
    """The rows of a day whose outcome is known, read as they are asked for.

    `arrived` is whole once all shards were read.
    """

    lake: Lake
    day: str
    contract: Contract
    spec: OutcomesSpec
    segments: Sequence[SegmentColumn]
    arrived: Arrived = field(default_factory=Arrived)

    @property
    def lines(self) -> int:
        """How many lines there are: of all rows, and of each segment."""
        return 1 + sum(len(column.values) for column in self.segments)

    def shards(self) -> Iterator[tuple[pl.DataFrame, Lines]]:
        """Yield the rows of each shard, with `predicted` and `happened`.

        Raises:
            LakeError: the day has no predictions or no outcomes, or not of its shards.
            SourceError: a key has two outcomes, or one is none that there can be.
        """
        names = [column.name for column in self.segments]
        said = self._parts(self.lake.predictions)
        features = self._parts(self.lake.validated_features)
        came = self._parts(self.lake.outcomes)
        for shard, parts in sorted(said.items()):
            yield self._joined(
                self._read(parts, [self.spec.output]),
                self._read(features.get(shard, []), names),
                self._read(came.get(shard, []), [self.spec.value]),
            )

    def _parts(self, table: Table[Any, Any]) -> dict[int, list[Part[Receipt]]]:
        found: dict[int, list[Part[Receipt]]] = {}
        for part in table.parts(self.day):
            found.setdefault(part.shard, []).append(part)
        if not found:
            msg = f"{table.name} has no {self.day}: materialise it first"
            raise LakeError(msg)
        return found

    def _read(self, parts: Sequence[Part[Receipt]], columns: list[str]) -> pl.DataFrame:
        asked = [self.contract.key.name, *columns]
        tables = [read_columns(part.path, asked) for part in parts]
        if not tables:
            msg = f"{self.day} has outcomes of other shards than its predictions: run it again"
            raise LakeError(msg)
        return pl.DataFrame(pa.concat_tables(tables))

    def _joined(
        self, said: pl.DataFrame, features: pl.DataFrame, came: pl.DataFrame
    ) -> tuple[pl.DataFrame, Lines]:
        key, output, value = self.contract.key.name, self.spec.output, self.spec.value
        came = came.select(key, pl.col(value).alias(HAPPENED))
        self._must_be_single(came[key].drop_nulls())
        said = said.select(key, pl.col(output).alias(PREDICTED))
        # Two names of which one may be the other's: the features get others.
        segments = features.select(
            key, *(pl.col(c.name).alias(f"segment {c.name}") for c in self.segments)
        )
        rows = said.join(came, on=key, how="left", coalesce=True)
        there = said.join(came, on=key, how="semi").height
        rows = self._as_numbers(rows)
        known = rows.filter(pl.col(HAPPENED).is_not_null())
        if self.segments:
            known = known.join(segments, on=key, how="left")
        arrived = self.arrived
        arrived.predicted += len(said)
        arrived.known += len(known)
        arrived.unknown += there - len(known)
        arrived.missing += len(said) - there
        arrived.unpredicted += len(came) - there
        return known, self._lines(known)

    def _lines(self, rows: pl.DataFrame) -> Lines:
        of_rows, first = [np.zeros(len(rows), np.int64)], 1
        for column in self.segments:
            values = rows[f"segment {column.name}"].cast(pl.Float64).to_numpy()
            place = column.places(values)
            there = (place >= 0) & (place < len(column.values))
            of_rows.append(np.where(there, place + first, -1))
            first += len(column.values)
        return Lines(first, of_rows)

    def _must_be_single(self, keys: pl.Series) -> None:
        if keys.n_unique() == len(keys):
            return
        twice = keys.filter(keys.is_duplicated())
        msg = (
            f"the outcomes of {self.day} have {twice.n_unique():,} keys more than once, such "
            f"as {twice[0]!r}; expected one outcome of a key. Nothing was judged"
        )
        raise SourceError(msg)

    def _as_numbers(self, rows: pl.DataFrame) -> pl.DataFrame:
        """Refuse what is no outcome; a NaN is one that is not known."""
        task, happened = self.spec.task, pl.col(HAPPENED)
        if task == "multiclass":
            label = next(o for o in self.contract.outputs if o.name == self.spec.output)
            assert isinstance(label, Label)
            places = {name: at for at, name in enumerate(label.classes)}
            wrong = happened.is_not_null() & ~happened.is_in(list(places))
            self._must_be_none(rows.filter(wrong), f"one of {quoted(list(places))}")
            return rows.with_columns(
                pl.col(HAPPENED, PREDICTED)
                .cast(pl.String)
                .replace_strict(places, default=None, return_dtype=pl.Int64)
            )
        if task == "ranking":
            return rows
        rows = rows.with_columns(happened.fill_nan(None))
        right = happened.is_in([0.0, 1.0]) if task == "binary" else happened.is_finite()
        expected = "true, false, 1 or 0" if task == "binary" else "a finite number"
        self._must_be_none(rows.filter(happened.is_not_null() & ~right), expected)
        return rows

    def _must_be_none(self, wrong: pl.DataFrame, expected: str) -> None:
        if wrong.is_empty():
            return
        key, value = wrong[self.contract.key.name][0], wrong[HAPPENED][0]
        msg = (
            f"the outcome '{self.spec.value}' of {len(wrong):,} keys of {self.day} is none "
            f"that '{self.spec.output}' can have, such as {value!r} of {key!r}; expected "
            f"{expected}, or null where nobody knows. Nothing was judged"
        )
        raise SourceError(msg)
