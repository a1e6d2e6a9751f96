"""Judge the release against what anybody would try first, on days it did not learn from.

    python -m batch_assets.defs.flights.judge [--first EVENING] [--last EVENING]

Without dates it judges what the README says: the flights of July to December 2013. Flights
that did not arrive have no label and do not count, nor do rows that break the contract.

- AUC: how often a late flight is ranked above one that is not.
- AUC within a day: the same among the flights of one day, averaged over the days.
- log loss: lower is better; it also asks whether the level is right.

Flights of one day are late together, so the intervals resample days and not flights.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from batch_assets.defs.flights.train import (
    CONTRACT,
    DATA,
    TRAINING,
    inputs_of,
    read_days,
)
from batch_assets.errors import ConfigError, ReleaseError
from batch_assets.models.formats import load_module
from batch_assets.models.release import open_release

if TYPE_CHECKING:
    import polars as pl

SECOND_HALF = (date(2013, 6, 30), date(2013, 12, 30))
DRAWS = 1000
MODEL = "this model"


@dataclass(frozen=True)
class Judged:
    """The flights that are judged, and what each way says of them.

    `day` (flights,) is a number for each day from 0, `late` (flights,) 0 or 1, and
    `risks` by name of the way, float64 (flights,).
    """

    day: np.ndarray
    late: np.ndarray
    risks: Mapping[str, np.ndarray]


def auc(risk: np.ndarray, late: np.ndarray, weight: np.ndarray) -> float:
    """Return the weighted share of pairs that are in order, ties counting half."""
    _, place = np.unique(risk, return_inverse=True)
    return auc_of_places(place, late, weight)


def auc_of_places(place: np.ndarray, late: np.ndarray, weight: np.ndarray) -> float:
    """Return the AUC of scores that are known by their place among the distinct ones."""
    above = np.bincount(place, weight * late)
    below = np.bincount(place, weight * (1 - late))
    under = np.cumsum(below) - below / 2
    return float(above @ under / (above.sum() * below.sum()))


def log_loss(risk: np.ndarray, late: np.ndarray) -> np.ndarray:
    """Return the log loss of each flight, float64 (flights,)."""
    kept = np.clip(risk, 1e-6, 1 - 1e-6)
    return -(late * np.log(kept) + (1 - late) * np.log1p(-kept))


def within_days(risk: np.ndarray, judged: Judged) -> np.ndarray:
    """Return the AUC of each day, NaN for one whose flights are all late or none is."""
    found = []
    for day in range(judged.day.max() + 1):
        these = judged.day == day
        mixed = 0 < judged.late[these].sum() < these.sum()
        one = np.ones(these.sum())
        found.append(
            auc(risk[these], judged.late[these], one) if mixed else float("nan")
        )
    return np.array(found)


Measures = dict[str, np.ndarray]


def measured(judged: Judged, draws: int) -> dict[str, Measures]:
    """Return for each way its measures, of all days first and then of each draw of days."""
    days = judged.day.max() + 1
    dice = np.random.default_rng(0)
    drawn = dice.multinomial(days, np.full(days, 1 / days), size=draws)
    counts = np.vstack([np.ones(days), drawn])
    ways = {}
    for name, risk in judged.risks.items():
        _, place = np.unique(risk, return_inverse=True)
        of_day = within_days(risk, judged)
        mixed = np.isfinite(of_day)
        loss = np.bincount(judged.day, log_loss(risk, judged.late))
        flights = np.bincount(judged.day)
        ways[name] = {
            "AUC": np.array(
                [auc_of_places(place, judged.late, c[judged.day]) for c in counts]
            ),
            "AUC within a day": counts[:, mixed]
            @ of_day[mixed]
            / counts[:, mixed].sum(axis=1),
            "log loss": (counts @ loss) / (counts @ flights),
        }
    return ways


def averages(data: Path) -> pl.DataFrame:
    """Read each flight's `day` and `flight_id` with both averages of its carrier and hour.

    `fixed` is of the days of the training, `trailing` of the 28 days before the evening,
    with 20 flights more at the rate of all.
    """
    import duckdb

    first, last = TRAINING
    query = f"""
        WITH f AS (
            SELECT *, (date - 1)::DATE AS day, sched_dep_time // 100 AS hour,
                (arr_delay > 15)::INTEGER AS late
            FROM '{data}/flights.parquet'
        ),
        learned AS (FROM f WHERE late IS NOT NULL AND day BETWEEN $first AND $last),
        base AS (SELECT avg(late) AS base FROM learned),
        fixed AS (
            SELECT carrier, hour, (sum(late) + 20 * any_value(base)) / (20 + count(*)) AS fixed
            FROM learned CROSS JOIN base GROUP BY carrier, hour
        ),
        evenings AS (SELECT DISTINCT day FROM f),
        overall AS (
            SELECT e.day, avg(late) AS rate FROM evenings AS e JOIN f
                ON f.date BETWEEN e.day - 28 AND e.day - 1 GROUP BY e.day
        ),
        recent AS (
            SELECT e.day, f.carrier, f.hour, sum(late) AS late, count(late) AS flights
            FROM evenings AS e JOIN f ON f.date BETWEEN e.day - 28 AND e.day - 1
            GROUP BY e.day, f.carrier, f.hour
        )
        SELECT
            f.day,
            format('{{}}{{}}-{{}}-{{:04d}}', f.carrier, f.flight, f.origin,
                   f.sched_dep_time) AS flight_id,
            base.base,
            coalesce(fixed.fixed, base.base) AS fixed,
            (coalesce(t.late, 0) + 20 * rate) / (20 + coalesce(t.flights, 0)) AS recent
        FROM f CROSS JOIN base
        LEFT JOIN fixed USING (carrier, hour)
        LEFT JOIN overall USING (day)
        LEFT JOIN recent AS t
            ON t.day = f.day AND t.carrier = f.carrier AND t.hour = f.hour
    """
    import polars as pl

    with duckdb.connect() as connection:
        found = connection.sql(query, params={"first": first, "last": last})
        return pl.from_arrow(found.to_arrow_table())


def read_judged(first: date, last: date, data: Path, release: Path) -> Judged:
    """Read the flights of the evenings, and what the release and its rivals say of them.

    Raises:
        ConfigError: there is nothing to judge, or nothing to compare it with.
        ReleaseError: the release was not trained on these features.
    """
    import polars as pl
    import torch

    opened = open_release(release)
    if opened.contract != CONTRACT:
        msg = (
            f"release {opened.name} {opened.short} has another contract than train.py: "
            "judge it with the train.py that wrote it, or train it again"
        )
        raise ReleaseError(msg)
    if last < first:
        msg = f"the last evening, {last}, is before the first, {first}: swap them"
        raise ConfigError(msg)
    if first < TRAINING[0]:
        msg = (
            f"the first evening is {first}, and 28 whole days lie before those from "
            f"{TRAINING[0]} on: begin there"
        )
        raise ConfigError(msg)
    rows = read_days(first, last, data).filter(pl.col("late").is_not_null())
    if rows.is_empty():
        msg = (
            f"no flight arrived on the days after {first} to {last}, expected one or "
            "more: name evenings between 2013-01-29 and 2013-12-30"
        )
        raise ConfigError(msg)
    rows = rows.join(
        averages(data), on=["day", "flight_id"], how="left", maintain_order="left"
    )
    module = load_module(opened, torch.device("cpu"))
    with torch.inference_mode():
        risk = module(inputs_of(rows))[:, 0].double().numpy()
    _, day = np.unique(rows["day"].to_numpy(), return_inverse=True)
    return Judged(
        day=day,
        late=rows["late"].to_numpy().astype(float),
        risks={
            "base rate of the first half": rows["base"].to_numpy(),
            "averages by carrier and hour": rows["fixed"].to_numpy(),
            "the same over the last 28 days": rows["recent"].to_numpy(),
            MODEL: risk,
        },
    )


def interval(draws: np.ndarray) -> str:
    low, high = np.quantile(draws, [0.025, 0.975])
    return f"{low:+.4f} to {high:+.4f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    as_day: Callable[[str], date] = date.fromisoformat
    parser.add_argument("--first", type=as_day, default=SECOND_HALF[0])
    parser.add_argument("--last", type=as_day, default=SECOND_HALF[1])
    parser.add_argument("--data", type=Path, default=DATA / "nycflights13")
    parser.add_argument("--release", type=Path, default=DATA / "releases/flight_delay")
    args = parser.parse_args()

    judged = read_judged(args.first, args.last, args.data, args.release)
    print(f"{len(judged.late):,} flights, {judged.late.mean():.4f} of them late")
    ways = measured(judged, DRAWS)
    for name, measures in ways.items():
        print(name)
        for measure, values in measures.items():
            less = interval(ways[MODEL][measure][1:] - values[1:])
            print(f"  {measure:18s} {values[0]:.4f}  model less this: {less}")


if __name__ == "__main__":
    main()
