"""Faults that a night of the flights may have, put into an ordinary one.

Each takes the night, the night before, and a function that scores rows.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import date

import polars as pl

SPAN = (date(2013, 1, 29), date(2013, 12, 30))
KM, METRES_PER_SECOND = 1.609, 0.447

Fault = Callable[
    [pl.DataFrame, pl.DataFrame, Callable[[pl.DataFrame], pl.DataFrame]], pl.DataFrame
]


def _changed(**columns: pl.Expr) -> Fault:
    """A feature is something else, and the rows are scored with that."""

    def fault(rows, before, scored):
        types = {name: rows.schema[name] for name in columns}
        return scored(
            rows.with_columns(
                value.cast(types[name]).alias(name) for name, value in columns.items()
            )
        )

    return fault


def _risk(value: pl.Expr) -> Fault:
    """The scores are something else."""
    return lambda rows, before, scored: rows.with_columns(
        value.cast(pl.Float32).alias("risk")
    )


def _halved(carrier: str) -> Fault:
    risk = pl.col("risk")
    return _risk(pl.when(pl.col("carrier") == carrier).then(risk / 2).otherwise(risk))


FAULTS: dict[str, Fault] = {
    "a constant feature (hour)": _changed(hour=pl.lit(12)),
    "zeros in a feature (late share of the route)": _changed(
        route_late_share=pl.lit(0.0)
    ),
    "the scores are zero": _risk(pl.lit(0.0)),
    "two columns swapped (hour and minute)": _changed(
        hour=pl.col("minute") % 24, minute=pl.col("hour")
    ),
    "two columns swapped that are alike (late share of route and of flight)": _changed(
        route_late_share=pl.col("flight_late_share"),
        flight_late_share=pl.col("route_late_share"),
    ),
    "the day before again": lambda rows, before, scored: before,
    "another time zone (hours off by 5)": _changed(hour=(pl.col("hour") + 5) % 24),
    "15 % of the rows missing": lambda rows, before, scored: rows.sample(
        fraction=0.85, seed=0
    ),
    "one airport missing (LGA)": lambda rows, before, scored: rows.filter(
        pl.col("origin") != "LGA"
    ),
    "another unit (distance in km)": _changed(distance=pl.col("distance") * KM),
    "another unit (wind in m/s)": _changed(
        wind_max=pl.col("wind_max") * METRES_PER_SECOND
    ),
    "the scores of one carrier halved (UA, 17 %)": _halved("UA"),
    "the scores of one carrier halved (AA, 10 %)": _halved("AA"),
    "the scores of one carrier halved (VX, 2 %)": _halved("VX"),
    "all scores halved": _risk(pl.col("risk") / 2),
}
