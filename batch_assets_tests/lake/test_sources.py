"""Sources: what a day would read, and reading it as a stream."""

import hashlib
import json
import multiprocessing
import os
import sys
from dataclasses import replace
from datetime import date
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from deltalake import write_deltalake
from pydantic import TypeAdapter, ValidationError

from batch_assets.errors import SourceError
from batch_assets.lake.side_tables import (
    copy_side_tables,
    read_side_table,
    side_tables_of,
)
from batch_assets.lake.sources import (
    SOURCES,
    DeltaSource,
    ParquetSource,
    Source,
    SqlSource,
)
from batch_assets.lake.sources.base import Origin
from batch_assets_tests.source_kinds import (
    DSN,
    HOLDERS,
    KINDS,
    MODULE,
    OTHER_KINDS,
    Holder,
    put_postgres,
)
from batch_assets_tests.steps import take
from batch_assets_tests.toys import context_of, copying, make_contract, make_rows

DAY, NEXT_DAY = "2026-01-05", "2026-01-06"
ROWS = pa.table({"user_id": [1, 2, 3], "visits": pa.array([0.5, None, 2.5], "float32")})


def rows_of(source, folder: Path, day: str = DAY) -> list[dict]:
    with source.read(context_of(folder, day)) as reader:
        return sorted(reader.read_all().to_pylist(), key=lambda row: row["user_id"])


def write(path: Path, rows: pa.Table = ROWS) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(rows, path)
    return path


def rewrite(path: Path) -> None:
    """Put other values into a file: its size and its time stay."""
    there = path.stat()
    rows = pq.read_table(path)
    pq.write_table(rows.set_column(1, "visits", pc.add(rows["visits"], 1)), path)
    assert path.stat().st_size == there.st_size
    os.utime(path, ns=(there.st_atime_ns, there.st_mtime_ns))


def sql(folder: Path, text: str, **tables: str) -> SqlSource:
    (folder / "features.sql").write_text(text, encoding="utf-8")
    return SqlSource(kind="sql", query="features.sql", tables=tables)


def peak_bytes() -> int:
    """The peak of this process's own memory; `getrusage` adds the parent's before."""
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return int(status.split("VmHWM:")[1].split()[0]) * 1024


def peak_rise_of_a_query(folder: Path, rows: int, rises) -> None:
    """How many bytes the process grows by while it streams; run in a spawned one."""
    columns = ", ".join(f"hash(range + {i}) / 3 AS f{i}" for i in range(8))
    text = "SELECT range AS user_id, {} FROM range({}) WHERE $day IS NOT NULL"
    rows_of(sql(folder, text.format(columns, 1000)), folder)
    query = sql(folder, text.format(columns, rows))
    before = peak_bytes()
    with query.read(context_of(folder, DAY)) as reader:
        found = sum(len(batch) for batch in reader)
    rises.put((found, peak_bytes() - before))


def test_the_day_of_a_query_is_a_date(tmp_path):
    query = sql(
        tmp_path, "SELECT 1 AS user_id, $day AS d, typeof($day) AS t, $day - 1 AS y"
    )

    assert rows_of(query, tmp_path) == [
        {
            "user_id": 1,
            "d": date(2026, 1, 5),
            "t": "DATE",
            "y": date(2026, 1, 4),
        }
    ]


def test_a_query_reads_its_tables_as_views(tmp_path):
    write(tmp_path / "data" / "a.parquet")
    write(tmp_path / "data" / "b.parquet", ROWS.slice(0, 1))
    query = sql(
        tmp_path, "SELECT user_id FROM visits WHERE $day > '2026-01-01'",
        visits="data/*.parquet",
    )  # fmt: skip

    found = rows_of(query, tmp_path)

    assert [row["user_id"] for row in found] == [1, 1, 2, 3]


def test_a_wrong_query_is_named_with_its_error(tmp_path):
    query = sql(tmp_path, "SELECT user_id FROM nowhere WHERE d = $day")

    with pytest.raises(SourceError) as refused:
        rows_of(query, tmp_path)

    assert f"the query {tmp_path / 'features.sql'} can't be run" in str(refused.value)
    assert "nowhere" in str(refused.value)


def test_a_missing_query_is_named(tmp_path):
    query = SqlSource(kind="sql", query="features.sql")

    with pytest.raises(SourceError, match="looked for .*features.sql"):
        query.identity(context_of(tmp_path))


def test_a_missing_table_of_a_query_is_named(tmp_path):
    query = sql(tmp_path, "SELECT $day, * FROM visits", visits="data/visits.parquet")

    with pytest.raises(SourceError, match=r"no file matches .*visits\.parquet"):
        query.identity(context_of(tmp_path))
    with pytest.raises(SourceError, match=r"no file matches .*visits\.parquet"):
        rows_of(query, tmp_path)


def test_a_query_that_fails_on_a_later_row_breaks_off(tmp_path):
    query = sql(
        tmp_path,
        "SELECT range AS user_id, CASE WHEN range < 900000 THEN 1 "
        "ELSE error('row 900000 is cursed') END AS f FROM range(1000000) "
        "WHERE $day IS NOT NULL",
    )

    with pytest.raises((SourceError, OSError, pa.ArrowException), match="cursed"):
        rows_of(query, tmp_path)


@pytest.mark.skipif(
    not Path("/proc/self/status").exists(), reason="peak memory is read from /proc"
)
def test_a_query_is_streamed_and_never_held_whole(tmp_path):
    """Four million rows of nine columns are 288 MB; a stream takes a fraction."""
    context = multiprocessing.get_context("spawn")
    rises = context.Queue()
    worker = context.Process(
        target=peak_rise_of_a_query, args=(tmp_path, 4_000_000, rises)
    )

    worker.start()
    found, rise = rises.get(timeout=60)
    worker.join()

    assert found == 4_000_000
    assert rise < 4_000_000 * 9 * 8 / 3


def test_files_of_the_day_are_read_in_order(tmp_path):
    write(tmp_path / DAY / "b.parquet", ROWS.slice(2))
    write(tmp_path / DAY / "a.parquet", ROWS.slice(0, 2))
    write(tmp_path / NEXT_DAY / "a.parquet")
    source = ParquetSource(kind="parquet", glob="{{ day }}/*.parquet")

    with source.read(context_of(tmp_path)) as reader:
        assert reader.read_all().equals(ROWS)


@pytest.mark.parametrize("glob", ["{{day}}.parquet", "{{  day }}.parquet"])
def test_the_day_may_be_written_with_any_spaces(tmp_path, glob):
    write(tmp_path / f"{DAY}.parquet")

    assert len(rows_of(ParquetSource(kind="parquet", glob=glob), tmp_path)) == 3


def test_a_day_without_files_is_named(tmp_path):
    source = ParquetSource(kind="parquet", glob="days/{{ day }}.parquet")

    with pytest.raises(SourceError, match=rf"no file matches .*days/{DAY}\.parquet"):
        source.identity(context_of(tmp_path))


def test_files_with_different_columns_are_refused_before_a_row(tmp_path):
    write(tmp_path / "a.parquet")
    write(tmp_path / "b.parquet", ROWS.set_column(1, "visits", pa.array([1.0, 2, 3])))
    source = ParquetSource(kind="parquet", glob="*.parquet")

    with pytest.raises(SourceError) as refused:
        rows_of(source, tmp_path)

    assert str(refused.value) == (
        f"{tmp_path / 'b.parquet'} has other columns than {tmp_path / 'a.parquet'}: got "
        "'visits' double; expected 'visits' float"
    )


@pytest.mark.parametrize("left", [0.0, 0.5, 0.99])
def test_a_torn_file_is_named(tmp_path, left):
    path = write(tmp_path / "a.parquet")
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * left)])

    with pytest.raises(SourceError, match=r"a\.parquet can't be read as Parquet"):
        rows_of(ParquetSource(kind="parquet", glob="*.parquet"), tmp_path)


def test_a_flipped_bit_of_a_checksummed_page_is_named(tmp_path):
    path = tmp_path / "a.parquet"
    rows = pa.table({"user_id": np.arange(1000)})
    pq.write_table(rows, path, write_page_checksum=True, use_dictionary=False)
    data = bytearray(path.read_bytes())
    data[2000] ^= 1
    path.write_bytes(data)

    with pytest.raises(SourceError, match=r"a\.parquet can't be read as Parquet"):
        rows_of(ParquetSource(kind="parquet", glob="*.parquet"), tmp_path)


@pytest.mark.parametrize("dtype", [pa.string(), pa.date32()], ids=str)
def test_the_day_of_a_delta_table_is_a_column(tmp_path, dtype):
    days = pa.array([DAY, DAY, NEXT_DAY]).cast(dtype)
    write_deltalake(tmp_path / "events", ROWS.append_column("day", days))
    source = DeltaSource(kind="delta", table="events")

    assert rows_of(source, tmp_path) == ROWS.slice(0, 2).to_pylist()
    assert rows_of(source, tmp_path, NEXT_DAY) == ROWS.slice(2).to_pylist()
    assert rows_of(source, tmp_path, "2026-01-07") == []


def test_a_delta_table_can_be_taken_whole(tmp_path):
    write_deltalake(tmp_path / "events", ROWS)

    source = DeltaSource(kind="delta", table="events", day_column=None)

    assert rows_of(source, tmp_path) == ROWS.to_pylist()


def test_a_delta_table_without_the_day_column_is_refused(tmp_path):
    write_deltalake(tmp_path / "events", ROWS)

    with pytest.raises(SourceError, match="no column 'day'.*it has: user_id, visits"):
        rows_of(DeltaSource(kind="delta", table="events"), tmp_path)


def test_a_delta_version_can_be_pinned(tmp_path):
    write_deltalake(tmp_path / "events", ROWS.slice(0, 1))
    write_deltalake(tmp_path / "events", ROWS.slice(1), mode="append")

    def count(version: int | None) -> int:
        source = DeltaSource(
            kind="delta", table="events", day_column=None, version=version
        )
        return len(rows_of(source, tmp_path))

    assert (count(0), count(1), count(None)) == (1, 3, 3)


def test_a_missing_delta_table_is_named(tmp_path):
    with pytest.raises(SourceError, match=r"events can't be opened"):
        rows_of(DeltaSource(kind="delta", table="events"), tmp_path)


def test_a_missing_delta_version_is_named(tmp_path):
    write_deltalake(tmp_path / "events", ROWS)
    source = DeltaSource(kind="delta", table="events", version=7)

    with pytest.raises(SourceError, match=r"events can't be opened"):
        source.identity(context_of(tmp_path))


def test_a_delta_table_that_lost_a_file_is_refused(tmp_path):
    write_deltalake(tmp_path / "events", ROWS)
    for path in (tmp_path / "events").glob("*.parquet"):
        path.unlink()
    source = DeltaSource(kind="delta", table="events", day_column=None)

    with pytest.raises((SourceError, OSError)):
        rows_of(source, tmp_path)


def test_the_identity_of_a_query_changes_with_its_text_its_files_and_the_day(tmp_path):
    path = write(tmp_path / "visits.parquet")
    text = "SELECT $day, * FROM visits"
    query = sql(tmp_path, text, visits="visits.parquet")
    first = query.identity(context_of(tmp_path))

    assert query.identity(context_of(tmp_path)) == first
    assert query.identity(context_of(tmp_path, NEXT_DAY)) != first
    sql(tmp_path, text + " ")
    assert query.identity(context_of(tmp_path)) != first
    sql(tmp_path, text)
    assert query.identity(context_of(tmp_path)) == first
    os.utime(path, ns=(1, 1))
    assert query.identity(context_of(tmp_path)) == first
    rewrite(path)
    assert query.identity(context_of(tmp_path)) != first


def test_the_identity_of_files_changes_with_each_of_them(tmp_path):
    source = ParquetSource(kind="parquet", glob="{{ day }}*.parquet")
    path = write(tmp_path / f"{DAY}-a.parquet")
    first = source.identity(context_of(tmp_path))

    assert source.identity(context_of(tmp_path)) == first
    sha = hashlib.sha256(path.read_bytes()).hexdigest()
    assert first["files"] == [[path.name, sha]]
    write(tmp_path / f"{DAY}-b.parquet")
    assert source.identity(context_of(tmp_path)) != first


def test_the_identity_of_a_delta_table_is_its_version_and_files(tmp_path):
    write_deltalake(tmp_path / "events", ROWS)
    source = DeltaSource(kind="delta", table="events", day_column=None)
    first = source.identity(context_of(tmp_path))

    write_deltalake(tmp_path / "events", ROWS, mode="append")

    second = source.identity(context_of(tmp_path))
    assert (first["version"], second["version"]) == (0, 1)
    assert first["files"] != second["files"]
    assert {**first, "version": 1, "files": second["files"]} == second


@pytest.mark.parametrize(
    ("declared", "error"),
    [
        ({"kind": "sql", "query": "a.sql", "globe": "x"}, "Extra inputs"),
        ({"kind": "xml", "glob": "a.xml"}, "'sql', 'parquet', 'delta', 'csv', 'json'"),
        ({"kind": "csv", "glob": "a.csv", "delimiter": ";;"}, "at most 1 character"),
        ({"kind": "csv", "glob": "a.csv", "header": False}, "name all columns"),
        ({"kind": "csv", "glob": "a.csv", "encoding": "klingon"}, "no encoding"),
        ({"kind": "csv", "glob": "a.csv", "history": "days"}, "history: none"),
        ({"kind": "json", "glob": "a", "columns": {"n": "int"}}, "'int' is no type"),
        ({"kind": "postgres", "query": "a.sql", "uri": "x"}, "Extra inputs"),
        ({"kind": "adbc", "query": "a.sql"}, "driver"),
        ({"kind": "python", "callable": "a.b.c"}, "should match pattern"),
        ({"kind": "delta", "table": "events", "version": -1}, "greater than or equal"),
        ({"glob": "a.parquet"}, "kind"),
    ],
)
def test_a_misdeclared_source_is_refused(declared, error):
    with pytest.raises(ValidationError, match=error):
        TypeAdapter(Source).validate_python(declared)


@pytest.fixture
def holders(postgres_here, monkeypatch, tmp_path) -> dict[str, Holder]:
    """How rows are put where each kind finds them, in a project that is `tmp_path`."""
    monkeypatch.setenv(DSN, postgres_here.url)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, MODULE, raising=False)
    postgres = Holder(partial(put_postgres, postgres_here), by_content=False)
    return HOLDERS | {"postgres": postgres}


def test_no_kind_of_source_is_left_out():
    assert {*KINDS, *OTHER_KINDS} == set(SOURCES)


@pytest.mark.parametrize("kind", KINDS)
def test_a_source_of_each_kind_gives_the_rows_and_is_known_again(
    kind, holders, tmp_path
):
    rows = make_rows(300)
    holder = holders[kind]
    source = TypeAdapter(Source).validate_python(holder.put(tmp_path, rows))
    context = replace(context_of(tmp_path), columns=make_contract().raw_schema())
    identity, signature = source.identity(context), source.signature(context)

    with source.read(context) as reader:
        found = reader.read_all()

    make_contract().check_schema(found.schema, "it")
    found = found.select(rows.schema.names).cast(rows.schema)
    assert found.sort_by("user_id").equals(rows.sort_by("user_id"))
    assert source.identity(context) == identity
    assert source.signature(context) == signature
    assert json.loads(json.dumps(identity)) == identity
    assert source.by_content == holder.by_content
    assert source.keeps_history(tmp_path)
    assert not source.model_copy(update={"history": "none"}).keeps_history(tmp_path)
    other = replace(context, day=NEXT_DAY)
    if kind not in ("csv", "json"):
        assert source.identity(other) != identity
    (table,) = source.read_from()
    assert table.format == source.shown_as
    assert source.origins(context, ["age"]) == {"age": (Origin("", "age"),)}
    holder.put(tmp_path, make_rows(300, seed=1))
    assert (source.identity(context) != identity) == holder.by_content


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "delta"])
def test_a_source_that_changes_while_it_is_read_stops_the_night(
    kind, holders, lake, tmp_path
):
    holder = holders[kind]
    source = TypeAdapter(Source).validate_python(holder.put(tmp_path, make_rows(30)))
    arguments = copying(make_contract())

    def change(_: pa.Schema) -> None:
        files = [*tmp_path.rglob("*.csv"), *tmp_path.rglob("*.ndjson")]
        for path in (*source.code(tmp_path), *files):
            path.write_bytes(path.read_bytes())

    with pytest.raises(SourceError, match="changed while it was read"):
        take(lake, source, context_of(tmp_path), **arguments | {"check": change})

    assert lake.raw_features.parts(DAY) == []


TYPES = {"user_id": "int64", "age": "int16", "visits": "float32"}


@pytest.mark.parametrize("kind", KINDS)
def test_a_side_table_may_come_from_a_source_of_each_kind(
    kind, holders, lake, tmp_path
):
    declared = holders[kind].put(tmp_path, make_rows(30))
    if kind in ("csv", "json"):
        declared["columns"] = TYPES | {"plan": "string", "active": "bool"}
    source = TypeAdapter(Source).validate_python(declared)

    taken = copy_side_tables(lake, {"table": source}, context_of(tmp_path), newest=DAY)

    assert taken == {"table": 30}
    (table,) = side_tables_of(lake, DAY, ("table",))
    assert read_side_table(table)["user_id"].to_pylist() == list(range(1, 31))


def test_a_query_may_do_without_the_day(tmp_path):
    (tmp_path / "all.sql").write_text("SELECT 1 AS user_id", encoding="utf-8")
    source = SqlSource(kind="sql", query="all.sql")

    with source.read(context_of(tmp_path)) as reader:
        assert reader.read_all()["user_id"].to_pylist() == [1]
