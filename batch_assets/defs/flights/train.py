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

CARRIERS = tuple(
    [
        "9E",
        "AA",
        "AS",
        "B6",
        "DL",
        "EV",
        "F9",
        "FL",
        "HA",
        "MQ",
        "OO",
        "UA",
        "US",
        "VX",
        "WN",
        "YV",
    ]
)
ORIGINS = ("EWR", "JFK", "LGA")


SHARE = {"dtype": "float32", "min": 0, "max": 1}
COUNT = {"dtype": "int16"}
MEASURE = {"dtype": "float32", "nullable": True}
PLANE = {"dtype": "int16", "nullable": True}

# Ranges are what can be true, not what was seen: a 1,048 mph wind is a broken sensor.
CONTRACT = Contract(
    key=KeySpec(name="flight_id", dtype="string"),
    features=(
        Feature(name="carrier", dtype="string", categories=CARRIERS),
        Feature(name="origin", dtype="string", categories=ORIGINS),
        Feature(name="hour", **COUNT, min=0, max=23),
        Feature(name="minute", **COUNT, min=0, max=59),
        Feature(name="weekday", **COUNT, min=1, max=7),
        Feature(name="distance", **COUNT, min=50, max=6000),
        Feature(name="origin_hour_flights", **COUNT, min=1, max=200),
        Feature(name="late_share", **SHARE),
        Feature(name="carrier_late_share", **SHARE),
        Feature(name="route_late_share", **SHARE),
        Feature(name="origin_hour_late_share", **SHARE),
        Feature(name="flight_late_share", **SHARE),
        Feature(name="tail_late_share", **SHARE),
        Feature(name="origin_dep_delay", **MEASURE, min=-60, max=1440),
        Feature(name="carrier_dep_delay", **MEASURE, min=-60, max=1440),
        Feature(name="origin_not_departed", **SHARE, nullable=True),
        Feature(name="wind_max", **MEASURE, min=0, max=150),
        Feature(name="gust_max", **MEASURE, min=0, max=200),
        Feature(name="visibility_min", **MEASURE, min=0, max=10),
        Feature(name="precip_sum", **MEASURE, min=0, max=20),
        Feature(name="pressure_change", **MEASURE, min=-60, max=60),
        Feature(name="humidity_last", **MEASURE, min=0, max=100),
        Feature(name="plane_age", **PLANE, min=0, max=80),
        Feature(name="seats", **PLANE, min=1, max=900),
        Feature(name="engines", **PLANE, min=1, max=8),
    ),
    outputs=(Output(name="risk", dtype="float32", min=0, max=1),),
)


def read_days(first: date, last: date, data: Path) -> pl.DataFrame:
    """Read every row that keeps the contract, with its `day` and, if known, `late`."""
    import duckdb
    import polars as pl

    con = duckdb.connect()
    for name in ("flights", "weather", "planes"):
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
    """Return what the model is given: positions of categories, and NaN for null."""
    import polars as pl
    import torch

    columns = [
        pl.col(f.name).cast(pl.Enum(f.categories)).to_physical()
        if f.categories
        else pl.col(f.name)
        for f in CONTRACT.features
    ]
    floats = rows.select(c.cast(pl.Float32).fill_null(np.nan) for c in columns)
    return torch.from_numpy(np.ascontiguousarray(floats.to_numpy()))


def build(inputs: torch.Tensor) -> torch.nn.Module:
    """Build an untrained network that knows the mean, spread and gaps of its inputs."""
    import torch
    from torch import nn

    class FlightRisk(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            numbers = inputs[:, 2:].double()
            mean = numbers.nanmean(dim=0)
            spread = (numbers - mean).square().nanmean(dim=0).sqrt()
            gaps = numbers.isnan().any(dim=0).nonzero()[:, 0]
            self.register_buffer("mean", mean.float())
            self.register_buffer("spread", spread.float())
            self.register_buffer("gaps", gaps)
            self.register_buffer("carriers", torch.arange(float(len(CARRIERS))))
            self.register_buffer("origins", torch.arange(float(len(ORIGINS))))
            width = len(CARRIERS) + len(ORIGINS) + len(mean) + len(gaps)
            # Flights share their evening: 150 evenings are few, hence small and noisy.
            self.layers = nn.Sequential(
                nn.Linear(width, 32), nn.ReLU(), nn.Dropout(0.5), nn.Linear(32, 1)
            )

        def forward(self, rows: torch.Tensor) -> torch.Tensor:
            carrier = (rows[:, 0:1] == self.carriers).float()
            origin = (rows[:, 1:2] == self.origins).float()
            numbers = (rows[:, 2:] - self.mean) / self.spread
            missing = numbers.isnan()
            # Nothing is further out than 5 spreads, so no input runs away with the sum.
            numbers = numbers.masked_fill(missing, 0.0).clamp(-5, 5)
            gaps = missing.index_select(1, self.gaps).float()
            seen = torch.cat([carrier, origin, numbers, gaps], dim=1)
            return self.layers(seen).sigmoid()

    return FlightRisk()


def train(inputs: torch.Tensor, late: torch.Tensor) -> torch.nn.Module:
    """Train; the same inputs give the same weights on the same machine and torch."""
    import torch

    torch.manual_seed(0)
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    epochs, batch, rate = 3, 1024, 3e-3
    steps = epochs * -(-len(inputs) // batch)
    module = build(inputs)
    optimizer = torch.optim.AdamW(module.parameters(), lr=rate, weight_decay=1.0)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=steps)
    for _ in range(epochs):
        for chosen in torch.randperm(len(inputs)).split(batch):
            risk = module(inputs[chosen])[:, 0]
            loss = torch.nn.functional.binary_cross_entropy(risk, late[chosen])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
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
