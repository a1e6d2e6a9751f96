"""The row rules of a contract, and rows as the model gets them. It reads no file.

dataframely applies the rules; here they only get names that a person can act on. It
costs several times a bare expression, and most features are as they should be: which are
not is asked first, and it gets these alone.
"""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import compress
from operator import not_
from typing import Any

import dataframely as dy
import numpy as np
import polars as pl

from batch_assets.models.contract import Contract, Feature

# No feature can bear a name with a space, so these can't clash with one, nor can a
# feature named `filter` with what dataframely's schemas are made of.
UNIQUE = "key is unique"
OWN = "column "
AT = "row number"
NAMES = {
    "nullability": "is null",
    "nan": "is NaN",
    "inf": "is infinite",
    "min": "is below min",
    "max": "is above max",
    "category": "is an unknown category",
    "once": "is there more than once",
    "float32": "is too large for float32",
}
RULES = "rules"
NAMED = pl.List(pl.String)
LARGEST = float(np.finfo(np.float32).max)


@dataclass(frozen=True)
class Split:
    """A batch cut in two: rows for the model, and rows to quarantine with `rules`."""

    good: pl.DataFrame
    bad: pl.DataFrame

    @property
    def counts(self) -> dict[str, int]:
        """Count the rows that broke each rule; a row may break several."""
        return counts_of(self.bad[RULES]) if len(self.bad) else {}


class RowRules:
    """The rules that each row of a day must keep."""

    def __init__(self, contract: Contract) -> None:
        self._contract = contract
        # Made once: to make them takes as long as to apply them to a few rows.
        self._kept = [
            _kept(feature).alias(feature.name) for feature in contract.features
        ]
        self._as_features = [
            pl.col(contract.key.name),
            *(_as_float32(feature) for feature in contract.features),
        ]

    def split(self, rows: pl.DataFrame, duplicated: pl.Series) -> Split:
        """Cut a batch of raw rows in two.

        Args:
            rows: raw rows with the contract's columns.
            duplicated: the keys that the day has more than once; each row of them goes
                to quarantine, because nobody can tell which one is right.
        """
        broken = self.broken(rows)
        keys = rows[self._contract.key.name]
        unique = ~keys.is_in(duplicated.implode()).fill_null(value=False)
        if not broken and not keys.null_count() and unique.all():
            bad = rows.clear().with_columns(pl.lit(None, NAMED).alias(RULES))
            return Split(self.to_features(rows), bad)
        marked = rows.select(
            pl.col(keys.name).alias(OWN + keys.name),
            *(pl.col(feature.name).alias(OWN + feature.name) for feature in broken),
            unique.alias(UNIQUE),
            pl.int_range(pl.len(), dtype=pl.Int64).alias(AT),
        )
        good, failure = self._schema_of(broken).filter(marked)
        details, counts = failure.details(), failure.counts()
        # In the order of the columns, so that a row's rules always have the same one.
        named = [
            self._named(rule, counts) for rule in details.columns if rule in counts
        ]
        none = pl.repeat(None, pl.len(), dtype=pl.String)
        rules = pl.concat_list(none, *named).list.drop_nulls()
        bad = rows[details[AT]].with_columns(details.select(rules.alias(RULES)))
        return Split(self.to_features(rows[good[AT]]), bad)

    def broken(self, rows: pl.DataFrame) -> list[Feature]:
        """Find the features of which some row breaks a rule, for less than dataframely."""
        kept = rows.select(self._kept).row(0)
        return list(compress(self._contract.features, map(not_, kept)))

    def to_features(self, rows: pl.DataFrame) -> pl.DataFrame:
        """Turn good rows into what the model gets: the key, then float32 in contract order.

        A category becomes its position in the contract's list, a null becomes NaN.
        """
        return rows.select(self._as_features)

    def _schema_of(self, features: list[Feature]) -> type[dy.Schema]:
        """Write the rules of these features and of the key as dataframely has them."""
        columns = {OWN + feature.name: _column(feature) for feature in features}
        columns[OWN + self._contract.key.name] = _key_column(self._contract)
        columns[UNIQUE] = dy.Bool(check={"once": lambda column: column})
        columns[AT] = dy.Int64()
        return type("RowRules", (dy.Schema,), columns)

    def _named(self, rule: str, counts: dict[str, int]) -> pl.Expr:
        column, _, kind = rule.partition("|")
        kind = kind.removeprefix("check__")
        broken = pl.col(rule) == "invalid"
        if kind in ("min", "max"):
            # NaN and infinity are out of any range: name the cause once.
            for cause in (f"{column}|nan", f"{column}|inf"):
                if cause in counts:
                    broken &= pl.col(cause) != "invalid"
        name = self._contract.key.name if column == UNIQUE else column[len(OWN) :]
        return pl.when(broken).then(pl.lit(f"{name} {NAMES[kind]}"))


def counts_of(rules: pl.Series) -> dict[str, int]:
    """Count how often each rule is named, in a column of lists of rules."""
    return dict(sorted(rules.explode().drop_nulls().value_counts().iter_rows()))


def _key_column(contract: Contract) -> dy.Column:
    if contract.key.dtype == "int64":
        return dy.Int64(nullable=False)
    return dy.String(nullable=False)


def _column(feature: Feature) -> dy.Column:
    null, low, high = feature.nullable, feature.min, feature.max
    match feature.dtype:
        case "string":
            known = list(feature.categories or ())
            is_known: Callable[[pl.Expr], pl.Expr] = lambda c: c.is_in(known)  # noqa: E731
            return dy.String(nullable=null, check={"category": is_known})
        case "bool":
            return dy.Bool(nullable=null)
        case "float32":
            return dy.Float32(
                nullable=null, min=low, max=high, allow_inf=False, allow_nan=False
            )
        case "float64":
            return dy.Float64(
                nullable=null,
                min=low,
                max=high,
                allow_inf=False,
                allow_nan=False,
                # Cast to what the model gets, it would become infinity after all.
                check={"float32": lambda c: ~c.is_finite() | (c.abs() <= LARGEST)},
            )
        case _:
            integers: dict[str, Any] = {
                "int8": dy.Int8,
                "int16": dy.Int16,
                "int32": dy.Int32,
                "int64": dy.Int64,
            }
            checks: dict[str, Callable[[pl.Expr], pl.Expr]] = {}
            # dataframely's own bounds must fit the integer type; a contract's need not.
            if low is not None:
                checks["min"] = lambda c: c >= low
            if high is not None:
                checks["max"] = lambda c: c <= high
            return integers[feature.dtype](nullable=null, check=checks or None)


def _kept(feature: Feature) -> pl.Expr:
    """Ask whether a column keeps the rules of a feature: true or false, never null."""
    column = pl.col(feature.name)
    rules = [pl.lit(value=True) if feature.nullable else column.null_count() == 0]
    if feature.dtype in ("float32", "float64"):
        rules.append(column.is_finite().all())
    if feature.dtype == "float64":
        rules.append((column.abs().max() <= LARGEST).fill_null(value=True))
    if feature.min is not None:
        rules.append((column.min() >= feature.min).fill_null(value=True))
    if feature.max is not None:
        rules.append((column.max() <= feature.max).fill_null(value=True))
    if feature.dtype == "string":
        rules.append(column.is_in(list(feature.categories or ())).all())
    return pl.all_horizontal(rules)


def _as_float32(feature: Feature) -> pl.Expr:
    column = pl.col(feature.name)
    if feature.categories is not None:
        column = column.cast(pl.Enum(list(feature.categories))).to_physical()
    if feature.dtype != "float32":
        column = column.cast(pl.Float32)
    return column.fill_null(float("nan")) if feature.nullable else column
