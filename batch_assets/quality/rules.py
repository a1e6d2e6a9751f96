"""The row rules of a contract, and rows as the model gets them. It reads no file.

Each rule is defined once, as an expression that finds the rows which break it. Most
features are as they should be: which are not is asked of a whole batch first, and only
these are looked at row by row.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import compress

import numpy as np
import polars as pl
import pyarrow as pa

from batch_assets.models.contract import Contract, Feature
from batch_assets.models.input_rows import InputRows, input_columns
from batch_assets.quality.input_rules import InputRules

RULES = "rules"
PLACE = r"(?s)^(.* is not UTF-8) at byte \d+ \(.*$"
NAMED = pl.List(pl.String)
FLOATS = ("float32", "float64")
LARGEST = float(np.finfo(np.float32).max)


@dataclass(frozen=True)
class Split:
    """A batch cut in two: rows for the model, and rows to quarantine with `rules`."""

    good: pl.DataFrame
    bad: pl.DataFrame

    @property
    def counts(self) -> dict[str, int]:
        """How many rows broke each rule; a row may break several."""
        return counts_of(self.bad[RULES]) if len(self.bad) else {}


class RowRules:
    """The rules that each row of a day must keep."""

    def __init__(self, contract: Contract) -> None:
        self._contract = contract
        # Made once: to make them takes as long as to apply them to a few rows.
        self._rules = {f.name: dict(rules_of(f)) for f in contract.features}
        self._screen = [_is_suspect(f).alias(f.name) for f in contract.features]
        self._inputs = [
            field.name for one in contract.inputs for field in one.raw_fields()
        ]
        self._input_rules = InputRules(contract)
        self._as_features = [
            pl.col(contract.key.name),
            *(_as_float32(feature) for feature in contract.features),
        ]

    def split(
        self,
        rows: pl.DataFrame,
        duplicated: pl.Series,
        not_utf8: pl.Series | None = None,
    ) -> Split:
        """Cut a batch of raw rows in two.

        Args:
            rows: raw rows with the contract's columns.
            duplicated: the keys that the day has more than once; each row of them goes
                to quarantine, because nobody can tell which one is right.
            not_utf8: of each row a list of what was not UTF-8, null if all was.
        """
        key = self._contract.key.name
        broken: dict[str, pl.Expr | pl.Series] = {
            f"{feature.name} {rule}": breaks
            for feature in self.suspects(rows)
            for rule, breaks in self._rules[feature.name].items()
        }
        broken[f"{key} is null"] = pl.col(key).is_null()
        twice = pl.col(key).is_in(duplicated.implode()).fill_null(value=False)
        broken[f"{key} is there more than once"] = twice
        for rule, breaks in self._of_inputs(rows):
            broken[rule] = breaks
        marks = rows.select(
            # Bare rules are numbered: a feature may bear any name.
            breaks.alias(str(number))
            for number, breaks in enumerate(broken.values())
        )
        bad = marks.select(pl.any_horizontal(pl.all())).to_series()
        if not_utf8 is not None:
            bad |= not_utf8.is_not_null()
        if not bad.any():
            none = rows.clear().with_columns(pl.lit(None, NAMED).alias(RULES))
            return Split(self.to_features(rows), none)
        # In the order of the features, so that a row's rules always have the same one.
        names = pl.concat_list(
            pl.when(pl.col(str(number))).then(pl.lit(name))
            for number, name in enumerate(broken)
        ).list.drop_nulls()
        named = marks.filter(bad).select(names.alias(RULES)).to_series()
        if not_utf8 is not None:
            found = not_utf8.filter(bad).cast(NAMED)
            named = found.fill_null([]).list.concat(named).alias(RULES)
        quarantined = rows.filter(bad).with_columns(named)
        return Split(self.to_features(rows.filter(~bad)), quarantined)

    def suspects(self, rows: pl.DataFrame) -> list[Feature]:
        """Find the features of which some row may break a rule, from whole columns."""
        if not self._screen:
            return []
        return list(compress(self._contract.features, rows.select(self._screen).row(0)))

    def to_features(self, rows: pl.DataFrame) -> pl.DataFrame:
        """Turn good rows into what the model gets: the key, then float32 in order.

        A category becomes its position in the contract's list, a null becomes NaN. Ids,
        vectors and sequences follow as the model gets them.
        """
        features = rows.select(self._as_features)
        if not self._inputs:
            return features
        prepared = self._input_rules.prepared(rows.select(self._inputs).to_arrow())
        return features.with_columns(
            pl.Series(name, values) for name, values in prepared.items()
        )

    def _of_inputs(self, rows: pl.DataFrame) -> Iterator[tuple[str, pl.Series]]:
        """The rules of ids, vectors and sequences that a row breaks, and which do."""
        if not self._inputs:
            return
        table = rows.select(self._inputs).to_arrow()
        for rule, breaks in self._input_rules.broken(table):
            yield rule, pl.Series(breaks)


def packed(good: pl.DataFrame, contract: Contract) -> InputRows:
    """Return what `to_features` gave as a model's rows: features beside each other.

    Args:
        good: the key, of any type, and validated columns.
        contract: whose they are.
    """
    features = np.empty((len(contract.features), len(good)), np.float32)
    for feature, values in zip(contract.feature_names, features, strict=True):
        values[:] = good[feature].to_numpy()
    if not contract.inputs:
        return InputRows(features)
    fields = [field for one in contract.inputs for field in one.fields()]
    schema = pa.schema(fields)
    table = good.select(schema.names).to_arrow().cast(schema)
    return InputRows(features, input_columns(table, contract))


def rules_of(feature: Feature) -> Iterator[tuple[str, pl.Expr]]:
    """Yield the rules of a feature: what is said of a row that breaks it, and which do.

    An expression gives true where a row breaks the rule, and false elsewhere.
    """
    column = pl.col(feature.name)
    no = pl.lit(value=False)
    # Of a null, nothing else is said than that it is one.
    yield "is null", no if feature.nullable else column.is_null()
    finite = pl.lit(value=True)
    if feature.dtype in FLOATS:
        finite = column.is_finite()
    if feature.dtype == "float64":
        # Cast to what the model gets, it would become infinity after all.
        too_large = finite & (column.abs() > LARGEST)
        yield "is too large for float32", too_large.fill_null(value=False)
    if feature.min is not None:
        yield "is below min", (finite & (column < feature.min)).fill_null(value=False)
    if feature.max is not None:
        yield "is above max", (finite & (column > feature.max)).fill_null(value=False)
    if feature.dtype in FLOATS:
        yield "is infinite", column.is_infinite().fill_null(value=False)
        yield "is NaN", column.is_nan().fill_null(value=False)
    if feature.categories is not None:
        known = column.is_in(list(feature.categories))
        yield "is an unknown category", ~known.fill_null(value=True)


def _is_suspect(feature: Feature) -> pl.Expr:
    """Whether a row of a whole column may break a rule; never false where one does.

    The least and the most of a column take a quarter of the time of looking at each row.
    """
    column = pl.col(feature.name)
    signs = [] if feature.nullable else [column.null_count() > 0]
    if feature.dtype in FLOATS:
        # The sum is neither NaN nor infinite, unless a value is, or all are too large:
        # a fifth of the time of asking each.
        signs.append(~column.sum().is_finite())
    if feature.dtype == "float64":
        signs += [column.min() < -LARGEST, column.max() > LARGEST]
    if feature.min is not None:
        signs.append(column.min() < feature.min)
    if feature.max is not None:
        signs.append(column.max() > feature.max)
    if feature.categories is not None:
        signs.append(~column.is_in(list(feature.categories)).all())
    return pl.any_horizontal(pl.lit(value=False), *signs).fill_null(value=False)


def counts_of(rules: pl.Series) -> dict[str, int]:
    """Count how often each rule is named, in a column of lists of rules.

    Where a text is not UTF-8 is another place in each row, and is not counted apart.
    """
    named = rules.explode().drop_nulls().str.replace(PLACE, "$1")
    return dict(sorted(named.value_counts().iter_rows()))


def _as_float32(feature: Feature) -> pl.Expr:
    column = pl.col(feature.name)
    if feature.categories is not None:
        column = column.cast(pl.Enum(list(feature.categories))).to_physical()
    if feature.dtype != "float32":
        column = column.cast(pl.Float32)
    return column.fill_null(float("nan")) if feature.nullable else column
