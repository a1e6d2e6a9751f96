"""Train the flights model: does a flight scheduled for tomorrow arrive 15 minutes late?

    python -m batch_assets.defs.flights.train [--out DIR]

It learns from the flights of 2013-01-30 to 2013-06-30, with the features that
`features.sql` gives each evening, and writes a release. May and June were held out
while the settings were chosen; no flight from July on had a part in that. It approves
nothing.

Flights that were cancelled or diverted have no `arr_delay` and so no label: the risk is
that of a flight that does arrive.
"""

from __future__ import annotations

import argparse
from datetime import date, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from batch_assets.models.contract import Contract, Feature, KeySpec
from batch_assets.models.output_specs import Output

if TYPE_CHECKING:
    import polars as pl
    import torch

HERE = Path(__file__).parent
DATA = HERE.parents[2] / "data"

# Evenings, each the one before its flights.
TRAINING = (date(2013, 1, 29), date(2013, 6, 29))

SHARE = {"dtype": "float32", "min": 0, "max": 1}
COUNT = {"dtype": "int16"}
MEASURE = {"dtype": "float32", "nullable": True}

# Ranges are what can be true, not what was seen: a 1,048 mph wind is a broken sensor.
CONTRACT = Contract(
    key=KeySpec(name="flight_id", dtype="string"),
    features=(
        Feature(name="weekday", **COUNT, min=1, max=7),
        Feature(name="hour", **COUNT, min=0, max=23),
        Feature(name="distance", **COUNT, min=50, max=6000),
        Feature(name="day_flights", **COUNT, min=1, max=3000),
        Feature(name="origin_hour_flights", **COUNT, min=1, max=200),
        Feature(name="origin_flights_3h_before", **COUNT, min=0, max=600),
        Feature(name="late_share", **SHARE),
        Feature(name="carrier_late_share", **SHARE),
        Feature(name="origin_late_share", **SHARE),
        Feature(name="dest_late_share", **SHARE),
        Feature(name="origin_hour_late_share", **SHARE),
        Feature(name="carrier_hour_late_share", **SHARE),
        Feature(name="carrier_route_late_share", **SHARE),
        Feature(name="flight_late_share", **SHARE),
        Feature(name="flight_mean_delay", dtype="float32", min=-30, max=90),
        Feature(name="today_late_share", **SHARE, nullable=True),
        Feature(name="origin_today_late_share", **SHARE, nullable=True),
        Feature(name="origin_evening_late_share", **SHARE, nullable=True),
        Feature(name="carrier_today_late_share", **SHARE, nullable=True),
        Feature(name="dest_today_late_share", **SHARE, nullable=True),
        Feature(name="wind_max", **MEASURE, min=0, max=150),
        Feature(name="gust_max", **MEASURE, min=0, max=200),
        Feature(name="visibility_min", **MEASURE, min=0, max=10),
        Feature(name="precip_sum", **MEASURE, min=0, max=20),
        Feature(name="pressure_change", **MEASURE, min=-60, max=60),
        Feature(name="humidity_last", **MEASURE, min=0, max=100),
    ),
    outputs=(Output(name="risk", dtype="float32", min=0, max=1),),
)
WEEKDAY = 0
LATE_SHARE, GROUP_SHARES = 6, slice(7, 14)
PRECIPITATION = 23
# The penalty on the square of each weight, chosen from 300, 1,000 and 3,000.
PENALTY = 1000.0


def read_days(first: date, last: date, data: Path) -> pl.DataFrame:
    """Read every row that keeps the contract, with its `day` and, if known, `late`."""
    import duckdb
    import polars as pl

    con = duckdb.connect()
    for name in ("flights", "weather"):
        con.sql(f"CREATE VIEW {name} AS FROM '{data / name}.parquet'")
    query = (HERE / "features.sql").read_text(encoding="utf-8")
    labelled = f"""
        SELECT $day::DATE AS day, rows.*, flights.arr_delay > 15 AS late
        FROM ({query}) AS rows JOIN flights
          ON flights.date = $day::DATE + 1 AND rows.flight_id = format(
             '{{}}{{}}-{{}}-{{:04d}}', flights.carrier, flights.flight, flights.origin,
             flights.sched_dep_time)
    """
    nights = range((last - first).days + 1)
    rows = pl.concat(
        pl.from_arrow(
            con.sql(labelled, params={"day": first + timedelta(n)}).to_arrow_table()
        )
        for n in nights
    )
    kept = [
        pl.col(f.name).is_between(f.min, f.max) | pl.col(f.name).is_null()
        for f in CONTRACT.features
        if f.min is not None
    ]
    # The query promises no order, and training depends on it.
    return rows.filter(kept).sort("day", "flight_id")


def inputs_of(rows: pl.DataFrame) -> torch.Tensor:
    """Return what the model is given: float32 (rows, features), and NaN for null."""
    import polars as pl
    import torch

    columns = [pl.col(f.name).cast(pl.Float32) for f in CONTRACT.features]
    floats = rows.select(c.fill_null(np.nan) for c in columns)
    return torch.from_numpy(np.ascontiguousarray(floats.to_numpy()))


def build(inputs: torch.Tensor) -> torch.nn.Module:
    """Build an unfitted logistic regression that knows the mean and spread of its terms."""
    import torch
    from torch import nn

    class FlightRisk(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            values = self.values(inputs).double()
            mean = values.nanmean(dim=0)
            spread = (values - mean).square().nanmean(dim=0).sqrt()
            self.register_buffer("mean", mean.float())
            self.register_buffer("spread", spread.float())
            self.linear = nn.Linear(len(mean), 1)

        @staticmethod
        def values(rows: torch.Tensor) -> torch.Tensor:
            """Return the terms as they are: float32 (rows, terms), NaN where unknown."""
            # In log-odds a group's lateness adds to the overall one: in a month that is
            # more punctual than any of the training's, the same weights still hold.
            level = rows[:, LATE_SHARE : LATE_SHARE + 1].logit(eps=1e-3)
            groups = rows[:, GROUP_SHARES].logit(eps=1e-3) - level
            weekday = rows[:, WEEKDAY : WEEKDAY + 1]
            days = [(weekday == day).float() for day in range(1, 8)]
            rain = rows[:, PRECIPITATION : PRECIPITATION + 1].sqrt()
            rest = [
                rows[:, WEEKDAY + 1 : LATE_SHARE],
                rows[:, GROUP_SHARES.stop : PRECIPITATION],
                rows[:, PRECIPITATION + 1 :],
            ]
            return torch.cat([level, groups, *days, rain, *rest], dim=1)

        def terms(self, rows: torch.Tensor) -> torch.Tensor:
            """Return what is weighed: an unknown is as the mean, no term beyond 5 spreads."""
            scaled = (self.values(rows) - self.mean) / self.spread
            return scaled.masked_fill(scaled.isnan(), 0.0).clamp(-5, 5)

        def forward(self, rows: torch.Tensor) -> torch.Tensor:
            return self.linear(self.terms(rows)).sigmoid()

    return FlightRisk()


def train(inputs: torch.Tensor, late: torch.Tensor) -> torch.nn.Module:
    """Fit by Newton's method; the same inputs give the same weights on the same machine.

    Args:
        inputs: float32 (rows, features).
        late: float32 (rows,), 1 for a flight that arrived late.
    """
    import torch

    torch.set_num_threads(1)
    module = build(inputs)
    terms = module.terms(inputs).double()
    terms = torch.cat([terms, torch.ones(len(terms), 1, dtype=torch.float64)], dim=1)
    penalty = torch.full((terms.shape[1],), PENALTY, dtype=torch.float64)
    penalty[-1] = 0.0  # the intercept is what it is
    weights = torch.zeros_like(penalty)
    for _ in range(8):
        risk = (terms @ weights).sigmoid()
        slope = terms.T @ (late - risk) - penalty * weights
        curvature = (terms * (risk * (1 - risk))[:, None]).T @ terms + penalty.diag()
        weights += torch.linalg.solve(curvature, slope)
    with torch.no_grad():
        module.linear.weight.copy_(weights[None, :-1])
        module.linear.bias.copy_(weights[-1:])
    return module.eval()


def main() -> None:
    import torch

    from batch_assets.models.writing import write_release

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=DATA / "nycflights13")
    parser.add_argument("--out", type=Path, default=DATA / "releases/flight_delay")
    args = parser.parse_args()

    rows = read_days(*TRAINING, args.data)
    inputs = inputs_of(rows)
    known = rows["late"].is_not_null().to_torch()
    late = rows["late"].drop_nulls().to_torch().float()
    module = train(inputs[known], late)
    risk = module(inputs).detach()

    release = write_release(
        args.out,
        name="flight_delay",
        module=module,
        contract=CONTRACT,
        golden_inputs=inputs[torch.arange(64) * (len(inputs) // 64)],
        # A night scores every scheduled flight, so those without a label count here.
        reference={"risk": risk.numpy()},
        reference_days=rows["day"].to_numpy(),
        about={
            "question": "does the flight arrive more than 15 minutes late?",
            "evenings": [day.isoformat() for day in TRAINING],
            "rows": len(late),
            "late_share": round(late.mean().item(), 4),
        },
    )
    print(f"{release.name} {release.short}: {len(late):,} flights, in {args.out}")


if __name__ == "__main__":
    main()
