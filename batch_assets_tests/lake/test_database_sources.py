"""Databases: a query, streamed by a driver of ADBC, in the types of the contract."""

import errno
import multiprocessing
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import psycopg
import pyarrow as pa
import pytest
from psycopg import conninfo

from batch_assets.errors import (
    BatchAssetsError,
    ConfigError,
    ContractError,
    EmptySourceError,
    SourceError,
)
from batch_assets.lake.day_run import DayRun
from batch_assets.lake.raw import Copied, RawSettings, copy_day
from batch_assets.lake.sources import AdbcSource, PostgresSource
from batch_assets.lake.sources.query_file import with_day
from batch_assets.lake.tables import Lake
from batch_assets.quality.performance.columns import check_outcomes
from batch_assets_tests.lake.test_sources import peak_bytes
from batch_assets_tests.servers import PASSWORD, Server, free_port
from batch_assets_tests.source_kinds import DSN, fill, put_adbc
from batch_assets_tests.steps import take
from batch_assets_tests.toys import (
    DAY,
    context_of,
    copying,
    make_contract,
    make_rows,
    read_day,
    validate,
)

WANTED = pa.schema({"user_id": pa.int64(), "x": pa.float32(), "plan": pa.string()})
NEXT = "2026-01-06"


@pytest.fixture
def server(postgres_here: Server, monkeypatch: pytest.MonkeyPatch) -> Server:
    monkeypatch.setenv(DSN, postgres_here.url)
    return postgres_here


@pytest.fixture
def connection(server: Server) -> Iterator[psycopg.Connection]:
    with psycopg.connect(server.url, autocommit=True) as connection:
        yield connection


def postgres(folder: Path, text: str, **options: Any) -> PostgresSource:
    (folder / "features.sql").write_text(text, encoding="utf-8")
    options = {"kind": "postgres", "query": "features.sql", "dsn_env": DSN} | options
    return PostgresSource(**options)


def duck(folder: Path, text: str, **options: Any) -> AdbcSource:
    (folder / "features.sql").write_text(text, encoding="utf-8")
    driver = {"driver": "adbc_driver_duckdb", "entrypoint": "duckdb_adbc_init"}
    return AdbcSource(kind="adbc", query="features.sql", **driver | options)


def rows_of(
    source: Any,
    folder: Path,
    *,
    wanted: pa.Schema | None = None,
    timezone: str = "UTC",
    day: str = DAY,
) -> list[dict]:
    context = replace(context_of(folder, day, timezone=timezone), columns=wanted)
    with source.read(context) as reader:
        return reader.read_all().to_pylist()


@pytest.mark.parametrize(
    ("text", "filled"),
    [
        ("d = $day", "d = CAST('2026-01-05' AS DATE)"),
        ("$day::text || $day", "CAST('2026-01-05' AS DATE)::text || CAST('2026-01-05' AS DATE)"),
        ("'$day' || 'it''s $day' || E'\\'$day'", None),
        ('"$day" -- $day\n /* $day */', None),
        ("$$ $day $$ $a$ $day $a$", None),
        ("$days + $da", None),
    ],
)  # fmt: skip
def test_the_day_is_filled_in_where_a_parameter_may_stand(text, filled):
    assert with_day(text, DAY) == (filled or text, filled is not None)


def test_every_type_of_postgres_is_what_the_contract_says(server, tmp_path):
    wanted = pa.schema(
        {
            "user_id": pa.int64(),
            "small": pa.int8(),
            "narrow": pa.int16(),
            "x": pa.float32(),
            "y": pa.float64(),
            "whole": pa.float32(),
            "on": pa.bool_(),
            "plan": pa.string(),
            "none": pa.string(),
            "seen": pa.list_(pa.int64()),
            "names": pa.list_(pa.string()),
            "raw": pa.binary(),
        }
    )
    text = """
        SELECT 9007199254740993 AS user_id, 7::smallint AS small, 300 AS narrow,
            0.1::real AS x, 0.1::float8 AS y, 5::smallint AS whole, true AS "on",
            'ø'::varchar(9) AS plan, NULL AS none, ARRAY[1, 2]::int[] AS seen,
            ARRAY['a', NULL] AS names, '\\x00ff'::bytea AS raw
    """

    (row,) = rows_of(postgres(tmp_path, text), tmp_path, wanted=wanted)

    assert row == {
        "user_id": 2**53 + 1,
        "small": 7,
        "narrow": 300,
        "x": pa.scalar(0.1, pa.float32()).as_py(),
        "y": 0.1,
        "whole": 5.0,
        "on": True,
        "plan": "ø",
        "none": None,
        "seen": [1, 2],
        "names": ["a", None],
        "raw": b"\x00\xff",
    }


@pytest.mark.parametrize(
    ("value", "dtype", "said"),
    [
        ("1.5::numeric", pa.int64(), 'numeric, expected int64: CAST("v" AS bigint) AS "v", which rounds'),
        ("1.5::numeric", pa.float32(), 'numeric, expected float32: CAST("v" AS real) AS "v"'),
        ("1.5::float8", pa.float32(), 'float8, expected float32: CAST("v" AS real) AS "v"'),
        ("1::int8", pa.float64(), 'int8, expected float64: CAST("v" AS double precision)'),
        ("gen_random_uuid()", pa.string(), 'uuid, expected string: CAST("v" AS text) AS "v"'),
        ("'{}'::jsonb", pa.string(), 'jsonb, expected string: CAST("v" AS text) AS "v"'),
        ("now()", pa.int64(), "timestamptz, expected int64: compute a value from it"),
        ("ARRAY[1.5]", pa.list_(pa.float32()), 'expected list of float32: CAST("v" AS real[]) AS "v"'),
        ("1", pa.bool_(), 'int4, expected bool: CAST("v" AS boolean) AS "v"'),
        ("'7'", pa.int64(), 'text, expected int64: CAST("v" AS bigint) AS "v"'),
        ("1", pa.string(), 'int4, expected string: CAST("v" AS text) AS "v"'),
    ],
)  # fmt: skip
def test_a_column_that_has_to_be_cast_is_told_with_the_cast(
    server, tmp_path, value, dtype, said
):
    wanted = pa.schema({"v": dtype})
    source = postgres(tmp_path, f"SELECT {value} AS v")

    with pytest.raises(ContractError) as refused:
        rows_of(source, tmp_path, wanted=wanted)

    assert "nothing was read; cast them there:\n- 'v' is " in str(refused.value)
    assert said in str(refused.value)


@pytest.mark.parametrize(
    ("value", "dtype"),
    [
        ("1.6::numeric", pa.int64()),
        ("gen_random_uuid()", pa.string()),
        ("ARRAY[1.5]", pa.list_(pa.float32())),
        ("'7'", pa.int64()),
    ],
)
def test_the_cast_that_is_told_works(server, tmp_path, value, dtype):
    wanted = pa.schema({"v": dtype})
    with pytest.raises(ContractError) as refused:
        rows_of(postgres(tmp_path, f"SELECT {value} AS v"), tmp_path, wanted=wanted)
    cast = str(refused.value).rpartition(": ")[2].partition(", which")[0]

    source = postgres(tmp_path, f"SELECT {cast} FROM (SELECT {value} AS v) AS q")

    assert len(rows_of(source, tmp_path, wanted=wanted)) == 1


def test_text_of_a_database_without_an_encoding_is_quarantined_row_by_row(
    connection, server, lake, tmp_path, monkeypatch
):
    connection.execute(
        "CREATE DATABASE plain ENCODING 'SQL_ASCII' LC_COLLATE 'C' LC_CTYPE 'C' "
        "TEMPLATE template0"
    )
    monkeypatch.setenv(DSN, conninfo.make_conninfo(server.url, dbname="plain"))
    text = """
        SELECT id AS user_id, convert_from(plan, 'SQL_ASCII') AS plan
        FROM (VALUES (1::bigint, '\\x66726565'::bytea), (2, '\\x66ff'), (3, NULL)) AS t (id, plan)
    """
    contract = make_contract(
        features=[{"name": "plan", "dtype": "string", "categories": ["free"]}]
    )

    take(lake, postgres(tmp_path, text), context_of(tmp_path), **copying(contract))
    validate(lake, contract=contract)

    found = read_day(lake, "quarantined_rows").to_pylist()
    assert [(row["user_id"], row["plan"], row["rules"][0]) for row in found] == [
        (2, "f\ufffd", "plan is not UTF-8 at byte 1 (ff)"),
        (3, None, "plan is null"),
    ]


def test_a_whole_number_that_does_not_fit_stops_the_night(server, tmp_path):
    source = postgres(tmp_path, "SELECT 128 AS v")

    with pytest.raises(SourceError, match=r"column 'v' holds .* int8: .*128 not in"):
        rows_of(source, tmp_path, wanted=pa.schema({"v": pa.int8()}))


def test_a_day_of_postgres_is_cut_in_the_pipelines_zone_and_only_read(server, tmp_path):
    text = """
        SELECT ('2026-01-05T23:30+00'::timestamptz)::date = $day AS today,
            current_setting('transaction_isolation') AS isolation,
            current_setting('transaction_read_only') AS reads
    """
    source = postgres(tmp_path, text)

    utc = rows_of(source, tmp_path)
    oslo = rows_of(source, tmp_path, timezone="Europe/Oslo")

    assert utc == [{"today": True, "isolation": "repeatable read", "reads": "on"}]
    assert oslo[0]["today"] is False


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("SELECT nope FROM nowhere", 'relation "nowhere" does not exist'),
        ("DELETE FROM users_to_keep", "read-only transaction"),
        ("SELECT 1; SELECT 2", "multiple commands"),
        ("SELECT $1", "there is no parameter"),
        ("", "failed for 2026-01-05"),
        ("SELECT 1 / (900000 - g) AS v FROM generate_series(1, 1000000) g", "division by zero"),
    ],
)  # fmt: skip
def test_a_query_that_postgres_refuses_is_named_with_its_words(
    connection, tmp_path, text, error
):
    connection.execute("CREATE TABLE IF NOT EXISTS users_to_keep (id bigint)")
    source = postgres(tmp_path, text)

    with pytest.raises(SourceError, match=f"features.sql can't be run: .*{error}"):
        rows_of(source, tmp_path)


@pytest.mark.parametrize(
    ("dsn", "said"),
    [
        ("postgresql://owner:hunter2@127.0.0.1:{port}/postgres", "password authentication failed"),
        ("postgresql://owner:hunter2@127.0.0.1:{free}/postgres", "Connection refused"),
        ("host=127.0.0.1 port={free} password=hunter2", "Connection refused"),
        ("postgresql://owner:hunter2%zz@127.0.0.1/postgres", "no address"),
        ("postgresql//owner:hunter2@127.0.0.1/postgres", "no address"),
        ("postgresql://owner:hun@hunter2@nowhere.invalid/postgres", "no address"),
    ],
)  # fmt: skip
def test_a_postgres_that_is_not_reached_is_named_without_its_password(
    server, tmp_path, monkeypatch, dsn, said
):
    monkeypatch.setenv(DSN, dsn.format(port=server.port, free=free_port()))
    source = postgres(tmp_path, "SELECT 1 AS user_id")

    with pytest.raises(SourceError) as refused:
        rows_of(source, tmp_path)

    assert f"the PostgreSQL at {DSN} can't be reached: " in str(refused.value)
    assert said in str(refused.value)
    chain = f"{refused.value!r} {refused.value.__cause__!r}"
    assert "hunter2" not in chain


def test_a_variable_that_is_not_set_is_named(tmp_path, monkeypatch):
    monkeypatch.delenv(DSN, raising=False)
    source = postgres(tmp_path, "SELECT 1 AS user_id")

    for asked in (source.identity, lambda context: rows_of(source, tmp_path)):
        with pytest.raises(ConfigError, match=DSN):
            asked(context_of(tmp_path))


def test_what_a_database_is_known_by_holds_no_secret(server, tmp_path, monkeypatch):
    source = postgres(tmp_path, "SELECT $day AS d")
    first = source.identity(context_of(tmp_path))
    told = f"{first} {source.read_from()} {source.model_dump()}"
    assert PASSWORD not in told
    assert "127.0.0.1" not in told

    # Another password is the same database, another database is another.
    monkeypatch.setenv(DSN, server.url.replace(PASSWORD, "another"))
    assert source.identity(context_of(tmp_path)) == first
    monkeypatch.setenv(DSN, server.url.replace("/postgres", "/other"))
    assert source.identity(context_of(tmp_path)) != first


def peak_rise(folder: Path, rows: int, rises: Any) -> None:
    """How many bytes the process grows by while it streams; run in a spawned one."""
    text = (
        "SELECT g AS user_id, g::float8 AS a, g::float8 AS b, g::float8 AS c "
        "FROM generate_series(1, {}) g WHERE $day > '2026-01-01'"
    )
    rows_of(postgres(folder, text.format(1000)), folder)
    source = postgres(folder, text.format(rows))
    before = peak_bytes()
    with source.read(context_of(folder)) as reader:
        found = sum(len(batch) for batch in reader)
    rises.put((found, peak_bytes() - before))


@pytest.mark.skipif(
    not Path("/proc/self/status").exists(), reason="peak memory is read from /proc"
)
def test_a_result_is_streamed_and_never_held_whole(server, tmp_path):
    """Three million rows of four columns are 96 MB; with a bound day it was 400."""
    context = multiprocessing.get_context("spawn")
    rises = context.Queue()
    worker = context.Process(target=peak_rise, args=(tmp_path, 3_000_000, rises))

    worker.start()
    found, rise = rises.get(timeout=60)
    worker.join()

    assert found == 3_000_000
    assert rise < 96_000_000 / 2


def test_history_is_whether_the_day_is_asked_for(tmp_path):
    assert postgres(tmp_path, "SELECT $day").keeps_history(tmp_path)
    assert not postgres(tmp_path, "SELECT 1 -- $day").keeps_history(tmp_path)
    declared = postgres(tmp_path, "SELECT '$day'", history="days")
    with pytest.raises(SourceError, match="never uses .day"):
        declared.keeps_history(tmp_path)
    assert not postgres(tmp_path, "SELECT $day", history="none").keeps_history(tmp_path)


def take_users(lake: Lake, folder: Path, **changes: Any) -> Copied:
    source = postgres(folder, "SELECT * FROM taken_users WHERE $day <= '2026-02-01'")
    return take(lake, source, context_of(folder), **copying(make_contract()) | changes)


def test_rows_of_a_database_are_read_once_until_they_are_asked_for_anew(
    connection, lake, tmp_path
):
    fill(connection, "taken_users", make_rows(50))
    first = take_users(lake, tmp_path)
    fill(connection, "taken_users", make_rows(60, seed=1))

    again = take_users(lake, tmp_path)
    forced = take_users(lake, tmp_path, force=True)
    after = take_users(lake, tmp_path)

    assert (first.unchanged, again.unchanged) == (False, True)
    assert again.job == first.job
    assert (forced.unchanged, forced.total.rows) == (False, 60)
    assert forced.job not in (first.job, None)
    assert forced.forced_at is None
    assert (after.unchanged, after.job) == (True, forced.job)


def test_a_damaged_copy_is_read_anew_as_another_job(connection, lake, tmp_path):
    fill(connection, "taken_users", make_rows(50))
    first = take_users(lake, tmp_path)
    Path(first.parts[0].path).unlink()

    again = take_users(lake, tmp_path)

    assert not again.unchanged
    assert again.job != first.job
    assert again.total == first.total


def test_a_query_that_breaks_off_commits_nothing(connection, lake, tmp_path):
    text = (
        "SELECT g AS user_id, (1 / (900000 - g))::smallint AS age, 1::real AS visits, "
        "'free' AS plan, true AS active FROM generate_series(1, 1000000) g"
    )
    source = postgres(tmp_path, text, history="none")

    with pytest.raises(BatchAssetsError, match="division by zero"):
        take(lake, source, context_of(tmp_path), **copying(make_contract()))

    assert lake.raw_features.parts(DAY) == []


def test_a_database_that_goes_away_half_way_leaves_nothing(connection, lake, tmp_path):
    text = (
        "SELECT g AS user_id, 1::smallint AS age, 1::real AS visits, 'free' AS plan, "
        "true AS active FROM generate_series(1, 3000000) AS gone(g)"
    )
    source = postgres(tmp_path, text, history="none")

    def end(_: pa.Schema) -> None:
        ended = connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE query LIKE '%AS gone(g)%' AND pid <> pg_backend_pid()"
        )
        assert ended.fetchall() == [(True,)]

    arguments = copying(make_contract()) | {"check": end}
    with pytest.raises(SourceError, match="can't be run.*Nothing was committed"):
        take(lake, source, context_of(tmp_path), **arguments)

    assert lake.raw_features.parts(DAY) == []


def test_outcomes_of_a_database_are_of_any_type_that_is_cast(server, lake, tmp_path):
    schema = pa.schema({"user_id": pa.int64(), "left": pa.float64()})
    text = """
        SELECT 1::int AS user_id, true AS "left", now() AS seen WHERE $day > '2026-01-01'
    """

    copy_day(
        DayRun(lake, DAY, lambda: None, lambda _: None),
        postgres(tmp_path, text),
        context_of(tmp_path),
        RawSettings(schema, 2, 100, into=lake.outcomes),
        check=lambda found: check_outcomes(found, schema, "the source"),
        newest=DAY,
    )

    assert read_day(lake, "outcomes")["left"].to_pylist() == [1.0]


def test_what_is_wrong_with_the_lake_is_not_said_of_the_query(server, tmp_path):
    source = postgres(tmp_path, "SELECT 1 AS user_id")

    with (
        pytest.raises(OSError, match="No space left"),
        source.read(context_of(tmp_path)),
    ):
        raise OSError(errno.ENOSPC, "No space left on device")


def test_a_result_without_rows_is_an_empty_source(server, lake, tmp_path):
    text = (
        "SELECT 1::bigint AS user_id, 1::smallint AS age, 1::real AS visits, "
        "'free' AS plan, true AS active WHERE $day < '2000-01-01'"
    )
    source = postgres(tmp_path, text)

    with pytest.raises(EmptySourceError):
        take(lake, source, context_of(tmp_path), **copying(make_contract()))


def test_any_driver_reads_its_database(tmp_path):
    put_adbc(tmp_path, make_rows(20))
    path = {"options": {"path": str(tmp_path / "warehouse.duckdb")}}
    source = duck(tmp_path, "SELECT user_id FROM users WHERE $day = $day", **path)

    assert len(rows_of(source, tmp_path)) == 20


def test_a_decimal_without_a_fraction_is_a_whole_number(tmp_path):
    text = "SELECT 7::hugeint AS user_id, 7.0::decimal(4, 0) AS n, 1::utinyint AS s"
    wanted = pa.schema({"user_id": pa.int64(), "n": pa.int64(), "s": pa.int8()})

    assert rows_of(duck(tmp_path, text), tmp_path, wanted=wanted) == [
        {"user_id": 7, "n": 7, "s": 1}
    ]


def test_a_secret_option_comes_from_the_environment_and_is_in_no_error(
    tmp_path, monkeypatch
):
    monkeypatch.setenv("WAREHOUSE", "/nowhere/hunter2/warehouse")
    source = duck(tmp_path, "SELECT 1", options_env={"path": "WAREHOUSE"})

    with pytest.raises(SourceError, match="does not connect") as refused:
        rows_of(source, tmp_path)

    assert "hunter2" not in f"{refused.value!r} {refused.value.__cause__!r}"
    assert "hunter2" not in str(source.identity(context_of(tmp_path)))
    monkeypatch.delenv("WAREHOUSE")
    with pytest.raises(ConfigError, match="WAREHOUSE"):
        rows_of(source, tmp_path)


def test_a_driver_that_is_not_there_is_named(tmp_path):
    source = AdbcSource(kind="adbc", query="features.sql", driver="adbc_driver_nowhere")
    (tmp_path / "features.sql").write_text("SELECT 1", encoding="utf-8")

    with pytest.raises(SourceError, match="adbc_driver_nowhere does not connect"):
        rows_of(source, tmp_path)


@pytest.mark.parametrize(
    ("make", "module", "extra"),
    [
        (postgres, "adbc_driver_postgresql.dbapi", "postgres"),
        (duck, "adbc_driver_manager.dbapi", "adbc"),
    ],
)
def test_an_extra_that_is_not_installed_is_named(
    server, tmp_path, monkeypatch, make, module, extra
):
    monkeypatch.setitem(sys.modules, module, None)

    with pytest.raises(ConfigError, match=rf"pip install 'batch-assets\[{extra}\]'"):
        rows_of(make(tmp_path, "SELECT 1 AS user_id"), tmp_path)
