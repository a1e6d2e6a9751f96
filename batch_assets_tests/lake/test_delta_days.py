"""Which rows of a Delta table are of a day: in the pipeline's zone, or refused by name."""

from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import pyarrow as pa
import pytest
from deltalake import write_deltalake

from batch_assets.errors import SourceError
from batch_assets.lake.sources import DeltaSource
from batch_assets_tests.toys import DAY, context_of

SOURCE = DeltaSource(kind="delta", table="events")
ZONED = pa.timestamp("us", "UTC")
WALL = pa.timestamp("us")


def write(folder: Path, days: pa.Array, **options) -> None:
    rows = pa.table({"user_id": range(len(days)), "day": days})
    write_deltalake(folder / "events", rows, mode="append", **options)


def keys(folder: Path, day: str = DAY, timezone: str = "UTC") -> list[int]:
    with SOURCE.read(context_of(folder, day, timezone=timezone)) as reader:
        return reader.read_all()["user_id"].to_pylist()


def hours(first: datetime, count: int, dtype: pa.DataType) -> pa.Array:
    return pa.array([first + timedelta(hours=h) for h in range(count)], dtype)


@pytest.mark.parametrize("partitioned", [False, True])
@pytest.mark.parametrize("dtype", [ZONED, WALL], ids=str)
def test_a_timestamp_is_of_the_day_whatever_its_hour(tmp_path, dtype, partitioned):
    zone = UTC if dtype.tz else None
    days = hours(datetime(2026, 1, 4, 20, tzinfo=zone), 34, dtype)
    write(tmp_path, days, partition_by=["day"] if partitioned else None)

    assert sorted(keys(tmp_path)) == list(range(4, 28))
    assert sorted(keys(tmp_path, "2026-01-04")) == list(range(4))
    assert sorted(keys(tmp_path, "2026-01-06")) == list(range(28, 34))


@pytest.mark.parametrize("timezone", ["Europe/Oslo", "Asia/Tokyo", "America/New_York"])
def test_an_instant_is_of_the_day_of_the_pipelines_zone(tmp_path, timezone):
    first = datetime(2026, 1, 4, 12, tzinfo=UTC)
    write(tmp_path, hours(first, 60, ZONED))

    found = sorted(keys(tmp_path, timezone=timezone))

    midnight = datetime(2026, 1, 5, tzinfo=ZoneInfo(timezone))
    begin = int((midnight - first) / timedelta(hours=1))
    assert found == list(range(begin, begin + 24))


@pytest.mark.parametrize(("day", "long"), [("2026-03-29", 23), ("2026-10-25", 25)])
def test_a_day_on_which_the_clocks_change_is_as_long_as_it_is(tmp_path, day, long):
    noon = datetime.combine(date.fromisoformat(day), datetime.min.time(), UTC)
    write(tmp_path, hours(noon - timedelta(days=1), 72, ZONED))

    assert len(keys(tmp_path, day, "Europe/Oslo")) == long


def test_a_clock_on_the_wall_is_read_in_no_zone(tmp_path):
    write(tmp_path, hours(datetime(2026, 1, 5), 24, WALL))

    assert len(keys(tmp_path, timezone="Asia/Tokyo")) == 24


@pytest.mark.parametrize(
    "days",
    [
        pa.array([20260105]),
        pa.array([20260105.0]),
        pa.array([True]),
        pa.array([b"2026-01-05"]),
    ],
    ids=lambda days: str(days.type),
)
def test_a_column_that_tells_no_day_is_refused_by_name(tmp_path, days):
    write(tmp_path, days)

    with pytest.raises(SourceError, match=f"'day' is {days.type}, which tells no day"):
        keys(tmp_path)


@pytest.mark.parametrize(
    "stray", [f"{DAY}T13:00", f"{DAY} 13:00:00", f"{DAY}Z", "20260105", "2026-1-5"]
)
def test_text_that_is_no_day_is_refused(tmp_path, stray):
    alike = stray.startswith(DAY)
    write(tmp_path, pa.array([DAY, stray] if alike else [stray, "2026-01-04"]))

    with pytest.raises(SourceError, match=f"holds '{stray}', which is not the day"):
        keys(tmp_path)


def test_text_of_another_day_is_no_reason_to_refuse(tmp_path):
    write(tmp_path, pa.array(["2026-01-04", DAY, "2026-01-06", None]))

    assert keys(tmp_path) == [1]
    assert keys(tmp_path, "2026-01-07") == []
