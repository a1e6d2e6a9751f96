"""A query answers the same each time, from what its tables declare and nothing else."""

import os
import time
from datetime import UTC, datetime
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest

from batch_assets.errors import SourceError
from batch_assets.lake.sources import ParquetSource, SqlSource
from batch_assets_tests.toys import context_of

ROWS = pa.table({"user_id": [1, 2, 3], "x": [0.5, 1.5, 2.5]})


def sql(folder: Path, text: str, threads: int = 1, **tables: str) -> SqlSource:
    (folder / "q.sql").write_text(text, encoding="utf-8")
    return SqlSource(kind="sql", query="q.sql", tables=tables, threads=threads)


def read(source, folder: Path, timezone: str = "UTC") -> pa.Table:
    with source.read(context_of(folder, timezone=timezone)) as reader:
        return reader.read_all()


@pytest.mark.parametrize("threads", [1, 2])
def test_rows_come_in_the_same_order_each_time(tmp_path, threads):
    random = np.random.default_rng(0)
    keys = random.permutation(300_000)
    rows = pa.table({"user_id": keys, "x": random.random(len(keys))})
    pq.write_table(rows, tmp_path / "a.parquet", row_group_size=10_000)
    text = "SELECT user_id % 50000 AS user_id, max(x) AS x FROM a GROUP BY 1"
    source = sql(tmp_path, text, threads, a="a.parquet")

    first = read(source, tmp_path)

    for _ in range(5):
        assert read(source, tmp_path).equals(first)


def test_a_sum_of_floats_has_the_same_bits_each_time(tmp_path):
    random = np.random.default_rng(0)
    rows = pa.table({"k": random.integers(0, 7, 400_000), "x": random.random(400_000)})
    pq.write_table(rows, tmp_path / "a.parquet", row_group_size=5_000)
    text = "SELECT k AS user_id, sum(x) AS s, stddev(x) AS d FROM a GROUP BY 1"
    source = sql(tmp_path, text, a="a.parquet")

    first = read(source, tmp_path)

    for _ in range(5):
        assert read(source, tmp_path).equals(first)


@pytest.mark.parametrize(
    "text",
    [
        "SELECT * FROM read_csv('{folder}/secret.csv')",
        "SELECT * FROM '{folder}/secret.csv'",
        "SELECT * FROM read_parquet('{folder}/other.parquet')",
        "SELECT * FROM '{folder}/other.parquet'",
        "SELECT * FROM glob('{folder}/*')",
        "SELECT * FROM read_text('{folder}/secret.csv')",
        "SELECT * FROM query('SELECT * FROM ''{folder}/secret.csv''')",
        "SELECT * FROM sniff_csv('{folder}/secret.csv')",
        "SELECT * FROM duckdb_settings()",
        "SELECT * FROM secret",
        "SELECT getenv('HOME')",
        "COPY (SELECT 1) TO '{folder}/out.csv'",
        "ATTACH '{folder}/db'",
        "INSTALL httpfs",
        "LOAD httpfs",
        "SET threads = 8",
        "SELECT 1; SELECT 2",
        "CREATE TABLE t AS SELECT 1",
        "SELECT * FROM 'https://localhost/x.parquet'",
    ],
)
def test_a_query_reads_what_its_tables_declare_and_nothing_else(tmp_path, text):
    secret = pa.table({"user_id": [7]})
    pyarrow.csv.write_csv(secret, tmp_path / "secret.csv")
    pq.write_table(ROWS, tmp_path / "other.parquet")
    pq.write_table(ROWS, tmp_path / "a.parquet")
    before = set(tmp_path.iterdir()) | {tmp_path / "q.sql"}

    with pytest.raises(SourceError, match="can't be run"):
        read(sql(tmp_path, text.format(folder=tmp_path), a="a.parquet"), tmp_path)

    assert set(tmp_path.iterdir()) == before


def test_what_a_query_may_not_read_is_told_with_what_to_do(tmp_path):
    with pytest.raises(SourceError, match=r"calls read_csv\(\).*Name the file there"):
        read(sql(tmp_path, "SELECT * FROM read_csv('x.csv')"), tmp_path)


@pytest.mark.parametrize(
    ("asked", "named"),
    [
        ("now()", "now"),
        ("current_date", "current_date"),
        ("CURRENT_TIMESTAMP", "current_timestamp"),
        ("today()", "today"),
        ("random()", "random"),
        ("uuid()", "uuid"),
        ("list_transform([1], v -> v + random())", "random"),
        ("(SELECT ago(INTERVAL 1 DAY))", "ago"),
    ],
)
def test_a_query_that_asks_for_the_time_or_for_dice_is_refused(tmp_path, asked, named):
    with pytest.raises(SourceError, match=f"asks for {named},"):
        read(sql(tmp_path, f"SELECT 1 AS user_id, {asked} AS x"), tmp_path)


def test_a_sample_needs_a_seed(tmp_path):
    pq.write_table(ROWS, tmp_path / "a.parquet")
    drawn = "SELECT * FROM a TABLESAMPLE bernoulli(50%)"

    with pytest.raises(SourceError, match="seed"):
        read(sql(tmp_path, drawn, a="a.parquet"), tmp_path)
    seeded = sql(tmp_path, drawn + " REPEATABLE (42)", a="a.parquet")
    assert read(seeded, tmp_path).equals(read(seeded, tmp_path))


@pytest.mark.parametrize("host", ["UTC", "Asia/Tokyo", "America/Los_Angeles"])
def test_a_query_cuts_days_in_the_pipelines_zone(tmp_path, monkeypatch, host):
    first = int(datetime(2026, 1, 3, tzinfo=UTC).timestamp())
    instants = [first + 600 * i for i in range(144 * 4)]
    at = pa.array([i * 1_000_000 for i in instants], pa.timestamp("us", "UTC"))
    pq.write_table(
        pa.table({"user_id": range(len(at)), "ts": at}), tmp_path / "a.parquet"
    )
    source = sql(tmp_path, "SELECT user_id FROM a WHERE ts::DATE = $day", a="a.parquet")
    midnight = int(datetime(2026, 1, 4, 23, tzinfo=UTC).timestamp())
    monkeypatch.setenv("TZ", host)
    time.tzset()
    try:
        found = read(source, tmp_path, "Europe/Oslo")["user_id"].to_pylist()
    finally:
        monkeypatch.undo()
        time.tzset()

    assert [instants[i] for i in found] == [midnight + 600 * i for i in range(144)]


@pytest.mark.parametrize("kind", ["sql", "parquet"])
def test_files_of_other_types_are_refused(tmp_path, kind):
    pq.write_table(
        pa.table({"user_id": [1], "x": pa.array([1], "int32")}), tmp_path / "a.parquet"
    )
    pq.write_table(pa.table({"user_id": [2], "x": [1.7]}), tmp_path / "b.parquet")
    source = (
        sql(tmp_path, "SELECT * FROM t", t="*.parquet")
        if kind == "sql"
        else ParquetSource(kind="parquet", glob="*.parquet")
    )

    with pytest.raises(SourceError, match=r"b\.parquet has other columns.*'x' double"):
        read(source, tmp_path)


@pytest.mark.parametrize("kind", ["sql", "parquet"])
def test_a_file_of_nulls_without_a_type_takes_the_others(tmp_path, kind):
    pq.write_table(pa.table({"user_id": [1], "x": pa.nulls(1)}), tmp_path / "a.parquet")
    pq.write_table(pa.table({"user_id": [2], "x": [1.7]}), tmp_path / "b.parquet")
    pq.write_table(pa.table({"user_id": [3], "x": pa.nulls(1)}), tmp_path / "c.parquet")
    source = (
        sql(tmp_path, "SELECT * FROM t", t="*.parquet")
        if kind == "sql"
        else ParquetSource(kind="parquet", glob="*.parquet")
    )

    found = read(source, tmp_path)

    assert found["user_id"].to_pylist() == [1, 2, 3]
    assert found["x"].to_pylist() == [None, 1.7, None]


@pytest.mark.parametrize(
    "text", ["SELECT 1 AS user_id -- of $day", "SELECT '$day' AS d"]
)
def test_the_day_in_a_comment_or_a_string_is_no_parameter(tmp_path, text):
    source = sql(tmp_path, text)

    assert len(read(source, tmp_path)) == 1
    assert not source.keeps_history(tmp_path)


def test_another_parameter_is_named(tmp_path):
    with pytest.raises(SourceError, match=r"\$month"):
        read(sql(tmp_path, "SELECT $day, $month"), tmp_path)


@pytest.mark.parametrize("kind", ["sql", "parquet"])
def test_a_project_in_a_folder_with_brackets_reads_its_own_files(tmp_path, kind):
    """A pattern of the name also matches the neighbour, whose rows are not meant."""
    for name, keys in {"job [1]": [1], "job 1": [2]}.items():
        (tmp_path / name).mkdir()
        pq.write_table(pa.table({"user_id": keys}), tmp_path / name / "a.parquet")
    folder = tmp_path / "job [1]"
    source = (
        sql(folder, "SELECT * FROM a", a="a.parquet")
        if kind == "sql"
        else ParquetSource(kind="parquet", glob="*.parquet")
    )

    assert read(source, folder)["user_id"].to_pylist() == [1]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.csv", "user_id,x\n1,0.5\n2,1\n"),
        ("a.tsv", "user_id\tx\n1\t0.5\n2\t1\n"),
        ("a.ndjson", '{"user_id": 1, "x": 0.5}\n{"user_id": 2, "x": 1.0}\n'),
    ],
)
def test_a_table_may_be_csv_or_json(tmp_path, name, text):
    (tmp_path / name).write_text(text, encoding="utf-8")

    found = read(sql(tmp_path, "SELECT * FROM t", t=name), tmp_path)

    assert found.to_pylist() == [{"user_id": 1, "x": 0.5}, {"user_id": 2, "x": 1.0}]


def test_a_late_row_of_a_csv_decides_its_type(tmp_path):
    rows = "\n".join(f"{i},{i}" for i in range(60_000))
    (tmp_path / "a.csv").write_text(f"user_id,x\n{rows}\n60000,1.7\n", encoding="utf-8")

    found = read(sql(tmp_path, "SELECT x FROM t WHERE x = 1.7", t="a.csv"), tmp_path)

    assert found["x"].to_pylist() == [1.7]


def test_a_query_spills_to_a_folder_that_goes_with_it(tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    text = "SELECT range AS user_id, hash(range) AS h FROM range(4000000) ORDER BY h"
    source = sql(tmp_path, text).model_copy(update={"memory_limit": "32MB"})

    assert len(read(source, tmp_path)) == 4_000_000
    assert os.listdir(tmp_path) == ["q.sql"]


def test_a_variable_of_python_is_no_table(tmp_path):
    secret = ROWS
    with duckdb.connect() as connection:
        assert connection.sql("SELECT * FROM secret").to_arrow_table() == secret

    with pytest.raises(SourceError, match="secret"):
        read(sql(tmp_path, "SELECT * FROM secret"), tmp_path)
